"""How well early signals tell the end: rank correlation, winners kept and regret, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tune_resnet.config.sections import SIGNALS, VAL_ACCURACY
from tune_resnet.runs.load import RunFrames, accuracy_column
from tune_resnet.runs.tables import FINISHED

TOP_SHARE = 0.1  # of the runs: what stopping should keep
MIN_FOR_FIDELITY = 4  # finished trials
INTERVAL = (0.05, 0.95)  # quantiles over bootstrap samples

FIDELITY_DTYPES = {
    "signal": "str",
    "epoch": "int64",
    "n": "int64",  # runs judged, failed ones included
    "spearman": "float64",  # with the final quality; NaN where one of them does not vary
    "spearman_low": "float64",
    "spearman_high": "float64",
    "top_kept": "float64",  # share of the true top 10% in the signal's better half; NaN where every run failed
    "top_kept_low": "float64",
    "top_kept_high": "float64",
    "regret": "float64",  # percentage points from the best run to the best in the signal's better half
    "regret_low": "float64",
    "regret_high": "float64",
}

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]  # (samples, runs): how often each run was drawn


def signs(signals: Iterable[str]) -> dict[str, int]:
    """For each column of signals, 1 where higher is better, -1 for a loss."""
    return {name: -1 if name.endswith("loss") else 1 for name in signals}


def fidelity(
    signals: pd.DataFrame, final: pd.Series, columns: Mapping[str, int], samples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """How far each signal could have been trusted at each epoch.

    The better half is what successive halving would let through, as `stopping.Asha` does with one in two: a run is
    stopped if at least half of all runs, rounded up, are strictly better, so that equals go on together and a signal
    that does not vary stops nothing. The true top are the best 10%, rounded, at least one, and whatever equals them.

    Nothing is dropped for being unknown. A run whose signal is missing or not finite ranks last and is stopped, but
    counts among all. A final quality of NaN (a failed run) ranks last, is never among the top, and counts as 0 in the
    regret.

    Args:
        signals: columns `run`, `epoch` and the signals; one row per run and epoch, fewer for a run that failed.
        final: final quality in [0, 1], indexed by `run`. It decides which runs are judged.
        columns: the signals to judge; 1 where higher is better, -1 where lower is.
        samples: bootstrap samples, of as many runs as there are, drawn with replacement; the same for every row.
        seed: of these samples.

    Returns:
        Columns as in `FIDELITY_DTYPES`, one row per signal and epoch; no rows without runs. `*_low` and `*_high` are
        the 5% and 95% quantiles over the samples (percentile bootstrap; Efron and Tibshirani, "An Introduction to the
        Bootstrap", 1993, chapter 13), without those in which the figure is not defined.
    """
    rows = []
    if len(final):
        counts, quality = _drawn(len(final), samples, seed), final.to_numpy("float64")
        for name, sign in columns.items():
            for epoch, values in signals.pivot(index="epoch", columns="run", values=name).iterrows():
                signal = sign * values.reindex(final.index).to_numpy("float64")
                figures = _with_intervals(_figures(signal, quality, counts))
                rows.append({"signal": name, "epoch": epoch, "n": len(final), **figures})
    return pd.DataFrame(rows, columns=list(FIDELITY_DTYPES)).astype(FIDELITY_DTYPES)


def run_fidelity(frames: RunFrames) -> pd.DataFrame:
    """`fidelity` of a search's own signals, over its finished trials, at every epoch before the last.

    It sees only the trials that were let through to the end. Where early stopping was on, the bad ones are missing
    among them, so it understates how well the signal that stopped them tells good trials from bad ones. Fewer than
    four finished trials say nothing: no rows.
    """
    trials, epochs = frames.trials, frames.epochs
    final = trials[trials["state"] == FINISHED].set_index("trial")[accuracy_column(frames)]
    if len(final) < MIN_FOR_FIDELITY:
        final = final.iloc[:0]
    early = epochs[epochs["epoch"] < frames.spec.train.epochs]
    signals = [frames.spec.search.column("val") if name == VAL_ACCURACY else name for name in SIGNALS]
    return fidelity(early.rename(columns={"trial": "run"}), final, signs(signals))


def true_top(final: Floats, counts: Counts) -> NDArray[np.bool_]:
    """Which runs are among the best of each sample; `counts` and the result: (samples, runs)."""
    _, better = _worse_and_better(final, counts)
    return (better < max(1, round(TOP_SHARE * len(final)))) & np.isfinite(final)


def _drawn(runs: int, samples: int, seed: int) -> Counts:
    """The runs themselves, each once, and below them the bootstrap samples."""
    rng = np.random.default_rng(seed)
    return np.vstack([np.ones(runs, dtype="int64"), rng.multinomial(runs, np.full(runs, 1 / runs), size=samples)])


def _figures(signal: Floats, final: Floats, counts: Counts) -> dict[str, Floats]:
    """The three figures in every sample, each (samples,); `signal` and `final`: (runs,), higher is better."""
    worse, better = _worse_and_better(signal, counts)
    final_worse, final_better = _worse_and_better(final, counts)
    goes_on = (better < np.ceil(len(final) / 2)) & np.isfinite(signal)
    top = true_top(final, counts)
    quality = np.nan_to_num(final) * (counts > 0)
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: not defined
        kept = (counts * (top & goes_on)).sum(axis=1) / (counts * top).sum(axis=1)
    return {
        "spearman": _correlation(worse - better, final_worse - final_better, counts),
        "top_kept": kept,
        "regret": 100 * (quality.max(axis=1) - (quality * goes_on).max(axis=1)),
    }


def _worse_and_better(values: Floats, counts: Counts) -> tuple[Counts, Counts]:
    """How many runs of each sample are strictly worse and strictly better than each run; both (samples, runs).

    What is not finite is worse than everything else. Counting within samples, without building them, takes one sort in
    all; and worse - better is twice the averaged rank, less its mean.
    """
    _, place = np.unique(np.where(np.isfinite(values), values, -np.inf), return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(place.max() + 1))
    equal = np.add.reduceat(counts[:, order], starts, axis=1)  # (samples, distinct values)
    up_to = equal.cumsum(axis=1)
    return (up_to - equal)[:, place], (up_to[:, -1:] - up_to)[:, place]


def _correlation(first: Counts, second: Counts, counts: Counts) -> Floats:
    """Pearson's coefficient within each sample, of what has mean 0 there; of averaged ranks it is Spearman's."""
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: one of them does not vary
        products = [(counts * a * b).sum(axis=1) for a, b in ((first, second), (first, first), (second, second))]
        both, first_alone, second_alone = (total.astype("float64") for total in products)  # whose product may overflow
        correlation: Floats = both / np.sqrt(first_alone * second_alone)
    return correlation


def _with_intervals(figures: Mapping[str, Floats]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, values in figures.items():
        low, high = pd.Series(values[1:]).quantile(list(INTERVAL))  # skips NaN
        found |= {name: float(values[0]), f"{name}_low": low, f"{name}_high": high}
    return found
