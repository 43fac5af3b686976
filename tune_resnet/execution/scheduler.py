"""A stopping rule as Ray Tune sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from tune_resnet.config.spec import SearchSpec
from tune_resnet.hpo.stopping import Signal, stopping_rule
from tune_resnet.runs.tables import REFERENCE_TRIAL


class EarlyStopping(FIFOScheduler):  # type: ignore[misc]
    """The reference is judged like the others, but runs all of its epochs: every gain is
    measured against it.

    `epochs`, the rows of epochs.csv in the order of their writing, are judged at once: so a resumed search decides as
    an unbroken one would have. An epoch is judged once: where one that is not `is_new` comes again, the trial goes on.
    """

    def __init__(
        self, spec: SearchSpec, is_new: Callable[[int, int], bool], epochs: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        super().__init__()
        self.rule = stopping_rule(spec)
        self.signal = Signal(spec.signal)
        self.is_new = is_new
        self.stopped = {row["trial"] for row in epochs if self._stops(row["trial"], row)}  # of `epochs`

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        number = trial.config["trial"]
        stop = self.is_new(number, result["epoch"]) and self._stops(number, result)
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)

    def _stops(self, trial: int, result: Mapping[str, Any]) -> bool:
        stops = self.rule.should_stop(trial, result["epoch"], self.signal.quality(trial, result))
        return stops and trial != REFERENCE_TRIAL
