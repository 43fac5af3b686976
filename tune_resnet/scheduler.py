"""Early stopping: the rules as plain objects, and the Ray scheduler that applies one of them.

A rule knows nothing of Ray: it is told each trial's signal at each epoch and answers whether to stop. So it can be
simulated, and rebuilt from a run's records by telling it their epochs again.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from tune_resnet.records import REFERENCE_TRIAL
from tune_resnet.spec import SearchSpec, first_rung, rung_epochs


def quality(signal: str, result: Mapping[str, Any]) -> float:
    """A signal's value in an epoch's row, turned so that higher is better."""
    value = float(result[signal])
    return -value if signal.endswith("loss") else value


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

    def should_stop(self, trial: int, epoch: int, value: float) -> bool:
        if not math.isfinite(value):
            return True
        if epoch not in self.values:
            return False
        self.values[epoch][trial] = value
        return self.short_by(trial, epoch) > 0

    def short_by(self, trial: int, epoch: int) -> float:
        """How much better a trial's value has to be for it to go on from a rung that it has reached, as things stand; 0
        or less: it goes on."""
        rung = self.values[epoch]
        cut = sorted(rung.values())[-math.ceil(len(rung) / self.reduction_factor)]
        return cut - (rung[trial] + self.margin)


class MedianRule:
    """Stops a trial whose best value so far is below the median of the others' running means up to the same epoch.

    By more than `margin`, from `grace_epochs` on, against at least three others. Golovin et al., "Google Vizier", KDD
    2017, section 3.2.2.
    """

    least_others = 3

    def __init__(self, grace_epochs: int, margin: float = 0.0) -> None:
        self.grace_epochs = grace_epochs
        self.margin = margin
        self.curves: defaultdict[int, dict[int, float]] = defaultdict(dict)

    def should_stop(self, trial: int, epoch: int, value: float) -> bool:
        if not math.isfinite(value):
            return True
        self.curves[trial][epoch] = value
        means = [
            statistics.fmean(v for e, v in curve.items() if e <= epoch)
            for other, curve in self.curves.items()
            if other != trial and max(curve) >= epoch
        ]
        if epoch < self.grace_epochs or len(means) < self.least_others:
            return False
        return max(self.curves[trial].values()) + self.margin < statistics.median(means)


class RunAll:
    """Stops nothing but what is not finite."""

    def should_stop(self, trial: int, epoch: int, value: float) -> bool:
        return not math.isfinite(value)


def stopping_rule(spec: SearchSpec) -> StoppingRule:
    """The rule that a spec names."""
    scheduler = spec.scheduler
    if scheduler.name == "asha":
        return Asha(rung_epochs(scheduler, spec.train.epochs), scheduler.reduction_factor, scheduler.margin)
    if scheduler.name == "median":
        return MedianRule(first_rung(scheduler, spec.train.epochs), scheduler.margin)
    return RunAll()


class EarlyStopping(FIFOScheduler):  # type: ignore[misc]
    """Ray's view of a stopping rule. The reference is judged like the others, but runs all of its epochs: every gain is
    measured against it.

    `epochs`, the rows of epochs.csv in the order of their writing, are judged at once: so a resumed search decides as
    an unbroken one would have. An epoch is judged once: where one that is not `is_new` comes again, the trial goes on.
    """

    def __init__(
        self, spec: SearchSpec, is_new: Callable[[int, int], bool], epochs: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        super().__init__()
        self.rule = stopping_rule(spec)
        self.signal = spec.scheduler.signal
        self.is_new = is_new
        self.stopped = {row["trial"] for row in epochs if self._stops(row["trial"], row)}  # of `epochs`

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        number = trial.config["trial"]
        stop = self.is_new(number, result["epoch"]) and self._stops(number, result)
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)

    def _stops(self, trial: int, result: Mapping[str, Any]) -> bool:
        return self.rule.should_stop(trial, result["epoch"], quality(self.signal, result)) and trial != REFERENCE_TRIAL
