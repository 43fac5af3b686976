"""The tables of a run directory: each column once, with its type and meaning."""

from __future__ import annotations

import csv
import functools
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypedDict, get_type_hints

from tune_resnet.config.sections import ACCURACY, TUNABLE
from tune_resnet.config.spec import SearchSpec

RUNNING, FINISHED, STOPPED, FAILED, INTERRUPTED = "running", "finished", "stopped", "failed", "interrupted"
ENDED = (FINISHED, STOPPED, FAILED)  # for good: nothing continues such a trial

REFERENCE_TRIAL = 0  # the reference configuration is the first trial of every run

STATES = (FINISHED, RUNNING, STOPPED, INTERRUPTED, FAILED)  # in the order in which trials are ranked

WINNER, REFERENCE = "winner", "reference"  # the configurations of confirm.csv
# What winner and reference may be trained at, other than their search: columns of confirm.csv, and settings.
SIZE = {"width": "model.width", "train_images": "data.limit_train", "of_epochs": "train.epochs"}
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
    scores: dict[str, float] = field(default_factory=dict)  # by column, see `score_columns`; after the same epoch
    best_epoch: int = 0  # the epoch with the highest accuracy, or whatever judges; 0: none
    seconds: float = 0.0  # sum of its epochs
    started_at: float = math.nan  # Unix time, seconds
    ended_at: float = math.nan
    worker: str = ""  # host:process
    error: str = ""

    def cells(self) -> dict[str, Any]:
        """The row by column."""
        parts = (value if isinstance(value, dict) else {name: value} for name, value in vars(self).items())
        return {column: cell for part in parts for column, cell in part.items()}

    def line(self) -> str:
        """The row as a line of trials.csv."""
        return csv_lines([map(cell, self.cells().values())])

    @classmethod
    def from_cells(cls, cells: Mapping[str, Any], hyperparameters: Sequence[str]) -> TrialRow:
        """What `cells` gave."""
        own = {item.name for item in fields(cls)}
        rest = {name: value for name, value in cells.items() if name not in hyperparameters}
        return cls(
            values={name: cells[name] for name in hyperparameters},
            scores={name: rest.pop(name) for name in [*rest] if name not in own},
            **rest,
        )


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
    scores: dict[str, float]  # where another objective than the accuracy judges: its columns, see `score_columns`
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
    scores: dict[str, float]  # as of an epoch, on the test images
    test_loss: float
    seconds: float  # training and evaluation
    worker: str  # host:process
    error: str  # why it has no accuracy
    width: int  # of ResNet9
    train_images: int
    of_epochs: int  # that a whole training has
    rule: str  # of the winner's rows: sequential, looked at after each pair; or empty, a number of pairs


class PredictionRow(TypedDict):
    """One row of predictions.csv, which has one per test image, in their order."""

    image: str  # its file, below the data folder; else its place in the test set, from 0
    label: str  # its class
    predicted: str  # the class that the model finds likeliest
    confidence: float  # that class's probability, in [0, 1]


_PANDAS = {int: "int64", float: "float64", str: "str", bool: "bool"}


_TUNABLE = dict.fromkeys(TUNABLE, float)


def score_columns(objectives: Iterable[str], held_out: Sequence[str] = ("val", "test")) -> list[str]:
    """The columns for what judges besides the accuracies, each in [0, 1]: none where accuracy is the only objective,
    else `val_balanced_accuracy`, say."""
    return [f"{part}_{name}" for name in objectives if name != ACCURACY for part in held_out]


def _dtypes(row: type, hyperparameters: Mapping[str, type] = {}, scores: Sequence[str] = ()) -> dict[str, str]:
    """The columns of a table and their types in pandas."""
    found: dict[str, str] = {}
    for name, kind in get_type_hints(row).items():
        columns = {"values": hyperparameters, "scores": dict.fromkeys(scores, float)}.get(name, {name: kind})
        found |= {column: _PANDAS[type_of] for column, type_of in columns.items()}
    return found


def trial_dtypes(kinds: Mapping[str, type] = _TUNABLE, *objectives: str) -> dict[str, str]:
    """The columns of trials.csv, where the hyperparameters are of these kinds, and these are the objectives: one, or
    those of several runs."""
    return _dtypes(TrialRow, kinds, score_columns(objectives))


@functools.cache  # asked at each write
def trial_columns(hyperparameters: tuple[str, ...], *objectives: str) -> tuple[str, ...]:
    """The names of the columns of trials.csv."""
    return tuple(trial_dtypes(dict.fromkeys(hyperparameters, float), *objectives))


@functools.cache  # asked at each epoch
def epoch_dtypes(*objectives: str) -> Mapping[str, str]:
    """The columns of epochs.csv."""
    return _dtypes(EpochRow, {}, score_columns(objectives))


def confirm_dtypes(kinds: Mapping[str, type] = _TUNABLE, *objectives: str) -> dict[str, str]:
    """The columns of confirm.csv, where the hyperparameters are of these kinds."""
    return _dtypes(ConfirmRow, kinds, score_columns(objectives, ["test"]))


TRIAL_DTYPES, EPOCH_DTYPES, CONFIRM_DTYPES = trial_dtypes(), epoch_dtypes(), confirm_dtypes()
PREDICTION_DTYPES = _dtypes(PredictionRow)


def spec_of(trial: Mapping[str, Any], spec: SearchSpec) -> SearchSpec:
    """The spec with what a trial trains, as a row of trials.csv has it, for reference."""
    return spec.configured({name: trial[name] for name in (*spec.hyperparameters, "seed") if name in trial})


def value_in(trial: Mapping[str, Any], spec: SearchSpec, name: str) -> Any:
    """What a trial of this spec had for a setting, as a row of trials.csv tells, or where its search did not vary that,
    as the spec does; None where it had none."""
    if name in trial:
        return trial[name]
    return (spec_of(trial, spec) if spec.follows(name) else spec).value(name)


def ending(epochs_done: int, epochs: int, failure: str | None) -> str:
    """The state of a trial that ended by itself or was stopped: `failed`, `finished` or `stopped`."""
    if failure:
        return FAILED
    return FINISHED if epochs_done >= epochs else STOPPED


def csv_lines(rows: Iterable[Iterable[object]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def cell(value: object) -> object:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value
