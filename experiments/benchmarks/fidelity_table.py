"""What each early signal is worth, what it costs, and what rules built on it keep: from the recorded learning curves.

    python experiments/benchmarks/fidelity_table.py \\
        --curves experiments/results/curves/curves.parquet --out experiments/results/fidelity

prints and writes four tables:

    fidelity.csv  `tune_resnet.analysis.fidelity` of each signal of the runs with seed 0, at each epoch before the last;
                  `cycle_val_accuracy` is the final accuracy of complete runs of so many epochs
    rules.csv     stopping rules replayed over random orders of all configurations: share of all epochs spent, how often
                  the best configuration survives, share of the true top 10% that is kept, regret in percentage points
    noise.csv     standard deviation over seeds of each signal at each epoch, mean over the configurations that have
                  several; at the last epoch, val_accuracy is the final quality
    cost.csv      seconds of each family of signals per second of training, median over all recorded epochs

The final quality is the validation accuracy after the last epoch, a mean over seeds where there are several. A
configuration that failed with any of them has none: it ranks last.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from stopping_rules import Rule, qualities, replay, signal_names

from tune_resnet.environment import describe_environment
from tune_resnet.errors import UserError
from tune_resnet.fidelity import fidelity, signs, true_top
from tune_resnet.records import write_whole
from tune_resnet.text import one_line

ORDERS = 2000  # random orders of the configurations, the same ones for every rule
CYCLE = "cycle_val_accuracy"
RULES = {
    "none": Rule("val_accuracy", ()),
    **{
        str(rule): rule
        for rule in (
            Rule("val_accuracy", (1, 2, 4)),
            Rule("val_accuracy", (4,)),
            Rule("train_loss", (1, 2)),
            Rule("train_loss", (1, 2, 4)),
            Rule("ema33_val_loss", (1, 2)),
            Rule("cool_down_val_loss", (2,)),
        )
    },
}


def full_length(curves: pd.DataFrame) -> pd.DataFrame:
    """The rows of runs of the longest cycle, all seeds."""
    return curves[curves["total_epochs"] == curves["total_epochs"].max()]


def final_quality(curves: pd.DataFrame) -> pd.Series:
    """Final quality in [0, 1] of each configuration, a mean over its seeds; NaN where one of them failed."""
    full = full_length(curves)
    last = full["val_accuracy"].where(full["epoch"] == full["total_epochs"])
    by_seed = last.groupby([full["configuration"], full["seed"]]).max()  # of one value, or of none: NaN
    return by_seed.groupby("configuration").agg(lambda accuracies: accuracies.mean(skipna=False))


def signal_fidelity(curves: pd.DataFrame, final: pd.Series) -> pd.DataFrame:
    """`fidelity` of the signals seen in full runs, then of the ends of complete short runs."""
    full = full_length(curves)
    early = full[(full["seed"] == 0) & (full["epoch"] < full["total_epochs"])].rename(columns={"configuration": "run"})
    return pd.concat(
        [fidelity(early, final, signs(signal_names(curves))), *_cycle_fidelity(curves, final)], ignore_index=True
    )


def _cycle_fidelity(curves: pd.DataFrame, final: pd.Series) -> Iterator[pd.DataFrame]:
    short = curves[(curves["total_epochs"] < curves["total_epochs"].max()) & (curves["seed"] == 0)]
    for cycle, runs in short.groupby("total_epochs"):
        ends = runs[runs["epoch"] == cycle].rename(columns={"configuration": "run", "val_accuracy": CYCLE})
        # Not every configuration has short runs: one that was never tried must not rank as one that failed.
        yield fidelity(ends, final[final.index.isin(runs["configuration"])], {CYCLE: 1})


def rule_row(name: str, rule: Rule, table: pd.DataFrame, final: pd.Series) -> dict[str, object]:
    """A rule's mean figures over random orders; `table`: its signal (configuration x epoch), higher is better."""
    rng = np.random.default_rng(0)
    quality = np.nan_to_num(final)
    top = true_top(final.to_numpy(), np.ones((1, len(final)), dtype="int64"))[0]
    figures = []
    for _ in range(ORDERS):
        epochs, finished = replay(rule, table, rng.permutation(len(final)))
        finished = finished.astype("int64")  # where all were stopped, it is an empty array of floats
        regret = quality.max() - quality[finished].max(initial=0)
        figures.append((epochs / table.size, regret == 0, top[finished].sum() / top.sum(), 100 * regret))
    means = np.mean(figures, axis=0)
    return {"rule": name, **dict(zip(("epochs_share", "best_survives", "top_kept", "regret"), means, strict=True))}


def rules_table(curves: pd.DataFrame, final: pd.Series, noise: pd.DataFrame) -> pd.DataFrame:
    """One row per rule, and one with a margin of the signal's noise, mean over the rungs, where that is known."""
    tables, _ = qualities(curves)
    rules = dict(RULES)
    for rule in RULES.values():
        margin = float(noise.reindex(rule.rungs)[rule.signal].mean())
        if margin > 0:  # NaN: no rungs, or no seeds
            patient = replace(rule, margin=round(margin, 4))
            rules[str(patient)] = patient
    return pd.DataFrame([rule_row(name, rule, tables[rule.signal], final) for name, rule in rules.items()])


def noise_table(curves: pd.DataFrame) -> pd.DataFrame:
    """One row per epoch, which is the index; no rows while no configuration has a second seed."""
    deviations = full_length(curves).groupby(["configuration", "epoch"])[signal_names(curves)].std().dropna(how="all")
    by_epoch = deviations.groupby("epoch")
    return by_epoch.mean().assign(configurations=by_epoch.size())


def cost_table(curves: pd.DataFrame) -> pd.DataFrame:
    """One row per family of signals. The median, because a pause within one epoch would outweigh all others."""
    seconds = curves.filter(regex="^seconds_").rename(columns=lambda name: name.removeprefix("seconds_"))
    shares = seconds.div(seconds.pop("train"), axis="index").median()
    return shares.rename("share_of_training").rename_axis("family").reset_index()


def all_tables(curves: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Name of each table -> the table, as the module's description has them."""
    final, noise = final_quality(curves), noise_table(curves)
    return {
        "fidelity": signal_fidelity(curves, final),
        "rules": rules_table(curves, final, noise),
        "noise": noise.reset_index(),
        "cost": cost_table(curves),
    }


def main() -> None:
    options = _options()
    try:
        curves = _read(options.curves)
    except UserError as error:
        sys.exit(f"error: {error}")
    options.out.mkdir(parents=True, exist_ok=True)
    for name, table in all_tables(curves).items():
        write_whole(options.out / f"{name}.csv", table.to_csv(index=False, float_format="%.5g"))
        print(f"\n{name}\n{table.round(3).to_string(index=False)}")
    command = " ".join(["python experiments/benchmarks/fidelity_table.py", *sys.argv[1:]])
    env = describe_environment() | {"command": command}
    write_whole(options.out / "env.json", json.dumps(env, indent=2) + "\n")


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise UserError(f"cannot read {path}: {one_line(error)}") from None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", type=Path, required=True, help="curves.parquet, as curves.py leaves it")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables")
    return parser.parse_args()


if __name__ == "__main__":
    main()
