"""What each of the report's plots shows, as DataFrames made from a run's tables."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from tune_resnet.config.space import Choices, Domain
from tune_resnet.hpo.ranking import ranked_trials, winner
from tune_resnet.hpo.stopping import Asha, Signal, rung_epochs, stopping_rule
from tune_resnet.results.early_stopping import judged_signal
from tune_resnet.results.edges import best_quarter
from tune_resnet.runs.load import RunFrames, accuracy_column
from tune_resnet.runs.tables import FINISHED, REFERENCE_TRIAL, STOPPED
from tune_resnet.training.schedule import rate_at

REFERENCE, WINNER = "reference", "winner"  # roles; the other trials have their state for one
_MIN_FOR_REGION = 4  # finished trials
_POINTS_PER_EPOCH = 20  # of a learning rate's curve


def roles(frames: RunFrames) -> pd.Series:
    """`winner`, `reference` or the state, indexed by trial; a reference that has won is the reference."""
    found = frames.trials.set_index("trial")["state"].copy()
    best = winner(frames)
    if best is not None:
        found[best["trial"]] = WINNER
    if REFERENCE_TRIAL in found.index:
        found[REFERENCE_TRIAL] = REFERENCE
    return found


def learning_curves(frames: RunFrames) -> pd.DataFrame:
    """Columns trial, role, epoch and accuracy (in [0, 1]): one row per trial and epoch, sorted by both."""
    curves = frames.epochs[["trial", "epoch"]].assign(accuracy=frames.epochs[accuracy_column(frames)])
    return curves.assign(role=curves["trial"].map(roles(frames)))[["trial", "role", "epoch", "accuracy"]]


def configurations(frames: RunFrames) -> pd.DataFrame:
    """All trials, the best first: columns trial, role, each hyperparameter that was varied, epochs, accuracy
    (the last one, in [0, 1]), estimate (NaN before a trial has finished).
    """
    ranked = ranked_trials(frames)
    ranked = ranked.assign(role=ranked["trial"].map(roles(frames)), accuracy=ranked[accuracy_column(frames)])
    return ranked[["trial", "role", *frames.spec.space, "epochs", "accuracy", "estimate"]]


def good_region(frames: RunFrames) -> pd.DataFrame:
    """Columns low and high, indexed by hyperparameter: the range of the best quarter of the finished trials, and of two
    at least, by their estimates; no rows for fewer than four, and none for choices.
    """
    names = [name for name, domain in frames.spec.space.items() if isinstance(domain, Domain)]
    best = best_quarter(frames, _MIN_FOR_REGION)[names]
    return pd.DataFrame({"low": best.min(), "high": best.max()}).dropna()


LOG, LINEAR, CATEGORY = "log", "linear", "category"  # scales of an axis


def scale(values: pd.Series, domain: Domain | Choices) -> str:
    """The scale on which a hyperparameter's values are shown: its domain's; of numbers to choose from, logarithmic."""
    if isinstance(domain, Domain):
        return LOG if domain.log else LINEAR
    return LOG if pd.api.types.is_float_dtype(values) and (values > 0).all() else CATEGORY


def positions(trials: pd.DataFrame, space: Mapping[str, Domain | Choices]) -> pd.DataFrame:
    """Places in [0, 1] on an axis for each hyperparameter, from the least value tried to the greatest, choices in the
    order of the space; all equal: 0.5, what has no place on a logarithmic axis: NaN."""
    return pd.DataFrame({name: _positions(trials[name], domain) for name, domain in space.items()})


def _positions(values: pd.Series, domain: Domain | Choices) -> pd.Series:
    kind = scale(values, domain)
    if kind == CATEGORY and isinstance(domain, Choices):
        placed = values.map({choice: place for place, choice in enumerate(domain.choices)}).astype("float64")
    elif kind == LOG:
        placed = values.where(values > 0).map(math.log)
    else:
        placed = values.astype("float64")
    width = placed.max() - placed.min()
    return (placed - placed.min()) / width if width > 0 else placed * 0 + 0.5


def judged(frames: RunFrames) -> pd.DataFrame:
    """Who was judged at which rung, and how close it was: columns trial, epoch, signal, fate and short_by.

    `fate`: `stopped` there, or `went on`; `short_by`: how much better the signal of a stopped trial had to be to go on,
    as things stood when it was judged, on the scale of `stopping.quality`; NaN for those that went on, and for those
    that the spec as it is now would have let go on. The reference, which is never stopped, is left out.
    """
    signal = frames.spec.scheduler.signal
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
    short = pd.Series(_shortfalls(frames), dtype="float64").reindex(pd.MultiIndex.from_frame(rows[["trial", "epoch"]]))
    return rows.assign(short_by=short.where(rows["fate"].to_numpy() == "stopped").to_numpy()).reset_index(drop=True)


def _shortfalls(frames: RunFrames) -> dict[tuple[int, int], float]:
    """By how much a trial missed ASHA's cut, by trial and epoch, found by judging all of them again in their order."""
    rule, signal, found = stopping_rule(frames.spec), Signal(frames.spec.scheduler.signal), {}
    if not isinstance(rule, Asha):
        return {}
    for row in frames.epochs.sort_values("ended_at", kind="stable").to_dict("records"):
        trial, epoch = row["trial"], row["epoch"]
        value = signal.quality(trial, row)
        if rule.should_stop(trial, epoch, value) and math.isfinite(value):
            found[trial, epoch] = rule.short_by(trial, epoch)
    return found


