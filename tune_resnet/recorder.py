"""Every event of a run, written to its directory at once."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

from tune_resnet.records import FINISHED, INTERRUPTED, RUNNING, RunDirectory, TrialRow
from tune_resnet.spec import SearchSpec


class Recorder:
    """Keeps the row of every trial of one run and writes each change at once."""

    def __init__(self, run: RunDirectory, spec: SearchSpec) -> None:
        self.run = run
        self.spec = spec
        self.trials: dict[int, TrialRow] = {}
        self._lines: dict[int, str] = {}  # of trials.csv; made anew for `_changed` trials only, however many there are
        self._changed: set[int] = set()
        self._best_so_far = -math.inf
        self._top_accuracy: dict[int, float] = {}

    def start(self, trial: int, params: Mapping[str, float]) -> None:
        """A trial begins; `params` holds the hyperparameters that differ from the reference."""
        train = dataclasses.replace(self.spec.train, **params)  # type: ignore[arg-type]
        self.trials[trial] = TrialRow(
            trial=trial,
            state=RUNNING,
            max_lr=train.max_lr,
            weight_decay=train.weight_decay,
            grad_clip=train.grad_clip,
            seed=train.seed,
            started_at=time.time(),
        )
        self._changed.add(trial)
        self._write()

    def epoch(self, trial: int, metrics: Mapping[str, Any], worker: str = "") -> None:
        """A trial has finished an epoch; `metrics` holds epochs.csv's columns."""
        row = self.trials[trial]
        self.run.append_epoch({"ended_at": time.time(), **metrics, "trial": trial})
        self._changed.add(trial)
        row.epochs = metrics["epoch"]
        row.seconds += metrics["seconds"]
        row.worker = worker
        row.val_accuracy = metrics.get("val_accuracy", math.nan)
        row.test_accuracy = metrics.get("test_accuracy", math.nan)
        accuracy = row.test_accuracy if math.isnan(row.val_accuracy) else row.val_accuracy
        if accuracy > self._top_accuracy.get(trial, -math.inf):
            self._top_accuracy[trial] = accuracy
            row.best_epoch = row.epochs

    def end(self, trial: int, state: str, error: str = "") -> None:
        """A trial has ended in one of the four final states."""
        row = self.trials[trial]
        row.state, row.error, row.ended_at = state, " ".join(error.split()), time.time()
        self._changed.add(trial)
        self._keep_or_delete_model(row)
        self._drop_checkpoints()
        self._write()

    def close(self) -> None:
        """The run is over: whatever still runs is interrupted."""
        for row in self.trials.values():
            if row.state == RUNNING:
                row.state, row.ended_at = INTERRUPTED, time.time()
                self._changed.add(row.trial)
                self._keep_or_delete_model(row)
        self._drop_checkpoints()
        self._write()

    def _drop_checkpoints(self) -> None:
        """Deletes what ended trials left, earlier ones too: a process may have written after its trial's end."""
        for path in self.run.checkpoints.glob("trial-*.pt"):
            row = self.trials.get(int(path.stem.removeprefix("trial-")))
            if row is None or row.state not in (RUNNING, INTERRUPTED):
                path.unlink()

    def _keep_or_delete_model(self, row: TrialRow) -> None:
        accuracy = row.test_accuracy if math.isnan(row.val_accuracy) else row.val_accuracy
        if row.state != FINISHED or not accuracy > self._best_so_far:  # NaN is never the best
            # A trial that was cut off may have left its model, but not reported it.
            self.run.model_of(row.trial).unlink(missing_ok=True)
            return
        self._best_so_far = accuracy
        winner = dataclasses.replace(
            self.spec.train, max_lr=row.max_lr, weight_decay=row.weight_decay, grad_clip=row.grad_clip
        )
        self.run.keep_best(row.trial, dataclasses.replace(self.spec, train=winner))

    def _write(self) -> None:
        for number in self._changed:
            self._lines[number] = self.trials[number].line()
        self._changed.clear()
        # In order: trials may start in another.
        self.run.write_trials(self._lines[number] for number in sorted(self._lines))
