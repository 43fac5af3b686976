"""What a run ends with: the ranked table, what was found, and what to do next."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from tune_resnet.analysis import RunFrames, load_run, ranked_table, winner
from tune_resnet.drawing import run_sentences
from tune_resnet.models import final_run, keep_winner
from tune_resnet.records import ENDED, FINAL, SEARCH, RecordError, RunDirectory
from tune_resnet.text import say, to_run
from tune_resnet.verdict import confirmations

_TOP = 10  # trials in the table


def conclude(run: RunDirectory, console: Console, started: float) -> bool:
    """Prints what was found and what to do next, and notes the time taken; whether any trial has finished.

    `started`: Unix time of the command, which may not have been the run's first.
    """
    frames = load_run(run.path)
    keep_winner(frames)
    ended = time.time()
    seconds = frames.env.get("wall_seconds", 0.0) + ended - started
    run.write_env({**frames.env, "ended_at": ended, "wall_seconds": seconds})
    console.print()
    console.print(ranked_table(frames, _TOP))
    for sentence in run_sentences(frames):
        say(console, f"\n{sentence}")
    path = run.shown_path
    say(console, f"\nrun         {path}\nreport      {written_report(path)}\n" + "\n".join(_next_commands(run, frames)))
    return winner(frames) is not None


def _next_commands(run: RunDirectory, frames: RunFrames) -> list[str]:
    """What can be done next, and has not been done yet, each with its command."""
    path, model, best = run.shown_path, frames.spec.model.flag, winner(frames)
    is_search = frames.env.get("kind", SEARCH) == SEARCH
    planned = frames.spec.search.num_samples if is_search else 1
    confirmed = any(one.of_winner and one.result for one in confirmations(frames))
    commands = [f"look closer {to_run('analysis', path)}"]
    if frames.trials["state"].isin(ENDED).sum() < planned:
        commands.append(f"go on       {run.resume_command(frames.spec.model)}")
    if best is None:
        return commands
    if not best["reference"] and is_search and not confirmed:
        commands.append(f"confirm it  {to_run('search', '--confirm', 5, '--resume', path, *model)}")
    final = final_run(frames)
    if is_search and (final is None or final.trials["trial"].item() != best["trial"]):
        commands.append(f"finalize it {to_run('search', '--finalize', path, *model)}")
    used = path.parent if frames.env.get("kind") == FINAL else path
    commands.append(f"use it      {to_run('predict', used, *model)} IMAGE ...")
    return commands


def written_report(path: Path) -> str:
    """Writes the run's report; its path, or why there is none."""
    from tune_resnet.report import write_report

    try:
        return str(write_report([path]))
    except RecordError as error:
        return f"none: {error}"