def rate_curves(frames: RunFrames) -> pd.DataFrame:
    """The learning rates of winner and reference: columns role, epoch (a fraction, from 0) and lr."""
    train, trials = frames.spec.train, configurations(frames)
    compared = trials["role"].isin([REFERENCE, WINNER]) & (trials["max_lr"] > 0)
    chosen = trials[compared].sort_values("role")
    steps = train.epochs * _POINTS_PER_EPOCH
    rows = [
        (role, step / _POINTS_PER_EPOCH, rate_at(train, step, steps, peak))
        for role, peak in zip(chosen["role"], chosen["max_lr"], strict=True)
        for step in range(steps)
    ]
    return pd.DataFrame(rows, columns=["role", "epoch", "lr"])


def timeline(frames: RunFrames) -> pd.DataFrame:
    """When each trial ran, and where: columns trial, role, worker, start and end in seconds since the first start.

    A trial that has not ended ends with its last epoch; one without a start or an epoch is left out.
    """
    trials = frames.trials
    last = trials["trial"].map(frames.epochs.groupby("trial")["ended_at"].max())
    rows = pd.DataFrame(
        {
            "trial": trials["trial"],
            "role": trials["trial"].map(roles(frames)),
            "worker": trials["worker"].where(trials["worker"] != "", "unknown"),
            "start": trials["started_at"],
            "end": trials["ended_at"].fillna(last),
        }
    ).dropna()
    first = rows["start"].min()
    return rows.assign(start=rows["start"] - first, end=rows["end"] - first).sort_values("start", ignore_index=True)


def cost(frames: RunFrames) -> dict[str, float]:
    """What a run has cost: `epochs` trained, `epochs_saved` by stopping trials early, `training_seconds` summed over
    all trials, `span_seconds` from the first start to the last end, and `utilisation`, the share of the span in which
    the workers, as many as ran at once, trained (NaN where nothing has).
    """
    epochs, when = frames.epochs, timeline(frames)
    stopped = frames.trials[frames.trials["state"] == STOPPED]
    training, span = float(epochs["seconds"].sum()), float(when["end"].max() - when["start"].min())
    return {
        "epochs": len(epochs),
        "epochs_saved": int((frames.spec.train.epochs - stopped["epochs"]).sum()),
        "training_seconds": training,
        "span_seconds": span,
        "utilisation": training / (span * most_at_once(when)) if span > 0 else np.nan,
    }


def most_at_once(when: pd.DataFrame) -> int:
    """How many trials ran at once, at the most. One that starts as another ends does not run beside it."""
    changes = pd.concat(
        [pd.DataFrame({"time": when["end"], "by": -1}), pd.DataFrame({"time": when["start"], "by": 1})]
    ).sort_values(["time", "by"])
    return int(changes["by"].cumsum().max())


def runs_side_by_side(runs: dict[str, RunFrames]) -> pd.DataFrame:
    """Columns run, epochs (trained so far, over all trials) and best (highest accuracy of a finished trial by then, in
    [0, 1]): one row per finished trial, in the order of their ends.
    """
    tables = []
    for label, frames in runs.items():
        finished = frames.trials[frames.trials["state"] == FINISHED].sort_values("ended_at")
        ends = np.sort(frames.epochs["ended_at"].to_numpy())
        spent = np.searchsorted(ends, finished["ended_at"].to_numpy(), side="right")
        best = finished[accuracy_column(frames)].cummax()
        tables.append(pd.DataFrame({"run": label, "epochs": spent, "best": best}))
    return pd.concat(tables, ignore_index=True)
