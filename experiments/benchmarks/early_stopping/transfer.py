"""Where the default rule and the choice of the winner hold, and where they fail: a row for each recorded table.

    python -m experiments.benchmarks.early_stopping.transfer --out experiments/results/transfer \\
        --curves experiments/results/curves/curves.parquet experiments/results/regimes/*/curves.parquet

Writes

    stopping.csv  a rule on a table, over random searches of `trials` of its configurations: share of epochs spent, how
                  often the best of them survives, share of their true top 10% kept, regret in percentage points; 90%
                  intervals over resampled configurations. `spearman`: rank correlation of what the rule judges by at
                  its last rung with the final validation accuracy, over all configurations
    choice.csv    for tables with images that neither trained nor judged: percentage points over the reference on those,
                  of the winner as `estimate`, `accuracy` or `loss` chooses it, and of the `best` that has finished;
                  means over replayed searches of 28 configurations with seed 0, 90% intervals over resampled
                  configurations
    env.json      versions, machine, command
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd

from experiments.benchmarks.early_stopping.fidelity_table import final_quality
from experiments.benchmarks.early_stopping.recorded import environment, options_of, tables, write_environment
from experiments.benchmarks.early_stopping.stopping_rules import RAYS_ASHA, Rule, qualities, replay, rule_of, rule_row
from tune_resnet._files import write_whole
from tune_resnet.config.sections import SchedulerSpec
from tune_resnet.hpo.estimate import estimated_accuracy

DEFAULT = SchedulerSpec()
TRIALS = (12, 32)  # of a search: README's, and the default
SEARCH = 28  # configurations, the reference among them: a search of 32 trials has few more before its winner is found
SEARCHES = 300
RESAMPLES, OF_EACH = 200, 20  # of the configurations, and searches among each


def rules(epochs: int) -> dict[str, Rule]:
    """The default, and the two usual ones, for trials of so many epochs."""
    usual = tuple(sorted({max(1, epochs // 8), epochs // 4, epochs // 2}))
    return {
        "default": rule_of(DEFAULT, epochs),
        "ray": rule_of(RAYS_ASHA, epochs),
        "usual": Rule("val_accuracy", usual),
        "none": Rule("val_accuracy", ()),
    }


def stopping(name: str, curves: pd.DataFrame) -> pd.DataFrame:
    """A row per rule and number of trials on one table."""
    tables, final = qualities(curves), final_quality(curves)
    rows = []
    for (label, rule), trials in product(rules(int(curves["total_epochs"].max())).items(), TRIALS):
        row = rule_row(rule, tables[rule.signal], np.nan_to_num(final), trials)
        judged = tables[rule.signal][rule.rungs[-1]] if rule.rungs else None
        spearman = np.nan if judged is None else judged.corr(final, method="spearman")
        about = {"table": name, "rule": label, "rungs": " ".join(map(str, rule.rungs)), "trials": trials}
        rows.append({**about, "spearman": spearman, **{key: value for key, value in row.items() if key != "rule"}})
    return pd.DataFrame(rows)


def choice(name: str, curves: pd.DataFrame) -> pd.DataFrame:
    """A row per way to choose the winner on one table; none where there are no images to check it on."""
    whole = curves[curves["total_epochs"] == curves["total_epochs"].max()]
    last = whole[whole["epoch"] == whole["total_epochs"]]
    if "unused_accuracy" not in last:
        return pd.DataFrame()
    truth = 100 * last.groupby("configuration")["unused_accuracy"].mean()
    measured = last[last["seed"] == 0].set_index("configuration")
    table = qualities(curves)[DEFAULT.signal]
    rule, rng = rules(table.shape[1])["default"], np.random.default_rng(0)

    def mean_gains(configurations: np.ndarray, searches: int) -> pd.Series:
        """Of searches among these configurations, the reference in each."""
        drawn = (np.array([0, *rng.choice(configurations, SEARCH - 1, replace=False)]) for _ in range(searches))
        return pd.DataFrame([_gains(replay(rule, table, order)[1], table, measured, truth) for order in drawn]).mean()

    others = np.arange(1, len(table))
    gains = mean_gains(others, SEARCHES)
    resampled = [mean_gains(rng.choice(others, len(others)), OF_EACH) for _ in range(RESAMPLES)]
    low, high = np.quantile(resampled, [0.05, 0.95], axis=0)
    return pd.DataFrame({"table": name, "by": gains.index, "gain": gains.to_numpy(), "low": low, "high": high})


def _gains(finished: np.ndarray, table: pd.DataFrame, measured: pd.DataFrame, truth: pd.Series) -> dict[str, float]:
    """Percentage points over the reference of what each way chooses among these positions in the table."""
    among = measured.loc[table.index[np.union1d(finished, [0])]].dropna(subset=["val_loss"])
    accuracy, loss = among["val_accuracy"].to_numpy(), among["val_loss"].to_numpy()
    estimate = estimated_accuracy(accuracy, loss)
    ways = {"estimate": estimate, "accuracy": accuracy, "loss": -loss, "best": truth[among.index].to_numpy()}
    return {way: truth[among.index[int(by.argmax())]] - truth[0] for way, by in ways.items()}


def main() -> None:
    options, env = options_of(__doc__), environment()
    every = tables(options.curves)
    found = {
        "stopping": pd.concat([stopping(name, curves) for name, curves in every.items()]),
        "choice": pd.concat([choice(name, curves) for name, curves in every.items()]),
    }
    for name, table in found.items():
        print(table.round(3).to_string(index=False), "\n")
        write_whole(options.out / f"{name}.csv", table.to_csv(index=False, float_format="%.4f"))
    write_environment(options.out, env)


if __name__ == "__main__":
    main()
