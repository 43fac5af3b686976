"""Early stopping: at which epochs trials are judged, by what, and which of them end there.

A rule knows nothing of Ray: it is told how good each trial's signal is at each epoch and answers whether to stop. So it
can be simulated, and rebuilt from a run's records by telling it their epochs again.
"""

from __future__ import annotations

import bisect
import math
import random
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from tune_resnet.config.sections import SchedulerSpec
from tune_resnet.config.spec import SearchSpec
from tune_resnet.runs.tables import REFERENCE_TRIAL

_LAST_RUNG, _NO_RUNG = 3 / 8, 1 / 8  # of all epochs, by default: experiments/FINDING.md
_MIN_LOSS = 1e-12  # a loss may be 0, its logarithm may not
_SIMULATIONS, _MOST_SIMULATED = 200, 20_000  # of a rule; trials. The mean's standard error is about 1% of it
_MOST_EPOCHS = 1_000_000  # of all simulated trials: a second or two
# Of trials from the best, as a share of the loss, and how much that varies from epoch to epoch: such that recorded
# searches, judged again by the default rule, come out right on average.
_MEAN_SHORTFALL, _VARIATION = 0.04, 0.03
_OF_POINTS = 0.5  # what is tried first is known to be good elsewhere: its share of that shortfall, set likewise


def usual_last_rung(epochs: int) -> int:
    """The last epoch after which ASHA judges trials by default, and the first one for the median rule."""
    return max(1, round(_LAST_RUNG * epochs))


def rung_epochs(scheduler: SchedulerSpec, epochs: int) -> tuple[int, ...]:
    """The epochs at which ASHA compares trials, in increasing order; none for other schedulers.

    They are `grace_epochs` times each power of reduction_factor, rounded, below `epochs`. By default they are 3/8 of
    all epochs divided by each power, above 1/8: what is not among the best shortly before the rate's peak, halfway, has
    lost, and no later epoch but the last ones tells more.
    """
    first, factor = scheduler.grace_epochs, scheduler.reduction_factor
    if scheduler.name != "asha":
        return ()
    if first is not None:
        return tuple(sorted(set(_rounded_powers(first, factor, lambda exact: round(exact) < epochs))))
    least = max(_NO_RUNG * epochs * (1 + 1e-9), 1 / 2)
    return tuple(sorted(set(_rounded_powers(_LAST_RUNG * epochs, 1 / factor, lambda exact: exact > least))))


def _rounded_powers(first: float, factor: float, inside: Callable[[float], bool]) -> Iterator[int]:
    """`first` times each power of `factor` as long as it is inside, rounded; each at least once."""
    power = 0
    while inside(exact := first * factor**power):
        yield (epoch := round(exact))
        # A factor close to 1 takes very many powers to leave this epoch: go on with the last that is still in it.
        edge = epoch + (0.5 if factor > 1 else -0.5)
        power = max(power + 1, math.floor(math.log(edge / first) / math.log(factor)))


def window(epoch: int) -> range:
    """The epochs whose training losses are averaged where trials are judged after one: 2 and 3 of 3, 6 to 9 of 9."""
    return range(math.ceil(2 * epoch / 3), epoch + 1)


def quality(signal: str, value: float) -> float:
    """A signal's value on the scale that rules compare: higher is better, and of a loss it is the logarithm, so that a
    margin is a share of it whatever its size."""
    if signal.endswith("loss"):
        return -math.log(max(value, _MIN_LOSS)) if value == value else value
    return value


def in_unit(signal: str, found: float) -> float:
    """A `quality` in the signal's own unit again."""
    return math.exp(-found) if signal.endswith("loss") else found


class Signal:
    """The quality by which trials are judged, from the results of their epochs.

    A training loss counts as the geometric mean over the `window` of the latest epochs, as in the "training speed
    estimator" of Ru et al., "Speedy Performance Estimation for Neural Architecture Search", 2021: a single epoch's
    misleads where the learning rate climbs steeply. Validation signals count as they are.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._seen: defaultdict[int, dict[int, float]] = defaultdict(dict)

    def quality(self, trial: int, result: Mapping[str, Any]) -> float:
        """Takes note of an epoch's result; how good the trial is after it, NaN or infinite where its loss is that."""
        epoch, found = result["epoch"], quality(self.name, float(result[self.name]))
        if self.name != "train_loss":
            return found
        seen = self._seen[trial]
        seen[epoch] = found
        return statistics.fmean(seen[one] for one in window(epoch) if one in seen)


class StoppingRule(Protocol):
    """Decides which trials go on."""

    def should_stop(self, trial: int, epoch: int, value: float) -> bool:
        """Takes note of a trial's signal (higher is better) after an epoch; whether the trial should end there."""


