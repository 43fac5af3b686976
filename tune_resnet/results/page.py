"""Runs as one HTML page that needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from tune_resnet._files import replacing
from tune_resnet._text import duration, hyperparameter, percent, printable
from tune_resnet.errors import RecordError
from tune_resnet.hpo.ranking import winner
from tune_resnet.results import chart_data, charts
from tune_resnet.results.comparison import compare_to_reference, trial_subject
from tune_resnet.results.edges import widening_commands
from tune_resnet.results.evaluation_section import EVALUATION_PARTS
from tune_resnet.results.next_steps import next_steps, winner_toml
from tune_resnet.results.page_details import commands_of
from tune_resnet.results.page_parts import Section, Table, plot_of
from tune_resnet.results.page_sections import PARTS
from tune_resnet.results.sentences import progress_words, run_sentences
from tune_resnet.results.side_by_side import Leader, differing_settings, leader, score_of
from tune_resnet.results.tables import winner_beside_reference, winner_values
from tune_resnet.results.verdict import OPEN, Verdict, evidence, evidence_columns, verdict
from tune_resnet.runs.directory import SEARCH
from tune_resnet.runs.find import find_run
from tune_resnet.runs.load import RunFrames, load_frames
from tune_resnet.runs.merge import all_hyperparameters, run_labels
from tune_resnet.runs.tables import WINNER


@dataclass(frozen=True)
class Answer:
    """What a run has found, in short."""

    verdict: Verdict
    winner: str = ""  # whose it is, and its accuracy
    evidence: Table | None = None  # the figures behind the verdict
    sentences: Sequence[str] = ()
    values: str = ""  # of the winner, as TOML
    commands: Mapping[str, str] = field(default_factory=dict)  # what can be done next, by a few words about it
    facts: Sequence[tuple[str, str]] = ()


def write_report(
    paths: Sequence[Path], out: Path | None = None, *, at_its_end: bool = False, reload_seconds: int = 0
) -> Path:
    """Writes the page about one run, or the comparison of several, each as for `load_frames`; its path: `out`, else
    report.html in the run's directory or, for several, in the working folder. `at_its_end`: the command that is at work
    in the run writes it, as the last thing it does there. `reload_seconds`: after so many a browser that shows the page
    of a run that goes on loads it again, as somebody goes on writing it; 0: nobody does.

    Raises:
        RecordError: a run cannot be read, or the page not be written.
    """
    paths = [find_run(path) for path in paths]
    runs = list({run.path: run for run in map(load_frames, paths)}.values())  # each once
    if at_its_end:
        runs = [replace(run, active=False) for run in runs]
    out = out or (paths[0] if len(runs) == 1 else Path()) / "report.html"
    page = run_page(runs[0], reload_seconds) if len(runs) == 1 else comparison_page(runs)
    try:
        with replacing(out) as file:
            file.write(page.encode())
    except OSError as error:
        raise RecordError(f"cannot write {out}: {error.strerror}") from None
    return out


def run_page(run: RunFrames, reload_seconds: int = 0) -> str:
    """The page about one run, see `write_report`."""
    sections = [section for section in (part(run) for part in (*EVALUATION_PARTS, *PARTS)) if section]
    unfinished = run.active or run.has_running
    live = f"When this page was written, the run was {progress_words(run)}." if unfinished else ""
    return _rendered(run.name, _answer(run), sections, live, reload_seconds if run.active else 0)


def comparison_page(runs: Sequence[RunFrames]) -> str:
    """The page about several runs."""
    by_label = dict(zip(run_labels(runs), runs, strict=True))
    best, names, score = leader(runs), all_hyperparameters(runs), score_of(runs)
    columns = ["run", "trials", "epochs", "winner", score, "judged on", "reference", "gain", "verdict", *names]
    rows = [
        [
            label,
            f"{len(run.trials):,}",
            f"{len(run.epochs):,}",
            *winner_beside_reference(run),
            verdict(run).headline,
            *winner_values(run, names),
        ]
        for label, run in by_label.items()
    ]
    marks = [WINNER if best and run is best.run else "" for run in runs]
    sections = [Section("Runs side by side", table=Table(columns, rows, marks, sortable=True))]
    settings = differing_settings(runs)
    if settings:
        table = Table(["setting", *by_label], settings)
        sections.append(Section("Settings that differ", "All other settings are the same in all runs.", table=table))
    progress = chart_data.runs_side_by_side(by_label)
    if len(progress):
        plot = plot_of(f"The winner's {score} by epochs trained, of each run", charts.runs_chart(progress))
        sections.append(Section(f"The {score} of the winner so far, by epochs trained", plots=[plot]))
    for label, run in by_label.items():
        commands = [*widening_commands(run), *commands_of(run)]
        sections.append(Section(label, note=" ".join(run_sentences(run)), commands=commands))
    return _rendered(f"{len(runs)} runs", _comparison_answer(by_label, best), sections)


def _comparison_answer(by_label: Mapping[str, RunFrames], best: Leader | None) -> Answer:
    if best is None:
        return Answer(Verdict(OPEN, "No trial has finished yet in any of the runs"))
    own, label = verdict(best.run), next(name for name, run in by_label.items() if run is best.run)
    if best.confirmed is None:
        found = compare_to_reference(best.run)
        by = f"{label} has the best winner by its estimate: {percent(best.estimate)}, {found.reached}"
        return Answer(Verdict(OPEN, by), own.headline)
    mean = f"{percent(best.confirmed)} mean test {best.run.spec.search.judged_by}"
    return Answer(Verdict(own.tone, f"{label} has the best confirmed winner: {mean}"), own.headline)


def _rendered(name: str, answer: Answer, sections: list[Section], live: str = "", reload: int = 0) -> str:
    """`live`: what is said of a run that has not ended; `reload`: seconds after which the browser loads the page again,
    0: never."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    template = jinja2.Environment(loader=loader, autoescape=True).get_template("page.html.jinja")
    plotly = Markup(get_plotlyjs()) if any(section.plots for section in sections) else ""
    return template.render(name=name, answer=answer, sections=sections, plotly=plotly, live=live, reload_seconds=reload)


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
    rows = evidence(run)
    return Answer(
        verdict(run),
        f"{trial_subject(found.winner)}: {found.reached}" if found.winner is not None and run.kind == SEARCH else "",
        Table(evidence_columns(run), rows) if rows else None,
        run_sentences(run, figures=not rows),
        winner_toml(run),
        next_steps(run),
        facts,
    )
