"""A search in simulated time: a strategy is asked and told, the surrogate trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.benchmarks.early_stopping.strategies import Configuration, Finished, Strategy
from experiments.benchmarks.early_stopping.surrogate import Surrogate


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
    trials: dict[int, Trial] = {}

    def start() -> Trial:
        resumed = strategy.resumed()
        if resumed is not None:
            return trials[resumed]
        number = len(trials)
        configuration = strategy.ask(number)
        trials[number] = Trial(number, configuration, surrogate.curve(configuration, (seed, number)))
        return trials[number]

    running = [start() for _ in range(workers)]
    regret = np.empty(budget)
    current = _regret(surrogate, surrogate.spec.reference)
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
    return History(regret, len(trials), finished)


def _regret(surrogate: Surrogate, configuration: Configuration) -> float:
    return 100 * (surrogate.optimum - surrogate.quality(configuration))
