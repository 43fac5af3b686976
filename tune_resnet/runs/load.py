"""A run directory as tidy DataFrames, also while its search goes on.

Only its CSV, JSON and TOML files are read, so nothing in a run directory can execute. See `TRIAL_DTYPES` and
`EPOCH_DTYPES` for the columns; `tables` says what each means.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import pandas as pd

from tune_resnet._text import counted, printable
from tune_resnet.config.sections import TUNABLE
from tune_resnet.config.spec import SearchSpec
from tune_resnet.config.toml import load_spec
from tune_resnet.config.validation import SpecError, shown
from tune_resnet.errors import RecordError
from tune_resnet.runs.directory import BASELINE, SEARCH, RunDirectory
from tune_resnet.runs.find import find_run
from tune_resnet.runs.reading import read_table, read_text, records
from tune_resnet.runs.tables import (
    ENDED,
    FINISHED,
    REFERENCE,
    RUNNING,
    SIZE,
    STATES,
    WINNER,
    confirm_dtypes,
    epoch_dtypes,
    score_columns,
    spec_of,
    trial_dtypes,
)

# What a resumed search relies on in env.json; of anything else, nothing but `started_at` (find.py) is more than shown.
_ENV_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "dataset_fingerprint": (lambda value: isinstance(value, str), "a string"),
    "trial": (lambda value: type(value) is int and value >= 0, "a trial's number"),
    "resumed": (lambda value: isinstance(value, list), "a list"),
    "wall_seconds": (lambda value: type(value) in (int, float) and 0 <= value < math.inf, "a number of seconds"),
}
Answer = TypeVar("Answer")

_LEVELS = 10  # of nesting; what comes near the interpreter's limit could not be written back


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
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

    def __repr__(self) -> str:
        finished = int((self.trials["state"] == FINISHED).sum())
        return f"<{self.kind} {self.name}: {counted(len(self.trials), 'trial')}, {finished:,} finished>"

    @property
    def kind(self) -> str:
        """`search`, `baseline` or `final`."""
        judged_on_test = self.env.get("held_out") == "test"  # of the runs before there were kinds: the baselines
        return str(self.env.get("kind", BASELINE if judged_on_test else SEARCH))

    @property
    def planned(self) -> int:
        """How many trials it is to have."""
        return self.spec.search.num_samples if self.kind == SEARCH else 1

    @property
    def ended(self) -> int:
        """How many trials have ended for good."""
        return int(self.trials["state"].isin(ENDED).sum())

    @property
    def has_running(self) -> bool:
        """Whether a trial is on record as running."""
        return bool((self.trials["state"] == RUNNING).any())

    def config(self, trial: int) -> SearchSpec:
        """The whole configuration of a trial: what it trained is the reference of this spec, which `--baseline` trains
        again. KeyError where there is no such trial."""
        [row] = records(self.trials.set_index("trial").loc[[trial]])
        return replace(spec_of(row, self.spec), search=replace(self.spec.search, name=None))


def once_per_run(answer: Callable[[RunFrames], Answer]) -> Callable[[RunFrames], Answer]:
    """Decorates a question about a run, which is then answered once, however many views ask it: all of them say the
    same."""
    known: WeakKeyDictionary[RunFrames, Answer] = WeakKeyDictionary()

    @functools.wraps(answer)
    def answered(frames: RunFrames) -> Answer:
        if frames not in known:
            known[frames] = answer(frames)
        return known[frames]

    return answered


def load_frames(named: Path | str) -> RunFrames:
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
    trials = _read_trials(run.trials_csv, spec)  # before the epochs, so that no trial is ahead of its epochs
    epochs = read_table(run.epochs_csv, epoch_dtypes(spec.search.objective), growing=True)
    epochs = epochs[epochs["trial"].isin(trials["trial"])].drop_duplicates(["trial", "epoch"], keep="last")
    epochs = epochs.sort_values(["trial", "epoch"], ignore_index=True)
    _update_running(trials, epochs, spec)
    env = _read_env(run.env_json)
    return RunFrames(
        path=run.path,
        name=printable(run.path.name),
        spec=spec,
        env=env,
        trials=trials,
        epochs=epochs,
        confirm=_read_confirm(run.confirm_csv, spec, own_size(spec, env)),
        active=began_active or run.in_use(),
    )


def image_count(value: object) -> int | None:
    """How many images a JSON file, which may hold anything, says that there are; None where that is no such number."""
    return value if type(value) is int and value > 0 else None


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
    """The column that a run's trials and epochs are judged on, by every view.

    `val_accuracy`, and in a baseline judged on the test set, which has no validation accuracy, `test_accuracy`; of
    another objective, its own: `val_balanced_accuracy`, say.
    """
    has = frames.trials[["val_accuracy", "test_accuracy"]].notna().any()
    return frames.spec.search.column("test" if has["test_accuracy"] and not has["val_accuracy"] else "val")


def _read_trials(path: Path, spec: SearchSpec) -> pd.DataFrame:
    trials = read_table(path, trial_dtypes(spec.kinds, spec.search.objective), added=_reference(spec))
    wrong = ~trials["state"].isin(STATES) | trials["trial"].duplicated()
    if wrong.any():
        row = int(wrong.argmax())
        trial, state = trials.loc[row, ["trial", "state"]]
        problem = f"trial {trial} a second time" if state in STATES else f"unknown state {shown(state)}"
        raise RecordError(f"{path} line {row + 2}: {problem}")
    return trials


def _reference(spec: SearchSpec) -> dict[str, Any]:
    """The reference's values of what a search varies besides the first three: rows from before it did so had these."""
    return {name: value for name, value in spec.values.items() if name not in TUNABLE}


