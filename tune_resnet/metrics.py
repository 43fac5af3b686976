"""What one epoch of training gives, and how a training fails by its numbers."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from tune_resnet.records import NOT_FINITE


@dataclass(frozen=True, kw_only=True)
class EpochMetrics:
    """What one epoch gave."""

    epoch: int  # from 1
    lr: float  # of the epoch's last optimizer step
    train_loss: float  # mean cross-entropy over the epoch's images, in training mode
    loss: float  # mean cross-entropy on the held-out images
    accuracy: float  # on the held-out images, in [0, 1]
    seconds: float  # training and evaluation
    images_per_second: float  # training images over `seconds`

    def columns(self, held_out: str) -> dict[str, float]:
        """The row for epochs.csv, where `held_out` says what was held out: `val` or `test`."""
        row = dataclasses.asdict(self)
        row[f"{held_out}_loss"], row[f"{held_out}_accuracy"] = row.pop("loss"), row.pop("accuracy")
        return row


class NonFiniteLoss(ArithmeticError):
    """The loss became infinite or NaN; `last_good` is the last epoch before (None: it was the first)."""

    def __init__(self, epoch: int, last_good: EpochMetrics | None) -> None:
        super().__init__(f"{NOT_FINITE} in epoch {epoch}")
        self.epoch = epoch
        self.last_good = last_good

    def __reduce__(self) -> Any:
        return type(self), (self.epoch, self.last_good)


def is_continuable(metrics: Any, epochs: int) -> bool:
    """Whether these, read from a file, are an epoch's metrics, and some of `epochs` are left after it."""
    return (
        isinstance(metrics, dict)
        and metrics.keys() == {field.name for field in dataclasses.fields(EpochMetrics)}
        and all(type(value) in (int, float) and 0 <= value < math.inf for value in metrics.values())
        and type(metrics["epoch"]) is int
        and 0 < metrics["epoch"] < epochs
    )
