"""Peers that need more packages than this project: Syne Tune, NePS and OptunaHub's AutoSampler.

They come from an environment of their own, this project's with, on top,

    pip install syne-tune==0.16.0 neural-pipeline-search==0.17.0 optunahub==0.5.0 cmaes huggingface_hub

of which NePS replaces pandas by an older one, and Syne Tune's CQR imports the last. AutoSampler is downloaded from
GitHub when it is first used. Syne Tune 0.13 was the last version with MOBSTER and Hyper-Tune: what they did is in
experiments/results/efficiency-syne-tune, their code in the commit that its env.json names.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np
import torch
from optuna.pruners import NopPruner

from experiments.benchmarks.early_stopping.strategies import (
    METRIC,
    Configuration,
    Make,
    OptunaAlone,
    Strategy,
)
from tune_resnet.config.space import Domain
from tune_resnet.config.spec import SearchSpec

PACKAGES = ("syne-tune", "neural-pipeline-search", "optunahub")
_HUB_COMMIT = "ee680199100edbd95e0000eb20696c3ec5505973"  # of AutoSampler, 21 August 2026


class OnSyneTune(Strategy):
    """A scheduler of Syne Tune's, called as its Tuner does."""

    def __init__(self, name: str, spec: SearchSpec, **options: Any) -> None:
        from syne_tune.config_space import loguniform
        from syne_tune.optimizer import baselines

        np.random.seed(spec.train.seed)  # CQR draws from the global generator
        self.spec = spec
        self.scheduler = getattr(baselines, name)(
            {name: loguniform(domain.low, domain.high) for name, domain in _intervals(spec).items()},
            metric=METRIC,
            do_minimize=False,
            random_seed=spec.train.seed,
            points_to_evaluate=[spec.reference],
            **options,
        )
        self.trials: dict[int, Any] = {}

    def ask(self, number: int) -> Configuration:
        from syne_tune.backend.trial_status import Trial

        config = self.scheduler.suggest().config
        self.trials[number] = Trial(trial_id=number, config=config, creation_time=datetime.min)
        self.scheduler.on_trial_add(self.trials[number])
        return {name: config[name] for name in self.spec.space}

    def report(self, number: int, result: Mapping[str, Any]) -> bool:
        trial = self.trials[number]
        if self.scheduler.on_trial_result(trial, dict(result)) == "STOP":
            self.scheduler.on_trial_remove(trial)
            return False
        if result["epoch"] == self.spec.train.epochs:
            self.scheduler.on_trial_complete(trial, dict(result))
        return True


def syne_asha(name: str, spec: SearchSpec) -> Strategy:
    return OnSyneTune(name, spec, time_attr="epoch", max_t=spec.train.epochs)


class NepsPriorBand(Strategy):
    """NePS's PriorBand, asked and told: Hyperband whose proposals lean on a prior, here the reference.

    A configuration that it promotes goes on where it was halted, as its documentation recommends.
    """

    def __init__(self, spec: SearchSpec) -> None:
        import neps
        from neps.optimizers.ask_and_tell import AskAndTell

        np.random.seed(spec.train.seed)  # PriorBand draws from the global generators
        torch.manual_seed(spec.train.seed)
        domains = {
            name: neps.Float(domain.low, domain.high, log=True, prior=spec.reference[name], prior_confidence="medium")
            for name, domain in _intervals(spec).items()
        }
        fidelity = neps.IntegerFidelity(1, spec.train.epochs)
        space = type("Space", (neps.PipelineSpace,), {**domains, "epochs": fidelity})()
        self.spec = spec
        self.optimizer = AskAndTell(neps.algorithms.priorband(space, sample_prior_first="highest_fidelity"))
        self.asked: Any = None  # its next piece of work, taken by resumed() or ask()
        self.works: dict[int, Any] = {}  # trial number -> what it does now
        self.numbers: dict[str, int] = {}  # id of such a piece of work -> trial number

    def resumed(self) -> int | None:
        self.asked = self.optimizer.ask()
        number = self.numbers.get(self.asked.metadata.previous_trial_id)
        if number is not None:
            self._take(number)
        return number

    def ask(self, number: int) -> Configuration:
        self._take(number)
        return {name: self.works[number].config[name] for name in self.spec.space}

    def _take(self, number: int) -> None:
        self.works[number] = self.asked
        self.numbers[self.asked.id] = number

    def report(self, number: int, result: Mapping[str, Any]) -> bool:
        work = self.works[number]
        if result["epoch"] < work.config["epochs"]:
            return True
        self.optimizer.tell(work, 1 - result[METRIC])
        return False


def optuna_auto(spec: SearchSpec) -> Strategy:
    import optunahub

    hub = optunahub.load_module("samplers/auto_sampler", ref=_HUB_COMMIT)
    return OptunaAlone(hub.AutoSampler(seed=spec.train.seed), NopPruner(), spec)


def _intervals(spec: SearchSpec) -> dict[str, Domain]:
    """The space of a spec, where it has nothing but intervals on a log scale."""
    found = {name: domain for name, domain in spec.space.items() if isinstance(domain, Domain) and domain.log}
    if found.keys() != spec.space.keys():
        raise SystemExit("Syne Tune and NePS are compared on spaces of intervals on a log scale only")
    return found


PEERS: dict[str, Make] = {
    "optuna-auto": optuna_auto,
    "syne-asha": partial(syne_asha, "ASHA"),
    "syne-cqr": partial(OnSyneTune, "CQR"),
    "syne-ashacqr": partial(syne_asha, "ASHACQR"),
    "neps-priorband": NepsPriorBand,
}
