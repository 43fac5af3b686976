"""How wrong the time that a search says is left has been: recorded searches, looked at again after each ended trial.

    python -m experiments.benchmarks.speed.eta experiments/results/cifar10-jpeg-search experiments/results/paired/runs/*

Prints, by the share of the trials that had ended, the error of `Progress.seconds_left` as a share of the search's whole
time: its mean (above 0: said too long) and the mean of its size, over all searches and moments.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
from rich.console import Console

from tune_resnet.execution.progress import Progress
from tune_resnet.hpo.stopping import expected_survival
from tune_resnet.results.chart_data import most_at_once, timeline
from tune_resnet.runs.load import RunFrames, load_frames
from tune_resnet.runs.tables import RUNNING, TrialRow

PARTS = [0, 0.25, 0.5, 0.75, 1]  # of the trials


def errors(run: RunFrames) -> pd.DataFrame:
    """Columns ended (share of the trials) and error (of the search's time): a row per ended trial but the last."""
    trials, epochs = run.trials, run.epochs
    start, end = trials["started_at"].min(), trials["ended_at"].max()
    count = run.spec.search.num_samples
    plan: Any = SimpleNamespace(
        spec=run.spec,
        train_images=1,  # only for the table, which nobody sees
        trials=count,
        epochs=run.spec.train.epochs,
        survival=expected_survival(run.spec),
        concurrency=most_at_once(timeline(run)),
    )
    rows = []
    for ended, now in enumerate(sorted(trials["ended_at"])[:-1], start=1):
        known = {row.trial: row for row in _rows_at(trials, epochs, now)}
        recorder: Any = SimpleNamespace(trials=known)
        left = Progress(recorder, plan, Console(file=io.StringIO())).seconds_left()
        rows.append((ended / count, (left - (end - now)) / (end - start)))
    return pd.DataFrame(rows, columns=["ended", "error"])


def _rows_at(trials: pd.DataFrame, epochs: pd.DataFrame, now: float) -> list[TrialRow]:
    """The recorder's rows as they were at that time."""
    rows = []
    for trial in trials[trials["started_at"] <= now].to_dict("records"):
        done = epochs[(epochs["trial"] == trial["trial"]) & (epochs["ended_at"] <= now)]
        row = TrialRow(**{str(name): value for name, value in trial.items()})
        row.epochs, row.seconds = len(done), float(done["seconds"].sum())
        row.state = row.state if row.ended_at <= now else RUNNING
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    options = parser.parse_args()
    found = pd.concat([errors(load_frames(path)) for path in options.runs])
    parts = found.groupby(pd.cut(found["ended"], PARTS), observed=True)["error"]
    table = pd.DataFrame(
        {"n": parts.size(), "mean": parts.mean(), "mean size": parts.apply(lambda part: part.abs().mean())}
    )
    print(f"{len(options.runs)} searches")
    print(table.round(3).to_string())


if __name__ == "__main__":
    main()
