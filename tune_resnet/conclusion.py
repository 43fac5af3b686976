"""What a run ends with: the ranked table, what was found, and what to do next."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tune_resnet.analysis import comparison_sentence, load_run, ranked_table, winner
from tune_resnet.records import BASELINE, ENDED, RecordError, RunDirectory
from tune_resnet.text import counted, duration, say, to_run

_TOP = 10  # trials in the table


@dataclass(frozen=True, kw_only=True)
class TimeBudget:
    """A time budget that has ended a search."""

    seconds: float
    seconds_per_epoch: float  # expected
    epochs_before: int  # on record when the search began, or went on

    def sentence(self, left: int, trained: bool) -> str:
        """What to say of it where so many trials are left, and something or nothing was trained."""
        if trained:
            return f"The time budget of {duration(self.seconds)} ended the search with {counted(left, 'trial')} left."
        return (
            f"The time budget of {duration(self.seconds)} was over before one epoch was (about "
            f"{duration(max(1, self.seconds_per_epoch))}, after some seconds to start): nothing was trained. "
            "Give a longer --time-budget."
        )


def conclude(run: RunDirectory, console: Console, started: float, budget: TimeBudget | None = None) -> bool:
    """Prints what was found and what to do next, and notes the time taken; whether any trial has finished, and a time
    `budget` that has ended the search was enough for an epoch.

    `started`: Unix time of the command, which may not have been the run's first.
    """
    frames = load_run(run.path)
    ended = time.time()
    seconds = frames.env.get("wall_seconds", 0.0) + ended - started
    run.write_env({**frames.env, "ended_at": ended, "wall_seconds": seconds})
    console.print()
    console.print(ranked_table(frames, _TOP))
    best = winner(frames)
    say(console, f"\n{comparison_sentence(frames)}\n")
    planned = 1 if frames.env.get("kind") == BASELINE else frames.spec.search.num_samples
    left = planned - int(frames.trials["state"].isin(ENDED).sum())
    trained = budget is None or len(frames.epochs) > budget.epochs_before
    if budget and left:
        say(console, f"{budget.sentence(left, trained)}\n")
    path, model = run.shown_path, frames.spec.model
    commands = [f"run         {path}", f"report      {written_report(path)}"]
    commands.append(f"look closer {to_run('analysis', path)}")
    if left:
        commands.append(f"go on       {run.resume_command(model)}")
    if best is not None and not best["reference"]:
        commands.append(f"prove it    {to_run('search', '--confirm', 5, '--resume', path, *model.flag)}")
    if best is not None:
        commands.append(f"use it      {to_run('predict', path, *model.flag)} IMAGE ...")
    say(console, "\n".join(commands), whole=True)
    return best is not None and trained


def written_report(path: Path) -> str:
    """Writes the run's report; its path, or why there is none."""
    from tune_resnet.report import write_report

    try:
        return str(write_report([path]))
    except RecordError as error:
        return f"none: {error}"
