"""What one epoch of training gives, and how a training fails by its numbers."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Self

from tune_resnet.config.sections import ACCURACY, OBJECTIVES


@dataclass(frozen=True, kw_only=True)
class EpochMetrics:
    """What one epoch gave."""

    epoch: int  # from 1
    lr: float  # of the epoch's last optimizer step
    train_loss: float  # mean cross-entropy over the epoch's images, in training mode
    loss: float  # mean cross-entropy on the held-out images; NaN where there are none
    accuracy: float  # on the held-out images, in [0, 1]; NaN where there are none
    balanced_accuracy: float = math.nan  # on them, as `evaluation.scores` has it; NaN also in files from before it
    macro_f1: float = math.nan
    seconds: float  # training and evaluation
    images_per_second: float  # training images over `seconds`

    def columns(self, held_out: str, objective: str = ACCURACY) -> dict[str, float]:
        """The row for epochs.csv, where `held_out` says what was held out: `val` or `test`."""
        row = dataclasses.asdict(self)
        measured = {name: row.pop(name) for name in ("loss", *OBJECTIVES)}
        return row | {f"{held_out}_{name}": measured[name] for name in ("loss", ACCURACY, objective)}

    @classmethod
    def from_file(cls, values: object) -> EpochMetrics | None:
        """What `dataclasses.asdict` gave, read back from a file; None where it is something else."""
        if not isinstance(values, dict):
            return None
        names = {field.name for field in dataclasses.fields(cls)}
        later = names & {*OBJECTIVES} - {ACCURACY}  # a file from before them lacks these
        unknown = {"loss", *OBJECTIVES}  # they are where nothing was held out
        fits = (
            names - later <= values.keys() <= names
            and all(type(value) in (int, float) for value in values.values())
            and all(0 <= value < math.inf or (name in unknown and value != value) for name, value in values.items())
            and type(values["epoch"]) is int
        )
        return cls(**values) if fits else None


class BrokenRun(RuntimeError):
    """A run whose last epoch was broken off by an error was asked to go on, or for its state."""


class NonFiniteLoss(ArithmeticError):
    """The loss became infinite or NaN; `last_good` is the last epoch before (None: it was the first)."""

    def __init__(self, epoch: int, last_good: EpochMetrics | None) -> None:
        super().__init__(f"{NOT_FINITE} in epoch {epoch}")
        self.epoch = epoch
        self.last_good = last_good

    def __reduce__(self) -> tuple[type[Self], tuple[int, EpochMetrics | None]]:
        return type(self), (self.epoch, self.last_good)


NOT_FINITE = "the loss was not finite"  # how the error of a trial that diverged begins
