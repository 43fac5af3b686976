"""What a run's tables say: the ranking, the comparison to the reference, what early stopping did, what mattered."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import pandas as pd

from tune_resnet.estimate import estimated_accuracy
from tune_resnet.frames import STATES, RunFrames, accuracy_column
from tune_resnet.records import FINISHED, REFERENCE_TRIAL, STOPPED
from tune_resnet.stopping import Signal, in_unit, rung_epochs, window

LEAST_FOR_IMPORTANCE = 4  # finished trials
LEAST_FOR_AGREEMENT = 3  # finished trials

RUNG_DTYPES = {
    "epoch": "int64",
    "reached": "int64",  # trials with a row at this epoch
    "stopped": "int64",  # ended here by the scheduler
    "went_on": "int64",  # with a later epoch; the rest are running or were interrupted, or failed in the next epoch
    "weakest_went_on": "float64",  # signal at this epoch; without the reference, which goes on whatever its signal
    "strongest_stopped": "float64",
    "rank_agreement": "float64",  # Spearman, of the finished trials' signals here and final accuracies; 1: same order
}


_RANKED: WeakKeyDictionary[RunFrames, pd.DataFrame] = WeakKeyDictionary()


def ranked_trials(frames: RunFrames) -> pd.DataFrame:
    """All trials, the best first. Three more columns: `estimate`, see `estimates`, `winner` and `reference` (bool).

    Finished trials come first, by estimate: the first of them is the winner. Then come running, stopped, interrupted
    and failed ones, each by epochs done. Equals are in order of their accuracies, then of their numbers.
    """
    if frames not in _RANKED:  # every view of a run asks, and an answer takes a tenth of a second
        _RANKED[frames] = _ranked(frames)
    return _RANKED[frames].copy()


def _ranked(frames: RunFrames) -> pd.DataFrame:
    trials = frames.trials
    estimate = trials["trial"].map(estimates(frames))
    keys = pd.DataFrame(
        {
            "state": trials["state"].map({state: place for place, state in enumerate(STATES)}),
            "epochs": -trials["epochs"].where(trials["state"] != FINISHED, 0),
            "estimate": -estimate,
            "accuracy": -trials[accuracy_column(frames)],
            "trial": trials["trial"],
        }
    )
    order = keys.sort_values(list(keys.columns)).index
    ranked = trials.assign(estimate=estimate, winner=False, reference=trials["trial"] == REFERENCE_TRIAL).loc[order]
    ranked = ranked.reset_index(drop=True)
    ranked.loc[ranked.index == 0, "winner"] = (ranked["state"] == FINISHED) & ranked["estimate"].notna()
    return ranked


def estimates(frames: RunFrames) -> pd.Series:
    """Of each finished trial, the accuracy in [0, 1] that it is likely to have on other images; else NaN.

    See `estimate.estimated_accuracy`. As measured in a baseline, and where the number of validation images is unknown.
    """
    trials, images = frames.trials.set_index("trial"), held_out_images(frames)
    final = trials[accuracy_column(frames)].where(trials["state"] == FINISHED)
    if images is not None and accuracy_column(frames) == "val_accuracy":
        last = frames.epochs[frames.epochs["epoch"] == frames.spec.train.epochs].set_index("trial")
        losses = last["val_loss"].reindex(final.index)
        known = final.notna() & losses.notna()
        final[known] = estimated_accuracy(final[known].to_numpy(), losses[known].to_numpy(), images)
    return final


def held_out_images(frames: RunFrames) -> int | None:
    """How many images the run's trials are judged on; None where env.json, which may hold anything, does not say."""
    images = frames.env.get("held_out_images")
    return images if type(images) is int and images > 0 else None


