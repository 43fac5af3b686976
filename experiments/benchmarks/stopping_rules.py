"""Which early signal can be trusted, and which rule keeps the winners: from the recorded learning curves.

    python experiments/benchmarks/stopping_rules.py --curves experiments/results/curves --out OUT

prints and writes three tables:

    signals.csv  rank correlation (Spearman) of each signal with the final validation accuracy, per epoch
    rules.csv    each rule replayed over random orders of all configurations: share of all epochs spent, how often the
                 best configuration survives, share of the true top 10% that is kept, regret in percentage points
    noise.csv    standard deviation over seeds of each signal, per epoch (root mean square within configurations)

Intervals are 90% bootstrap intervals over configurations. "Final" is the validation accuracy after the last epoch, of
seed 0; no signal of a run is compared with another run's.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tune_resnet.environment import describe_environment
from tune_resnet.records import write_whole
from tune_resnet.scheduler import Asha, quality
from tune_resnet.spec import SchedulerSpec, rung_epochs

ORDERS = 1000  # random orders of the configurations, per rule
RESAMPLES = 500  # bootstrap samples of the configurations
TOP_SHARE = 0.1


@dataclass(frozen=True)
class Rule:
    """Successive halving on one signal; `factor`: one in so many goes on."""

    signal: str
    rungs: tuple[int, ...]
    factor: float = 2
    margin: float = 0

    def __str__(self) -> str:
        rungs = ", ".join(map(str, self.rungs))
        return f"{self.signal}, rungs {rungs}, 1 in {self.factor:g}" + (f", margin {self.margin:g}" * bool(self.margin))


DEFAULT = SchedulerSpec()
RULES = (
    Rule("val_accuracy", (1, 2, 4)),
    Rule("val_accuracy", (4,)),
    Rule("train_loss", (1, 2)),
    Rule("train_loss", (2,)),
    Rule("train_loss", (2, 3)),
    Rule("train_loss", (2, 3), margin=0.015),
    Rule("train_loss", (2, 3), margin=0.03),
    Rule("train_loss", (3,)),
    Rule("train_loss", (3,), 3),
    Rule(DEFAULT.signal, rung_epochs(DEFAULT, 8), DEFAULT.reduction_factor, DEFAULT.margin),
    Rule("train_loss", (3,), 4, 0.015),
    Rule("train_loss", (3, 6)),
    Rule("train_loss", (4,)),
    Rule("batch_stats_val_loss", (2,)),
    Rule("batch_stats_val_loss", (3,)),
    Rule("ema33_reestimated_val_loss", (3,)),
    Rule("cool_down_val_loss", (2,)),
)


def qualities(curves: pd.DataFrame) -> tuple[dict[str, pd.DataFrame], pd.Series]:
    """Each signal as a table (configuration x epoch), turned so that higher is better; and the final accuracy."""
    full = curves[(curves["total_epochs"] == curves["total_epochs"].max()) & (curves["seed"] == 0)]
    tables = {
        name: full.assign(signal=[quality(name, {name: value}) for value in full[name]]).pivot(
            index="configuration", columns="epoch", values="signal"
        )
        for name in signal_names(curves)
    }
    return tables, tables["val_accuracy"].iloc[:, -1]


def signal_names(curves: pd.DataFrame) -> list[str]:
    return ["train_loss", *(name for name in curves if name.endswith(("val_loss", "val_accuracy")))]


def signal_table(signals: dict[str, pd.DataFrame], final: pd.Series) -> pd.DataFrame:
    """One row per signal and epoch before the last."""
    rng = np.random.default_rng(0)
    samples = rng.integers(len(final), size=(RESAMPLES, len(final)))
    rows = []
    for name, table in signals.items():
        for epoch in table.columns[:-1]:
            both = np.column_stack([table[epoch], final])
            drawn = [spearman(both[sample]) for sample in samples]
            low, high = np.nanquantile(drawn, [0.05, 0.95])
            rows.append({"signal": name, "epoch": epoch, "spearman": spearman(both), "low": low, "high": high})
    return pd.DataFrame(rows)


def spearman(both: np.ndarray) -> float:
    ranks = pd.DataFrame(both).rank()
    return float(ranks[0].corr(ranks[1]))


def replay(rule: Rule, table: pd.DataFrame, order: np.ndarray) -> tuple[int, np.ndarray]:
    """Epochs spent when the configurations (positions in the table) come in this order, and which ones finish."""
    judge, values = Asha(rule.rungs, rule.factor, rule.margin), table.to_numpy()
    epochs, finished = 0, []
    for trial, position in enumerate(order):
        stopped = next((e for e in rule.rungs if judge.should_stop(trial, e, values[position, e - 1])), None)
        epochs += stopped or values.shape[1]
        if stopped is None:
            finished.append(position)
    return epochs, np.array(finished)


def rule_row(rule: Rule, table: pd.DataFrame, final: np.ndarray) -> dict[str, object]:
    """A rule's figures over random orders; intervals over resampled configurations, one order each."""
    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(final)) for _ in range(ORDERS)]
    resampled = [rng.integers(len(final), size=len(final)) for _ in range(RESAMPLES)]
    figures = np.array([_figures(rule, table, final, order) for order in orders]).mean(axis=0)
    low, high = np.quantile([_figures(rule, table, final, order) for order in resampled], [0.05, 0.95], axis=0)
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
        float(final[finished].max() == best),
        kept,
        100 * (best - final[finished].max()),
    )


def noise_table(curves: pd.DataFrame) -> pd.DataFrame:
    """One row per signal and epoch; empty while no configuration has a second seed."""
    full = curves[curves["total_epochs"] == curves["total_epochs"].max()]
    count = full.groupby(["configuration", "epoch"])["seed"].transform("count")
    variances = full[count > 1].groupby(["configuration", "epoch"])[signal_names(curves)].var()
    sd = np.sqrt(variances.groupby("epoch").mean())
    sd["configurations"] = variances.groupby("epoch").size()
    return sd.reset_index()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", type=Path, required=True, help="folder with curves.parquet")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables")
    options = parser.parse_args()
    curves = pd.read_parquet(options.curves / "curves.parquet")
    signals, final = qualities(curves)
    ruled = [rule_row(rule, signals[rule.signal], final.to_numpy()) for rule in RULES]
    tables = {"signals": signal_table(signals, final), "rules": pd.DataFrame(ruled), "noise": noise_table(curves)}
    options.out.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        write_whole(options.out / f"{name}.csv", table.to_csv(index=False, float_format="%.5g"))
        print(f"\n{name}: {len(final)} configurations\n{table.round(3).to_string(index=False)}")
    env = describe_environment() | {
        "command": " ".join(["python experiments/benchmarks/stopping_rules.py", *sys.argv[1:]])
    }
    write_whole(options.out / "env.json", json.dumps(env, indent=2) + "\n")


if __name__ == "__main__":
    main()
