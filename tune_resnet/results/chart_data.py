"""What each of the report's plots shows, as DataFrames made from a run's tables."""

from __future__ import annotations

import math
from contextlib import suppress

import numpy as np
import pandas as pd

from tune_resnet.config.space import Choices, Domain, Space
from tune_resnet.config.validation import SpecError
from tune_resnet.hpo.ranking import estimated, ranked_trials, winner
from tune_resnet.results.edges import best_quarter
from tune_resnet.runs.directory import SEARCH
from tune_resnet.runs.load import RunFrames, accuracy_column
from tune_resnet.runs.tables import FINISHED, REFERENCE, REFERENCE_TRIAL, STOPPED, WINNER
from tune_resnet.training.schedule import rate_at

CURVES = ("accuracy", "loss", "training loss")  # the first is what judges, in [0, 1]
MAX_DRAWN = 1_000  # trials: a browser draws no more at once, and nobody could tell them apart
_MIN_FOR_REGION = 4  # finished trials
_FAR_BELOW = 4  # times as far from the median as the best trial
_LEAST_ROOM = 0.01  # of accuracy
_POINTS_PER_EPOCH = 20  # of a learning rate's curve


def roles(frames: RunFrames) -> pd.Series:
    """`winner`, `reference` or the state, indexed by trial; a reference that has won is the reference. Only a search
    has a winner."""
    found = frames.trials.set_index("trial")["state"].copy()
    best = winner(frames)
    if best is not None and frames.kind == SEARCH:
        found[best["trial"]] = WINNER
    if REFERENCE_TRIAL in found.index:
        found[REFERENCE_TRIAL] = REFERENCE
    return found


def learning_curves(frames: RunFrames) -> pd.DataFrame:
    """Columns trial, role, epoch, and those of `CURVES`: one row per trial and epoch, sorted by both."""
    column = accuracy_column(frames)
    shown = (column, f"{column.partition('_')[0]}_loss", "train_loss")
    curves = frames.epochs[["trial", "epoch", *shown]].rename(columns=dict(zip(shown, CURVES, strict=True)))
    return curves.assign(role=curves["trial"].map(roles(frames)))[["trial", "role", "epoch", *CURVES]]


def useful_range(curves: pd.DataFrame, name: str, first: int) -> list[float]:
    """An axis for one of `CURVES` on which trials can be told apart: from the worst twentieth from epoch `first` on,
    since early epochs lie far from the end, to the best value; empty where nothing is known."""
    known = curves[name].where(np.isfinite(curves[name])).dropna()
    late = known[curves["epoch"] >= first]
    if late.empty:
        return []
    is_accuracy = name == CURVES[0]
    low = float(late.quantile(0.05) if is_accuracy else known.min())
    high = float(known.max() if is_accuracy else late.quantile(0.95))
    margin = 0.04 * (high - low) or 0.01
    return [round(low - margin, 5), round(high + margin, 5)]


def configurations(frames: RunFrames) -> pd.DataFrame:
    """All trials, the best first: columns trial, role, each hyperparameter that was varied, epochs, accuracy
    (or what else judges the run, the last one, in [0, 1]), estimate (NaN before a trial has finished).
    """
    ranked = ranked_trials(frames)
    ranked = ranked.assign(role=ranked["trial"].map(roles(frames)), accuracy=ranked[accuracy_column(frames)])
    return ranked[["trial", "role", *frames.spec.space, "epochs", "accuracy", "estimate"]]


def drawn(frames: RunFrames) -> pd.DataFrame:
    """The `configurations` that plots show: all, or of more than `MAX_DRAWN` the best half of so many, the reference,
    and others at even distances in the ranking."""
    trials = configurations(frames)
    if len(trials) <= MAX_DRAWN:
        return trials
    best = MAX_DRAWN // 2
    others = np.linspace(best, len(trials) - 1, MAX_DRAWN - best - 1).astype(int)
    return trials[trials.index.isin([*range(best), *others]) | (trials["trial"] == REFERENCE_TRIAL)]


