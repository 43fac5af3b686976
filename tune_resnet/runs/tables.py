"""The tables of a run directory: each column once, with its type and meaning."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tune_resnet.config.spec import TUNABLE, TrainSpec

RUNNING, FINISHED, STOPPED, FAILED, INTERRUPTED = "running", "finished", "stopped", "failed", "interrupted"
ENDED = (FINISHED, STOPPED, FAILED)  # for good: nothing continues such a trial

REFERENCE_TRIAL = 0  # the reference configuration is the first trial of every run

EPOCH_COLUMNS = (
    "trial",
    "epoch",  # from 1
    "lr",  # learning rate of the epoch's last optimizer step
    "train_loss",  # mean over the epoch's images, in training mode
    "val_loss",  # on the validation split, after the epoch; empty in a baseline judged on the test set
    "val_accuracy",  # in [0, 1]
    "test_loss",  # only in a baseline
    "test_accuracy",  # in [0, 1]
    "seconds",  # training and evaluation
    "images_per_second",  # training images over `seconds`
    "ended_at",  # Unix time, seconds
)


@dataclass(kw_only=True)
class TrialRow:
    """One row of trials.csv."""

    trial: int
    state: str
    max_lr: float
    weight_decay: float
    grad_clip: float
    seed: int
    epochs: int = 0  # finished
    val_accuracy: float = math.nan  # after the last finished epoch, not the best one
    test_accuracy: float = math.nan
    best_epoch: int = 0  # the epoch with the highest accuracy; 0: none
    seconds: float = 0.0  # sum of its epochs
    started_at: float = math.nan  # Unix time, seconds
    ended_at: float = math.nan
    worker: str = ""  # host:process
    error: str = ""

    def line(self) -> str:
        """The row as a line of trials.csv."""
        return csv_lines([[cell(getattr(self, column)) for column in TRIAL_COLUMNS]])


def train_spec_of(trial: Mapping[Any, Any], train: TrainSpec) -> TrainSpec:
    """What a trial trains, as a row of trials.csv has it, where `train` is the reference."""
    return dataclasses.replace(train, **{name: trial[name] for name in (*TUNABLE, "seed")})


TRIAL_COLUMNS = tuple(item.name for item in dataclasses.fields(TrialRow))


def ending(epochs_done: int, epochs: int, failure: str | None) -> str:
    """The state of a trial that ended by itself or was stopped: `failed`, `finished` or `stopped`."""
    if failure:
        return FAILED
    return FINISHED if epochs_done >= epochs else STOPPED


def csv_lines(rows: Iterable[Iterable[Any]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def cell(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value


# One row per trial. A float that is not known (an accuracy before the first epoch, say) is NaN, a text is "".
TRIAL_DTYPES = {
    "trial": "int64",
    "state": "str",
    "max_lr": "float64",
    "weight_decay": "float64",
    "grad_clip": "float64",
    "seed": "int64",
    "epochs": "int64",
    "val_accuracy": "float64",
    "test_accuracy": "float64",
    "best_epoch": "int64",
    "seconds": "float64",
    "started_at": "float64",
    "ended_at": "float64",
    "worker": "str",
    "error": "str",
}

# One row per trial and epoch, sorted by both.
EPOCH_DTYPES = {
    "trial": "int64",
    "epoch": "int64",
    "lr": "float64",
    "train_loss": "float64",
    "val_loss": "float64",
    "val_accuracy": "float64",
    "test_loss": "float64",
    "test_accuracy": "float64",
    "seconds": "float64",
    "images_per_second": "float64",
    "ended_at": "float64",
}

WINNER, REFERENCE = "winner", "reference"  # the configurations of confirm.csv

SIZE = ("width", "train_images", "of_epochs")  # what a confirmation may have larger than its search
SEQUENTIAL = "sequential"

# confirm.csv: one row per training of a confirmation
CONFIRM_DTYPES = {
    "seed": "int64",
    "configuration": "str",  # winner (of that time) or reference
    "max_lr": "float64",
    "weight_decay": "float64",
    "grad_clip": "float64",
    "epochs": "int64",  # finished
    "test_accuracy": "float64",  # in [0, 1], after the last epoch
    "test_loss": "float64",
    "seconds": "float64",  # training and evaluation
    "worker": "str",  # host:process
    "error": "str",  # why it has no accuracy
    "width": "int64",  # of ResNet9
    "train_images": "int64",
    "of_epochs": "int64",  # that a whole training has
    "rule": "str",  # of the winner's rows: sequential, looked at after each pair; or empty, a number of pairs
}

STATES = (FINISHED, RUNNING, STOPPED, INTERRUPTED, FAILED)  # in the order in which trials are ranked
