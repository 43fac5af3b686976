"""Which run a person means."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tune_resnet._files import read_regular
from tune_resnet.config.validation import nearest
from tune_resnet.errors import RecordError
from tune_resnet.runs.directory import RunDirectory

RUNS = Path("runs")  # where run directories are
LAST_DATE = 253_402_300_800.0  # Unix time of the year 10000, which has no date
LATEST = "latest"  # stands for the run that was started last


def find_run(named: Path | str, runs_dir: Path = RUNS) -> Path:
    """The run directory with this path or, in `runs_dir`, with this name; for `latest` the one there that was started
    last.

    A folder that exists but lacks a run's files is given where there is no run of that name: its reader says what it
    lacks. RecordError, with the nearest name, where there is nothing.
    """
    if str(named) == LATEST:
        return _latest_run(runs_dir)
    places = list(dict.fromkeys([Path(named), runs_dir / named]))
    found = [place for place in places if os.path.isfile(RunDirectory(place).spec_toml)]
    found += [place for place in places if os.path.exists(place)]
    if found:
        return found[0]
    said = ", nor ".join(map(str, places if len(Path(named).parts) == 1 else places[:1]))
    known = [run.path.name for run in runs_in(runs_dir)]
    raise RecordError(f"there is no run {said}{nearest(Path(named).name, [*known, LATEST])}")


def _latest_run(runs_dir: Path) -> Path:
    runs = runs_in(runs_dir)
    if not runs:
        raise RecordError(f"there is no {LATEST} run: {runs_dir} holds none")
    return max(runs, key=started_at).path


def runs_in(folder: Path) -> list[RunDirectory]:
    """The runs in a folder, by name; none where it cannot be read."""
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    runs = [RunDirectory(folder / name) for name in names if not name.startswith(".")]
    return [run for run in runs if os.path.isfile(run.spec_toml)]


def started_at(run: RunDirectory) -> float:
    """When a run was started, Unix time in seconds; 0 where it does not say."""
    try:
        started: Any = json.loads(read_regular(run.env_json))["started_at"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return 0.0
    return started if type(started) in (int, float) and 0 < started < LAST_DATE else 0.0
