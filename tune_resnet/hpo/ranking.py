"""Which trials are the best: the ranking that every table, sentence, page, model and confirmation follows."""

from __future__ import annotations

import os
from typing import Any

import pandas as pd

from tune_resnet.config.sections import VAL_ACCURACY
from tune_resnet.config.spec import SearchSpec
from tune_resnet.hpo.estimate import estimated_accuracy
from tune_resnet.runs.directory import FINAL, RunDirectory
from tune_resnet.runs.load import RunFrames, accuracy_column, load_frames, once_per_run
from tune_resnet.runs.reading import records
from tune_resnet.runs.tables import FINISHED, REFERENCE_TRIAL, STATES

_OF_THE_LOSS = ("label_smoothing", "class_weights")  # change what a training minimises, and so the validation loss


def ranked_trials(frames: RunFrames) -> pd.DataFrame:
    """All trials, the best first. Three more columns: `estimate`, see `estimates`, `winner` and `reference` (bool).

    Finished trials come first, by estimate: the first of them is the winner. Then come running, stopped, interrupted
    and failed ones, each by epochs done. Equals are in order of what judges them, then of their numbers.
    """
    return _ranked(frames).copy()


@once_per_run
def _ranked(frames: RunFrames) -> pd.DataFrame:
    return in_order(frames.trials, estimates(frames), accuracy_column(frames))


def in_order(trials: pd.DataFrame, estimate_of: pd.Series, column: str) -> pd.DataFrame:
    """`ranked_trials` of such a table, with the estimates by trial and the column that judges."""
    estimate = trials["trial"].map(estimate_of)
    keys = pd.DataFrame(
        {
            "state": trials["state"].map({state: place for place, state in enumerate(STATES)}),
            "epochs": -trials["epochs"].where(trials["state"] != FINISHED, 0),
            "estimate": -estimate,
            "accuracy": -trials[column],
            "trial": trials["trial"],
        }
    )
    order = keys.sort_values(list(keys.columns)).index
    ranked = trials.assign(estimate=estimate, winner=False, reference=trials["trial"] == REFERENCE_TRIAL).loc[order]
    ranked = ranked.reset_index(drop=True)
    ranked.loc[ranked.index == 0, "winner"] = (ranked["state"] == FINISHED) & ranked["estimate"].notna()
    return ranked


def estimates(frames: RunFrames) -> pd.Series:
    """Of each finished trial, the accuracy, or what else is the objective, that it is likely to have on other images,
    in [0, 1]; else NaN. See `estimated`."""
    trials, column = frames.trials.set_index("trial"), accuracy_column(frames)
    final = trials[column].where(trials["state"] == FINISHED)
    last = frames.epochs[frames.epochs["epoch"] == frames.spec.train.epochs].set_index("trial")
    return estimated(final, last["val_loss"], frames.spec)


def estimated(final: pd.Series, loss: pd.Series, spec: SearchSpec) -> pd.Series:
    """Estimates by trial, from what finished trials have in the column that judges (NaN of others), and from their
    validation losses, see `estimate.estimated_accuracy`.

    As measured where the loss is not known, in a baseline; by another objective than the accuracy, as the loss counts
    images and not classes; and where the search varies what trainings minimise: a network that was trained to be less
    sure has a higher loss for the same accuracy.
    """
    if spec.search.column("val") != VAL_ACCURACY or any(name in spec.space for name in _OF_THE_LOSS):
        return final
    losses = loss.reindex(final.index)
    known = final.notna() & losses.notna()
    found = final.copy()
    found[known] = estimated_accuracy(final[known].to_numpy(), losses[known].to_numpy())
    return found


def is_smoothed(frames: RunFrames) -> bool:
    """Whether accuracy and loss count together in the estimates; else they are what was measured, see `estimated`."""
    found = finished_trials(frames)
    return bool((found["estimate"] != found[accuracy_column(frames)]).any())


def finished_trials(frames: RunFrames) -> pd.DataFrame:
    """The finished trials, columns and order as in `ranked_trials`."""
    ranked = ranked_trials(frames)
    return ranked[(ranked["state"] == FINISHED) & ranked[accuracy_column(frames)].notna()]


def best_trials(frames: RunFrames, n: int = 10) -> pd.DataFrame:
    """The `n` best of the `finished_trials`."""
    return finished_trials(frames).head(n)


def winner(frames: RunFrames) -> dict[str, Any] | None:
    """The first of `ranked_trials`, keys as its columns; None: none has finished.

    This is what every table, sentence, page, model and confirmation calls the winner.
    """
    return next(iter(records(best_trials(frames, 1))), None)


@once_per_run
def final_run(frames: RunFrames) -> RunFrames | None:
    """The run of the final training that --finalize has left in a run's directory; None where it has not finished."""
    final = RunDirectory(RunDirectory(frames.path).final)
    found = load_frames(final.path) if os.path.isfile(final.spec_toml) else None
    return found if found is not None and trial_of(found) is not None else None


def trial_of(frames: RunFrames) -> dict[str, Any] | None:
    """The trial whose model a run is for: the winner; of a final training, which there may be no image to judge, its
    only trial. None where it has not finished."""
    if frames.kind != FINAL:
        return winner(frames)
    return next(iter(records(frames.trials[frames.trials["state"] == FINISHED])), None)
