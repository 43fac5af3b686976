"""What each early signal is worth, what it costs, and what rules built on it keep: from the recorded learning curves.

    python -m experiments.benchmarks.early_stopping.fidelity_table \\
        --curves experiments/results/curves/curves.parquet --out experiments/results/fidelity

prints and writes four tables:

    fidelity.csv  `tune_resnet.analysis.fidelity` of each signal of the runs with seed 0, at each epoch before the last;
                  `cycle_val_accuracy` is the final accuracy of complete runs of so many epochs
    rules.csv     stopping rules replayed over random orders of all configurations: share of all epochs spent, how often
                  the best configuration survives, share of the true top 10% that is kept, regret in percentage points;
                  90% bootstrap intervals over configurations
    noise.csv     standard deviation over seeds of each signal at each epoch, with and without what a seed does to all
                  configurations alike; at the last epoch, val_accuracy is the final quality
    cost.csv      seconds of each family of signals per second of training, median over all recorded epochs

The final quality is the validation accuracy after the last epoch, a mean over seeds where there are several. A
configuration that failed with any of them has none: it ranks last.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.benchmarks.early_stopping.recorded import environment, write_environment
from experiments.benchmarks.early_stopping.stopping_rules import rules_table, signal_names
from tune_resnet._files import write_whole
from tune_resnet._text import one_line
from tune_resnet.errors import UserError
from tune_resnet.results.fidelity import fidelity, signs

CYCLE = "cycle_val_accuracy"


def full_length(curves: pd.DataFrame) -> pd.DataFrame:
    """The rows of runs of the longest cycle, all seeds."""
    return curves[curves["total_epochs"].eq(curves["total_epochs"].max())]


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


def noise_table(curves: pd.DataFrame) -> pd.DataFrame:
    """Standard deviation of each signal over seeds, root mean square over the configurations that have all seeds.

    Two rows per epoch, which is the index: `common` true with all that a seed does; false without what it does to all
    configurations alike, which is what trials of one search, that share a seed, differ by. No rows without seeds.
    """
    full, signals = full_length(curves).set_index(["configuration", "seed", "epoch"]), signal_names(curves)
    seeds = full.index.unique("seed")
    repeated = full[full.groupby(["configuration", "epoch"])["failed"].transform("size") == len(seeds)][signals]
    count = repeated.index.unique("configuration").size
    if len(seeds) < 2 or count < 2:
        return pd.DataFrame()
    deviations = repeated - repeated.groupby(["configuration", "epoch"]).transform("mean")
    apart = deviations - deviations.groupby(["seed", "epoch"]).transform("mean")
    freedom = count * (len(seeds) - 1)  # of the deviations at an epoch; without the common effect, a seed's mean less
    tables = [
        ((values**2).groupby("epoch").sum() / degrees).apply(np.sqrt).assign(common=common, configurations=count)
        for common, values, degrees in ((True, deviations, freedom), (False, apart, freedom - (len(seeds) - 1)))
    ]
    return pd.concat(tables)


def cost_table(curves: pd.DataFrame) -> pd.DataFrame:
    """One row per family of signals. The median, because a pause within one epoch would outweigh all others."""
    seconds = curves.filter(regex="^seconds_").rename(columns=lambda name: name.removeprefix("seconds_"))
    shares = seconds.div(seconds.pop("train"), axis="index").median()
    return shares.rename("share_of_training").rename_axis("family").reset_index()


def all_tables(curves: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Name of each table -> the table, as the module's description has them."""
    final = final_quality(curves)
    return {
        "fidelity": signal_fidelity(curves, final),
        "rules": rules_table(curves, final),
        "noise": noise_table(curves).reset_index(),
        "cost": cost_table(curves),
    }


def main() -> None:
    options, env = _options(), environment()
    try:
        curves = _read(options.curves)
    except UserError as error:
        sys.exit(f"error: {error}")
    options.out.mkdir(parents=True, exist_ok=True)
    for name, table in all_tables(curves).items():
        write_whole(options.out / f"{name}.csv", table.to_csv(index=False, float_format="%.5g"))
        print(f"\n{name}\n{table.round(3).to_string(index=False)}")
    write_environment(options.out, env)


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
