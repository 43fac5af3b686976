"""What a run ends with: the ranked table, what was found, and what to do next."""

from __future__ import annotations

import time
from dataclasses import dataclass

from rich.console import Console

from tune_resnet._text import counted, duration, say, to_run
from tune_resnet.commands.live_page import written_report
from tune_resnet.hpo.models import keep_winner
from tune_resnet.hpo.ranking import trial_of
from tune_resnet.results.evaluation import predictions
from tune_resnet.results.next_steps import next_steps
from tune_resnet.results.sentences import run_sentences
from tune_resnet.results.tables import print_evaluation, ranked_table
from tune_resnet.runs.directory import FINAL, RunDirectory
from tune_resnet.runs.load import RunFrames, load_frames

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
            f"The time budget of {duration(self.seconds)} was over before the first epoch was done (about "
            f"{duration(max(1, self.seconds_per_epoch))}, after some seconds to start): nothing was trained. "
            "Give a longer --time-budget."
        )


def conclude(
    run: RunDirectory, console: Console, started: float, budget: TimeBudget | None = None, *, goes_on: bool = False
) -> int:
    """Prints what was found and what to do next, and notes the time taken. The exit code: 0 where a trial has finished,
    and a time `budget` that has ended the search was enough for an epoch, else 1.

    `started`: Unix time of the command, which may not have been the run's first. `goes_on`: a confirmation follows, and
    says itself what to do next.
    """
    frames = load_frames(run.path)
    keep_winner(frames)
    ended = time.time()
    seconds = frames.env.get("wall_seconds", 0.0) + ended - started
    run.write_env({**frames.env, "ended_at": ended, "wall_seconds": seconds})
    console.print()
    console.print(ranked_table(frames, _TOP))
    for sentence in run_sentences(frames):
        say(console, f"\n{sentence}")
    if frames.kind == FINAL and (found := predictions(frames)) is not None:
        console.print()
        print_evaluation(console, found)
    left = frames.planned - frames.ended
    trained = budget is None or len(frames.epochs) > budget.epochs_before
    if budget and left:
        say(console, f"\n{budget.sentence(left, trained)}")
    code = 0 if trial_of(frames) is not None and trained else 1
    if code or not goes_on:
        say_next(run, console)
    else:
        console.print()
    return code


def say_next(run: RunDirectory, console: Console) -> None:
    """Writes the run's report, and prints where it is and what can be done next."""
    frames, path = load_frames(run.path), run.shown_path
    if frames.kind == FINAL:
        written_report(path.parent)  # the search's page tells of its final training, too
    commands = [
        f"run         {path}",
        f"report      {written_report(path, at_its_end=True)}",
        *_next_commands(run, frames),
    ]
    say(console, "\n" + "\n".join(commands), whole=True)


def _next_commands(run: RunDirectory, frames: RunFrames) -> list[str]:
    """What can be done next, and has not been done yet, each with its command."""
    commands = [f"look closer {to_run('analysis', run.shown_path)}"]
    if frames.ended < frames.planned:
        commands.append(f"go on       {run.resume_command(frames.spec.model)}")
    return [*commands, *(f"{what:<12}{command}" for what, command in next_steps(frames).items())]
