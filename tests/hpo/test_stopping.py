"""The early-stopping rules, without Ray and through Ray's eyes."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import defaultdict
from random import Random
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tune_resnet.config.sections import SchedulerSpec, TrainSpec
from tune_resnet.config.spec import SearchSpec
from tune_resnet.execution.scheduler import EarlyStopping
from tune_resnet.hpo.stopping import (
    Asha,
    MedianRule,
    NoStopping,
    Signal,
    quality,
    rung_epochs,
    stopping_rule,
    usual_last_rung,
    window,
)
from tune_resnet.runs.tables import REFERENCE_TRIAL

many = settings(derandomize=True, deadline=None, max_examples=200)
values = st.lists(st.floats(-10, 10), min_size=1, max_size=40)


@many
@given(values=values, factor=st.sampled_from([2.0, 3.0, 4.0]))
def test_asha_lets_through_the_best_share_of_those_seen_so_far(values: list[float], factor: float) -> None:
    rule = Asha((1,), factor)
    for trial, value in enumerate(values):
        seen = sorted(values[: trial + 1], reverse=True)
        cut = seen[math.ceil(len(seen) / factor) - 1]
        assert rule.should_stop(trial, 1, value) == (value < cut)


def test_asha_acts_at_its_rungs_only() -> None:
    rule = Asha((1, 4), 2)
    assert [rule.should_stop(0, epoch, 1.0) for epoch in range(1, 9)] == [False] * 8
    assert [rule.should_stop(1, epoch, 0.0) for epoch in range(1, 9)] == [epoch in (1, 4) for epoch in range(1, 9)]


def test_asha_halves_a_worsening_series_to_its_first() -> None:
    rule = Asha((1,), 2)
    assert [rule.should_stop(trial, 1, -trial) for trial in range(6)] == [False, True, True, True, True, True]


def test_what_lies_within_the_margin_of_the_cut_goes_on() -> None:
    spec = SearchSpec(
        scheduler=SchedulerSpec(grace_epochs=1, reduction_factor=2, margin=0.1), train=TrainSpec(epochs=4)
    )
    rule = stopping_rule(spec)
    assert [rule.should_stop(trial, 1, value) for trial, value in enumerate([0.5, 0.5, 0.39, 0.41])] == [
        False, False, True, False,
    ]  # fmt: skip
    median = MedianRule(1, margin=0.1)
    for trial in range(3):
        median.should_stop(trial, 1, 0.5)
    assert not median.should_stop(3, 1, 0.41)
    assert median.should_stop(4, 1, 0.39)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("rule", [Asha((2,), 2), MedianRule(1), NoStopping()])
def test_no_rule_is_fooled_by_what_is_not_finite(rule: Asha | MedianRule | NoStopping, value: float) -> None:
    assert rule.should_stop(0, 1, value)
    assert rule.should_stop(0, 2, value)
    assert not rule.should_stop(1, 2, 0.5)


def test_asha_does_not_count_what_is_not_finite() -> None:
    rule = Asha((1,), 2)
    for trial in range(10):
        rule.should_stop(trial, 1, math.nan)
    rule.should_stop(10, 1, 0.9)
    assert rule.should_stop(11, 1, 0.1)


def test_the_median_rule_waits_for_three_others_and_for_the_grace_epochs() -> None:
    rule = MedianRule(2)
    for trial, level in enumerate((0.5, 0.6, 0.7)):
        for epoch in (1, 2, 3):
            assert not rule.should_stop(trial, epoch, level)
    assert not rule.should_stop(3, 1, 0.1)
    assert rule.should_stop(3, 2, 0.2)
    assert not rule.should_stop(4, 2, 0.6)  # level with the median of 0.5, 0.6 and 0.7


def test_the_median_rule_compares_the_best_value_with_running_means() -> None:
    rule = MedianRule(1)
    for trial in range(3):
        for epoch, value in ((1, 0.0), (2, 1.0)):
            rule.should_stop(trial, epoch, value)  # running mean at epoch 2: 0.5
    assert not rule.should_stop(3, 1, 0.6)
    assert not rule.should_stop(3, 2, 0.1)  # its best is still 0.6


@many
@given(
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=8),
    order=st.randoms(use_true_random=False),
    grace=st.integers(1, 3),
)
def test_the_median_rule_is_what_its_words_say(lengths: list[int], order: Random, grace: int) -> None:
    """Epochs come in any order between the trials, and some twice."""
    rule, curves = MedianRule(grace), defaultdict[int, dict[int, float]](dict)
    waiting = {trial: list(range(1, length + 1)) for trial, length in enumerate(lengths)}
    while waiting:
        trial = order.choice(list(waiting))
        epoch, value = waiting[trial].pop(0), order.random()
        if not waiting[trial]:
            del waiting[trial]
        for _ in range(order.choice([1, 1, 2])):
            others = [
                statistics.fmean(v for e, v in curve.items() if e <= epoch)
                for other, curve in curves.items()
                if other != trial and epoch in curve
            ]
            curves[trial][epoch] = value
            is_judged = epoch >= grace and len(others) >= 3
            expected = is_judged and max(curves[trial].values()) < statistics.median(others)
            assert rule.should_stop(trial, epoch, value) == expected


@pytest.mark.parametrize(
    ("epochs", "rungs"),
    [(1, ()), (2, (1,)), (3, (1,)), (4, (1, 2)), (8, (1, 2, 3)), (16, (3, 4, 6)), (24, (4, 6, 9)), (30, (5, 8, 11))],
)
def test_by_default_trials_are_judged_up_to_shortly_before_the_rates_peak(epochs: int, rungs: tuple[int, ...]) -> None:
    assert rung_epochs(SchedulerSpec(), epochs) == rungs
    assert usual_last_rung(epochs) == (1, *rungs)[-1]


@pytest.mark.parametrize("epochs", [1, 2, 4, 8, 10, 16, 24, 30, 100])
def test_runs_recorded_when_there_was_one_rung_keep_it(epochs: int) -> None:
    one = max(1, round(3 / 8 * epochs))
    assert rung_epochs(SchedulerSpec(reduction_factor=3), epochs) == ((one,) if one < epochs else ())


@many
@given(epochs=st.integers(1, 400), factor=st.floats(1.001, 10))
def test_default_rungs_are_the_rounded_quotients(epochs: int, factor: float) -> None:
    exact = (3 / 8 * epochs / factor**power for power in itertools.count())
    within = itertools.takewhile(lambda value: value > max(epochs / 8, 1 / 2), exact)
    assert list(rung_epochs(SchedulerSpec(reduction_factor=factor), epochs)) == sorted({round(one) for one in within})


@pytest.mark.parametrize(("name", "kind"), [("asha", Asha), ("median", MedianRule), ("none", NoStopping)])
def test_a_spec_names_its_rule(name: str, kind: type) -> None:
    assert isinstance(stopping_rule(SearchSpec(scheduler=SchedulerSpec(name=name))), kind)


@pytest.mark.parametrize(("epoch", "epochs"), [(1, [1]), (2, [2]), (3, [2, 3]), (4, [3, 4]), (9, [6, 7, 8, 9])])
def test_training_losses_are_averaged_over_the_last_third(epoch: int, epochs: list[int]) -> None:
    assert list(window(epoch)) == epochs
    signal = Signal("train_loss")
    found = [signal.quality(7, {"epoch": e, "train_loss": 2.0**-e}) for e in range(1, epoch + 1)]
    assert found[-1] == pytest.approx(math.log(2) * sum(epochs) / len(epochs))


def test_a_margin_is_a_share_of_a_loss_whatever_its_size() -> None:
    for loss in (1e-3, 1.0, 4.6):
        assert quality("val_loss", loss) - quality("val_loss", 1.01 * loss) == pytest.approx(0.01, rel=0.01)
    assert quality("val_accuracy", 0.7) == 0.7
    assert math.isfinite(quality("train_loss", 0.0))
    assert math.isnan(quality("train_loss", math.nan))
    assert quality("train_loss", math.inf) == -math.inf


def test_one_loss_that_is_not_finite_is_never_averaged_away() -> None:
    signal = Signal("train_loss")
    found = [signal.quality(0, {"epoch": e, "train_loss": loss}) for e, loss in enumerate([1.0, math.nan, 1.0], 1)]
    assert [math.isfinite(value) for value in found] == [True, False, False]


def decisions(signal: str, reports: list[tuple[int, dict[str, float]]]) -> list[str]:
    spec = SearchSpec(
        scheduler=SchedulerSpec(signal=signal, grace_epochs=1, reduction_factor=2, margin=0), train=TrainSpec(epochs=8)
    )
    scheduler = EarlyStopping(spec, lambda trial, epoch: True)
    return [
        scheduler.on_trial_result(None, SimpleNamespace(config={"trial": trial}), {"epoch": 1, **result})
        for trial, result in reports
    ]


def test_ray_is_told_to_stop_losers_but_never_the_reference() -> None:
    reports = [(1, {"val_accuracy": 0.8}), (2, {"val_accuracy": 0.3}), (REFERENCE_TRIAL, {"val_accuracy": 0.1})]
    assert decisions("val_accuracy", reports) == ["CONTINUE", "STOP", "CONTINUE"]


def test_of_losses_the_lower_one_wins() -> None:
    assert decisions("train_loss", [(1, {"train_loss": 1.0}), (2, {"train_loss": 2.0})]) == ["CONTINUE", "STOP"]
    assert decisions("val_loss", [(1, {"val_loss": 2.0}), (2, {"val_loss": 1.0})]) == ["CONTINUE", "CONTINUE"]
