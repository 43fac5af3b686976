"""What one epoch of training gives, and how a training fails by its numbers."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class EpochMetrics:
    """What one epoch gave."""

    epoch: int  # from 1
    lr: float  # of the epoch's last optimizer step
    train_loss: float  # mean cross-entropy over the epoch's images, in training mode
    loss: float  # mean cross-entropy on the held-out images; NaN where there are none
    accuracy: float  # on the held-out images, in [0, 1]; NaN where there are none
    seconds: float  # training and evaluation
    images_per_second: float  # training images over `seconds`

    def columns(self, held_out: str) -> dict[str, float]:
        """The row for epochs.csv, where `held_out` says what was held out: `val` or `test`."""
        row = dataclasses.asdict(self)
        row[f"{held_out}_loss"], row[f"{held_out}_accuracy"] = row.pop("loss"), row.pop("accuracy")
        return row

    @classmethod
    def from_file(cls, values: Any) -> EpochMetrics | None:
        """What `dataclasses.asdict` gave, read back from a file; None where it is something else."""
        names = {field.name for field in dataclasses.fields(cls)}
        fits = (
            isinstance(values, dict)
            and values.keys() == names
            and all(type(value) in (int, float) for value in values.values())
            and all(0 <= value < math.inf for name, value in values.items() if name not in ("loss", "accuracy"))
            and all(not (values[name] < 0 or values[name] == math.inf) for name in ("loss", "accuracy"))
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

    def __reduce__(self) -> Any:
        return type(self), (self.epoch, self.last_good)


NOT_FINITE = "the loss was not finite"  # how the error of a trial that diverged begins
