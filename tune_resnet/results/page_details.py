"""The parts of a run's page for experts, which are folded: how the search went, and where."""

from __future__ import annotations

from datetime import UTC, datetime

import pandas as pd

from tune_resnet._text import duration, flat, printable
from tune_resnet.results import chart_data, detail_charts
from tune_resnet.results.early_stopping import cuts, judged, rung_table
from tune_resnet.results.page_parts import Section, Table, plot_of
from tune_resnet.runs.directory import SEARCH
from tune_resnet.runs.find import LAST_DATE
from tune_resnet.runs.load import RunFrames


def _stopping(run: RunFrames) -> Section | None:
    rows, signal = judged(run), run.spec.signal
    if rows.empty or run.kind != SEARCH:
        return None
    rungs = rung_table(run)
    columns = ["epoch", "reached", "stopped", "went_on", "weakest_went_on", "strongest_stopped"]
    cells = [[_number(value) for value in row] for row in rungs[columns].to_numpy()]
    note = (
        f"Trials are judged by {signal}, each beside those before it, so the cut has moved meanwhile. "
        "Hover over one that was stopped to see how close it was."
    )
    shown = rows[rows["trial"].isin(chart_data.drawn(run)["trial"])]
    plot = plot_of("Who was stopped and who went on at each rung", detail_charts.judged_chart(shown, cuts(run), signal))
    table = Table([name.replace("_", " ") for name in columns], cells, sortable=True)
    return Section("Early stopping", note, [plot], table, folded=True)


def _rates(run: RunFrames) -> Section | None:
    rates = chart_data.rate_curves(run)
    if rates.empty:
        return None
    plot = plot_of("Learning rate over epochs", detail_charts.rate_chart(rates))
    return Section("Learning rates", "", [plot], folded=True)


def _time(run: RunFrames) -> Section | None:
    timeline, spent = chart_data.timeline(run), chart_data.cost(run)
    if timeline.empty:
        return None
    trained = f"{duration(spent['training_seconds'])} of training"
    note = (
        f"{trained} in {duration(spent['span_seconds'])}: the processes that ran side by side spent "
        f"{spent['utilisation']:.0%} of that time on it."
    )
    if run.env.get("resumed"):
        note = f"{trained}. The run was resumed: the time between its commands is part of the picture."
    label = "Which process trained which trial, when"
    drawable = len(timeline) <= chart_data.MAX_DRAWN
    plots = [plot_of(label, detail_charts.timeline_chart(timeline))] if drawable else []
    return Section("Time", note, plots, folded=True)


def _environment(run: RunFrames) -> Section:
    rows = [[name, _shown(name, value)] for name, value in flat(run.env).items() if name not in ("command", "resumed")]
    table = Table(["what", "value"], rows)
    return Section("Environment, and how to repeat it", table=table, commands=commands_of(run), folded=True)


def commands_of(run: RunFrames) -> list[str]:
    """The commands that made the run."""
    resumed = run.env.get("resumed", [])
    commands = [run.env.get("command"), *(item.get("command") for item in resumed if isinstance(item, dict))]
    return [printable(command) for command in commands if command]


def _shown(name: str, value: object) -> str:
    if name.endswith("_at") and type(value) is float and 0 <= value < LAST_DATE:
        return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M:%S} UTC"
    return f"{value:.4g}" if type(value) is float else printable(value)


def _number(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:,.0f}" if value == round(value) else f"{value:.4f}"


DETAILS = (_stopping, _rates, _time, _environment)