class Asha:
    """Asynchronous successive halving, the stopping variant (Li et al., "A System for Massively Parallel Hyperparameter
    Tuning", 2020, arXiv:1810.05934).

    At each rung a trial goes on if it is among the best 1 / `reduction_factor` (rounded up) of all that have reached
    the rung so far, or within `margin` of them: what lies within noise of the cut is not stopped. A value that is not
    finite never goes on, and never counts.
    """

    def __init__(self, rungs: tuple[int, ...], reduction_factor: float, margin: float = 0.0) -> None:
        self.reduction_factor = reduction_factor
        self.margin = margin
        self.values: dict[int, dict[int, float]] = {epoch: {} for epoch in rungs}
        self._in_order: dict[int, list[float]] = {epoch: [] for epoch in rungs}  # kept so: sorting takes its time

    def should_stop(self, trial: int, epoch: int, value: float) -> bool:
        if not math.isfinite(value):
            return True
        if epoch not in self.values:
            return False
        rung, in_order = self.values[epoch], self._in_order[epoch]
        if trial in rung:  # told again
            in_order.remove(rung[trial])
        rung[trial] = value
        bisect.insort(in_order, value)
        return self.short_by(trial, epoch) > 0

    def short_by(self, trial: int, epoch: int) -> float:
        """How much better a trial's value has to be for it to go on from a rung that it has reached, as things stand; 0
        or less: it goes on."""
        rung = self.values[epoch]
        cut = self._in_order[epoch][-math.ceil(len(rung) / self.reduction_factor)]
        return cut - (rung[trial] + self.margin)


class MedianRule:
    """Stops a trial whose best value so far is below the median of the others' running means up to the same epoch.

    By more than `margin`, from `grace_epochs` on, against at least three others. Golovin et al., "Google Vizier", KDD
    2017, section 3.2.2.
    """

    min_others = 3

    def __init__(self, grace_epochs: int, margin: float = 0.0) -> None:
        self.grace_epochs = grace_epochs
        self.margin = margin
        self._so_far: defaultdict[int, dict[int, tuple[float, float]]] = defaultdict(dict)  # sum and best, by epoch
        self._means: defaultdict[int, dict[int, float]] = defaultdict(dict)  # up to each epoch, of each trial
        self._in_order: defaultdict[int, list[float]] = defaultdict(list)  # kept so: sorting takes its time

    def should_stop(self, trial: int, epoch: int, value: float) -> bool:
        if not math.isfinite(value):
            return True
        so_far, means, in_order = self._so_far[trial], self._means[epoch], self._in_order[epoch]
        if trial in means:  # told again
            in_order.remove(means[trial])
        others = len(in_order)
        total, best = so_far.get(epoch - 1, (0.0, -math.inf))
        total, best = so_far[epoch] = total + value, max(best, value)
        median = (in_order[(others - 1) // 2] + in_order[others // 2]) / 2 if others else -math.inf
        means[trial] = total / epoch
        bisect.insort(in_order, means[trial])
        is_judged = epoch >= self.grace_epochs and others >= self.min_others
        return is_judged and best + self.margin < median


class NoStopping:
    """Stops nothing but what is not finite."""

    def should_stop(self, trial: int, epoch: int, value: float) -> bool:
        return not math.isfinite(value)


def stopping_rule(spec: SearchSpec) -> StoppingRule:
    """The rule that a spec names."""
    scheduler = spec.scheduler
    if scheduler.name == "asha":
        return Asha(rung_epochs(scheduler, spec.train.epochs), scheduler.reduction_factor, scheduler.margin)
    if scheduler.name == "median":
        return MedianRule(scheduler.grace_epochs or usual_last_rung(spec.train.epochs), scheduler.margin)
    return NoStopping()


def expected_survival(spec: SearchSpec) -> tuple[float, ...]:
    """Mean share of a search's trials that train each epoch under the spec's stopping rule, simulated.

    Each simulated trial is worse than the best possible by a random share of the loss, exponentially distributed and
    half as large on average for the points that are tried first, to which each epoch's signal adds some normal noise.
    It is exact for no stopping; the beginning of a very long search stands for the whole.
    """
    epochs = spec.train.epochs
    if spec.scheduler.name == "none":
        return (1.0,) * epochs
    most = max(1, min(_MOST_SIMULATED, _MOST_EPOCHS // epochs))
    trials = min(spec.search.num_samples, most)
    draw, runs = random.Random(0), min(_SIMULATIONS, most // trials)
    reached = Counter(epoch for _ in range(runs) for epoch in _simulated_epochs(spec, trials, draw))
    return tuple(reached[epoch] / (runs * trials) for epoch in range(1, epochs + 1))


def _simulated_epochs(spec: SearchSpec, trials: int, draw: random.Random) -> Iterator[int]:
    """Each epoch, counted from 1, of each trial of one search."""
    rule, epochs, points = stopping_rule(spec), spec.train.epochs, len(spec.first_points)
    for trial in range(trials):
        share = _OF_POINTS if trial < points else 1
        quality = -share * draw.expovariate(1 / _MEAN_SHORTFALL)
        for epoch in range(1, epochs + 1):
            yield epoch
            if rule.should_stop(trial, epoch, draw.gauss(quality, _VARIATION)) and trial != REFERENCE_TRIAL:
                break
