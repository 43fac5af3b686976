"""Runs as one HTML page that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from tune_resnet._files import replacing
from tune_resnet._text import duration, hyperparameter, percent, printable
from tune_resnet.errors import RecordError
from tune_resnet.hpo.ranking import winner
from tune_resnet.results import chart_data, charts
from tune_resnet.results.comparison import EQUAL, LOST, WON, Comparison, compare_to_reference
from tune_resnet.results.confirmation import confirmations
from tune_resnet.results.edges import widening_commands
from tune_resnet.results.evaluation_section import EVALUATION_PARTS
from tune_resnet.results.page_sections import PARTS, Section, Table, commands_of, plot_of
from tune_resnet.results.paired_test import BETTER, WORSE
from tune_resnet.results.sentences import run_sentences
from tune_resnet.results.tables import winner_beside_reference
from tune_resnet.runs.find import find_run
from tune_resnet.runs.load import RunFrames, load_run
from tune_resnet.runs.merge import all_hyperparameters, run_labels
from tune_resnet.runs.tables import REFERENCE_TRIAL


@dataclass(frozen=True)
class Answer:
    """What a run has found, in short."""

    headline: str
    gain: str
    sentences: list[str]
    commands: list[str]  # that the last sentence leads to
    facts: list[tuple[str, str]]


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
    sections = [section for section in (part(run) for part in (*EVALUATION_PARTS, *PARTS)) if section]
    return _rendered(run.name, [_answer(run)], sections)


def comparison_page(runs: Sequence[RunFrames]) -> str:
    """The page about several runs."""
    by_label = dict(zip(run_labels(runs), runs, strict=True))
    progress = chart_data.runs_side_by_side(by_label)
    names = all_hyperparameters(runs)
    columns = ["run", "trials", "epochs", "winner", "accuracy", "judged on", "reference", "gain", *names]
    rows = [
        [label, f"{len(run.trials):,}", f"{len(run.epochs):,}", *winner_beside_reference(run, names)]
        for label, run in by_label.items()
    ]
    sections = [Section("Runs side by side", table=Table(columns, rows))]
    if len(progress):
        plot = plot_of("Best accuracy of each run by epochs trained", charts.runs_chart(progress))
        sections.append(Section("The best accuracy so far, by epochs trained", plots=[plot]))
    for label, run in by_label.items():
        commands = [*widening_commands(run), *commands_of(run)]
        sections.append(Section(label, note=" ".join(run_sentences(run)), commands=commands))
    return _rendered(f"{len(runs)} runs", [], sections)


def _rendered(name: str, answers: list[Answer], sections: list[Section]) -> str:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    template = jinja2.Environment(loader=loader, autoescape=True).get_template("page.html.jinja")
    plotly = Markup(get_plotlyjs()) if any(section.plots for section in sections) else ""
    return template.render(name=name, answers=answers, sections=sections, plotly=plotly)


def _answer(run: RunFrames) -> Answer:
    found, best, spent = compare_to_reference(run), winner(run), chart_data.cost(run)
    facts = [] if best is None else [(name, hyperparameter(name, best[name])) for name in run.spec.space]
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
