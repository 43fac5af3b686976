"""What a run's tables say, for a person to read: rich tables that are plain text too, and sentences."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tune_resnet.findings import RUNG_DTYPES, best_trials, compare_to_reference, importance, ranked_trials, rung_table
from tune_resnet.frames import STATES, RunFrames, accuracy_column, run_labels
from tune_resnet.records import FINISHED, REFERENCE_TRIAL, RUNNING
from tune_resnet.text import duration, percent, printable

_NOTE_LENGTH = 80  # characters shown of a trial's error


def ranked_table(frames: RunFrames, top: int) -> Table:
    """The `top` trials as `ranked_trials` has them, and below them the reference where it is not among them.

    It fits 80 columns as long as no trial has an error to show.
    """
    ranked, column = ranked_trials(frames), accuracy_column(frames)
    shown = ranked[(ranked.index < top) | ranked["reference"]]
    errors = ["error"] if shown["error"].any() else []
    accuracy_name = column.replace("accuracy", "acc")
    table = _table(
        "rank", "trial", "state", "epochs", accuracy_name, "max_lr", "weight_decay", "grad_clip", "seconds", *errors
    )  # fmt: skip
    for rank, row, accuracy in zip(shown.index + 1, shown.itertuples(), shown[column], strict=True):
        table.add_row(
            str(rank) if row.state == FINISHED else "",
            "reference" if row.reference else str(row.trial),
            row.state,
            f"{row.epochs}/{frames.spec.train.epochs}",
            percent(accuracy),
            *_hyperparameters(row.max_lr, row.weight_decay, row.grad_clip),
            f"{row.seconds:.1f}",
            *([Text(_shortened(row.error))] if errors else []),
        )
    if len(shown) < len(ranked):
        table.caption = f"{len(shown):,} of {len(ranked):,} trials"
    return table


def comparison_sentence(frames: RunFrames) -> str:
    """What the run says about the best trial and the reference, and how far that can be trusted."""
    found = compare_to_reference(frames)
    if found.best_accuracy is None:
        return "No trial has finished yet, so there is nothing to compare with the reference."
    best = f"{percent(found.best_accuracy)} {found.judged_on} accuracy"
    if found.reference_accuracy is None or found.gain is None:
        state = {None: "has not started", RUNNING: "is still running", FINISHED: "has no accuracy"}.get(
            found.reference_state, f"was not finished ({found.reference_state})"
        )
        return f"Trial {found.best_trial} is the best with {best}; the reference {state}, so no gain can be stated."
    if found.finished == 1:
        return f"The reference reached {best}; no other trial has finished."
    if found.best_trial == REFERENCE_TRIAL:
        return f"No other trial beats the reference, which reached {best} ({found.finished - 1:,} others finished)."
    images = "the same images" if found.images is None else f"the same {found.images:,} images"
    error = ""
    if found.standard_error is not None:
        error = f"; standard error from the choice of images about {found.standard_error:.2f} points or less"
    return (
        f"Trial {found.best_trial} reached {best}, the reference {percent(found.reference_accuracy)}: "
        f"{found.gain:+.2f} percentage points on {images} (one seed each{error}). It is the highest of "
        f"{found.finished:,} finished trials, so this gain is biased upward until both are run again on fresh seeds."
    )


def print_run(console: Console, run: RunFrames, label: str, top: int) -> None:
    """All that is known of one run, under its label."""
    say(console, _headline(run, label), style="bold")
    _print_section(console, "", ranked_table(run, top))
    say(console, comparison_sentence(run) + "\n")
    rungs, shares = rung_table(run), importance(run)
    if len(rungs) and len(run.trials) > 1:
        _print_section(console, f"Early stopping on {run.spec.scheduler.signal}", _rungs(rungs))
    if len(shares):
        rows = _table("hyperparameter", "importance")
        for name, share in shares.items():
            rows.add_row(str(name), f"{share:.2f}")
        _print_section(console, f"Importance among the {compare_to_reference(run).finished:,} finished trials", rows)


def _headline(run: RunFrames, label: str) -> str:
    counts = run.trials["state"].value_counts()
    states = ", ".join(f"{counts[state]:,} {state}" for state in STATES if state in counts)
    device = printable(str(run.env.get("device_name", run.spec.resources.device)))
    progress = "not running"
    if RUNNING in counts:
        last = run.epochs["ended_at"].max()
        progress = "still running" + ("" if math.isnan(last) else f", last epoch {duration(time.time() - last)} ago")
    trials = f"{len(run.trials):,} trial{'s' * (len(run.trials) != 1)}" + (f" ({states})" if states else "")
    return f"{label}: {run.spec.data.dataset} on {device}, {trials}, {progress}"


def _rungs(rungs: pd.DataFrame) -> Table:
    table = _table(*RUNG_DTYPES)
    for row in rungs.itertuples(index=False):
        table.add_row(
            *(f"{value:,}" for value in row[:4]),
            *("-" if math.isnan(value) else f"{value:.4f}" for value in row[4:6]),
            "-" if math.isnan(row[6]) else f"{row[6]:.2f}",
        )
    return table


def print_overview(console: Console, runs: Sequence[RunFrames]) -> None:
    """One row per run: its best trial beside its reference."""
    table = _table(
        "run", "trials", "finished", "best_trial", "accuracy", "judged_on", "reference", "gain", "max_lr",
        "weight_decay", "grad_clip",
    )  # fmt: skip
    for run, label in zip(runs, run_labels(runs), strict=True):
        found, best = compare_to_reference(run), best_trials(run, 1)
        table.add_row(
            Text(label),
            f"{len(run.trials):,}",
            f"{found.finished:,}",
            "-" if found.best_trial is None else str(found.best_trial),
            percent(found.best_accuracy),
            found.judged_on,
            percent(found.reference_accuracy),
            "-" if found.gain is None else f"{found.gain:+.2f}",
            *(_hyperparameters(*best[["max_lr", "weight_decay", "grad_clip"]].iloc[0]) if len(best) else ["-"] * 3),
        )
    _print_section(console, "Runs side by side", table)


def _table(*columns: str) -> Table:
    """An empty table without lines, so that it reads as plain text; on a narrow terminal cells break, none is cut."""
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold", caption_justify="left")
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def _print_section(console: Console, title: str, table: Table) -> None:
    if title:
        say(console, title, style="bold")
    console.print(table)
    console.print()


def say(console: Console, text: str, style: str = "") -> None:
    """Prints text as it is, and leaves the breaking of lines to the terminal."""
    console.print(Text(text, style=style), soft_wrap=True)


def _hyperparameters(max_lr: float, weight_decay: float, grad_clip: float) -> list[str]:
    return [f"{max_lr:#.3g}", f"{weight_decay:.1e}", f"{grad_clip:#.3g}"]


def _shortened(error: str) -> str:
    text = printable(error)
    return text if len(text) <= _NOTE_LENGTH else f"{text[: _NOTE_LENGTH - 3]}..."
