"""What paired differences say: mean, interval, permutation test, verdict, and how many pairs would be enough.

For a number of pairs that was fixed before, or looked at after each pair until the verdict is clear.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy

BETTER, WORSE, NOT_DISTINGUISHABLE = "better", "worse", "not distinguishable at this N"

ALPHA = 0.05  # of the interval, of the verdict, and of the number of pairs needed
POWER = 0.8

# The two-sided level of the t interval at each look, by the number of pairs. Of `ALPHA`, ALPHA (n / 10)^2 is spent by
# pair n: a group-sequential design with the spending functions of Kim and DeMets (1987; Jennison and Turnbull, "Group
# Sequential Methods", 2000) for a t statistic. Levels from 100 million simulated sequences, rounded down; the test
# spends them again. Among such functions a power of 2 loses little to a fixed 10 pairs (72% to find a difference of one
# standard deviation instead of 80%) and ends early where the difference is large (after 4.7 pairs in the mean where it
# is 3); a t confidence sequence, for any number of pairs, has 40%.
LOOK_LEVELS = {
    3: 0.00449, 4: 0.00440, 5: 0.00617, 6: 0.00864, 7: 0.01172, 8: 0.01543, 9: 0.01981, 10: 0.02487,
}  # fmt: skip
FIRST_LOOK, MAX_PAIRS = min(LOOK_LEVELS), max(LOOK_LEVELS)

_MAX_ENUMERATED = 16  # pairs: 65,536 sign patterns
_DRAWN = 100_000  # sign patterns for more pairs; the standard error of p is then below 0.0016
_DIGITS = 9  # of differences in percentage points: what is smaller is rounding
_SAME = 10.0**-_DIGITS


@dataclass(frozen=True, kw_only=True)
class PairedResult:
    """Differences have the unit of the input; `low`, `high` and `pairs_needed` are None where nothing varies.

    Of looks after each pair, `sequential`, the interval holds at all looks at once, and there is no p value.
    """

    n: int
    mean: float
    low: float | None  # 95% t interval of the mean
    high: float | None
    p_value: float | None = None  # two-sided
    exact: bool = False  # the p value comes from all sign patterns
    verdict: str
    pairs_needed: int | None = None  # for 80% power to show a difference of this size and spread
    sequential: bool = False

    @property
    def is_clear(self) -> bool:
        """Whether one of the two is better."""
        return self.verdict in (BETTER, WORSE)

    @property
    def min_p(self) -> float:
        """The smallest two-sided p value that so many pairs can give: a pattern and its mirror image out of 2^n."""
        return 2.0 ** (1 - self.n)


def analyse_pairs(differences: Sequence[float]) -> PairedResult:
    """The statistics of two or more paired differences.

    Where the differences are all the same there is no spread to judge them by: no interval, and no verdict from it.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2:
        raise ValueError("an interval needs at least 2 pairs")
    found = _result(values, ALPHA)
    needed = None if found.low is None else _pairs_needed(found.mean, float(values.std(ddof=1)))
    return replace(found, p_value=_permutation_p(values), exact=found.n <= _MAX_ENUMERATED, pairs_needed=needed)


def analyse_looks(differences: Sequence[float]) -> PairedResult | None:
    """The statistics at the first look with a clear verdict, else at the last: of the differences in the order of their
    pairs, looked at from pair `FIRST_LOOK` to pair `MAX_PAIRS`. None before the first look.

    Where there is no difference, a verdict is clear in 5% of all sequences at most, whenever they are ended. That is of
    normal differences; like any t interval it holds less well where they are skewed.
    """
    values, result = np.asarray(differences, dtype=np.float64), None
    for n, level in LOOK_LEVELS.items():
        if n > len(values) or (result is not None and result.is_clear):
            break
        result = replace(_result(values[:n], level), sequential=True)
    return result


def _result(values: np.ndarray, level: float) -> PairedResult:
    """The mean, its t interval that misses the truth with probability `level`, and the verdict by that."""
    low, high = _interval(values, level)
    verdict = WORSE if high is not None and high < 0 else NOT_DISTINGUISHABLE
    if low is not None and low > 0:
        verdict = BETTER
    return PairedResult(n=len(values), mean=float(values.mean()), low=low, high=high, verdict=verdict)


def _interval(values: np.ndarray, level: float) -> tuple[float, float] | tuple[None, None]:
    """The t interval of the mean that misses it with probability `level`."""
    if values.std(ddof=1) <= _SAME:
        return None, None
    interval = scipy.stats.ttest_1samp(values, 0).confidence_interval(1 - level)
    return float(interval.low), float(interval.high)


def _permutation_p(values: np.ndarray) -> float:
    """The two-sided p value under random signs (Fisher, 1935): of all sign patterns, or of drawn ones for many pairs,
    among which the observed one counts too, so that p is never 0 (Phipson and Smyth, 2010)."""
    rounded = (values.round(_DIGITS),)  # so that equal sums stay equal
    test = scipy.stats.permutation_test(
        rounded, np.sum, permutation_type="samples", vectorized=True, n_resamples=_DRAWN, rng=0
    )
    return float(test.pvalue)


def _pairs_needed(mean: float, spread: float) -> int | None:
    """Pairs for `POWER` at two-sided `ALPHA`, if the true mean and standard deviation are those seen; None at no mean.

    The normal approximation ((z_a + z_b) * spread / mean)^2, plus z_a^2 / 2 for the estimated spread (Guenther, 1981,
    "Sample size formulas for normal theory t tests").
    """
    if abs(mean) <= _SAME:
        return None
    z_alpha, z_power = (float(scipy.stats.norm.ppf(share)) for share in (1 - ALPHA / 2, POWER))
    return math.ceil(((z_alpha + z_power) * spread / mean) ** 2 + z_alpha**2 / 2)
