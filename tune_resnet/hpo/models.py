"""The models of a run: which are kept, which is the winner's, and which one a command uses.

A finished trial leaves its model in checkpoints/. Any of them may become the winner's, as every later trial moves the
estimates, so those of the leading trials stay, few whatever the number of trials. best/ has a copy of the winner's.
"""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tune_resnet._text import to_run
from tune_resnet.config.sections import TrainSpec
from tune_resnet.config.spec import SearchSpec
from tune_resnet.config.toml import load_spec
from tune_resnet.config.validation import SpecError
from tune_resnet.errors import UserError
from tune_resnet.hpo.ranking import finished_trials, trial_of, winner
from tune_resnet.runs.directory import BASELINE, FINAL, SEARCH, RunDirectory
from tune_resnet.runs.load import RunFrames, load_frames
from tune_resnet.runs.reading import records
from tune_resnet.runs.tables import TrialRow, epoch_dtypes, spec_of
from tune_resnet.training.saved_model import ModelFileError, read_outcome

KEPT = 8  # models at the end of a search; twice as many meanwhile, so that ranking them costs next to nothing
MODEL = "model.safetensors"

_AGAIN = "trial {}, trained again by --finalize"


@dataclass(frozen=True)
class ChosenModel:
    """The model of a run that a command uses: its file, whose it is, for a person, and where its exports go."""

    path: Path
    whose: str
    place: Path


def chosen_model(path: Path) -> ChosenModel:
    """The final model of the run in `path` where there is one, else the winner's.

    A folder that holds best/ and no tables, as a copy for another machine may, has only that.

    Raises:
        RecordError: a table of the run cannot be read.
        ModelFileError: no trial has finished yet, or the winner's model is not there any more.
    """
    run = RunDirectory(path)
    frames = load_frames(path) if os.path.isfile(run.spec_toml) else None
    best = trial_of(frames) if frames else None
    if os.path.isfile(final := RunDirectory(run.final).best / MODEL):
        outcome = read_outcome(final)
        whose = _AGAIN.format(outcome.trial if outcome else "of this run")
        if best and outcome and outcome.trial != best["trial"]:
            whose += f" (the winner is trial {best['trial']})"
        return ChosenModel(final, whose, final.parent)
    if frames is None:
        return ChosenModel(run.best / MODEL, "the model in best/", run.best)
    if best is None:
        raise ModelFileError(f"there is no model in {path}: no trial has finished yet")
    whose = {BASELINE: "the reference", FINAL: _AGAIN}.get(frames.kind, "trial {}, the winner").format(best["trial"])
    if _holds(run.best, spec_of(best, frames.spec)):
        return ChosenModel(run.best / MODEL, whose, run.best)
    if os.path.isfile(kept := run.model_of(best["trial"])):  # the search goes on, or was killed
        return ChosenModel(kept, whose, run.best)
    if frames.kind != SEARCH:
        raise ModelFileError(f"there is no model in {path} any more")
    raise ModelFileError(
        f"the model of {whose}, has not been kept; this trains it: {to_run('search', '--finalize', run.shown_path)}"
    )


def trial_to_finalize(frames: RunFrames, number: int | None) -> dict[str, Any]:
    """The row of the trial with that number, or of the winner, for a final training; UserError where there is none."""
    if frames.kind != SEARCH:
        raise UserError(f"--finalize needs a search: {frames.name} is a single training already")
    if number is None:
        best = winner(frames)
        if best is None:
            raise UserError(f"{frames.name} has no winner to finalize: no trial has finished (--trial N names one)")
        return best
    rows = records(frames.trials[frames.trials["trial"] == number])
    if not rows:
        raise UserError(f"{frames.name} has no trial {number}: they are 0 to {len(frames.trials) - 1}")
    return rows[0]


def keep_winner(frames: RunFrames) -> None:
    """Makes best/ a copy of the winner's model, beside the spec that retrains it. Where that model is not there any
    more, what is in best/ is another trial's, and goes to best-before/."""
    run, best = RunDirectory(frames.path), trial_of(frames)
    if best is None:
        return
    spec, outcome = frames.config(best["trial"]), read_outcome(run.model_of(best["trial"]))
    if outcome is not None and outcome != read_outcome(run.best / MODEL):
        run.keep_best(best["trial"], spec)
    elif outcome is None and run.best.exists() and not _holds(run.best, spec):
        aside = run.best.with_name("best-before")
        shutil.rmtree(aside, ignore_errors=True)
        run.best.rename(aside)


def drop_outrun_models(run: RunDirectory) -> None:
    """Where there are too many models, deletes those of finished trials that are not among the first `KEPT`.

    A trial that is not on record as finished may have left its model a moment ago: that stays.
    """
    if len(list(run.checkpoints.glob("trial-*.safetensors"))) <= 2 * KEPT:
        return
    frames = load_frames(run.path)
    ranked = finished_trials(frames)["trial"]
    for trial in ranked[KEPT:]:
        run.model_of(trial).unlink(missing_ok=True)


def last_epoch(run: RunDirectory, row: TrialRow, spec: SearchSpec) -> dict[str, Any] | None:
    """The last epoch, as a row of epochs.csv, of a trial that has left its model; None where it has not, or where
    epochs before that are not on record."""
    outcome = read_outcome(run.model_of(row.trial))
    train = spec_of(row.cells(), spec).train
    if outcome is None or row.epochs < train.epochs - 1 or not _same(outcome.train, train):
        return None
    ended_at = os.path.getmtime(run.model_of(row.trial))
    known = outcome.last.columns("val", spec.search.objective) | {"trial": row.trial, "ended_at": ended_at}
    return dict.fromkeys(epoch_dtypes(spec.search.objective), math.nan) | known


def _holds(best: Path, spec: SearchSpec) -> bool:
    """Whether best/ holds the model of this configuration."""
    try:
        kept = load_spec(best / "spec.toml")
    except SpecError:
        return False
    same = _same(kept.train, spec.train) and (kept.model, kept.data.flip) == (spec.model, spec.data.flip)
    return same and os.path.isfile(best / MODEL)


def _same(one: TrainSpec, other: TrainSpec) -> bool:
    """Whether two configurations are the same; a search that goes on on another device may have another precision."""
    return replace(one, precision="auto") == replace(other, precision="auto")
