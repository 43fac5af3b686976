"""A training that takes no time. In a file of its own, which Ray's processes can import."""

from __future__ import annotations

import os
import random
from typing import Any

from ray import tune

from tune_resnet.runs.directory import RunDirectory

EPOCHS = 4


class Idle(tune.Trainable):  # type: ignore[misc]
    """A training that takes no time; its quality is drawn from its learning rate, and the same after every epoch."""

    def setup(self, config: dict[str, Any], **shared: Any) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.quality = random.Random(new_config["max_lr"]).random()
        self.epoch = 0
        return True

    def step(self) -> dict[str, Any]:
        self.epoch += 1
        return epoch_row(self.epoch, self.quality) | {"worker": f"host:{os.getpid()}", "done": self.epoch == EPOCHS}


class IdleTrial(Idle):
    """The same, with a trial's duties in this project: who finishes leaves a model."""

    def setup(self, config: dict[str, Any], **shared: Any) -> None:
        self.directory = RunDirectory(shared["run_path"])
        super().setup(config)

    def step(self) -> dict[str, Any]:
        result = super().step()
        if result["done"]:
            self.directory.model_of(self.config["trial"]).touch()
        return result


def epoch_row(epoch: int, quality: float) -> dict[str, Any]:
    """The columns of epochs.csv that a trial reports."""
    loss = 1 - quality
    return {
        "epoch": epoch,
        "lr": 0.01,
        "train_loss": loss,
        "val_loss": loss,
        "val_accuracy": quality,
        "seconds": 0.001,
        "images_per_second": 1000.0,
    }
