"""What a plan promises before a search starts."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tune_resnet.data import Split
from tune_resnet.outlook import measure_speed
from tune_resnet.plan import _fit, expected_survival
from tune_resnet.spec import BudgetSpec, ModelSpec, SchedulerSpec, SearchSpec, TrainSpec
from tune_resnet.text import duration


def spec(trials: int, epochs: int, scheduler: str) -> SearchSpec:
    return SearchSpec(
        train=TrainSpec(epochs=epochs),
        search=BudgetSpec(num_samples=trials),
        scheduler=SchedulerSpec(name=scheduler),
    )


@settings(derandomize=True, deadline=None, max_examples=20)
@given(trials=st.integers(1, 40), epochs=st.integers(1, 12), scheduler=st.sampled_from(["asha", "median", "none"]))
def test_trials_are_expected_to_end_but_the_reference_to_go_on(trials: int, epochs: int, scheduler: str) -> None:
    survival = expected_survival(spec(trials, epochs, scheduler))
    assert len(survival) == epochs
    assert survival[0] == 1
    assert all(after <= before for before, after in itertools.pairwise(survival))
    assert survival[-1] >= 1 / trials - 1e-9  # the reference is never stopped
    if scheduler == "none" or trials == 1:
        assert survival == (1,) * epochs


def test_stopping_is_expected_to_save_epochs() -> None:
    default = spec(200, 8, "asha")
    usual = replace(default, scheduler=SchedulerSpec(grace_epochs=1, reduction_factor=2, margin=0))
    assert sum(expected_survival(usual)) < 0.5 * 8
    assert sum(expected_survival(default)) < 0.65 * 8


@pytest.mark.parametrize(
    ("node", "cpus", "gpus", "trials"),
    [
        ({"CPU": 2}, 1, 0, 2),
        ({"CPU": 2}, 0.3, 0, 6),
        ({"CPU": 1}, 2, 0, 0),
        ({"CPU": 16, "GPU": 2}, 1, 1, 2),
        ({"CPU": 16, "GPU": 2}, 1, 0.5, 4),
        ({"CPU": 16, "GPU": 2}, 1, 0.4, 4),  # 0.2 of each GPU stays free: no trial spans two
        ({"CPU": 16, "GPU": 3}, 1, 2, 1),
        ({"CPU": 3, "GPU": 2}, 1, 0.25, 3),
        ({"CPU": 16}, 1, 1, 0),
    ],
)
def test_how_many_trials_fit_on_a_node(node: dict[str, float], cpus: float, gpus: float, trials: int) -> None:
    assert _fit(node, cpus, gpus) == trials


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0s"), (0.4, "0s"), (59.4, "59s"), (59.6, "1m 00s"), (185, "3m 05s"), (3599.7, "1h 00m"), (7800, "2h 10m")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_steps_are_timed_until_they_last_or_the_images_end(split: Split) -> None:
    speed = measure_speed(TrainSpec(batch_size=50, precision="fp32"), split, torch.device("cpu"), ModelSpec(width=4))
    assert speed.precision == "fp32"
    assert 0 < speed.images_per_second < math.inf
