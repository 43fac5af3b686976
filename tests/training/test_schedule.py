"""The learning rate at every step."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tune_resnet.config.sections import TrainSpec
from tune_resnet.training.schedule import momentum_at, rate_at

many = settings(derandomize=True, deadline=None, max_examples=100)

steps = st.integers(1, 2000)
rates = st.floats(1e-6, 10)


def whole(total: int, max_lr: float, **options: Any) -> list[float]:
    train = TrainSpec(max_lr=max_lr, **options)
    return [rate_at(train, step, total) for step in range(total)]


def test_exact_values_of_a_short_run() -> None:
    rates = whole(9, 0.5)
    expected_rise = [0.02, 0.14, 0.26, 0.38, 0.5]
    expected_fall = [0.5 * 25 ** (-share) for share in (0.25, 0.5, 0.75, 1.0)]  # 0.2236, 0.1, 0.0447, 0.02
    assert rates == pytest.approx([*expected_rise, *expected_fall], rel=1e-12)


def test_exact_values_of_the_reference() -> None:
    total = 8 * 113  # 45,000 images in batches of 400
    assert rate_at(TrainSpec(), 0, total) == pytest.approx(0.0004, rel=1e-12)
    assert rate_at(TrainSpec(), 226, total) == pytest.approx(0.0052, rel=1e-12)
    assert rate_at(TrainSpec(), 452, total) == pytest.approx(0.01, rel=1e-12)
    assert rate_at(TrainSpec(), 903, total) == pytest.approx(0.0004, rel=1e-12)


def test_the_divisors_set_both_ends() -> None:
    rates = whole(100, 1.0, div_factor=10, final_div_factor=1000)
    assert (rates[0], max(rates), rates[-1]) == pytest.approx((0.1, 1.0, 0.001))


@many
@given(total=st.integers(3, 2000), max_lr=rates)
def test_it_rises_to_the_peak_in_the_middle_and_then_falls(total: int, max_lr: float) -> None:
    rates = whole(total, max_lr)
    peak = total // 2
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[peak] == pytest.approx(max_lr)
    assert rates[0] == pytest.approx(max_lr / 25)
    assert rates[-1] == pytest.approx(max_lr / 25)


@many
@given(total=st.integers(8, 2000), max_lr=rates)
def test_the_second_half_falls_by_a_constant_factor(total: int, max_lr: float) -> None:
    fall = whole(total, max_lr)[total // 2 :]
    factors = [after / before for before, after in itertools.pairwise(fall)]
    assert factors == pytest.approx([25 ** (-1 / (len(fall) - 1))] * len(factors))


@many
@given(total=steps, max_lr=rates, shape=st.sampled_from(["linear-exponential", "cosine", "linear"]))
def test_every_run_however_short_has_finite_rates_up_to_the_peak(total: int, max_lr: float, shape: str) -> None:
    rates = whole(total, max_lr, schedule=shape)
    assert all(math.isfinite(rate) and 0 <= rate <= max_lr * (1 + 1e-9) for rate in rates)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    total=st.integers(4, 400),
    max_lr=rates,
    peak_at=st.one_of(st.none(), st.floats(0.05, 0.95)),
    div_factor=st.floats(1, 100),
    final=st.one_of(st.none(), st.floats(1, 1e6)),
)
def test_cosine_is_torchs_one_cycle_its_momentum_too(
    total: int, max_lr: float, peak_at: float | None, div_factor: float, final: float | None
) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.5)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=max_lr, total_steps=total, pct_start=0.3 if peak_at is None else peak_at,
        div_factor=div_factor, final_div_factor=(final or 25e4) / div_factor,
    )  # fmt: skip
    rates, momenta = [], []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        momenta.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        theirs.step() if len(rates) < total else None
    options = {"peak_at": peak_at, "div_factor": div_factor, "final_div_factor": final}
    assert whole(total, max_lr, schedule="cosine", **options) == pytest.approx(rates, rel=1e-9)
    train = TrainSpec(momentum=0.95, momentum_at_peak=0.85, schedule="cosine", peak_at=peak_at)
    ours = [momentum_at(train, step, total) for step in range(total)]
    assert ours == pytest.approx(momenta, rel=1e-9)


@many
@given(total=st.integers(3, 2000), max_lr=rates)
def test_linear_falls_to_zero_by_equal_steps(total: int, max_lr: float) -> None:
    fall = whole(total, max_lr, schedule="linear")[total // 2 :]
    assert (fall[0], fall[-1]) == pytest.approx((max_lr, 0))
    steps = [before - after for before, after in itertools.pairwise(fall)]
    assert steps == pytest.approx([max_lr / (len(fall) - 1)] * len(steps))


def test_momentum_is_the_same_throughout_unless_it_cycles() -> None:
    assert {momentum_at(TrainSpec(), step, 9) for step in range(9)} == {0.9}
    train = TrainSpec(momentum=0.95, momentum_at_peak=0.85)
    cycle = [momentum_at(train, step, 9) for step in range(9)]
    assert (cycle[0], cycle[4], cycle[8]) == pytest.approx((0.95, 0.85, 0.95))


@pytest.mark.parametrize(("share", "peak"), [(0.25, 25), (0.5, 50), (0.9, 90)])
def test_the_peak_can_be_moved(share: float, peak: int) -> None:
    for shape in ("linear-exponential", "linear"):
        rates = whole(100, 1.0, schedule=shape, peak_at=share)
        assert rates.index(max(rates)) == peak


@pytest.mark.parametrize(("step", "total"), [(-1, 10), (10, 10), (0, 0)])
def test_a_step_outside_the_run_is_refused(step: int, total: int) -> None:
    with pytest.raises(ValueError, match="step must be in"):
        rate_at(TrainSpec(), step, total)
