"""How soon searches find a good configuration: thousands of them, replayed on a surrogate of the recorded curves.

    python -m experiments.benchmarks.early_stopping.search_efficiency --out OUT \
        --curves experiments/results/curves/curves.parquet

The searchers and schedulers are the real ones, the time is simulated. CURVES is a table of curves.py or regimes.py;
budgets are of its epochs. Some peers need more packages, see peers.py. Writes

    searches/      every search as it ends, STRATEGY.parquet: run again, only those that are not there are run
    surrogate.csv  the surrogate's own error, cross-validated
    regret.csv     regret of the chosen configuration after so many epochs spent, per strategy and seed
    summary.csv    its mean over seeds, and by how much it is above that of `ours`
    targets.csv    epochs until the regret is at most 0.5 percentage points and stays so
    env.json       versions, machine, command

The tables are of all strategies in searches/ that have all seeds. After a change of a strategy, delete its file there.

Regret is what the true quality of the chosen configuration (the surrogate's accuracy after the last epoch, without seed
noise) lacks to the highest in the space, in percentage points; until a trial has finished, the reference is chosen.
Intervals are 90% bootstrap intervals over seeds.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib import metadata
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.benchmarks.early_stopping.peers import PACKAGES, PEERS
from experiments.benchmarks.early_stopping.recorded import environment, spec_of, write_environment
from experiments.benchmarks.early_stopping.replay import simulate
from experiments.benchmarks.early_stopping.strategies import STRATEGIES, Make, ours
from experiments.benchmarks.early_stopping.surrogate import Surrogate, comparable_runs, cross_validate
from tune_resnet._files import write_whole
from tune_resnet.config.space import Point

TARGET = 0.5  # percentage points of regret
FIRST_BUDGET, BUDGET_STEP = 2, 1  # epochs spent, in those of a whole trial, where regret is written down
BUDGET = 32  # likewise
RESAMPLES = 2000
OURS, RANDOM = "ours", "random"
ALL = (*ours(()), *STRATEGIES, *PEERS)
SAME_IMAGES = {"gtsrb-tracks": "wide-gtsrb", "cifar10-5000": "wide"}  # regime of real searches -> table
POINTS = Path(__file__).parents[2] / "results/points/points.json"  # made by points.py


def epochs_to_target(regret: np.ndarray) -> float:
    """The first number of epochs spent from which on the regret stays at or below the target; infinite: never.

    Args:
        regret: percentage points after 1, 2, ... epochs.
    """
    above = np.flatnonzero(regret > TARGET)
    last = above[-1] + 1 if len(above) else 0
    return np.inf if last == len(regret) else last + 1


def searches(
    names: list[str], seeds: int, processes: int | None, folder: Path, settings: Mapping[str, Any], surrogate: Surrogate
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Runs the searches that `folder` lacks, each kept there as it ends.

    Args:
        settings: `curves`, the table; `epochs`, the budget; `workers`, of a search.

    Yields:
        Each strategy with a table that has a row for each seed, with the settings, and see `_search`.
    """
    table = Path(settings["curves"]).parent.name
    strategies = ours(points_chosen_without(table)) | STRATEGIES | PEERS
    search = functools.partial(
        _search, strategies=strategies, surrogate=surrogate, budget=settings["epochs"], workers=settings["workers"]
    )
    tables = {name: _stored(folder / f"{name}.parquet", settings) for name in names}
    missing = {name: [seed for seed in range(seeds) if seed not in set(tables[name]["seed"])] for name in names}
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_start_worker) as pool:
        rows = {name: pool.map(search, repeat(name), missing[name]) for name in names}
        for name in names:
            for row in rows[name]:
                tables[name] = pd.concat([tables[name], pd.DataFrame([{**settings, **row}])], ignore_index=True)
                tables[name].to_parquet(folder / f"{name}.parquet.new")
                (folder / f"{name}.parquet.new").replace(folder / f"{name}.parquet")
            yield name, tables[name]


