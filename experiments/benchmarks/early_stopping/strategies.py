"""Search strategies behind one interface: ours and its peers, each asked and told as its own package would do it.

All of them begin with the reference, as a user would have it. Those that need more packages are in peers.py.

Optuna's WilcoxonPruner is not among them: it tests the values of a trial's steps pairwise against the best trial's, as
results on independent instances of a problem whose mean is wanted, which the epochs of one training are not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import optuna
import pandas as pd
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from ray.tune.result import TRAINING_ITERATION
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from tune_resnet.config.sections import SAMPLERS, BudgetSpec, SchedulerSpec
from tune_resnet.config.space import Point
from tune_resnet.config.spec import SearchSpec
from tune_resnet.execution.scheduler import EarlyStopping
from tune_resnet.execution.searcher import OptunaSearcher
from tune_resnet.hpo.ranking import estimated
from tune_resnet.hpo.study import Study
from tune_resnet.hpo.warm_start import distributions

Configuration = Mapping[str, Any]
METRIC = "val_accuracy"


@dataclass(frozen=True)
class Finished:
    """A trial that ran all of its epochs."""

    number: int
    configuration: Configuration
    result: Mapping[str, Any]  # of the last epoch


class Strategy(ABC):
    """Proposes configurations, and decides after each epoch of a trial whether it goes on."""

    @abstractmethod
    def ask(self, number: int) -> Configuration:
        """The configuration of trial `number`; trials are numbered 0, 1, ... in the order they start in."""

    @abstractmethod
    def report(self, number: int, result: Mapping[str, Any]) -> bool:
        """Takes in a row of epochs.csv, the columns `epoch` and signals; whether the trial goes on if it can."""

    def resumed(self) -> int | None:
        """A trial that was halted and goes on where it was, in place of a new one; None: there is none."""
        return None

    def choose(self, finished: Sequence[Finished]) -> Finished:
        """The trial whose configuration would be used if the search ended now: the best as it was measured."""
        return max(finished, key=lambda trial: trial.result[METRIC])


class OptunaAlone(Strategy):
    """An Optuna study, used as its tutorial does: report, should_prune, tell."""

    def __init__(self, sampler: BaseSampler, pruner: BasePruner, spec: SearchSpec) -> None:
        # Hyperband draws a trial's bracket from the study's name, which is random by default.
        name = f"search {spec.train.seed}"
        self.study = optuna.create_study(study_name=name, sampler=sampler, pruner=pruner, direction="maximize")
        self.study.enqueue_trial(spec.reference)
        self.epochs, self.space = spec.train.epochs, distributions(spec)
        self.trials: dict[int, optuna.Trial] = {}

    def ask(self, number: int) -> Configuration:
        self.trials[number] = self.study.ask(self.space)
        return self.trials[number].params

    def report(self, number: int, result: Mapping[str, Any]) -> bool:
        trial, value = self.trials[number], result[METRIC]
        trial.report(value, result["epoch"])
        if result["epoch"] == self.epochs:
            self.study.tell(trial, value)
            return False
        if trial.should_prune():
            self.study.tell(trial, state=TrialState.PRUNED)
            return False
        return True


class OnRay(Strategy):
    """A Ray Tune searcher and scheduler, called as Ray's TuneController does."""

    def __init__(self, searcher: Searcher, scheduler: TrialScheduler, spec: SearchSpec) -> None:
        self.searcher, self.scheduler, self.spec = searcher, scheduler, spec
        self.trials: dict[int, SimpleNamespace] = {}

    def ask(self, number: int) -> Configuration:
        config = self.searcher.suggest(str(number))
        self.trials[number] = SimpleNamespace(trial_id=str(number), config=config)
        self.scheduler.on_trial_add(None, self.trials[number])
        return {name: config[name] for name in self.spec.space}

    def report(self, number: int, result: Mapping[str, Any]) -> bool:
        trial, row = self.trials[number], {**result, TRAINING_ITERATION: result["epoch"]}
        done = result["epoch"] == self.spec.train.epochs  # the trial says so itself, and the scheduler is not asked
        ends = done or self.scheduler.on_trial_result(None, trial, row) == TrialScheduler.STOP
        self.learn(trial.trial_id, row, ends)
        if ends:
            self.scheduler.on_trial_complete(None, trial, row)
            self.searcher.on_trial_complete(trial.trial_id, row)
        return not ends

    def learn(self, trial_id: str, row: Mapping[str, Any], ends: bool) -> None:
        """Ray does not pass a trial's last result to on_trial_result."""
        if not ends:
            self.searcher.on_trial_result(trial_id, row)