def comparable(frames: RunFrames, trials: pd.DataFrame) -> tuple[pd.Series, float, float]:
    """Which trials have had all their epochs, so that their accuracies can be compared, with the lowest and the highest
    of these; without those far below the others, which would press all of them together. NaN where there are none."""
    whole = trials["accuracy"].where(trials["epochs"] >= frames.spec.train.epochs)
    middle, highest = whole.median(), whole.max()
    lowest = whole[whole >= middle - max(_FAR_BELOW * (highest - middle), _LEAST_ROOM)].min()
    return whole >= lowest, float(lowest), float(highest)


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


def axis_bounds(values: pd.Series, domain: Domain | Choices) -> tuple[float, float]:
    """Where a numeric axis begins and ends: at the bounds of the domain, or at what was tried beyond them, as the
    reference may be."""
    tried = values.astype("float64")
    known = tried[np.isfinite(tried) & ((tried > 0) | (scale(values, domain) != LOG))]
    ends = [float(end) for end in domain.ends]
    return min([*ends, *known]), max([*ends, *known])


def positions(trials: pd.DataFrame, space: Space) -> pd.DataFrame:
    """Places in [0, 1] on an axis for each hyperparameter, from its lower bound to its upper one (see `axis_bounds`),
    choices in the order of the space; what has no place there: NaN."""
    return pd.DataFrame({name: _positions(trials[name], domain) for name, domain in space.items()})


def _positions(values: pd.Series, domain: Domain | Choices) -> pd.Series:
    kind = scale(values, domain)
    if kind == CATEGORY and isinstance(domain, Choices):
        last = len(domain.choices) - 1
        return values.map({choice: place / last for place, choice in enumerate(domain.choices)}).astype("float64")
    low, high = axis_bounds(values, domain)
    if kind == LOG:
        low, high, values = math.log(low), math.log(high), values.where(values > 0).map(math.log)
    return (values.astype("float64") - low) / (high - low)


def rate_curves(frames: RunFrames) -> pd.DataFrame:
    """The learning rates of a search's winner and reference, or of a single training: columns role, epoch (a fraction,
    from 0) and lr."""
    found, steps, rows = roles(frames), frames.spec.train.epochs * _POINTS_PER_EPOCH, []
    compared = found[found.isin([REFERENCE, WINNER])] if frames.kind == SEARCH else found
    for trial, role in zip(compared.index, compared, strict=True):
        with suppress(SpecError):  # a table edited by hand may have a rate that no training has
            train = frames.config(trial).train
            rows += [(role, step / _POINTS_PER_EPOCH, rate_at(train, step, steps)) for step in range(steps)]
    return pd.DataFrame(rows, columns=["role", "epoch", "lr"])


def timeline(frames: RunFrames) -> pd.DataFrame:
    """When each trial ran, and where: columns trial, role, worker, process (`worker 1` is the first), start and end in
    seconds since the first start.

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
    rows = rows.assign(start=rows["start"] - first, end=rows["end"] - first).sort_values("start", ignore_index=True)
    return rows.assign(process=[f"worker {number + 1}" for number in pd.factorize(rows["worker"])[0]])


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
    """Columns run, epochs (trained so far, over all trials) and best (the accuracy of who was the winner by then, in
    [0, 1]): one row per finished trial, in the order of their ends.
    """
    tables = []
    for label, frames in runs.items():
        finished = frames.trials[frames.trials["state"] == FINISHED].sort_values("ended_at")
        ends = np.sort(frames.epochs["ended_at"].to_numpy())
        spent = np.searchsorted(ends, finished["ended_at"].to_numpy(), side="right")
        tables.append(pd.DataFrame({"run": label, "epochs": spent, "best": _winners_so_far(frames, finished)}))
    return pd.concat(tables, ignore_index=True)


def _winners_so_far(frames: RunFrames, finished: pd.DataFrame) -> list[float]:
    """The accuracy of the winner of the first, the first two, ... of these trials."""
    column = accuracy_column(frames)
    last = frames.epochs[frames.epochs["epoch"] == frames.spec.train.epochs].set_index("trial")
    final = finished.set_index("trial")[column]
    best = []
    for count in range(1, len(final) + 1):
        first = final.iloc[:count]
        estimate = estimated(first, last["val_loss"], frames.spec)
        best.append(max(zip(estimate, first, strict=True), default=(math.nan, math.nan))[1])
    return best
