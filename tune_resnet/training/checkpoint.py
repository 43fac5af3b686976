"""A training's state on disk, written beside the training: as often as it pays, and no more."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from tune_resnet._files import replacing
from tune_resnet.config.hyperparameters import Configuration
from tune_resnet.data.types import Split
from tune_resnet.training.loop import TrainingRun
from tune_resnet.training.metrics import EpochMetrics

MAX_LOST_SECONDS = 30.0  # of training that a crash may cost, or one epoch where that takes longer


def is_due(unsaved_seconds: float, epoch_seconds: float) -> bool:
    """Whether to save after an epoch: else, a crash at the end of the next one would cost more than it may.

    Args:
        unsaved_seconds: training since the state that was saved last.
        epoch_seconds: what the next epoch will take.
    """
    return unsaved_seconds + epoch_seconds > MAX_LOST_SECONDS


class Checkpoint:
    """The state of one training, in one file that is replaced whole.

    `offer` after each epoch. Only a copy of the state is made in the training's own thread; a second one writes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.saved_at = time.monotonic()
        self.writer: threading.Thread | None = None

    def save(self, state: dict[str, Any]) -> None:
        """Saves the state now."""
        self.wait()
        self.saved_at = time.monotonic()
        self.writer = threading.Thread(target=self._write, args=(_copied(state),))
        self.writer.start()

    def offer(self, state: Callable[[], dict[str, Any]], epoch_seconds: float) -> None:
        """Saves the state where that is due."""
        if is_due(time.monotonic() - self.saved_at, epoch_seconds):
            self.save(state())

    def wait(self) -> None:
        """Until what was offered is on disk."""
        if self.writer is not None:
            self.writer.join()

    def load(self) -> dict[str, Any] | None:
        """The state, on the CPU; None where there is none, or none that can be read."""
        if not os.path.isfile(self.path):  # a pipe, say, would be waited for
            return None
        try:
            # weights_only: a checkpoint is data, and must not be able to run code.
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception:  # a damaged file raises whatever its bytes lead to
            return None
        return state if isinstance(state, dict) else None

    def _write(self, state: dict[str, Any]) -> None:
        # A full disk: what was saved before stays, and the training goes on.
        with suppress(OSError, RuntimeError), replacing(self.path) as file:
            torch.save(state, file)


class ResumableRun:
    """A training run that goes on after its checkpoint, and saves itself as often as it pays.

    What trains a trial, the reference, a confirmation and a final model alike, one configuration after another.

    Args:
        configuration: the first.
        data, device, judge_each: as of a `TrainingRun`.
        path: the configuration's checkpoint.
    """

    saved: EpochMetrics | None  # the epoch that the configuration went on after; None: it began at its beginning

    def __init__(
        self, configuration: Configuration, data: Split, device: str, path: Path, *, judge_each: bool = True
    ) -> None:
        train, model, flip = configuration.train, configuration.model, configuration.data.flip
        self.training = TrainingRun(train, data, device, model, flip=flip, judge_each=judge_each)
        self._attach(path)

    def restart(self, configuration: Configuration, path: Path) -> None:
        """Goes over to another configuration and its checkpoint."""
        self.checkpoint.wait()
        self.training.reset(configuration.train, configuration.model, flip=configuration.data.flip)
        self._attach(path)

    @property
    def is_done(self) -> bool:
        return self.training.epochs_done == self.training.spec.epochs

    def run_epoch(self) -> EpochMetrics:
        """As `TrainingRun.run_epoch`; the state after it is saved where that is due."""
        metrics = self.training.run_epoch()
        if not self.is_done:
            self.checkpoint.offer(self.training.state_dict, metrics.seconds)
        return metrics

    def save(self) -> None:
        """Saves the last whole epoch of a configuration that is cut off; a broken one has what was saved before."""
        if not self.training.is_broken and self.training.epochs_done and not self.is_done:
            self.checkpoint.save(self.training.state_dict())
        self.checkpoint.wait()

    def _attach(self, path: Path) -> None:
        self.checkpoint = Checkpoint(path)
        self.saved = self.training.last if continue_training(self.training, self.checkpoint) else None


def continue_training(training: TrainingRun, checkpoint: Checkpoint) -> bool:
    """Goes on after the epoch that was saved, where one of the training's own configuration was; whether it does.

    A training that does not is as it was: at the beginning of its configuration.
    """
    state, spec = checkpoint.load(), training.spec
    if state is None:
        return False
    try:
        last = EpochMetrics.from_file(state.get("last"))
        same = training.identity().items() <= state.items()
        if not same or last is None or not 0 < last.epoch < spec.epochs:
            return False
        training.load_state_dict(state)
    except Exception:  # damaged, as above
        return False
    return True


def _copied(value: Any) -> Any:
    """Nested dicts and lists with every tensor copied to the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value
