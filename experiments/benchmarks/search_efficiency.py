"""How soon searches find a good configuration: thousands of them, replayed on a surrogate of the recorded curves.

    python experiments/benchmarks/search_efficiency.py --curves experiments/results/curves/curves.parquet --out OUT

The searchers and schedulers are the real ones, the time is simulated. Writes

    surrogate.csv  the surrogate's own error, cross-validated
    regret.csv     regret of the chosen configuration after so many epochs spent, per strategy and seed
    summary.csv    its mean over seeds, and by how much it is above that of `ours`
    targets.csv    epochs until the regret is at most 0.5 percentage points and stays so
    env.json       versions, machine, command

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
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import count, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from strategies import STRATEGIES, Configuration, Finished, Strategy
from surrogate import Surrogate, comparable_runs, cross_validate

from tune_resnet.environment import describe_environment
from tune_resnet.records import write_whole
from tune_resnet.spec import SearchSpec

TARGET = 0.5  # percentage points of regret
FIRST_BUDGET, BUDGET_STEP = 16, 8  # epochs spent, where regret is written down
RESAMPLES = 2000
OURS, RANDOM = "ours", "random"


@dataclass
class Trial:
    """A simulated training."""

    number: int
    configuration: Configuration
    curve: Mapping[str, np.ndarray]  # signal -> its values after epochs 1, 2, ...
    epochs_done: int = 0

    def next_row(self) -> dict[str, Any]:
        """Trains an epoch; its row."""
        self.epochs_done += 1
        return {"epoch": self.epochs_done} | {name: float(at[self.epochs_done - 1]) for name, at in self.curve.items()}


@dataclass(frozen=True)
class History:
    """A simulated search."""

    regret: np.ndarray  # percentage points, after 1, 2, ... epochs spent
    started: int  # trials, also those that the budget left no epoch for
    finished: list[Finished]


def simulate(strategy: Strategy, surrogate: Surrogate, seed: int, budget: int, workers: int) -> History:
    """Runs a search for `budget` epochs, of all its trials together, on so many workers.

    Every epoch takes one unit of time: the workers finish theirs in turn, and no queue of events is needed. Trials with
    the same number and seed have the same noise in all strategies.
    """
    numbers = count()

    def start() -> Trial:
        number = next(numbers)
        configuration = strategy.ask(number)
        return Trial(number, configuration, surrogate.curve(configuration, (seed, number)))

    running = [start() for _ in range(workers)]
    regret = np.empty(budget)
    current = _regret(surrogate, SearchSpec().reference)
    finished: list[Finished] = []
    for spent in range(budget):
        worker = spent % workers
        trial = running[worker]
        row = trial.next_row()
        goes_on = strategy.report(trial.number, row)
        if row["epoch"] == surrogate.epochs:
            finished.append(Finished(trial.number, trial.configuration, row))
            current = _regret(surrogate, strategy.choose(finished).configuration)
        if not goes_on or row["epoch"] == surrogate.epochs:
            running[worker] = start()
        regret[spent] = current
    return History(regret, next(numbers), finished)


def _regret(surrogate: Surrogate, configuration: Configuration) -> float:
    return 100 * (surrogate.optimum - surrogate.quality(configuration))


def epochs_to_target(regret: np.ndarray) -> float:
    """The first number of epochs spent from which on the regret stays at or below the target; infinite: never.

    Args:
        regret: percentage points after 1, 2, ... epochs.
    """
    above = np.flatnonzero(regret > TARGET)
    last = above[-1] + 1 if len(above) else 0
    return np.inf if last == len(regret) else last + 1


def searches(names: list[str], seeds: int, processes: int | None, **of_each: Any) -> Iterator[tuple[str, pd.DataFrame]]:
    """Runs all searches; yields each strategy with a table that has a row for each seed, see `_search`."""
    search = functools.partial(_search, **of_each)
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_start_worker) as pool:
        rows = pool.map(search, *zip(*product(names, range(seeds)), strict=True))
        for name in names:
            yield name, pd.DataFrame([next(rows) for _ in range(seeds)])


def _start_worker() -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")


def _search(name: str, seed: int, surrogate: Surrogate, budget: int, workers: int) -> dict[str, Any]:
    started = time.perf_counter()
    history = simulate(STRATEGIES[name](seed, surrogate.epochs), surrogate, seed, budget, workers)
    seconds = time.perf_counter() - started
    return {"trials": history.started, "finished": len(history.finished), "seconds": seconds, "regret": history.regret}


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
    os.environ["OMP_NUM_THREADS"] = "1"  # of each process: matrices are small, and the processes share the cores
    runs = comparable_runs(pd.read_parquet(options.curves))
    tables = {"surrogate": cross_validate(runs)}
    print(tables["surrogate"].round(4).to_string(index=False), flush=True)
    surrogate = Surrogate(runs)
    print(f"optimum {surrogate.optimum:.4f}, reference {surrogate.quality(SearchSpec().reference):.4f}", flush=True)
    of_each = {"surrogate": surrogate, "budget": options.epochs, "workers": options.workers}
    curves = {}
    for name, table in searches(options.strategies, options.seeds, options.processes, **of_each):
        curves[name] = np.stack(list(table["regret"]))
        means = table[["trials", "finished", "seconds"]].mean()
        print(f"{name}, a search:", *(f"{mean:.1f} {what}" for what, mean in means.items()), flush=True)
    budgets = np.arange(FIRST_BUDGET, options.epochs + 1, BUDGET_STEP)
    tables |= {"regret": _long(curves, budgets), "summary": summary(curves, budgets), "targets": targets(curves)}
    _write(tables, options.out)
    wide = tables["summary"].pivot(index="epochs", columns="strategy", values="regret")
    print(f"\nmean regret\n{wide.round(2).to_string()}")
    print(f"\nregret of at most {TARGET} percentage points\n{tables['targets'].round(2).to_string(index=False)}")


def _long(curves: Mapping[str, np.ndarray], budgets: np.ndarray) -> pd.DataFrame:
    index = pd.MultiIndex.from_product([curves, range(len(next(iter(curves.values())))), budgets])
    regret = np.concatenate([every[:, budgets - 1].ravel() for every in curves.values()])
    return pd.DataFrame({"regret": regret}, index.set_names(["strategy", "seed", "epochs"])).reset_index()


def _write(tables: Mapping[str, pd.DataFrame], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        write_whole(out / f"{name}.csv", table.to_csv(index=False, float_format="%.5g"))
    command = " ".join(["python experiments/benchmarks/search_efficiency.py", *sys.argv[1:]])
    write_whole(out / "env.json", json.dumps(describe_environment() | {"command": command}, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", type=Path, required=True, help="curves.parquet")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables")
    parser.add_argument("--seeds", type=int, default=100, help="searches of each strategy")
    parser.add_argument("--epochs", type=int, default=256, help="budget of a search, over all its trials")
    parser.add_argument("--workers", type=int, default=2, help="trials that a search runs at once")
    parser.add_argument("--processes", type=int, help="searches at once; default: as many as cores")
    here = [name for name in STRATEGIES if not name.startswith("syne-")]
    listed = f"any of {', '.join(STRATEGIES)}; default: all but syne-*, which need another environment"
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=here, metavar="NAME", help=listed)
    return parser.parse_args()


if __name__ == "__main__":
    main()
