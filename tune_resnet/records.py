"""The run directory: column names, whole and append-only writes.

    runs/<name>/
      spec.toml     every setting, defaults spelled out
      env.json      versions, device, precision chosen, data fingerprint, git commit, command line
      epochs.csv    append-only, one row per finished epoch
      trials.csv    one row per trial, rewritten whole when a trial starts or ends
      study.db      the Optuna study
      checkpoints/  what running trials would need to continue; models of trials that have just finished, until they
                    become best/ or are deleted
      best/         model.safetensors and spec.toml of the winner
      ray/          Ray Tune's own folder, TensorBoard events included
      confirm.csv   with --confirm: one row per training of winner or reference (columns: verdict.py)
      confirm.json  the verdict

A trial is `running`, and ends as `finished` (all its epochs), `stopped` (early), `failed` (error or non-finite loss) or
`interrupted` (the search ended first).
"""

from __future__ import annotations

import csv
import dataclasses
import errno
import io
import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune_resnet.errors import UserError
from tune_resnet.files import replacing
from tune_resnet.spec import SearchSpec

RUNNING, FINISHED, STOPPED, FAILED, INTERRUPTED = "running", "finished", "stopped", "failed", "interrupted"

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


class RecordError(UserError):
    """A run directory that cannot be made, written or read."""


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
        return _csv_lines([[_cell(getattr(self, column)) for column in TRIAL_COLUMNS]])


TRIAL_COLUMNS = tuple(item.name for item in dataclasses.fields(TrialRow))


def ending(epochs_done: int, epochs: int, failure: str | None) -> str:
    """The state of a trial that ended by itself or was stopped: `failed`, `finished` or `stopped`."""
    if failure:
        return FAILED
    return FINISHED if epochs_done >= epochs else STOPPED


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that a reader sees the old content or the new, never a part."""
    with replacing(path) as file:
        file.write(text.encode("utf-8", errors="backslashreplace"))  # an error's text may hold a name that is not UTF-8


def _csv_lines(rows: Iterable[Iterable[Any]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value


class RunDirectory:
    """The files of one run; see the module's description."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec_toml = path / "spec.toml"
        self.env_json = path / "env.json"
        self.epochs_csv = path / "epochs.csv"
        self.trials_csv = path / "trials.csv"
        self.study_db = path / "study.db"
        self.checkpoints = path / "checkpoints"
        self.best = path / "best"
        self.ray = path / "ray"

    @classmethod
    def create(cls, path: Path, spec: SearchSpec) -> RunDirectory:
        """A new run directory with its spec; RecordError where it exists already or cannot be written."""
        run = cls(path.absolute())
        try:
            run.path.mkdir(parents=True)
            run.checkpoints.mkdir()
            write_whole(run.spec_toml, spec.to_toml())
            write_whole(run.epochs_csv, _csv_lines([EPOCH_COLUMNS]))
            run.write_trials([])
        except FileExistsError:
            raise RecordError(f"{path} exists already: choose another --name, or remove it") from None
        except OSError as error:
            raise RecordError(f"cannot write the run directory {path}: {error.strerror}") from None
        return run

    def write_env(self, env: Mapping[str, Any]) -> None:
        write_whole(self.env_json, json.dumps(env, indent=2) + "\n")

    def write_trials(self, lines: Iterable[str]) -> None:
        """Writes trials.csv whole, of lines that `TrialRow.line` made."""
        write_whole(self.trials_csv, "".join([_csv_lines([TRIAL_COLUMNS]), *lines]))

    def append_epoch(self, row: Mapping[str, Any]) -> None:
        """Adds one complete line to epochs.csv, or none where that fails; columns that `row` lacks stay empty."""
        line = _csv_lines([[_cell(row.get(column)) for column in EPOCH_COLUMNS]]).encode()
        descriptor = os.open(self.epochs_csv, os.O_WRONLY | os.O_APPEND)
        size = os.fstat(descriptor).st_size
        try:
            if os.write(descriptor, line) < len(line):  # what a disk does that fills up meanwhile
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.epochs_csv))
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, size)
            raise
        finally:
            os.close(descriptor)

    def model_of(self, trial: int) -> Path:
        """Where a finished trial leaves its model."""
        return self.checkpoints / f"trial-{trial:05d}.safetensors"

    def checkpoint_of(self, trial: int) -> Path:
        """Where a running trial keeps what it needs to continue."""
        return self.checkpoints / f"trial-{trial:05d}.pt"

    def keep_best(self, trial: int, spec: SearchSpec) -> None:
        """Makes a finished trial's model the one in best/, beside the spec that retrains it."""
        fresh = self.best.with_name(".best.tmp")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        self.model_of(trial).replace(fresh / "model.safetensors")
        write_whole(fresh / "spec.toml", spec.to_toml())
        shutil.rmtree(self.best, ignore_errors=True)  # the pair is replaced together: it never mixes two trials
        fresh.rename(self.best)
