"""The parts of a run's page: each says one thing, by a plot, a table, a note."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pandas as pd
from plotly import graph_objects as go

from tune_resnet._text import duration, hyperparameter, percent, printable
from tune_resnet.hpo.ranking import best_trials
from tune_resnet.results import chart_data, charts
from tune_resnet.results.comparison import compare_to_reference
from tune_resnet.results.early_stopping import rung_table
from tune_resnet.results.importance import importance
from tune_resnet.results.sentences import progress_words
from tune_resnet.runs.load import RunFrames
from tune_resnet.runs.tables import FAILED, REFERENCE_TRIAL, RUNNING

_TOP = 10  # rows of a table
_LAST_DATE = 253_402_300_800.0  # Unix time of the year 10000, which has no date


@dataclass(frozen=True)
class Plot:
    """A Plotly figure as plain JSON values, and what it shows, for who cannot see it."""

    label: str
    figure: dict[str, Any]


@dataclass(frozen=True)
class Table:
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Thumbnail:
    """A small picture, as a `data:` address, and what stands below it."""

    source: str
    words: str


@dataclass(frozen=True)
class Section:
    title: str
    note: str = ""
    plots: list[Plot] = field(default_factory=list)
    table: Table | None = None
    commands: list[str] = field(default_factory=list)
    thumbnails: list[Thumbnail] = field(default_factory=list)


def _curves(run: RunFrames) -> Section | None:
    curves = chart_data.learning_curves(run).dropna()
    if curves.empty:
        return None
    plot = plot_of("Accuracy of all trials over epochs", charts.learning_curves_chart(curves))
    return Section("Learning curves", "Accuracy on held-out images after each epoch, one seed per trial.", [plot])


def _trials(run: RunFrames) -> Section | None:
    trials = chart_data.configurations(run)
    shown = trials[(trials.index < _TOP) | (trials["trial"] == REFERENCE_TRIAL)]
    rows = [
        [
            str(row["trial"]),
            row["role"],
            f"{row['epochs']}/{run.spec.train.epochs}",
            percent(row["accuracy"]),
            percent(row["estimate"]),
            *(hyperparameter(name, row[name]) for name in run.spec.space),
        ]
        for row in shown.to_dict("records")
    ]
    columns = ["trial", "state", "epochs", "accuracy", "estimate", *run.spec.space]
    note = "By estimate: what accuracy and loss on the held-out images say together. The winner has the highest."
    if (run.trials["state"] == RUNNING).any():
        note += f" When this page was written, the run was {progress_words(run)}."
    return Section("Best trials", note, table=Table(columns, rows)) if rows else None


def _together(run: RunFrames) -> Section | None:
    trials = chart_data.configurations(run).dropna(subset=["accuracy"])
    if len(trials) < 2:
        return None
    plot = plot_of(
        "All trials over the hyperparameters",
        charts.parallel_chart(trials, chart_data.positions(trials, run.spec.space)),
    )
    note = "Each line is a trial, with its last accuracy by rank; an axis begins at the least value tried."
    return Section("Hyperparameters together", note, [plot])


def _slices(run: RunFrames) -> Section | None:
    trials, region = chart_data.configurations(run), chart_data.good_region(run)
    finished = trials[trials["trial"].isin(best_trials(run, len(trials))["trial"])]
    if len(finished) < 2:
        return None
    scales = [(name, chart_data.scale(finished[name], domain)) for name, domain in run.spec.space.items()]
    plots = [
        plot_of(f"Accuracy over {name}", charts.slice_chart(finished, name, region, scale)) for name, scale in scales
    ]
    shaded = " Shaded: the range of the best quarter, by estimate." if len(region) else ""
    return Section("Hyperparameters one by one", f"The finished trials.{shaded}", plots)


def _importance(run: RunFrames) -> Section | None:
    shares = importance(run)
    if shares.empty:
        return None
    note = f"What separates the best of {compare_to_reference(run).finished:,} finished trials from the others."
    return Section("Importance", note, [plot_of("Importance of each hyperparameter", charts.importance_chart(shares))])


def _stopping(run: RunFrames) -> Section | None:
    judged, signal = chart_data.judged(run), run.spec.scheduler.signal
    if judged.empty:
        return None
    rungs = rung_table(run)
    columns = ["epoch", "reached", "stopped", "went_on", "weakest_went_on", "strongest_stopped"]
    rows = [[_number(value) for value in row] for row in rungs[columns].to_numpy()]
    note = f"Trials are judged by {signal}. Hover over one that was stopped to see how close it was."
    plot = plot_of("Who was stopped and who went on at each rung", charts.judged_chart(judged, signal))
    return Section("Early stopping", note, [plot], Table([name.replace("_", " ") for name in columns], rows))


def _rates(run: RunFrames) -> Section | None:
    rates = chart_data.rate_curves(run)
    if rates.empty:
        return None
    plot = plot_of("Learning rate over epochs of winner and reference", charts.rate_chart(rates))
    return Section("One-cycle learning rates", "", [plot])


def _time(run: RunFrames) -> Section | None:
    timeline, spent = chart_data.timeline(run), chart_data.cost(run)
    if timeline.empty:
        return None
    note = (
        f"{duration(spent['training_seconds'])} of training in {duration(spent['span_seconds'])}: the processes that "
        f"ran side by side spent {spent['utilisation']:.0%} of that time on it."
    )
    return Section("Time", note, [plot_of("Which process trained which trial, when", charts.timeline_chart(timeline))])


def _failures(run: RunFrames) -> Section | None:
    failed = run.trials[run.trials["state"] == FAILED]
    rows = [[str(row.trial), str(row.epochs), printable(row.error)] for row in failed.head(_TOP).itertuples()]
    return Section("Failed trials", table=Table(["trial", "epochs", "reason"], rows)) if rows else None


def _environment(run: RunFrames) -> Section:
    rows = [[name, _shown(name, value)] for name, value in _flat(run.env) if name not in ("command", "resumed")]
    return Section("Environment, and how to repeat it", table=Table(["what", "value"], rows), commands=commands_of(run))


def commands_of(run: RunFrames) -> list[str]:
    resumed = run.env.get("resumed", [])
    commands = [run.env.get("command"), *(item.get("command") for item in resumed if isinstance(item, dict))]
    return [printable(command) for command in commands if command]


def _flat(values: dict[str, Any], above: str = "") -> list[tuple[str, Any]]:
    """Nested objects as pairs of a dotted name and a value."""
    pairs: list[tuple[str, Any]] = []
    for name, value in values.items():
        pairs += _flat(value, f"{above}{name}.") if isinstance(value, dict) else [(f"{above}{printable(name)}", value)]
    return pairs


def _shown(name: str, value: Any) -> str:
    if name.endswith("_at") and type(value) is float and 0 <= value < _LAST_DATE:
        return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M:%S} UTC"
    return printable(value)


def _number(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:,.0f}" if value == round(value) else f"{value:.4f}"


def plot_of(label: str, figure: go.Figure) -> Plot:
    plain = json.loads(figure.to_json())
    plain["layout"].pop("template", None)  # the page has its own colours
    return Plot(label, plain)


PARTS = (
    _curves,
    _trials,
    _together,
    _slices,
    _importance,
    _stopping,
    _rates,
    _time,
    _failures,
    _environment,
)  # in the order of the page