def _stored(file: Path, settings: Mapping[str, Any]) -> pd.DataFrame:
    if not file.exists():
        return pd.DataFrame(columns=["seed"])
    table = pd.read_parquet(file)
    if (table[list(settings)] != pd.Series(settings)).any(axis=None):
        raise SystemExit(f"{file} was made with another table, budget or number of workers: choose another --out")
    return table


def _start_worker() -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")


def points_chosen_without(table: str) -> tuple[Point, ...]:
    """What our search tries first where it is judged on a table, or a regime: what did well on other images, with what
    the default points have beside it. Each single set of images could be left out of these choices (FINDING)."""
    chosen = json.loads(POINTS.read_text())
    first, *others = (
        {**point, "schedule": "linear"} for point in chosen.get(SAME_IMAGES.get(table, table), chosen["all"])
    )
    return {**first, "batch_size": "x0.25"}, first, *others


def _search(
    name: str, seed: int, strategies: Mapping[str, Make], surrogate: Surrogate, budget: int, workers: int
) -> dict[str, Any]:
    started = time.perf_counter()
    spec = replace(surrogate.spec, train=replace(surrogate.spec.train, seed=seed))
    history = simulate(strategies[name](spec), surrogate, seed, budget, workers)
    seconds = time.perf_counter() - started
    counts = {"trials": history.started, "finished": len(history.finished)}
    return {"seed": seed, **counts, "seconds": seconds, "regret": history.regret}


def bootstrap(values: np.ndarray, statistic: Callable[[np.ndarray], Any]) -> tuple[Any, ...]:
    """90% interval of a statistic of the mean over seeds, which are the rows of `values`."""
    rng = np.random.default_rng(0)
    drawn = [statistic(values[rng.integers(len(values), size=len(values))].mean(axis=0)) for _ in range(RESAMPLES)]
    return tuple(np.quantile(drawn, [0.05, 0.95], axis=0, method="inverted_cdf"))  # infinities cannot be interpolated


