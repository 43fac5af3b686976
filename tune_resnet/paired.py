"""What paired differences say: mean, interval, permutation test, verdict, and how many pairs would be enough."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

BETTER, WORSE, NOT_DISTINGUISHABLE = "better", "worse", "not distinguishable at this N"

ALPHA = 0.05  # of the interval, of the verdict, and of the number of pairs needed
POWER = 0.8
_MOST_ENUMERATED = 16  # pairs: 65,536 sign patterns
_DRAWN = 100_000  # sign patterns for more pairs; the standard error of p is then below 0.0016
_SAME = 1e-9  # differences of accuracies in percentage points are this or larger, or nothing but rounding


@dataclass(frozen=True, kw_only=True)
class PairedResult:
    """Differences have the unit of the input; `low`, `high` and `pairs_needed` are None where nothing varies."""

    n: int
    mean: float
    low: float | None  # 95% t interval of the mean
    high: float | None
    p_value: float  # two-sided
    exact: bool  # the p value comes from all sign patterns
    verdict: str
    pairs_needed: int | None  # for 80% power to show a difference of this size and spread

    @property
    def least_p(self) -> float:
        """The smallest two-sided p value that so many pairs can give: a pattern and its mirror image out of 2^n."""
        return 2.0 ** (1 - self.n)


def analyse_pairs(differences: Sequence[float]) -> PairedResult:
    """The statistics of two or more paired differences.

    Where the differences are all the same there is no spread to judge them by: no interval, and no verdict from it.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2:
        raise ValueError("an interval needs at least 2 pairs")
    n, mean, spread = len(values), float(values.mean()), float(values.std(ddof=1))
    low = high = pairs = None
    if spread > _SAME:
        margin = float(stats.t.ppf(1 - ALPHA / 2, n - 1)) * spread / math.sqrt(n)
        low, high, pairs = mean - margin, mean + margin, _pairs_needed(mean, spread)
    return PairedResult(
        n=n,
        mean=mean,
        low=low,
        high=high,
        p_value=_permutation_p(values),
        exact=n <= _MOST_ENUMERATED,
        verdict=_verdict(low, high),
        pairs_needed=pairs,
    )


def _verdict(low: float | None, high: float | None) -> str:
    if low is not None and low > 0:
        return BETTER
    return WORSE if high is not None and high < 0 else NOT_DISTINGUISHABLE


def _permutation_p(values: np.ndarray) -> float:
    """Share of sign patterns whose sum is at least as far from 0 as the observed one (Fisher, 1935).

    Among drawn patterns the observed one counts too, so that p is never 0 (Phipson and Smyth, 2010).
    """
    n, observed = len(values), abs(values.sum()) - _SAME
    if n <= _MOST_ENUMERATED:
        patterns = np.arange(2**n)[:, np.newaxis] >> np.arange(n) & 1
        return float((np.abs((2 * patterns - 1) @ values) >= observed).mean())
    patterns = np.random.default_rng(0).integers(0, 2, (_DRAWN, n), dtype=np.int8)
    extreme = int((np.abs((2 * patterns - 1) @ values) >= observed).sum())
    return (extreme + 1) / (_DRAWN + 1)


def _pairs_needed(mean: float, spread: float) -> int | None:
    """Pairs for `POWER` at two-sided `ALPHA`, if the true mean and standard deviation are those seen; None at no mean.

    The normal approximation ((z_a + z_b) * spread / mean)^2, plus z_a^2 / 2 for the estimated spread (Guenther, 1981,
    "Sample size formulas for normal theory t tests").
    """
    if abs(mean) <= _SAME:
        return None
    z_alpha, z_power = (float(stats.norm.ppf(share)) for share in (1 - ALPHA / 2, POWER))
    return math.ceil(((z_alpha + z_power) * spread / mean) ** 2 + z_alpha**2 / 2)
