"""What a run's tables say, for a person to read: rich tables that are plain text too."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from rich.console import Console
from rich.text import Text

from tune_resnet._table import STYLES, FittingTable, row_style
from tune_resnet._text import counted, hyperparameter, percent, printable, say
from tune_resnet.hpo.ranking import ranked_trials, winner
from tune_resnet.results.comparison import compare_to_reference
from tune_resnet.results.early_stopping import RUNG_DTYPES, rung_table
from tune_resnet.results.edges import edges, widening_commands
from tune_resnet.results.evaluation import CLASS_COLUMNS, class_rows, evaluation_sentences, predictions
from tune_resnet.results.fidelity import MIN_FOR_FIDELITY, run_fidelity
from tune_resnet.results.importance import MAX_RESAMPLED, importance_intervals
from tune_resnet.results.sentences import progress_words, run_sentences
from tune_resnet.results.side_by_side import score_of
from tune_resnet.runs.directory import SEARCH
from tune_resnet.runs.load import RunFrames, accuracy_column
from tune_resnet.runs.merge import all_hyperparameters, run_labels
from tune_resnet.runs.reading import records
from tune_resnet.runs.tables import STATES, value_in

_CLASSES = 10  # rows of a table
_NOTE_LENGTH = 80  # characters shown of a trial's error

# broken by hand, for it stands under a table of less than 100 columns
_FIDELITY_NOTE = """\
If the worse half of the finished trials, by that signal, had been stopped at that epoch:
spearman is the rank correlation of the signal with the final result (1: same order), top_kept
the share of the true top 10% that goes on, regret the percentage points lost on the best trial,
all with 90% bootstrap intervals over the trials. Trials that were stopped early are left out, and
with them what early stopping got right.
"""


def ranked_table(frames: RunFrames, top: int) -> FittingTable:
    """The `top` trials as `ranked_trials` has them, and below them the reference where it is not among them.
    `estimate`: see `ranking.estimates`."""
    ranked, column, is_search = ranked_trials(frames), accuracy_column(frames), frames.kind == SEARCH
    shown = ranked[(ranked.index < top) | ranked["reference"]]
    errors = ["error"] if shown["error"].any() else []
    accuracy_name = column.replace("accuracy", "acc")
    names = frames.spec.hyperparameters
    least = ("epochs", "state", accuracy_name)
    columns = ("trial", "state", "epochs", accuracy_name, "estimate", *names, *errors)
    table = FittingTable(*columns, least=least, notes=errors)
    values = records(shown[list(names)])
    for row, accuracy, tried in zip(shown.itertuples(), shown[column], values, strict=True):
        table.add_row(
            f"{'reference' if row.reference else row.trial}{' *' * (row.winner and is_search)}",
            Text(row.state, STYLES[row.state]),
            f"{row.epochs}/{frames.spec.train.epochs}",
            percent(accuracy),
            percent(row.estimate),
            *(hyperparameter(name, tried[name]) for name in names),
            *([Text(_shortened(row.error))] if errors else []),
            style=row_style(winner=row.winner and is_search, reference=row.reference),
        )
    notes = (
        ["* the winner: the finished trial with the highest estimate"] if ranked["winner"].any() and is_search else []
    )
    if found := edges(frames):
        notes.append(f"at a bound of the space: {', '.join({edge.name: None for edge in found})}")
    if len(shown) < len(ranked):
        notes.append(f"{len(shown):,} of {counted(len(ranked), 'trial')}")
    table.caption = "\n".join(notes) or None
    return table


def print_run(console: Console, run: RunFrames, label: str, top: int) -> None:
    """All that is known of one run, under its label."""
    say(console, _headline(run, label), style="bold")
    _print_section(console, "", ranked_table(run, top))
    for sentence in run_sentences(run):
        say(console, sentence + "\n")
    for command in widening_commands(run):
        say(console, command + "\n", whole=True)
    if (found := predictions(run)) is not None:
        print_evaluation(console, found)
        console.print()
    rungs, shares = rung_table(run), importance_intervals(run)
    if len(rungs) and len(run.trials) > 1:
        _print_section(console, f"Early stopping on {run.spec.signal}", _rungs(rungs))
    if len(shares):
        is_known = shares["low"].notna().all()
        rows = FittingTable("hyperparameter", "importance", *(["90% interval"] if is_known else []))
        for row in shares.itertuples():
            interval = [f"{row.low:.2f} to {row.high:.2f}"] if is_known else []
            rows.add_row(str(row.Index), f"{row.share:.2f}", *interval)
        title = f"Importance among the {compare_to_reference(run).finished:,} finished trials"
        without = f" (no intervals for more than {MAX_RESAMPLED:,}: they would be narrow, and take long)"
        _print_section(console, title if is_known else title + without, rows)


def _headline(run: RunFrames, label: str) -> str:
    counts = run.trials["state"].value_counts()
    states = ", ".join(f"{counts[state]:,} {state}" for state in STATES if state in counts)
    device = printable(str(run.env.get("device_name", run.spec.resources.device)))
    trials = counted(len(run.trials), "trial") + (f" ({states})" if states else "")
    return f"{label}: {run.spec.data.dataset} on {device}, {trials}, {progress_words(run)}"


def _rungs(rungs: pd.DataFrame) -> FittingTable:
    table = FittingTable(*RUNG_DTYPES)
    for row in rungs.itertuples(index=False):
        table.add_row(
            *(f"{value:,}" for value in row[:4]),
            *("-" if math.isnan(value) else f"{value:.4f}" for value in row[4:6]),
            "-" if math.isnan(row[6]) else f"{row[6]:.2f}",
        )
    return table


def print_evaluation(console: Console, found: pd.DataFrame) -> None:
    """How good a model is class by class, from its `predictions`; it fits 80 columns as long as no class has a long
    name."""
    rows, table = class_rows(found), FittingTable(*CLASS_COLUMNS)
    for name, *figures in rows[:_CLASSES]:
        table.add_row(Text(name), *figures)
    if len(rows) > _CLASSES:
        table.caption = f"the {_CLASSES} of {len(rows):,} classes with the lowest F1"
    console.print(table)
    for sentence in evaluation_sentences(found):
        say(console, sentence)


def print_fidelity(console: Console, run: RunFrames, label: str) -> None:
    """How far each signal could have been trusted in one run, under its label; it fits 100 columns."""
    found = run_fidelity(run)
    title = f"{label}: what early signals said about the end"
    if found.empty:
        say(console, f"{title}: this needs at least {MIN_FOR_FIDELITY} finished trials of several epochs.\n")
        return
    table = FittingTable("signal", "epoch", "n", "spearman", "top_kept", "regret")
    for _, row in found.iterrows():
        table.add_row(
            row["signal"],
            f"{row['epoch']:,}",
            f"{row['n']:,}",
            _with_interval(row, "spearman", ".2f"),
            _with_interval(row, "top_kept", ".0%"),
            _with_interval(row, "regret", ".2f"),
        )
    _print_section(console, title, table)
    say(console, _FIDELITY_NOTE)


def _with_interval(row: pd.Series, name: str, form: str) -> str:
    value, low, high = (row[column] for column in (name, f"{name}_low", f"{name}_high"))
    return "-" if math.isnan(value) else f"{value:{form}} [{low:{form}}, {high:{form}}]"


def print_overview(console: Console, runs: Sequence[RunFrames]) -> None:
    """One row per run: its best trial beside its reference."""
    names = all_hyperparameters(runs)
    table = FittingTable(
        "run", "trials", "finished", "winner", score_of(runs), "judged_on", "reference", "gain", *names
    )
    for run, label in zip(runs, run_labels(runs), strict=True):
        finished = compare_to_reference(run).finished
        cells = [*winner_beside_reference(run), *winner_values(run, names)]
        table.add_row(Text(label), f"{len(run.trials):,}", f"{finished:,}", *cells)
    _print_section(console, "Runs side by side", table)


def winner_beside_reference(run: RunFrames) -> list[str]:
    """Winner, its score, what on, the reference's and the gain, for a person."""
    found = compare_to_reference(run)
    return [
        "-" if found.winner is None else str(found.winner),
        percent(found.winner_accuracy),
        f"{found.judged_on}{found.search.named}",
        percent(found.reference_accuracy),
        "-" if found.gain is None else f"{found.gain:+.2f}",
    ]


def winner_values(run: RunFrames, names: Sequence[str]) -> list[str]:
    """The winner's hyperparameters, for a person; what its search did not vary was the reference's."""
    best = winner(run)
    return [hyperparameter(name, value_in(best, run.spec, name)) if best else "-" for name in names]


def _print_section(console: Console, title: str, table: FittingTable) -> None:
    if title:
        say(console, title, style="bold")
    console.print(table)
    console.print()


def _shortened(error: str) -> str:
    text = printable(error)
    return text if len(text) <= _NOTE_LENGTH else f"{text[: _NOTE_LENGTH - 3]}..."
