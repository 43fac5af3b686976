"""What can be done with a run's winner, as text to copy."""

from __future__ import annotations

import math
from typing import Any

import tomli_w

from tune_resnet._text import printable, to_run
from tune_resnet.config.sections import flags_of
from tune_resnet.hpo.ranking import final_run, trial_of
from tune_resnet.results.confirmation import winner_results
from tune_resnet.results.edges import widening_commands
from tune_resnet.results.paired_test import BETTER, WORSE
from tune_resnet.runs.directory import FINAL, SEARCH, RunDirectory
from tune_resnet.runs.load import RunFrames, image_count, own_size
from tune_resnet.runs.tables import REFERENCE_TRIAL, SIZE


def winner_toml(frames: RunFrames) -> str:
    """The winner's hyperparameters as TOML for --experiment, to the last digit; empty while no trial has finished."""
    best = trial_of(frames)
    if best is None:
        return ""
    tables: dict[str, Any] = {}
    for name in frames.spec.space:
        *sections, own = name.split(".") if "." in name else ("train", name)
        table = tables
        for section in sections:
            table = table.setdefault(section, {})
        table[own] = best[name]
    return tomli_w.dumps(tables)


def next_steps(frames: RunFrames) -> dict[str, str]:
    """What can be done next, and has not been done yet: each command, by a few words about it."""
    run, best, is_search = RunDirectory(frames.path), trial_of(frames), frames.kind == SEARCH
    path, model = run.shown_path, frames.spec.model.flag
    wider = widening_commands(frames)
    steps = {"widen it": wider[0]} if wider else {}
    if best is None:
        return steps
    confirmed = any(not one.goes_on for one, _ in winner_results(frames))
    worse = {result.verdict for _, result in winner_results(frames)} == {WORSE}
    if is_search and not best["reference"] and not confirmed and frames.env.get("test_set", True):
        steps["confirm it"] = to_run("search", "--confirm", "--resume", path, *model)
    final = final_run(frames)
    wanted = REFERENCE_TRIAL if worse else best["trial"]
    if is_search and (final is None or final.trials["trial"].item() != wanted):
        which = ["--trial", REFERENCE_TRIAL] if worse else _size_flags(frames)
        steps["reference" if worse else "finalize it"] = to_run("search", "--finalize", path, *which, *model)
    used = path.parent if frames.kind == FINAL else path
    steps["use it"] = f"{to_run('predict', used, *model)} IMAGE ..."
    return {name: printable(command) for name, command in steps.items()}


def _size_flags(frames: RunFrames) -> list[str]:
    """The flags for the largest size at which the winner has been confirmed to be better, if not its search's own."""
    own = own_size(frames.spec, frames.env)
    sizes = [one.size for one, result in winner_results(frames) if result.verdict == BETTER]
    largest = max(sizes, key=lambda size: math.prod(size.values()), default=own)
    others = {column: value for column, value in largest.items() if value != own[column]}
    if "train_images" in others:  # those of a validation set of its own are trained on whatever the limit is
        others["train_images"] -= image_count(frames.env.get("own_validation_images")) or 0
    return flags_of({SIZE[column]: value for column, value in others.items()})
