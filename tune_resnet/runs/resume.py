"""What a run has done so far, read from its directory: what --resume begins with."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from tune_resnet.config.space import Domain
from tune_resnet.config.spec import SearchSpec
from tune_resnet.errors import RecordError
from tune_resnet.runs.directory import FINAL, SEARCH, RunDirectory
from tune_resnet.runs.load import RunFrames, load_frames
from tune_resnet.runs.reading import read_table, records
from tune_resnet.runs.tables import ENDED, FINISHED, REFERENCE_TRIAL, TrialRow, epoch_dtypes


@dataclass(frozen=True, kw_only=True)
class History:
    """Trials by number, 0 and up without a gap; the rows of epochs.csv in the order of their writing; env.json.

    A final training has the number of its only trial. One that is `running` or `interrupted` has not ended: it goes on.
    """

    trials: list[TrialRow] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    env: dict[str, Any] = field(default_factory=dict)
    kind: str = SEARCH

    @property
    def ended(self) -> int:
        """How many trials have ended."""
        return sum(row.state in ENDED for row in self.trials)


def read_history(run: RunDirectory, spec: SearchSpec | None = None) -> History:
    """The history of a run that nothing else writes to; what a crash left half-written is removed first.

    Args:
        spec: what the run goes on with; where that varies more than the run did, its trials had the reference's value.

    Raises:
        RecordError: a file is missing or damaged, a trial is missing, or does not belong to the spec.
    """
    run.repair()
    frames = load_frames(run.path)
    if "dataset_fingerprint" not in frames.env:
        raise RecordError(f"{run.env_json} does not say which images the run is about, so it cannot be continued")
    trials = frames.trials.sort_values("trial")
    first = frames.env.get("trial", REFERENCE_TRIAL) if frames.kind == FINAL else REFERENCE_TRIAL
    missing = set(range(first, first + len(trials))) - set(trials["trial"])
    if missing:
        raise RecordError(f"{run.trials_csv} lacks trial {min(missing)}, so the search cannot be continued")
    epochs = read_table(run.epochs_csv, epoch_dtypes(frames.spec.search.objective))
    epochs = epochs[epochs["trial"].isin(trials["trial"])].drop_duplicates(["trial", "epoch"], keep="last")
    _check_trials(run.trials_csv, frames)
    _check_between(run.epochs_csv, epochs, "epoch", 1, frames.spec.train.epochs)
    rows = [TrialRow.from_cells(row, frames.spec.hyperparameters) for row in records(trials)]
    return History(
        trials=[replace(row, values={**(spec or frames.spec).values, **row.values}) for row in rows],
        epochs=records(epochs),
        env=frames.env,
        kind=frames.kind,
    )


def _check_trials(path: Path, frames: RunFrames) -> None:
    """RecordError where a trial cannot be of this spec: one of the two files was changed."""
    train, space, trials = frames.spec.train, frames.spec.space, frames.trials
    _check_between(path, trials, "seed", train.seed, train.seed)
    for name in frames.spec.hyperparameters:
        known, domain = frames.spec.value(name), space.get(name)
        if isinstance(domain, Domain):
            _check_between(path, trials, name, domain.low, domain.high)
        else:
            possible = [known] if domain is None else list(domain.choices)
            _complain(path, trials, name, ~trials[name].isin(possible), " or ".join(map(str, possible)))
    _check_between(path, trials, "epochs", 0, train.epochs)
    _check_between(path, trials, "seconds", 0, float("inf"))
    finished = trials[trials["state"] == FINISHED]
    _check_between(path, finished, "epochs", train.epochs, train.epochs)
    if frames.kind == SEARCH:  # others may have been judged on the test set instead
        _check_between(path, finished, frames.spec.search.column("val"), 0, 1)


def _check_between(path: Path, table: pd.DataFrame, name: str, low: float, high: float) -> None:
    """RecordError with the first line whose value is not known, or not between the two."""
    wanted = f"{low}" if low == high else f"{low} to {high}"
    _complain(path, table, name, ~table[name].between(low, high), wanted)


def _complain(path: Path, table: pd.DataFrame, name: str, wrong: pd.Series, wanted: str) -> None:
    if wrong.any():
        row: Any = wrong.idxmax()
        raise RecordError(
            f"{path} line {row + 2}: {name} is {table[name][row]}, but with this spec.toml it can only be {wanted}"
        )
