"""A run directory as tidy DataFrames, also while its search goes on.

Only its CSV, JSON and TOML files are read, so nothing in a run directory can execute. See `TRIAL_DTYPES` and
`EPOCH_DTYPES` for the columns; `records` says what each means.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tune_resnet.reading import read_table, read_text
from tune_resnet.records import (
    BASELINE,
    FAILED,
    FINISHED,
    INTERRUPTED,
    RUNNING,
    SEARCH,
    STOPPED,
    RecordError,
    RunDirectory,
    find_run,
)
from tune_resnet.settings import SpecError, shown
from tune_resnet.spec import TUNABLE, SearchSpec, load_spec
from tune_resnet.text import printable

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

# What a resumed search relies on in env.json; anything else is only shown.
_ENV_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "dataset_fingerprint": (lambda value: isinstance(value, str), "a string"),
    "trial": (lambda value: type(value) is int and value >= 0, "a trial's number"),
    "resumed": (lambda value: isinstance(value, list), "a list"),
    "wall_seconds": (lambda value: type(value) in (int, float) and 0 <= value < math.inf, "a number of seconds"),
}
_LEVELS = 10  # of nesting; what comes near the interpreter's limit could not be written back

STATES = (FINISHED, RUNNING, STOPPED, INTERRUPTED, FAILED)  # in the order in which trials are ranked


@dataclass(frozen=True, kw_only=True, eq=False)
class RunFrames:
    """One run. `name` is the directory's, printable; `env` is empty while there is no env.json, `confirm` while nothing
    has been confirmed; `active`: a command was at work in it while it was read, so that `running` trials do run."""

    path: Path
    name: str
    spec: SearchSpec
    env: dict[str, Any]
    trials: pd.DataFrame
    epochs: pd.DataFrame
    confirm: pd.DataFrame
    active: bool

    @property
    def kind(self) -> str:
        """`search`, `baseline` or `final`."""
        judged_on_test = self.env.get("held_out") == "test"  # of the runs before there were kinds: the baselines
        return str(self.env.get("kind", BASELINE if judged_on_test else SEARCH))


@dataclass(frozen=True, kw_only=True, eq=False)
class MergedFrames:
    """Several runs in one: the same tables with a leading column `run` (str)."""

    trials: pd.DataFrame
    epochs: pd.DataFrame


def load_run(named: Path | str) -> RunFrames:
    """The run with this path, with this name in runs/, or for `latest` the one there that was started last.

    In a run in progress trials.csv is older than epochs.csv: for running trials the epochs decide. An unfinished last
    line of epochs.csv is left out, as are epochs of trials that began while the files were being read. Of an epoch
    recorded twice, which no search does, the later row counts.

    Raises:
        RecordError: there is no such run, or a file in its directory cannot be read or is damaged.
    """
    path = find_run(named)
    run = RunDirectory(Path(os.path.realpath(path)))
    if not os.path.isfile(run.spec_toml):  # the path's own is_file raises for names that are too long, say
        raise RecordError(f"{path} is not a run directory: there is no {run.spec_toml.name} to read in it")
    try:
        spec = load_spec(run.spec_toml)
    except SpecError as error:
        raise RecordError(str(error)) from None
    began_active = run.in_use()  # before and after, so that a command that ends or begins meanwhile counts
    trials = _read_trials(run.trials_csv)  # before the epochs, so that no trial is ahead of its epochs
    epochs = read_table(run.epochs_csv, EPOCH_DTYPES, growing=True)
    epochs = epochs[epochs["trial"].isin(trials["trial"])].drop_duplicates(["trial", "epoch"], keep="last")
    epochs = epochs.sort_values(["trial", "epoch"], ignore_index=True)
    _update_running(trials, epochs)
    env = _read_env(run.env_json)
    return RunFrames(
        path=run.path,
        name=printable(run.path.name),
        spec=spec,
        env=env,
        trials=trials,
        epochs=epochs,
        confirm=_read_confirm(run.confirm_csv, own_size(spec, env)),
        active=began_active or run.in_use(),
    )


def own_size(spec: SearchSpec, env: dict[str, Any]) -> dict[str, int]:
    """What confirms a run at its own size, see `SIZE`: on the search's validation images, too."""
    parts = [env.get(name) for name in ("train_images", "held_out_images")]
    known = [part for part in parts if type(part) is int and 0 <= part < 2**32]  # env.json may hold anything
    return {
        "width": spec.model.width,
        "train_images": sum(known) if len(known) == len(parts) else spec.data.limit_train or 0,
        "of_epochs": spec.train.epochs,
    }


def accuracy_column(frames: RunFrames) -> str:
    """The column that a run's trials and epochs are judged on.

    `val_accuracy`, and in a baseline judged on the test set, which has no validation accuracy, `test_accuracy`.
    """
    has = frames.trials[["val_accuracy", "test_accuracy"]].notna().any()
    return "test_accuracy" if has["test_accuracy"] and not has["val_accuracy"] else "val_accuracy"


def run_labels(runs: Sequence[RunFrames]) -> list[str]:
    """A name for each run: its directory's, and its whole path where several have that name."""
    count = Counter(run.name for run in runs)
    return [run.name if count[run.name] == 1 else printable(run.path) for run in runs]