def summary(curves: Mapping[str, np.ndarray], budgets: np.ndarray) -> pd.DataFrame:
    """One row per strategy and budget.

    Args:
        curves: strategy -> regret, (seeds, epochs spent).
        budgets: epochs spent.

    Returns:
        Mean `regret` over seeds with its interval; `above_ours`, the same seeds' mean difference to `ours`, if it is
        there, with its interval: above zero where ours is better.
    """
    tables = []
    for name, every in curves.items():
        regret = every[:, budgets - 1]
        table = pd.DataFrame({"strategy": name, "epochs": budgets, "regret": regret.mean(axis=0)})
        table["low"], table["high"] = bootstrap(regret, np.asarray)
        if OURS in curves:
            above = regret - curves[OURS][:, budgets - 1]
            table["above_ours"] = above.mean(axis=0)
            table["above_ours_low"], table["above_ours_high"] = bootstrap(above, np.asarray)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def targets(curves: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """One row per strategy: epochs to the target.

    Returns:
        `epochs`, when the mean regret over seeds reaches it, with its interval, infinite where it does not;
        `of_random`, that as a share of random search's, or of the budget where that does not reach it either;
        `mean_epochs`, the mean over seeds of when each reaches it, with its interval, those that do not counted at the
        end; `reached`, the share of seeds that do.
    """
    rows = []
    for name, every in curves.items():
        low, high = bootstrap(every, epochs_to_target)
        each = np.array([epochs_to_target(regret) for regret in every])
        counted = np.minimum(each, every.shape[1])
        row = {"strategy": name, "epochs": epochs_to_target(every.mean(axis=0)), "low": low, "high": high}
        mean_low, mean_high = bootstrap(counted, float)
        row |= {"mean_epochs": counted.mean(), "mean_low": mean_low, "mean_high": mean_high}
        rows.append(row | {"reached": np.isfinite(each).mean()})
    table = pd.DataFrame(rows)
    if RANDOM in curves:
        random = curves[RANDOM].mean(axis=0)
        table.insert(2, "of_random", table["epochs"] / min(epochs_to_target(random), len(random)))
    return table


def main() -> None:
    options = _options()
    env = _environment()  # before the results, which may take a day
    os.environ["OMP_NUM_THREADS"] = "1"  # of each process: matrices are small, and the processes share the cores
    runs, spec = comparable_runs(pd.read_parquet(options.curves)), spec_of(options.curves)
    tables = {"surrogate": cross_validate(runs, spec)}
    print(tables["surrogate"].round(4).to_string(index=False), flush=True)
    surrogate = Surrogate(runs, spec)
    print(f"optimum {surrogate.optimum:.4f}, reference {surrogate.quality(spec.reference):.4f}", flush=True)
    budget = options.epochs or BUDGET * surrogate.epochs
    settings = {"curves": options.curves.as_posix(), "epochs": budget, "workers": options.workers}
    folder = options.out / "searches"
    for name, table in searches(options.strategies, options.seeds, options.processes, folder, settings, surrogate):
        means = table[["trials", "finished", "seconds"]].mean()
        print(f"{name}, a search:", *(f"{mean:.1f} {what}" for what, mean in means.items()), flush=True)
    curves = regrets(folder, options.seeds)
    budgets = np.arange(FIRST_BUDGET * surrogate.epochs, budget + 1, BUDGET_STEP * surrogate.epochs)
    tables |= {"regret": _long(curves, budgets), "summary": summary(curves, budgets), "targets": targets(curves)}
    _write(tables, env, options.out)
    wide = tables["summary"].pivot(index="epochs", columns="strategy", values="regret")
    print(f"\nmean regret\n{wide.round(2).to_string()}")
    print(f"\nregret of at most {TARGET} percentage points\n{tables['targets'].round(2).to_string(index=False)}")


def _long(curves: Mapping[str, np.ndarray], budgets: np.ndarray) -> pd.DataFrame:
    index = pd.MultiIndex.from_product([curves, range(len(next(iter(curves.values())))), budgets])
    regret = np.concatenate([every[:, budgets - 1].ravel() for every in curves.values()])
    return pd.DataFrame({"regret": regret}, index.set_names(["strategy", "seed", "epochs"])).reset_index()


def regrets(folder: Path, seeds: int) -> dict[str, np.ndarray]:
    """Of each strategy that has all seeds, the regret, (seeds, epochs spent)."""
    files = {name: folder / f"{name}.parquet" for name in ALL}
    tables = {name: pd.read_parquet(file).sort_values("seed") for name, file in files.items() if file.exists()}
    return {name: np.stack(table["regret"][:seeds].to_list()) for name, table in tables.items() if len(table) >= seeds}


def _write(tables: Mapping[str, pd.DataFrame], env: Mapping[str, Any], out: Path) -> None:
    for name, table in tables.items():
        write_whole(out / f"{name}.csv", table.to_csv(index=False, float_format="%.5g"))
    write_environment(out, env)


def _environment() -> dict[str, Any]:
    env = environment()
    installed = {package.name.replace("_", "-") for package in metadata.distributions()}
    env["versions"] |= {name: metadata.version(name) for name in PACKAGES if name in installed}
    return env


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", type=Path, required=True, help="curves.parquet")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables")
    parser.add_argument("--seeds", type=int, default=100, help="searches of each strategy")
    parser.add_argument(
        "--epochs", type=int, help=f"budget of a search, over all its trials; default: that of {BUDGET} whole ones"
    )
    parser.add_argument("--workers", type=int, default=2, help="trials that a search runs at once")
    parser.add_argument("--processes", type=int, help="searches at once; default: as many as cores")
    listed = f"any of {', '.join(ALL)}; default: all but {', '.join(PEERS)}, which need more packages"
    default = [name for name in ALL if name not in PEERS]
    parser.add_argument("--strategies", nargs="+", choices=ALL, default=default, metavar="NAME", help=listed)
    return parser.parse_args()


if __name__ == "__main__":
    main()
