"""Runs as one HTML page that needs no network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup
from plotly import graph_objects as go
from plotly.offline import get_plotlyjs

from tune_resnet._files import replacing
from tune_resnet._text import duration, percent, printable
from tune_resnet.config.spec import TUNABLE
from tune_resnet.errors import RecordError
from tune_resnet.hpo.ranking import best_trials, winner
from tune_resnet.results import chart_data, charts
from tune_resnet.results.comparison import EQUAL, LOST, WON, Comparison, compare_to_reference
from tune_resnet.results.confirmation import confirmations
from tune_resnet.results.early_stopping import rung_table
from tune_resnet.results.edges import widening_commands
from tune_resnet.results.importance import importance
from tune_resnet.results.paired_test import BETTER, WORSE
from tune_resnet.results.sentences import progress_words, run_sentences
from tune_resnet.runs.directory import find_run
from tune_resnet.runs.load import RunFrames, load_run
from tune_resnet.runs.merge import run_labels
from tune_resnet.runs.tables import FAILED, REFERENCE_TRIAL, RUNNING

_TOP = 10  # rows of a table
_LAST_DATE = 253_402_300_800.0  # Unix time of the year 10000, which has no date


@dataclass(frozen=True)
class Answer:
    """What a run has found, in short."""

    headline: str
    gain: str
    sentences: list[str]
    commands: list[str]  # that the last sentence leads to
    facts: list[tuple[str, str]]


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
class Section:
    title: str
    note: str = ""
    plots: list[Plot] = field(default_factory=list)
    table: Table | None = None
    commands: list[str] = field(default_factory=list)


def write_report(paths: Sequence[Path], out: Path | None = None) -> Path:
    """Writes the page about one run, or the comparison of several, each given as for `load_run`; its path: `out`, else
    report.html in the run's directory or, for several, in the working folder.

    Raises:
        RecordError: a run cannot be read, or the page not be written.
    """
    paths = [find_run(path) for path in paths]
    runs = list({run.path: run for run in map(load_run, paths)}.values())  # each once
    out = out or (paths[0] if len(runs) == 1 else Path()) / "report.html"
    page = run_page(runs[0]) if len(runs) == 1 else comparison_page(runs)
    try:
        with replacing(out) as file:
            file.write(page.encode())
    except OSError as error:
        raise RecordError(f"cannot write {out}: {error.strerror}") from None
    return out


def run_page(run: RunFrames) -> str:
    """The page about one run."""
    parts = (_curves, _trials, _together, _slices, _importance, _stopping, _rates, _time, _failures, _environment)
    sections = [section for section in (part(run) for part in parts) if section]
    return _rendered(run.name, [_answer(run)], sections)


def comparison_page(runs: Sequence[RunFrames]) -> str:
    """The page about several runs."""
    by_label = dict(zip(run_labels(runs), runs, strict=True))
    progress = chart_data.runs_side_by_side(by_label)
    columns = ["run", "trials", "epochs", "winner", "accuracy", "judged on", "reference", "gain", *TUNABLE]
    rows = [_overview_row(label, run) for label, run in by_label.items()]
    sections = [Section("Runs side by side", table=Table(columns, rows))]
    if len(progress):
        plot = _plot("Best accuracy of each run by epochs trained", charts.runs_chart(progress))
        sections.append(Section("The best accuracy so far, by epochs trained", plots=[plot]))
    for label, run in by_label.items():
        commands = [*widening_commands(run), *_commands(run)]
        sections.append(Section(label, note=" ".join(run_sentences(run)), commands=commands))
    return _rendered(f"{len(runs)} runs", [], sections)


def _rendered(name: str, answers: list[Answer], sections: list[Section]) -> str:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    template = jinja2.Environment(loader=loader, autoescape=True).get_template("page.html.jinja")
    plotly = Markup(get_plotlyjs()) if any(section.plots for section in sections) else ""
    return template.render(name=name, answers=answers, sections=sections, plotly=plotly)


def _answer(run: RunFrames) -> Answer:
    found, best, spent = compare_to_reference(run), winner(run), chart_data.cost(run)
    facts = [] if best is None else [(name, f"{best[name]:#.3g}") for name in run.spec.space]
    facts += [
        ("trials", f"{len(run.trials):,}"),
        ("epochs", f"{spent['epochs']:,} ({spent['epochs_saved']:,} saved)"),
        ("training", duration(spent["training_seconds"])),
        ("device", printable(run.env.get("device_name", run.spec.resources.device))),
    ]
    if run.env.get("wall_seconds"):
        facts.insert(-1, ("whole command", duration(run.env["wall_seconds"])))
    return Answer(_headline(found), _gain(run, found), run_sentences(run), widening_commands(run), facts)


def _headline(found: Comparison) -> str:
    if found.winner is None:
        return "No trial has finished yet"
    reached = f"{percent(found.winner_accuracy)} {found.judged_on} accuracy"
    return f"The reference: {reached}" if found.winner == REFERENCE_TRIAL else f"Trial {found.winner}: {reached}"


def _gain(run: RunFrames, found: Comparison) -> str:
    """What the winner is beside the reference: as confirmed where it has been, else as measured."""
    confirmed = next((one for one in confirmations(run) if one.of_winner and one.result), None)
    if confirmed is not None and (result := confirmed.result):
        said = {
            BETTER: f"{result.mean:+.2f} points over the reference, confirmed",
            WORSE: "worse than the reference on fresh seeds",
        }.get(result.verdict, "not distinguishable from the reference on fresh seeds")
        return f"{said}{confirmed.place}"
    measured = {
        WON: f"{found.gain or 0:+.2f} points over the reference, not confirmed",
        EQUAL: "level with the reference, not confirmed",
        LOST: "measured below the reference, not confirmed",
    }
    return measured.get(found.case, "")


def _curves(run: RunFrames) -> Section | None:
    curves = chart_data.learning_curves(run).dropna()
    if curves.empty:
        return None
    plot = _plot("Accuracy of all trials over epochs", charts.learning_curves_chart(curves))
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
            *(f"{row[name]:#.3g}" for name in run.spec.space),
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
    plot = _plot("All trials over the hyperparameters", charts.parallel_chart(trials, list(run.spec.space)))
    note = "Each line is a trial, with its last accuracy by rank; axes are logarithmic, from the least value tried."
    return Section("Hyperparameters together", note, [plot])


def _slices(run: RunFrames) -> Section | None:
    trials, region = chart_data.configurations(run), chart_data.good_region(run)
    finished = trials[trials["trial"].isin(best_trials(run, len(trials))["trial"])]
    if len(finished) < 2:
        return None
    plots = [_plot(f"Accuracy over {name}", charts.slice_chart(finished, name, region)) for name in run.spec.space]
    shaded = " Shaded: the range of the best quarter, by estimate." if len(region) else ""
    return Section("Hyperparameters one by one", f"The finished trials.{shaded}", plots)


def _importance(run: RunFrames) -> Section | None:
    shares = importance(run)
    if shares.empty:
        return None
    note = f"What separates the best of {compare_to_reference(run).finished:,} finished trials from the others."
    return Section("Importance", note, [_plot("Importance of each hyperparameter", charts.importance_chart(shares))])


def _stopping(run: RunFrames) -> Section | None:
    judged, signal = chart_data.judged(run), run.spec.scheduler.signal
    if judged.empty:
        return None
    rungs = rung_table(run)
    columns = ["epoch", "reached", "stopped", "went_on", "weakest_went_on", "strongest_stopped"]
    rows = [[_number(value) for value in row] for row in rungs[columns].to_numpy()]
    note = f"Trials are judged by {signal}. Hover over one that was stopped to see how close it was."
    plot = _plot("Who was stopped and who went on at each rung", charts.judged_chart(judged, signal))
    return Section("Early stopping", note, [plot], Table([name.replace("_", " ") for name in columns], rows))


def _rates(run: RunFrames) -> Section | None:
    rates = chart_data.rate_curves(run)
    if rates.empty:
        return None
    plot = _plot("Learning rate over epochs of winner and reference", charts.rate_chart(rates))
    return Section("One-cycle learning rates", "", [plot])


def _time(run: RunFrames) -> Section | None:
    timeline, spent = chart_data.timeline(run), chart_data.cost(run)
    if timeline.empty:
        return None
    note = (
        f"{duration(spent['training_seconds'])} of training in {duration(spent['span_seconds'])}: the processes that "
        f"ran side by side spent {spent['utilisation']:.0%} of that time on it."
    )
    return Section("Time", note, [_plot("Which process trained which trial, when", charts.timeline_chart(timeline))])


def _failures(run: RunFrames) -> Section | None:
    failed = run.trials[run.trials["state"] == FAILED]
    rows = [[str(row.trial), str(row.epochs), printable(row.error)] for row in failed.head(_TOP).itertuples()]
    return Section("Failed trials", table=Table(["trial", "epochs", "reason"], rows)) if rows else None


def _environment(run: RunFrames) -> Section:
    rows = [[name, _shown(name, value)] for name, value in _flat(run.env) if name not in ("command", "resumed")]
    return Section("Environment, and how to repeat it", table=Table(["what", "value"], rows), commands=_commands(run))


def _commands(run: RunFrames) -> list[str]:
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


def _overview_row(label: str, run: RunFrames) -> list[str]:
    found, best = compare_to_reference(run), winner(run)
    return [
        label,
        f"{len(run.trials):,}",
        f"{len(run.epochs):,}",
        "-" if found.winner is None else str(found.winner),
        percent(found.winner_accuracy),
        found.judged_on,
        percent(found.reference_accuracy),
        "-" if found.gain is None else f"{found.gain:+.2f}",
        *("-" if best is None else f"{best[name]:#.3g}" for name in TUNABLE),
    ]


def _number(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:,.0f}" if value == round(value) else f"{value:.4f}"


def _plot(label: str, figure: go.Figure) -> Plot:
    plain = json.loads(figure.to_json())
    plain["layout"].pop("template", None)  # the page has its own colours
    return Plot(label, plain)
