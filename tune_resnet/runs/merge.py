"""Several runs as one pair of tables, and their export."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tune_resnet._files import replacing
from tune_resnet._text import printable
from tune_resnet.config.spec import SearchSpec
from tune_resnet.errors import RecordError
from tune_resnet.runs.directory import RunDirectory
from tune_resnet.runs.load import RunFrames
from tune_resnet.runs.reading import records
from tune_resnet.runs.tables import epoch_dtypes, score_columns, trial_columns, value_in


@dataclass(frozen=True, kw_only=True, eq=False)
class MergedFrames:
    """Several runs in one: the same tables with a leading column `run` (str)."""

    trials: pd.DataFrame
    epochs: pd.DataFrame


def run_labels(runs: Sequence[RunFrames]) -> list[str]:
    """A name for each run: its directory's, and its whole path where several have that name."""
    count = Counter(run.name for run in runs)
    return [run.name if count[run.name] == 1 else printable(run.path) for run in runs]


def all_hyperparameters(runs: Sequence[RunFrames]) -> tuple[str, ...]:
    """Those of which any of the runs has a column."""
    return tuple(dict.fromkeys(name for run in runs for name in run.spec.hyperparameters))


def merge_runs(runs: Sequence[RunFrames]) -> MergedFrames:
    """One or more runs, each from another directory, as one pair of tables. What a run did not vary has the value of
    its reference; the columns of another objective are empty."""
    labels, objectives = run_labels(runs), list(dict.fromkeys(run.spec.search.objective for run in runs))
    scores = score_columns(objectives)

    def merged(tables: list[pd.DataFrame], columns: Iterable[str]) -> pd.DataFrame:
        labelled = []
        for run, label, table in zip(runs, labels, tables, strict=True):
            lacking = [name for name in columns if name not in table]
            values = {name: math.nan if name in scores else _values(run.spec, table, name) for name in lacking}
            labelled.append(table.assign(run=label, **values))
        return pd.concat(labelled, ignore_index=True)[["run", *columns]].astype({"run": "str"})

    return MergedFrames(
        trials=merged([run.trials for run in runs], trial_columns(all_hyperparameters(runs), *objectives)),
        epochs=merged([run.epochs for run in runs], epoch_dtypes(*objectives)),
    )


def _values(spec: SearchSpec, trials: pd.DataFrame, name: str) -> Any:
    """The values of a hyperparameter that a run did not vary: one, or where it followed another, one a trial."""
    if spec.follows(name) not in spec.space:
        return spec.value(name)
    return [value_in(row, spec, name) for row in records(trials)]


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
            with replacing(path) as file:
                file.write(encode(table))
    except OSError as error:
        raise RecordError(f"cannot write {directory}: {error.strerror}") from None
    return paths
