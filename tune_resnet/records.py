"""The run directory: column names, atomic and append-only writes, and the life of every trial in it.

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
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune_resnet.errors import UserError
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


TRIAL_COLUMNS = tuple(item.name for item in dataclasses.fields(TrialRow))


def ending(epochs_done: int, epochs: int, failure: str | None) -> str:
    """The state of a trial that ended by itself or was stopped: `failed`, `finished` or `stopped`."""
    if failure:
        return FAILED
    return FINISHED if epochs_done >= epochs else STOPPED


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that a reader sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # backslashreplace: an error's text may hold a file name that is not UTF-8
        with temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _csv_lines(rows: list[list[Any]]) -> str:
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
            write_whole(run.epochs_csv, _csv_lines([list(EPOCH_COLUMNS)]))
            run.write_trials([])
        except FileExistsError:
            raise RecordError(f"{path} exists already: choose another --name, or remove it") from None
        except OSError as error:
            raise RecordError(f"cannot write the run directory {path}: {error.strerror}") from None
        return run

    def write_env(self, env: Mapping[str, Any]) -> None:
        write_whole(self.env_json, json.dumps(env, indent=2) + "\n")

    def write_trials(self, rows: list[TrialRow]) -> None:
        cells = [[_cell(value) for value in dataclasses.astuple(row)] for row in rows]
        write_whole(self.trials_csv, _csv_lines([list(TRIAL_COLUMNS), *cells]))

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


class Recorder:
    """Keeps the row of every trial of one run and writes each change at once."""

    def __init__(self, run: RunDirectory, spec: SearchSpec) -> None:
        self.run = run
        self.spec = spec
        self.trials: dict[int, TrialRow] = {}
        self._best_so_far = -math.inf
        self._top_accuracy: dict[int, float] = {}

    def start(self, trial: int, params: Mapping[str, float]) -> None:
        """A trial begins; `params` holds the hyperparameters that differ from the reference."""
        train = dataclasses.replace(self.spec.train, **params)  # type: ignore[arg-type]
        self.trials[trial] = TrialRow(
            trial=trial,
            state=RUNNING,
            max_lr=train.max_lr,
            weight_decay=train.weight_decay,
            grad_clip=train.grad_clip,
            seed=train.seed,
            started_at=time.time(),
        )
        self._write()

    def epoch(self, trial: int, metrics: Mapping[str, Any], worker: str = "") -> None:
        """A trial has finished an epoch; `metrics` holds epochs.csv's columns."""
        row = self.trials[trial]
        self.run.append_epoch({"ended_at": time.time(), **metrics, "trial": trial})
        row.epochs = metrics["epoch"]
        row.seconds += metrics["seconds"]
        row.worker = worker
        row.val_accuracy = metrics.get("val_accuracy", math.nan)
        row.test_accuracy = metrics.get("test_accuracy", math.nan)
        accuracy = row.test_accuracy if math.isnan(row.val_accuracy) else row.val_accuracy
        if accuracy > self._top_accuracy.get(trial, -math.inf):
            self._top_accuracy[trial] = accuracy
            row.best_epoch = row.epochs

    def end(self, trial: int, state: str, error: str = "") -> None:
        """A trial has ended in one of the four final states."""
        row = self.trials[trial]
        row.state, row.error, row.ended_at = state, " ".join(error.split()), time.time()
        self._keep_or_delete_model(row)
        self._drop_checkpoints()
        self._write()

    def close(self) -> None:
        """The run is over: whatever still runs is interrupted."""
        for row in self.trials.values():
            if row.state == RUNNING:
                row.state, row.ended_at = INTERRUPTED, time.time()
                self._keep_or_delete_model(row)
        self._drop_checkpoints()
        self._write()

    def _drop_checkpoints(self) -> None:
        """Deletes what ended trials left, earlier ones too: a process may have written after its trial's end."""
        for path in self.run.checkpoints.glob("trial-*.pt"):
            row = self.trials.get(int(path.stem.removeprefix("trial-")))
            if row is None or row.state not in (RUNNING, INTERRUPTED):
                path.unlink()

    def _keep_or_delete_model(self, row: TrialRow) -> None:
        accuracy = row.test_accuracy if math.isnan(row.val_accuracy) else row.val_accuracy
        if row.state != FINISHED or not accuracy > self._best_so_far:  # NaN is never the best
            # A trial that was cut off may have left its model, but not reported it.
            self.run.model_of(row.trial).unlink(missing_ok=True)
            return
        self._best_so_far = accuracy
        winner = dataclasses.replace(
            self.spec.train, max_lr=row.max_lr, weight_decay=row.weight_decay, grad_clip=row.grad_clip
        )
        self.run.keep_best(row.trial, dataclasses.replace(self.spec, train=winner))

    def _write(self) -> None:
        self.run.write_trials(
            [self.trials[number] for number in sorted(self.trials)]
        )  # they may start in another order