class Ours(OnRay):
    """This project's search, as `execution.tuner` sets it up; the winner is chosen as `ranking.winner` does."""

    def __init__(self, spec: SearchSpec, **parts: Any) -> None:
        spec = replace(spec, **parts)
        searcher = OptunaSearcher(Study(spec), spec.train.epochs)
        super().__init__(searcher, EarlyStopping(spec, lambda trial, epoch: True), spec)

    def learn(self, trial_id: str, row: Mapping[str, Any], ends: bool) -> None:
        self.searcher.learn(trial_id, row)

    def choose(self, finished: Sequence[Finished]) -> Finished:
        accuracies, losses = (pd.Series([trial.result[name] for trial in finished]) for name in (METRIC, "val_loss"))
        return finished[int(estimated(accuracies, losses, self.spec).argmax())]


class IEpoch(OptunaAlone):
    """Random configurations, judged once at a fixed epoch; the best of each round train to the end.

    i-Epoch of Egele et al., "The Unreasonable Effectiveness of Early Discarding After One Epoch in Neural Network
    Hyperparameter Optimization" (2024). There it has one round, of a budget known beforehand; the rounds' size and what
    share goes on are chosen here, as is that the reference always ends.
    """

    AT, ROUND, KEPT = 1 / 4, 16, 3  # of all epochs; trials; trials

    def __init__(self, spec: SearchSpec) -> None:
        super().__init__(RandomSampler(seed=spec.train.seed), NopPruner(), spec)
        self.judged: dict[int, float] = {}  # of this round
        self.going_on: list[int] = []

    def report(self, number: int, result: Mapping[str, Any]) -> bool:
        goes_on = super().report(number, result)
        if number == 0 or result["epoch"] != round(self.AT * self.epochs):
            return goes_on
        self.judged[number] = result[METRIC]
        if len(self.judged) == self.ROUND:
            self.going_on += sorted(self.judged, key=self.judged.__getitem__, reverse=True)[: self.KEPT]
            self.judged = {}
        return False

    def resumed(self) -> int | None:
        return self.going_on.pop(0) if self.going_on else None


Make = Callable[[SearchSpec], Strategy]  # a fresh search of a spec's space, with its epochs and seed


def ours(points: tuple[Point, ...]) -> dict[str, Make]:
    """This project's search as it is by default, with these points tried first, and with parts of it replaced."""
    replaced: dict[str, Make] = {
        f"ours-{sampler}-{stopping}": partial(
            Ours, points_to_evaluate=(), search=BudgetSpec(sampler=sampler), scheduler=scheduler
        )
        for sampler in SAMPLERS
        for stopping, scheduler in STOPPING.items()
    }
    return {"ours": partial(Ours, points_to_evaluate=points)} | replaced


def optuna_alone(sampler: Callable[..., BaseSampler], pruner: Callable[[], BasePruner], spec: SearchSpec) -> Strategy:
    return OptunaAlone(sampler(seed=spec.train.seed), pruner(), spec)


def plain_ray(spec: SearchSpec) -> Strategy:
    """What Ray's documentation shows, with its defaults."""
    first = [spec.reference]
    searcher = OptunaSearch(
        distributions(spec), metric=METRIC, mode="max", points_to_evaluate=first, seed=spec.train.seed
    )
    return OnRay(searcher, AsyncHyperBandScheduler(metric=METRIC, mode="max", max_t=spec.train.epochs), spec)


STOPPING = {
    "loss": SchedulerSpec(),
    "accuracy": SchedulerSpec(signal="val_accuracy", grace_epochs=1, reduction_factor=2, margin=0),
    "none": SchedulerSpec(name="none"),
}
STRATEGIES: dict[str, Make] = {
    "random": partial(optuna_alone, RandomSampler, NopPruner),
    "ray": plain_ray,
    "optuna-tpe": partial(optuna_alone, TPESampler, NopPruner),
    "optuna-gp": partial(optuna_alone, GPSampler, NopPruner),
    "optuna-hyperband": partial(optuna_alone, TPESampler, HyperbandPruner),
    "optuna-halving": partial(optuna_alone, TPESampler, SuccessiveHalvingPruner),
    "i-epoch": IEpoch,
}
