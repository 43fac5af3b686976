"""Every event of a run, written to its directory at once."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tune_resnet.config.spec import SearchSpec
from tune_resnet.runs.directory import RunDirectory
from tune_resnet.runs.load import read_object
from tune_resnet.runs.tables import ENDED, FINISHED, INTERRUPTED, RUNNING, TrialRow, score_columns


class Recorder:
    """Keeps the row of every trial of one run and writes each change at once.

    A resumed run has `trials` and `epochs`, the rows of its two tables.
    """

    def __init__(
        self,
        run: RunDirectory,
        spec: SearchSpec,
        trials: Sequence[TrialRow] = (),
        epochs: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.run = run
        self.spec = spec
        self.trials = {row.trial: dataclasses.replace(row) for row in trials}
        self._lines: dict[int, str] = {}  # of trials.csv; made anew for `_changed` trials only, however many there are
        self._changed = set(self.trials)
        self._steps: set[str] = set()  # that env.json has
        self._top_score: dict[int, float] = {}
        self.last_loss: dict[int, float] = {}  # on the validation images, by trial
        for epoch in epochs:
            self.last_loss[epoch["trial"]] = epoch.get("val_loss", math.nan)
            self._is_top(epoch["trial"], epoch)

    def start(self, trial: int, params: Mapping[str, Any]) -> None:
        """A trial begins; `params` holds the hyperparameters that differ from the reference."""
        spec = self.spec.configured(params)
        self.trials[trial] = TrialRow(
            trial=trial,
            state=RUNNING,
            values=spec.values,
            scores=dict.fromkeys(score_columns([spec.search.objective]), math.nan),
            seed=spec.train.seed,
            started_at=time.time(),
        )
        self._changed.add(trial)
        self._write()

    def go_on(self, trial: int) -> None:
        """A trial that had not ended goes on."""
        row = self.trials[trial]
        row.state, row.ended_at, row.error = RUNNING, math.nan, ""
        self._changed.add(trial)
        self._write()

    def is_new(self, trial: int, epoch: int) -> bool:
        """Whether an epoch is not on record yet. One that is comes again where it was trained again after a crash: it
        counts once, as it was the first time, here and wherever else a trial's epochs are learnt from."""
        return epoch > self.trials[trial].epochs

    def epoch(self, trial: int, metrics: Mapping[str, Any], worker: str = "") -> None:
        """A trial has finished an epoch that `is_new`; `metrics` holds epochs.csv's columns."""
        row = self.trials[trial]
        self.run.append_epoch({"ended_at": time.time(), **metrics, "trial": trial}, self.spec.search.objective)
        self._changed.add(trial)
        row.epochs = metrics["epoch"]
        row.seconds += metrics["seconds"]
        row.worker = worker
        row.val_accuracy = metrics.get("val_accuracy", math.nan)
        self.last_loss[trial] = metrics.get("val_loss", math.nan)
        row.test_accuracy = metrics.get("test_accuracy", math.nan)
        row.scores = {name: metrics.get(name, math.nan) for name in row.scores}
        if self._is_top(trial, metrics):
            row.best_epoch = row.epochs

    def steps(self, trial: int, how: str) -> None:
        """How a GPU runs the steps of a trial (empty: nothing to say). env.json has each answer once, with the first
        trial that gave it."""
        if how and how not in self._steps:
            self._steps.add(how)
            env = read_object(self.run.env_json)
            before = str(env.get("steps", ""))
            if how not in before:
                said = f"{how} (trial {trial})"
                self.run.write_env({**env, "steps": f"{before}; {said}" if before else said})

    def end(self, trial: int, state: str, error: str = "") -> None:
        """A trial has ended in one of the four final states."""
        row = self.trials[trial]
        row.state, row.error, row.ended_at = state, " ".join(error.split()), time.time()
        self._changed.add(trial)
        self._write()
        self._tidy()  # last: until the row says so, a crash must find what the trial left

    def close(self) -> None:
        """The run is over: whatever still runs is interrupted."""
        for row in self.trials.values():
            if row.state == RUNNING:
                row.state, row.ended_at = INTERRUPTED, time.time()
                self._changed.add(row.trial)
        self._write()
        self._tidy()
        self.run.remove_temporary_files()

    def _is_top(self, trial: int, epoch: Mapping[str, Any]) -> bool:
        """Whether an epoch's score is the highest of its trial so far; notes it."""
        on_validation, on_test = (epoch.get(self.spec.search.column(part), math.nan) for part in ("val", "test"))
        score = on_test if math.isnan(on_validation) else on_validation
        better = bool(score > self._top_score.get(trial, -math.inf))
        if better:
            self._top_score[trial] = score
        return better

    def _tidy(self) -> None:
        """Deletes what ended trials left, earlier ones too: a process may have written after its trial's end. The
        models of finished ones stay: any of them may still become the winner's."""
        for path in self.run.checkpoints.glob("trial-*"):
            number = path.stem.removeprefix("trial-")
            row = self.trials.get(int(number)) if number.isdecimal() else None
            ended = row is None or row.state in ENDED
            may_win = row is not None and row.state == FINISHED and path == self.run.model_of(row.trial)
            if ended and not may_win and not path.is_dir():
                path.unlink()

    def _write(self) -> None:
        for number in self._changed:
            self._lines[number] = self.trials[number].line()
        self._changed.clear()
        lines = (self._lines[number] for number in sorted(self._lines))
        self.run.write_trials(lines, self.spec.hyperparameters, self.spec.search.objective)