def _read_confirm(path: Path, spec: SearchSpec, size: dict[str, int]) -> pd.DataFrame:
    """The trainings of all confirmations; no rows where there is no file. Before there were others, all had the `size`
    of their search, and a number of pairs."""
    dtypes = confirm_dtypes(spec.kinds, spec.search.objective)
    if not os.path.exists(path):
        return pd.DataFrame(columns=list(dtypes)).astype(dtypes)
    rows = read_table(path, dtypes, added={**_reference(spec), **size, "rule": ""})
    known = rows["configuration"].isin([WINNER, REFERENCE])
    wrong = ~known | rows.duplicated(["seed", "configuration", *spec.hyperparameters, *SIZE])
    if wrong.any():
        row = int(wrong.argmax())
        seed, configuration = rows.loc[row, ["seed", "configuration"]]
        problem = "a second time" if known[row] else f"is not {WINNER} or {REFERENCE}"
        raise RecordError(f"{path} line {row + 2}: {printable(configuration)} of seed {seed} {problem}")
    return rows


def _update_running(trials: pd.DataFrame, epochs: pd.DataFrame, spec: SearchSpec) -> None:
    """Sets what running trials have done so far, from their epochs."""
    latest = epochs.drop_duplicates("trial", keep="last").set_index("trial")
    rows = (trials["state"] == RUNNING) & trials["trial"].isin(latest.index)
    running = trials.loc[rows, "trial"]
    trials.loc[rows, "epochs"] = running.map(latest["epoch"])
    trials.loc[rows, "seconds"] = running.map(epochs.groupby("trial")["seconds"].sum())
    for column in ("val_accuracy", "test_accuracy", *score_columns([spec.search.objective])):
        trials.loc[rows, column] = running.map(latest[column])
    score = epochs[spec.search.column("val")].fillna(epochs[spec.search.column("test")]).dropna()
    best = score.groupby(epochs["trial"]).idxmax().map(epochs["epoch"])
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


def _is_deep(value: object, levels: int) -> bool:
    """Whether a JSON value has more than so many levels of objects and lists."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return inner is not None and (levels == 0 or any(_is_deep(item, levels - 1) for item in inner))
