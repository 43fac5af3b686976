"""What early stopping did at each rung, and to whom."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from tune_resnet.hpo.stopping import Asha, Signal, in_unit, rung_epochs, stopping_rule, window
from tune_resnet.runs.load import RunFrames, accuracy_column, once_per_run
from tune_resnet.runs.reading import records
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
        for row in records(rows[["trial", "epoch", signal]])
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
    trials, epochs, signal = frames.trials.set_index("trial"), frames.epochs, frames.spec.signal
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


def judged(frames: RunFrames) -> pd.DataFrame:
    """Who was judged at which rung, and how close it was: columns trial, epoch, signal, fate and short_by.

    `fate`: `stopped` there, or `went on`; `short_by`: how much better the signal of a stopped trial had to be to go on,
    as things stood when it was judged, on the scale of `stopping.quality`; NaN for those that went on, and for those
    that the spec as it is now would have let go on. The reference, which is never stopped, is left out.
    """
    signal = frames.spec.signal
    trials = frames.trials.set_index("trial")
    ended_here = trials["epochs"].where(trials["state"] == STOPPED)
    rungs = rung_epochs(frames.spec.scheduler, frames.spec.train.epochs)
    found = {epoch: judged_signal(frames, signal, epoch) for epoch in rungs}
    rows = frames.epochs[["trial", "epoch"]]
    rows = rows[rows["epoch"].isin(list(found)) & (rows["trial"] != REFERENCE_TRIAL)]
    rows = rows.assign(signal=[found[epoch][trial] for trial, epoch in rows.to_numpy()])
    last = frames.epochs.groupby("trial")["epoch"].max()
    stopped = rows["trial"].map(ended_here) == rows["epoch"]
    went_on = rows["trial"].map(last) > rows["epoch"]
    rows = rows.assign(fate=np.where(stopped, "stopped", "went on"))[stopped | went_on]
    short, _ = _judged_again(frames)
    known = zip(rows["trial"], rows["epoch"], rows["fate"], strict=True)
    by = [short.get((trial, epoch), math.nan) if fate == "stopped" else math.nan for trial, epoch, fate in known]
    return rows.assign(short_by=np.array(by, dtype="float64")).reset_index(drop=True)


@once_per_run
def _judged_again(frames: RunFrames) -> tuple[dict[tuple[int, int], float], dict[int, float]]:
    """What ASHA says of all trials, told of their epochs again in their order: by how much each one that ends missed
    the cut, by trial and epoch, and the last cut of each rung, on the scale of `stopping.quality`."""
    rule, signal = stopping_rule(frames.spec), Signal(frames.spec.signal)
    short: dict[tuple[int, int], float] = {}
    cuts: dict[int, float] = {}
    if not isinstance(rule, Asha):
        return short, cuts
    for row in records(frames.epochs.sort_values("ended_at", kind="stable")):
        trial, epoch = row["trial"], row["epoch"]
        value = signal.quality(trial, row)
        stops = rule.should_stop(trial, epoch, value)
        if math.isfinite(value) and epoch in rule.values:
            by = rule.short_by(trial, epoch)
            cuts[epoch] = value + by
            if stops:
                short[trial, epoch] = by
    return short, cuts


def cuts(frames: RunFrames) -> pd.Series:
    """What a trial would need now to go on from each rung, in the signal's unit, indexed by epoch; margin included."""
    signal = frames.spec.signal
    found = {epoch: in_unit(signal, cut) for epoch, cut in _judged_again(frames)[1].items()}
    return pd.Series(found, dtype="float64")
