"""One training run as a Ray Tune trial, in a process that is reused from trial to trial."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path
from typing import Any

import torch
from ray import tune

from tune_resnet.config.spec import SearchSpec
from tune_resnet.data.types import Split
from tune_resnet.runs.directory import RunDirectory
from tune_resnet.training.checkpoint import ResumableRun
from tune_resnet.training.device import ResolvedSpec
from tune_resnet.training.loop import TrainingRun
from tune_resnet.training.metrics import EpochMetrics, NonFiniteLoss
from tune_resnet.training.saved_model import Outcome, save_model


class TrialTrainable(tune.Trainable):  # type: ignore[misc]
    """Each step is one epoch. A configuration holds the hyperparameters that the space varies, and `trial`, its number.

    A trial goes on after its checkpoint, if it has one: then its first step reports the saved epoch, which may not have
    been heard of, without training. A result has the columns of epochs.csv, `worker` (host:process), `continued` (the
    saved epoch, 0: none) and `done`. Where the loss is not finite, it repeats the last good epoch and says why in
    `failure`: no exception, so that the process stays usable.
    """

    to_repeat: EpochMetrics | None

    def setup(self, config: dict[str, Any], spec: ResolvedSpec, data: Split, run_path: Path) -> None:
        """`data` comes out of Ray's object store, one copy per node."""
        torch.set_num_threads(max(1, int(spec.resources.cpus_per_trial)))
        self.spec, self.data = spec, data
        self.directory = RunDirectory(run_path)
        self.worker = f"{platform.node()}:{os.getpid()}"
        trial = self._trial_spec(config)
        training = TrainingRun(trial.train, data, spec.resources.device, trial.model, flip=trial.data.flip)
        self.resumable = ResumableRun(training, self.directory.checkpoint_of(config["trial"]))
        self.to_repeat = self.resumable.saved

    def step(self) -> dict[str, Any]:
        if self.to_repeat is not None:
            saved, self.to_repeat = self.to_repeat, None
            return self._result(saved)
        try:
            metrics = self.resumable.run_epoch()
        except NonFiniteLoss as error:
            return self._failure(error)
        if self.resumable.is_done:
            training, trial = self.resumable.training, self.config["trial"]
            outcome = Outcome(trial=trial, train=training.spec, last=metrics)
            save_model(self.directory.model_of(trial), training.judged, self.data, training.model_spec, outcome)
        return self._result(metrics)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.resumable.restart(self._trial_spec(new_config), self.directory.checkpoint_of(new_config["trial"]))
        self.to_repeat = self.resumable.saved
        return True

    def cleanup(self) -> None:
        """Saves a trial that the end of the search cuts off. Ray also calls it after an exception in `step`."""
        self.resumable.save()

    def _trial_spec(self, config: dict[str, Any]) -> SearchSpec:
        return self.spec.configured({name: config[name] for name in self.spec.space})

    def _result(self, metrics: EpochMetrics) -> dict[str, Any]:
        return {**self._columns(metrics), **self._about(), "done": self.resumable.is_done}

    def _failure(self, error: NonFiniteLoss) -> dict[str, Any]:
        nothing = dict.fromkeys(("val_accuracy", self.spec.search.column("val"), "val_loss", "train_loss"), math.nan)
        last = self._columns(error.last_good) if error.last_good else {"epoch": 0, **nothing}
        return {**last, **self._about(), "failure": str(error), "done": True}

    def _columns(self, metrics: EpochMetrics) -> dict[str, float]:
        return metrics.columns("val", self.spec.search.objective)

    def _about(self) -> dict[str, Any]:
        return {"worker": self.worker, "continued": self.resumable.saved.epoch if self.resumable.saved else 0}
