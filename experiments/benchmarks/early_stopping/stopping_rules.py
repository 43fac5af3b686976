"""Stopping rules replayed on recorded learning curves, over random orders of all configurations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from tune_resnet.config.sections import SchedulerSpec
from tune_resnet.hpo.stopping import Asha, Signal, rung_epochs

ORDERS = 1000  # random orders of the configurations, per rule
RESAMPLES, OF_EACH = 500, 20  # bootstrap samples of the configurations, and searches of some of them from each
TOP_SHARE = 0.1


@dataclass(frozen=True)
class Rule:
    """Successive halving on one signal; `factor`: one in so many goes on."""

    signal: str
    rungs: tuple[int, ...]
    factor: float = 2
    margin: float = 0

    def __str__(self) -> str:
        if not self.rungs:
            return "none"
        rungs = ", ".join(map(str, self.rungs))
        return f"{self.signal}, rungs {rungs}, 1 in {self.factor:g}" + (f", margin {self.margin:g}" * bool(self.margin))


def rule_of(scheduler: SchedulerSpec, epochs: int) -> Rule:
    """What a spec's scheduler does with trials of so many epochs."""
    return Rule(scheduler.signal, rung_epochs(scheduler, epochs), scheduler.reduction_factor, scheduler.margin)


DEFAULT = SchedulerSpec()
RAYS_ASHA = SchedulerSpec(signal="val_accuracy", grace_epochs=1, reduction_factor=4, margin=0)  # Ray Tune's defaults
RULES = (
    Rule("val_accuracy", ()),  # stops nothing
    Rule("val_accuracy", (1, 2, 4)),  # the usual
    Rule("val_accuracy", (4,)),
    Rule("train_loss", (1, 2)),
    Rule("train_loss", (2,)),
    Rule("train_loss", (2, 3)),
    Rule("train_loss", (3,)),
    Rule("train_loss", (3,), 3),
    Rule("train_loss", (3,), 4, DEFAULT.margin),
    rule_of(DEFAULT, 8),
    Rule("train_loss", (3, 6)),
    Rule("train_loss", (4,)),
    Rule("batch_stats_val_loss", (2,)),
    Rule("batch_stats_val_loss", (3,)),
    Rule("ema33_val_accuracy", (1, 2)),
    Rule("ema33_reestimated_val_loss", (3,)),
    Rule("cool_down_val_loss", (2,)),
)


def qualities(curves: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What each signal of the full runs with seed 0 is worth, as a table (configuration x epoch): higher is better."""
    full = curves[(curves["total_epochs"] == curves["total_epochs"].max()) & (curves["seed"] == 0)]
    full = full.sort_values(["configuration", "epoch"])
    rows, found = full.to_dict("records"), {}
    for name in signal_names(curves):
        signal = Signal(name)
        judged = full.assign(quality=[signal.quality(row["configuration"], row) for row in rows])
        found[name] = judged.pivot(index="configuration", columns="epoch", values="quality")
    return found


def signal_names(curves: pd.DataFrame) -> list[str]:
    return ["train_loss", *(name for name in map(str, curves) if name.endswith(("val_loss", "val_accuracy")))]


def replay(rule: Rule, table: pd.DataFrame, order: np.ndarray) -> tuple[int, np.ndarray]:
    """Epochs spent when the configurations (positions in the table) come in this order, and which ones finish."""
    judge, values = Asha(rule.rungs, rule.factor, rule.margin), table.to_numpy()
    rungs = [rung for rung in rule.rungs if rung < values.shape[1]]
    epochs, finished = 0, []
    for trial, position in enumerate(order):
        stopped = next((e for e in rungs if judge.should_stop(trial, e, values[position, e - 1])), None)
        epochs += stopped or values.shape[1]
        if stopped is None:
            finished.append(position)
    return epochs, np.array(finished, dtype="int64")


def rules_table(curves: pd.DataFrame, final: pd.Series) -> pd.DataFrame:
    """One row per rule; `final`: quality of each configuration in [0, 1], NaN where it failed."""
    tables = qualities(curves)
    return pd.DataFrame([rule_row(rule, tables[rule.signal], np.nan_to_num(final)) for rule in RULES])


def rule_row(rule: Rule, table: pd.DataFrame, final: np.ndarray, size: int | None = None) -> dict[str, object]:
    """A rule's figures over random orders of all configurations, or over random searches of `size` of them; intervals
    over resampled configurations, one order each, or some searches each."""
    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(final))[:size] for _ in range(ORDERS)]
    resampled = [rng.integers(len(final), size=len(final)) for _ in range(RESAMPLES)]
    searches = [[rng.permutation(drawn)[:size] for _ in range(OF_EACH)] if size else [drawn] for drawn in resampled]
    figures, *means = (
        np.mean([_figures(rule, table, final, order) for order in of], axis=0) for of in (orders, *searches)
    )
    low, high = np.quantile(means, [0.05, 0.95], axis=0)
    names = ("epochs_share", "best_survives", "top_kept", "regret")
    row: dict[str, object] = {"rule": str(rule)}
    for name, value, least, most in zip(names, figures, low, high, strict=True):
        row |= {name: value, f"{name}_low": least, f"{name}_high": most}
    return row


def _figures(rule: Rule, table: pd.DataFrame, final: np.ndarray, order: np.ndarray) -> tuple[float, ...]:
    epochs, finished = replay(rule, table, order)
    present = final[order]
    bar = np.sort(present)[-max(1, round(TOP_SHARE * len(present)))]
    kept = (final[finished] >= bar).sum() / (present >= bar).sum()
    best = present.max()
    return (
        epochs / (len(order) * table.shape[1]),
        float(final[finished].max(initial=0) == best),
        kept,
        100 * (best - final[finished].max(initial=0)),
    )