def judged_signal(frames: RunFrames, signal: str, epoch: int) -> pd.Series:
    """What trials are judged by after an epoch, in the signal's unit, indexed by trial, of those that got so far: see
    `stopping.Signal`."""
    judged, rows = Signal(signal), frames.epochs[frames.epochs["epoch"].isin(window(epoch))]
    found = {
        row["trial"]: in_unit(signal, judged.quality(row["trial"], row))
        for row in rows[["trial", "epoch", signal]].to_dict("records")
    }
    reached = rows.loc[rows["epoch"] == epoch, "trial"]
    return pd.Series(found, dtype="float64").reindex(reached)


def best_trials(frames: RunFrames, n: int = 10) -> pd.DataFrame:
    """The `n` best of the finished trials, columns and order as in `ranked_trials`."""
    ranked = ranked_trials(frames)
    return ranked[(ranked["state"] == FINISHED) & ranked[accuracy_column(frames)].notna()].head(n)


def winner(frames: RunFrames) -> dict[Hashable, Any] | None:
    """The first of `ranked_trials`, keys as its columns; None: none has finished.

    This is what every table, sentence, page, model and confirmation calls the winner.
    """
    return next(iter(best_trials(frames, 1).to_dict("records")), None)


CASES = (
    NOTHING,  # no trial has finished
    UNKNOWN,  # the reference has not finished
    REFERENCE_ALONE,  # no other trial has finished
    REFERENCE_WINS,
    WON,  # the winner has measured better than the reference
    EQUAL,  # as well
    LOST,  # worse: chosen for its estimate all the same
) = ("nothing", "unknown", "reference alone", "reference wins", "won", "equal", "lost")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The winner beside the reference; None is what is not known (yet).

    Both are judged on the same images and trained once, with one seed. The winner was chosen among `finished` noisy
    figures, so `gain` is biased upward (the winner's curse); `estimated_gain` less so, for the winner is the finished
    trial with the highest estimate, see `estimates`.
    """

    finished: int  # trials with all their epochs
    judged_on: str  # "validation" or "test" images
    images: int | None  # how many
    winner: int | None
    winner_accuracy: float | None  # in [0, 1]
    reference_state: str | None  # None: not started
    reference_accuracy: float | None  # in [0, 1]; None: not finished
    gain: float | None  # percentage points
    estimated_gain: float | None  # percentage points
    standard_error: float | None  # of `gain`, percentage points; see `_standard_error`

    @property
    def case(self) -> str:
        """How it stands between winner and reference, one of `CASES`."""
        if self.winner is None:
            return NOTHING
        if self.gain is None:
            return UNKNOWN
        if self.winner == REFERENCE_TRIAL:
            return REFERENCE_WINS if self.finished > 1 else REFERENCE_ALONE
        return WON if self.gain > 0 else LOST if self.gain < 0 else EQUAL


def compare_to_reference(frames: RunFrames) -> Comparison:
    """The winner against the reference of the same run."""
    column = accuracy_column(frames)
    finished = best_trials(frames, len(frames.trials)).to_dict("records")
    best = finished[0] if finished else None
    reference = next((row for row in finished if row["reference"]), None)
    states = frames.trials.set_index("trial")["state"]
    images = held_out_images(frames)
    gain = estimated_gain = error = None
    if best is not None and reference is not None:
        gain = 100 * (best[column] - reference[column])
        estimated_gain = 100 * (best["estimate"] - reference["estimate"])
        error = None if images is None else _standard_error(best[column], reference[column], images)
    return Comparison(
        finished=len(finished),
        judged_on="test" if column == "test_accuracy" else "validation",
        images=images,
        winner=None if best is None else int(best["trial"]),
        winner_accuracy=None if best is None else float(best[column]),
        reference_state=states.get(REFERENCE_TRIAL),
        reference_accuracy=None if reference is None else float(reference[column]),
        gain=gain,
        estimated_gain=estimated_gain,
        standard_error=error,
    )


def _standard_error(first: float, second: float, images: int) -> float:
    """Standard error, in percentage points, of the difference of two accuracies due to the choice of images.

    Binomial, as if each had its own images; on the same images, where both find the same ones hard, it is smaller. One
    right and one wrong image are added to each (Agresti and Caffo, 2000), so that 100% does not look certain.
    """
    shares = [(accuracy * images + 1) / (images + 2) for accuracy in (first, second)]
    return 100 * math.sqrt(sum(share * (1 - share) for share in shares) / (images + 2))


def rung_table(frames: RunFrames) -> pd.DataFrame:
    """One row per rung of an ASHA search, columns as in `RUNG_DTYPES`; no rows for other schedulers.

    `rank_agreement` is seen only on trials that were let through to the end, so it understates how well the signal
    tells good trials from bad ones.
    """
    scheduler = frames.spec.scheduler
    rungs = rung_epochs(scheduler, frames.spec.train.epochs)
    return pd.DataFrame([_rung(frames, epoch) for epoch in rungs], columns=list(RUNG_DTYPES)).astype(RUNG_DTYPES)


def _rung(frames: RunFrames, epoch: int) -> dict[str, float]:
    trials, epochs, signal = frames.trials.set_index("trial"), frames.epochs, frames.spec.scheduler.signal
    sign = -1 if signal.endswith("loss") else 1  # quality: higher is better
    quality = sign * judged_signal(frames, signal, epoch)
    later = epochs.loc[epochs["epoch"] > epoch, "trial"]
    went_on = quality[quality.index.isin(later)]
    stopped = quality[quality.index.isin(trials.index[(trials["state"] == STOPPED) & (trials["epochs"] == epoch)])]
    final = trials.loc[trials["state"] == FINISHED, accuracy_column(frames)]
    return {
        "epoch": epoch,
        "reached": len(quality),
        "stopped": len(stopped),
        "went_on": len(went_on),
        "weakest_went_on": sign * went_on.drop(REFERENCE_TRIAL, errors="ignore").min(),
        "strongest_stopped": sign * stopped.max(),
        "rank_agreement": _rank_correlation(quality, final),
    }


def _rank_correlation(first: pd.Series, second: pd.Series) -> float:
    """Spearman's coefficient over the trials that both have; NaN for fewer than three, or where one does not vary."""
    both = pd.concat([first, second], axis=1, join="inner", keys=["first", "second"]).dropna().rank()
    if len(both) < LEAST_FOR_AGREEMENT or both.nunique().min() < 2:
        return math.nan
    return float(both["first"].corr(both["second"]))


def importance(frames: RunFrames) -> pd.Series:
    """Each hyperparameter's share in what separates the best finished trials from the others, the largest first.

    Optuna's default evaluator (PED-ANOVA, which draws no random numbers); the shares add up to 1. The index is the
    hyperparameter. Empty for fewer than four finished trials, or where accuracies or hyperparameters do not vary.
    """
    import optuna

    space, column = frames.spec.space, accuracy_column(frames)
    finished = best_trials(frames, len(frames.trials)).sort_values("trial")
    for name, domain in space.items():  # a spec edited by hand may no longer contain its trials
        finished = finished[finished[name].between(domain.low, domain.high)]
    shares: dict[str, float] = {}
    varies = finished[[column, *space]].nunique() > 1
    if len(finished) >= LEAST_FOR_IMPORTANCE and varies[column] and varies[list(space)].any():
        distributions: dict[str, optuna.distributions.BaseDistribution] = {
            name: optuna.distributions.FloatDistribution(domain.low, domain.high, log=domain.log)
            for name, domain in space.items()
        }
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(direction="maximize")
        study.add_trials(
            optuna.trial.create_trial(
                params={name: row[name] for name in space}, distributions=distributions, value=row[column]
            )
            for row in finished.to_dict("records")
        )
        shares = optuna.importance.get_param_importances(study)
    return pd.Series(shares, dtype="float64", name="importance").rename_axis("hyperparameter")
