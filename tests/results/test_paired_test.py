"""Looks after each pair: the share of false verdicts, of found differences, and which look counts."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from tune_resnet.results.paired_test import (
    ALPHA,
    BETTER,
    FIRST_LOOK,
    LOOK_LEVELS,
    MAX_PAIRS,
    NOT_DISTINGUISHABLE,
    WORSE,
    analyse_looks,
    analyse_pairs,
)

SEQUENCES = 200_000
Draw = Callable[[np.random.Generator], np.ndarray]


def clear_looks(draw: Draw) -> np.ndarray:
    """Whether the verdict is clear, bool (sequences, looks), of many simulated sequences of 10 differences."""
    values = draw(np.random.default_rng(0))
    n = np.arange(1, MAX_PAIRS + 1)
    means = values.cumsum(axis=1) / n
    looks = slice(FIRST_LOOK - 1, None)
    squares = (values**2).cumsum(axis=1) - n * means**2
    errors = np.sqrt(squares[:, looks] / (n[looks] - 1) / n[looks])
    widths = stats.t.isf(np.array(list(LOOK_LEVELS.values())) / 2, n[looks] - 1) * errors
    return np.asarray(np.abs(means[:, looks]) > widths)


def normal(effect: float) -> Draw:
    return lambda random: random.normal(effect, 1, (SEQUENCES, MAX_PAIRS))


def test_five_percent_are_spent_as_they_should_be() -> None:
    """By pair n 0.05 (n / 10)^2, which is where the table of levels comes from."""
    clear = clear_looks(normal(0))
    spent = np.logical_or.accumulate(clear, axis=1).mean(axis=0)
    planned = ALPHA * (np.array(list(LOOK_LEVELS)) / MAX_PAIRS) ** 2
    error = np.sqrt(planned * (1 - planned) / SEQUENCES)
    assert (np.abs(spent - planned) < 3 * error).all(), spent / planned
    assert spent[-1] <= ALPHA + 2 * error[-1]


@pytest.mark.parametrize(
    ("name", "draw", "most"),
    [
        ("t with 3 degrees", lambda random, shape: random.standard_t(3, shape), 0.05),
        ("Laplace", lambda random, shape: random.laplace(size=shape), 0.05),
        ("uniform", lambda random, shape: random.uniform(-1, 1, shape), 0.075),
        ("Gumbel, skewed", lambda random, shape: random.gumbel(size=shape) - np.euler_gamma, 0.08),
    ],
)
def test_false_verdicts_where_differences_are_not_normal(
    name: str, draw: Callable[[np.random.Generator, tuple[int, int]], np.ndarray], most: float
) -> None:
    """Heavy tails make them rarer, skew more frequent: as with any t interval of few pairs."""
    assert clear_looks(lambda random: draw(random, (SEQUENCES, MAX_PAIRS))).any(axis=1).mean() < most


@pytest.mark.parametrize(("effect", "power", "pairs"), [(1, 0.72, 8.2), (1.5, 0.97, 6.7), (2, 0.998, 5.7), (3, 1, 4.7)])
def test_power_and_the_mean_number_of_pairs(effect: float, power: float, pairs: float) -> None:
    clear = clear_looks(normal(effect))
    found = clear.any(axis=1)
    ended = np.where(found, FIRST_LOOK + clear.argmax(axis=1), MAX_PAIRS)
    assert found.mean() == pytest.approx(power, abs=0.005)
    assert ended.mean() == pytest.approx(pairs, abs=0.05)


def test_the_first_clear_look_counts() -> None:
    values = [1.0, 1.1, 0.9, -9.0, 8.0]
    assert analyse_looks(values[:2]) is None
    result = analyse_looks(values)
    assert result is not None
    assert (result.n, result.verdict, result.sequential, result.is_clear) == (3, BETTER, True, True)
    assert [result.mean, result.p_value, result.pairs_needed] == [pytest.approx(1), None, None]
    interval = stats.ttest_1samp(values[:3], 0).confidence_interval(1 - LOOK_LEVELS[3])
    assert (result.low, result.high) == pytest.approx((interval.low, interval.high))
    worse = analyse_looks([-value for value in values])
    assert worse is not None
    assert (worse.n, worse.verdict) == (3, WORSE)


def test_looks_go_on_until_it_is_clear_or_to_the_last() -> None:
    values = [1.0, 1.5, 0.6, 1.2, 0.9, -5.0]
    numbers = [result.n for count in range(3, 7) if (result := analyse_looks(values[:count]))]
    assert numbers == [3, 4, 5, 5]
    looked = analyse_looks(values[:4])
    assert looked is not None
    assert not looked.is_clear
    assert analyse_pairs(values[:4]).is_clear  # with 4 pairs fixed before
    unclear = analyse_looks([1.0, -1.0] * 10)
    assert unclear is not None
    assert (unclear.n, unclear.verdict) == (MAX_PAIRS, NOT_DISTINGUISHABLE)


def test_equal_differences_are_no_interval() -> None:
    result = analyse_looks([0.5] * 4)
    assert result is not None
    assert (result.n, result.low, result.high, result.verdict) == (4, None, None, NOT_DISTINGUISHABLE)
    assert not math.isnan(result.mean)
