"""The run directory: its files, whole and append-only writes.

    runs/<name>/
      spec.toml     every setting, defaults spelled out
      env.json      versions, device, precision chosen, data fingerprint, git commit, command line; on a GPU `steps`:
                    whether they were recorded as a CUDA graph, or why not
      epochs.csv    append-only, one row per finished epoch
      trials.csv    one row per trial, from its proposal on; rewritten whole when one is proposed or ends
      study.log     the Optuna study, as a journal that optuna-dashboard opens
      checkpoints/  what running and interrupted trials need to continue, and the models of the finished trials that
                    lead: any of those may become the winner's (hpo/models.py)
      warm_start.json   with --warm-start: what earlier runs gave
      .lock         held by the command that writes to the run
      best/         model.safetensors and spec.toml of the winner, as of the last command's end
      final/        with --finalize: a run directory of its own, of the winner trained once more, for use
      best-before/  what was there of another trial, where the winner's model has not been kept
      report.html   the page, as of the last command's end, or of a moment ago while one is at work
      ray/          Ray Tune's own folder, TensorBoard events included
      confirm.csv   with --confirm: one row per training of winner or reference (columns: tables.py)
      confirm.json  the latest verdict on a winner that was confirmed, and where it was trained
      predictions.csv   of a baseline or final training: one row per test image (columns: tables.py)
      mistakes/     the images among them that are most confidently wrong, as PNG files

A trial is `running`, and ends as `finished` (all its epochs), `stopped` (early), `failed` (error or non-finite loss) or
`interrupted` (the search ended first; --resume continues it, as it does a trial that a killed search left `running`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tune_resnet._files import is_being_written, read_regular, write_whole
from tune_resnet._text import as_json, one_line, shown_path, to_run
from tune_resnet.config.sections import ACCURACY, TUNABLE, ModelSpec
from tune_resnet.config.spec import SearchSpec
from tune_resnet.errors import RecordError, SearchError
from tune_resnet.runs.tables import cell, csv_lines, epoch_dtypes, trial_columns

SEARCH, BASELINE, FINAL = "search", "baseline", "final"  # the kinds of run, in env.json

_PATIENCE = 0.5  # seconds: whoever only looks holds the lock for an instant, a command for longer


def _locked(descriptor: int, kind: int) -> bool:
    """Takes a lock of this kind on a file, which closing it frees; False where another is held against it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class RunDirectory:
    """The files of one run; see the module's description."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec_toml = path / "spec.toml"
        self.env_json = path / "env.json"
        self.epochs_csv = path / "epochs.csv"
        self.trials_csv = path / "trials.csv"
        self.study_log = path / "study.log"
        self.checkpoints = path / "checkpoints"
        self.best = path / "best"
        self.final = path / "final"
        self.ray = path / "ray"
        self.lock_file = path / ".lock"
        self.warm_start_json = path / "warm_start.json"
        self.confirm_csv = path / "confirm.csv"
        self.confirm_json = path / "confirm.json"
        self.predictions_csv = path / "predictions.csv"
        self.mistakes = path / "mistakes"

    @property
    def shown_path(self) -> Path:
        return shown_path(self.path)

    def resume_command(self, model: ModelSpec) -> str:
        """What continues the run."""
        return to_run("search", "--resume", self.shown_path, *model.flag)

    def ended_by(self, error: BaseException, what: str, model: ModelSpec) -> SearchError:
        """The error of a run that could not go on: in one line what has ended, why, and how to go on."""
        reason = getattr(error, "strerror", None) or one_line(str(error).strip().rpartition("\n")[2])
        kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
        return SearchError(
            f"{what} has ended: {kind}{reason}. What is recorded stays; once that is mended, go on: "
            f"{self.resume_command(model)}"
        )

    @classmethod
    def create(
        cls, path: Path, spec: SearchSpec, env: Mapping[str, Any] | None = None, warm_start: str | None = None
    ) -> RunDirectory:
        """A new run directory with its spec, its environment and what earlier runs give, as JSON; RecordError where it
        exists or cannot be written."""
        path = path.absolute()
        fresh = cls(path.with_name(f".{path.name}.{os.getpid()}.tmp"))
        try:
            fresh.path.mkdir(parents=True)
            fresh.checkpoints.mkdir()
            write_whole(fresh.spec_toml, spec.to_toml())
            write_whole(fresh.epochs_csv, csv_lines([epoch_dtypes(spec.search.objective)]))
            fresh.write_trials([], spec.hyperparameters, spec.search.objective)
            if env:
                fresh.write_env(env)
            if warm_start is not None:
                write_whole(fresh.warm_start_json, warm_start)
            if path.exists():  # an empty folder would be replaced
                raise FileExistsError
            fresh.path.rename(path)  # complete from its first moment
        except OSError as error:
            shutil.rmtree(fresh.path, ignore_errors=True)
            if isinstance(error, FileExistsError) or error.errno == errno.ENOTEMPTY:
                raise RecordError(f"{path} exists already: choose another --name, or --resume {path}") from None
            raise RecordError(f"cannot write the run directory {path}: {error.strerror}") from None
        return cls(path)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Nobody else writes to the run for the time of the block; RecordError where somebody does.

        The system frees the lock with the process, however that ends.
        """
        try:
            self.checkpoints.mkdir(exist_ok=True)  # while it is empty, a copy through git lacks it
            # A link would have another file made, a pipe would have nobody come to read it.
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
            file = os.fdopen(os.open(self.lock_file, flags, 0o666), "wb")
        except OSError as error:
            raise RecordError(f"cannot write to {self.path}: {error.strerror}") from None
        with file:
            deadline = time.monotonic() + _PATIENCE
            while not _locked(file.fileno(), fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise RecordError(f"another command is at work in {self.path}: wait for its end")
                time.sleep(_PATIENCE / 50)
            yield

    def in_use(self) -> bool:
        """Whether a command holds the run's lock now, as far as can be known."""
        try:
            descriptor = os.open(self.lock_file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:  # none has ever been held here
            return False
        try:
            # The lock is shared among those who look, and kept for no longer than that takes.
            return not _locked(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)

    def repair(self) -> None:
        """Removes what a crash left half-written: an epoch's line without its end, temporary files.

        RecordError where that cannot be written, or is not in this directory.
        """
        try:
            for kept in (self.epochs_csv, self.checkpoints, self.best):
                if kept.is_symlink():  # what is written to or deleted must be the run's own
                    raise RecordError(f"{kept} is a link to elsewhere, so the run cannot be continued")
            content = read_regular(self.epochs_csv)
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                os.truncate(self.epochs_csv, whole)
            self.remove_temporary_files()
        except OSError as error:
            raise RecordError(f"cannot repair {self.path}: {error.strerror}") from None

    def remove_temporary_files(self) -> None:
        """Deletes what writers that were killed have left. Who writes to checkpoints/ is known to be at its end."""
        for folder in (self.path, self.checkpoints, self.best, self.mistakes):
            for leftover in folder.glob(".*.tmp"):
                if folder == self.checkpoints or not is_being_written(leftover):
                    shutil.rmtree(leftover) if leftover.is_dir() and not leftover.is_symlink() else leftover.unlink()

    def write_env(self, env: Mapping[str, Any]) -> None:
        write_whole(self.env_json, as_json(env) + "\n")

    def write_trials(
        self, lines: Iterable[str], hyperparameters: tuple[str, ...] = TUNABLE, objective: str = ACCURACY
    ) -> None:
        """Writes trials.csv whole, of lines that `TrialRow.line` made."""
        write_whole(self.trials_csv, "".join([csv_lines([trial_columns(hyperparameters, objective)]), *lines]))

    def append_epoch(self, row: Mapping[str, Any], objective: str = ACCURACY) -> None:
        """Adds one complete line to epochs.csv, or none where that fails; columns that `row` lacks stay empty."""
        line = csv_lines([[cell(row.get(column)) for column in epoch_dtypes(objective)]]).encode()
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

    def confirmation_of(self, trial: int, seed: int, size: Mapping[str, int]) -> Path:
        """Where a training of a confirmation keeps what it needs to continue; the reference is trial 0. `size`: see
        `tables.SIZE`."""
        return self.checkpoints / f"confirm-{trial:05d}-{seed}-{'-'.join(map(str, size.values()))}.pt"

    def keep_best(self, trial: int, spec: SearchSpec) -> None:
        """Puts a finished trial's model into best/, beside the spec that retrains it; the trial's own file stays.

        The files of the two are replaced together: best/ never mixes two trials.
        """
        fresh = self.best.with_name(".best.tmp")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        shutil.copyfile(self.model_of(trial), fresh / "model.safetensors")
        write_whole(fresh / "spec.toml", spec.to_toml())
        shutil.rmtree(self.best, ignore_errors=True)
        fresh.rename(self.best)
