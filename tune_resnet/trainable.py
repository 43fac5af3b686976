"""One training run as a Ray Tune trial, in a process that is reused from trial to trial."""

from __future__ import annotations

import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from ray import tune

from tune_resnet.checkpoint import Checkpoint, continue_training
from tune_resnet.data import Split
from tune_resnet.metrics import EpochMetrics, NonFiniteLoss
from tune_resnet.records import RunDirectory
from tune_resnet.spec import SearchSpec, TrainSpec
from tune_resnet.train import TrainingRun
from tune_resnet.weights import save_model


class TrialTrainable(tune.Trainable):  # type: ignore[misc]
    """Each step is one epoch. A configuration holds the hyperparameters that the space varies, and `trial`, its number.

    A trial goes on after its checkpoint, if it has one: then its first step reports the saved epoch, which may not have
    been heard of, without training. A result has the columns of epochs.csv, `worker` (host:process), `continued` (the
    saved epoch, 0: none) and `done`. Where the loss is not finite, it repeats the last good epoch and says why in
    `failure`: no exception, so that the process stays usable.
    """

    saved: EpochMetrics | None

    def setup(self, config: dict[str, Any], spec: SearchSpec, data: Split, run_path: Path) -> None:
        """`spec` has its device and precision settled; `data` comes out of Ray's object store, one copy per node."""
        torch.set_num_threads(max(1, int(spec.resources.cpus_per_trial)))
        self.spec, self.data = spec, data
        self.directory = RunDirectory(run_path)
        self.worker = f"{platform.node()}:{os.getpid()}"
        self.training = TrainingRun(
            self._train_spec(config), data, spec.resources.device, spec.model, flip=spec.data.flip
        )
        self._continue(config)

    def step(self) -> dict[str, Any]:
        if self.saved is not None:
            saved, self.saved = self.saved, None
            return self._result(saved, done=False)
        try:
            metrics = self.training.run_epoch()
        except NonFiniteLoss as error:
            return self._failure(error)
        done = metrics.epoch == self.training.spec.epochs
        if not done:
            self.checkpoint.offer(self.training.state_dict, metrics.seconds)
        else:
            path = self.directory.model_of(self.config["trial"])
            save_model(path, self.training.model, self.data, self.spec.model)
        return self._result(metrics, done=done)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.checkpoint.wait()
        self.training.reset(self._train_spec(new_config))
        self._continue(new_config)
        return True

    def cleanup(self) -> None:
        """Saves a trial that the end of the search cuts off."""
        if 0 < self.training.epochs_done < self.training.spec.epochs:
            self.checkpoint.save(self.training.state_dict())
        self.checkpoint.wait()

    def _continue(self, config: dict[str, Any]) -> None:
        self.checkpoint = Checkpoint(self.directory.checkpoint_of(config["trial"]))
        self.saved = self.training.last if continue_training(self.training, self.checkpoint) else None
        self.continued = self.training.epochs_done

    def _train_spec(self, config: dict[str, Any]) -> TrainSpec:
        return replace(self.spec.train, **{name: config[name] for name in self.spec.space})

    def _result(self, metrics: EpochMetrics, *, done: bool) -> dict[str, Any]:
        return {**metrics.columns("val"), "worker": self.worker, "continued": self.continued, "done": done}

    def _failure(self, error: NonFiniteLoss) -> dict[str, Any]:
        nothing = {"epoch": 0, "val_accuracy": float("nan"), "val_loss": float("nan"), "train_loss": float("nan")}
        last = error.last_good.columns("val") if error.last_good else nothing
        return {**last, "worker": self.worker, "continued": self.continued, "failure": str(error), "done": True}