def merge_runs(runs: Sequence[RunFrames]) -> MergedFrames:
    """One or more runs, each from another directory, as one pair of tables."""
    labels = run_labels(runs)

    def merged(tables: list[pd.DataFrame]) -> pd.DataFrame:
        labelled = [table.assign(run=label) for label, table in zip(labels, tables, strict=True)]
        whole = pd.concat(labelled, ignore_index=True)
        return whole[["run", *tables[0].columns]].astype({"run": "str"})

    return MergedFrames(trials=merged([run.trials for run in runs]), epochs=merged([run.epochs for run in runs]))


def export_csv(merged: MergedFrames, directory: Path) -> list[Path]:
    """Writes trials.csv and epochs.csv; their paths. Existing files are replaced, each at once and whole.

    Raises:
        RecordError: the directory cannot be written, or is a run's own.
    """
    return _export(merged, directory, ".csv", lambda table: table.to_csv(index=False).encode())


def export_parquet(merged: MergedFrames, directory: Path) -> list[Path]:
    """Like `export_csv`, as trials.parquet and epochs.parquet."""
    return _export(merged, directory, ".parquet", lambda table: table.to_parquet(index=False))


def _export(merged: MergedFrames, directory: Path, suffix: str, encode: Callable[[pd.DataFrame], bytes]) -> list[Path]:
    if os.path.exists(RunDirectory(directory).spec_toml):
        raise RecordError(f"{directory} is a run directory, whose own files an export would replace")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        paths = [directory / f"trials{suffix}", directory / f"epochs{suffix}"]
        for path, table in zip(paths, (merged.trials, merged.epochs), strict=True):
            _write_bytes(path, encode(table))
    except OSError as error:
        raise RecordError(f"cannot write {directory}: {error.strerror}") from None
    return paths


def _write_bytes(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_trials(path: Path) -> pd.DataFrame:
    trials = read_table(path, TRIAL_DTYPES)
    wrong = ~trials["state"].isin(STATES) | trials["trial"].duplicated()
    if wrong.any():
        row = int(wrong.argmax())
        trial, state = trials.loc[row, ["trial", "state"]]
        problem = f"trial {trial} a second time" if state in STATES else f"unknown state {shown(state)}"
        raise RecordError(f"{path} line {row + 2}: {problem}")
    return trials


def _read_confirm(path: Path, size: dict[str, int]) -> pd.DataFrame:
    """The trainings of all confirmations; no rows where there is no file. Before there were others, all had the `size`
    of their search, and a number of pairs."""
    if not os.path.exists(path):
        return pd.DataFrame(columns=list(CONFIRM_DTYPES)).astype(CONFIRM_DTYPES)
    rows = read_table(path, CONFIRM_DTYPES, added={**size, "rule": ""})
    known = rows["configuration"].isin([WINNER, REFERENCE])
    wrong = ~known | rows.duplicated(["seed", "configuration", *TUNABLE, *SIZE])
    if wrong.any():
        row = int(wrong.argmax())
        seed, configuration = rows.loc[row, ["seed", "configuration"]]
        problem = "a second time" if known[row] else f"is not {WINNER} or {REFERENCE}"
        raise RecordError(f"{path} line {row + 2}: {printable(configuration)} of seed {seed} {problem}")
    return rows


def _update_running(trials: pd.DataFrame, epochs: pd.DataFrame) -> None:
    """Sets what running trials have done so far, from their epochs."""
    latest = epochs.drop_duplicates("trial", keep="last").set_index("trial")
    rows = (trials["state"] == RUNNING) & trials["trial"].isin(latest.index)
    running = trials.loc[rows, "trial"]
    trials.loc[rows, "epochs"] = running.map(latest["epoch"])
    trials.loc[rows, "seconds"] = running.map(epochs.groupby("trial")["seconds"].sum())
    for column in ("val_accuracy", "test_accuracy"):
        trials.loc[rows, column] = running.map(latest[column])
    accuracy = epochs["val_accuracy"].fillna(epochs["test_accuracy"]).dropna()
    best = accuracy.groupby(epochs["trial"]).idxmax().map(epochs["epoch"])
    trials.loc[rows, "best_epoch"] = running.map(best).fillna(0).astype("int64")


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file's object, empty where there is no file; RecordError where it holds anything else."""
    if not path.exists():
        return {}
    text = read_text(path)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise RecordError(f"{path} is not valid JSON") from None
    if not isinstance(values, dict):
        raise RecordError(f"{path} must hold a JSON object, holds {shown(values)}")
    if _is_deep(values, _LEVELS):
        raise RecordError(f"{path} is nested too deeply")
    return values


def _read_env(path: Path) -> dict[str, Any]:
    env = read_object(path)
    for name, (fits, words) in _ENV_VALUES.items():
        if name in env and not fits(env[name]):
            raise RecordError(f"{path}: {name} must be {words}, is {shown(env[name])}")
    return env


def _is_deep(value: Any, levels: int) -> bool:
    """Whether a JSON value has more than so many levels of objects and lists."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return inner is not None and (levels == 0 or any(_is_deep(item, levels - 1) for item in inner))
