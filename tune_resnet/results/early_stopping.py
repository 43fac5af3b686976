"""What early stopping did at each rung."""

from __future__ import annotations

import math

import pandas as pd

from tune_resnet.hpo.stopping import Signal, in_unit, rung_epochs, window
from tune_resnet.runs.load import RunFrames, accuracy_column
from tune_resnet.runs.tables import FINISHED, REFERENCE_TRIAL, STOPPED

MIN_FOR_AGREEMENT = 3  # finished trials

RUNG_DTYPES = {
    "epoch": "int64",
    "reached": "int64",  # trials with a row at this epoch
    "stopped": "int64",  # ended here by the scheduler
    "went_on": "int64",  # with a later epoch; the rest are running or were interrupted, or failed in the next epoch
    "weakest_went_on": "float64",  # signal at this epoch; without the reference, which goes on whatever its signal
    "strongest_stopped": "float64",
    "rank_agreement": "float64",  # Spearman, of the finished trials' signals here and final accuracies; 1: same order
}


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
    if len(both) < MIN_FOR_AGREEMENT or both.nunique().min() < 2:
        return math.nan
    return float(both["first"].corr(both["second"]))
