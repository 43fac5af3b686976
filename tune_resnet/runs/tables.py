"""The tables of a run directory: each column once, with its type and meaning."""

from __future__ import annotations

import csv
import functools
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, get_type_hints

from tune_resnet.config.sections import TUNABLE
from tune_resnet.config.spec import SearchSpec

RUNNING, FINISHED, STOPPED, FAILED, INTERRUPTED = "running", "finished", "stopped", "failed", "interrupted"
ENDED = (FINISHED, STOPPED, FAILED)  # for good: nothing continues such a trial

REFERENCE_TRIAL = 0  # the reference configuration is the first trial of every run

STATES = (FINISHED, RUNNING, STOPPED, INTERRUPTED, FAILED)  # in the order in which trials are ranked

WINNER, REFERENCE = "winner", "reference"  # the configurations of confirm.csv
SIZE = ("width", "train_images", "of_epochs")  # what a confirmation may have larger than its search
SEQUENTIAL = "sequential"


@dataclass(kw_only=True)
class TrialRow:
    """One row of trials.csv, one per trial. A number that is not known, as an accuracy before the first epoch,
    is NaN; a text is empty."""

    trial: int
    state: str
    values: dict[str, Any]  # of the hyperparameters, each of which has a column
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

    def cells(self) -> dict[str, Any]:
        """The row by column."""
        cells = dict(vars(self))
        return {"trial": cells.pop("trial"), "state": cells.pop("state"), **cells.pop("values"), **cells}

    def line(self) -> str:
        """The row as a line of trials.csv."""
        return csv_lines([map(cell, self.cells().values())])

    @classmethod
    def from_cells(cls, cells: Mapping[str, Any], hyperparameters: Sequence[str]) -> TrialRow:
        """What `cells` gave."""
        rest = {name: value for name, value in cells.items() if name not in hyperparameters}
        return cls(values={name: cells[name] for name in hyperparameters}, **rest)


class EpochRow(TypedDict):
    """One row of epochs.csv, which has one per trial and epoch."""

    trial: int
    epoch: int  # from 1
    lr: float  # learning rate of the epoch's last optimizer step
    train_loss: float  # mean over the epoch's images, in training mode
    val_loss: float  # on the validation split, after the epoch; empty in a baseline judged on the test set
    val_accuracy: float  # in [0, 1]
    test_loss: float  # only in a baseline
    test_accuracy: float  # in [0, 1]
    seconds: float  # training and evaluation
    images_per_second: float  # training images over `seconds`
    ended_at: float  # Unix time, seconds


class ConfirmRow(TypedDict):
    """One row of confirm.csv, which has one per training of a confirmation."""

    seed: int
    configuration: str  # winner (of that time) or reference
    values: dict[str, Any]  # of the hyperparameters, each of which has a column
    epochs: int  # finished
    test_accuracy: float  # in [0, 1], after the last epoch
    test_loss: float
    seconds: float  # training and evaluation
    worker: str  # host:process
    error: str  # why it has no accuracy
    width: int  # of ResNet9
    train_images: int
    of_epochs: int  # that a whole training has
    rule: str  # of the winner's rows: sequential, looked at after each pair; or empty, a number of pairs


_PANDAS = {int: "int64", float: "float64", str: "str", bool: "bool"}


_TUNABLE = dict.fromkeys(TUNABLE, float)


def _dtypes(row: type, hyperparameters: Mapping[str, type]) -> dict[str, str]:
    """The columns of a table and their types in pandas."""
    found: dict[str, str] = {}
    for name, kind in get_type_hints(row).items():
        columns = hyperparameters if name == "values" else {name: kind}
        found |= {column: _PANDAS[type_of] for column, type_of in columns.items()}
    return found


def trial_dtypes(kinds: Mapping[str, type] = _TUNABLE) -> dict[str, str]:
    """The columns of trials.csv, where the hyperparameters are of these kinds."""
    return _dtypes(TrialRow, kinds)


@functools.cache  # asked at each write
def trial_columns(hyperparameters: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the columns of trials.csv."""
    return tuple(trial_dtypes(dict.fromkeys(hyperparameters, float)))


def confirm_dtypes(kinds: Mapping[str, type] = _TUNABLE) -> dict[str, str]:
    """The columns of confirm.csv, where the hyperparameters are of these kinds."""
    return _dtypes(ConfirmRow, kinds)


TRIAL_DTYPES, EPOCH_DTYPES, CONFIRM_DTYPES = trial_dtypes(), _dtypes(EpochRow, {}), confirm_dtypes()


def spec_of(trial: Mapping[Any, Any], spec: SearchSpec) -> SearchSpec:
    """The spec with what a trial trains, as a row of trials.csv has it, for reference."""
    return spec.configured({name: trial[name] for name in (*spec.hyperparameters, "seed") if name in trial})


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
