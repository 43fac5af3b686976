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
    REFERENCE,
    SPACE,
    Configuration,
    Make,
    OptunaAlone,
    Strategy,
)

PACKAGES = ("syne-tune", "neural-pipeline-search", "optunahub")
_HUB_COMMIT = "ee680199100edbd95e0000eb20696c3ec5505973"  # of AutoSampler, 21 August 2026


class OnSyneTune(Strategy):
    """A scheduler of Syne Tune's, called as its Tuner does."""

    def __init__(self, name: str, seed: int, epochs: int, **options: Any) -> None:
        from syne_tune.config_space import loguniform
        from syne_tune.optimizer import baselines

        np.random.seed(seed)  # CQR draws from the global generator
        self.epochs = epochs
        self.scheduler = getattr(baselines, name)(
            {name: loguniform(domain.low, domain.high) for name, domain in SPACE.items()},
            metric=METRIC,
            do_minimize=False,
            random_seed=seed,
            points_to_evaluate=[REFERENCE],
            **options,
        )
        self.trials: dict[int, Any] = {}

    def ask(self, number: int) -> Configuration:
        from syne_tune.backend.trial_status import Trial

        config = self.scheduler.suggest().config
        self.trials[number] = Trial(trial_id=number, config=config, creation_time=datetime.min)
        self.scheduler.on_trial_add(self.trials[number])
        return {name: config[name] for name in SPACE}

    def report(self, number: int, result: Mapping[str, Any]) -> bool:
        trial = self.trials[number]
        if self.scheduler.on_trial_result(trial, dict(result)) == "STOP":
            self.scheduler.on_trial_remove(trial)
            return False
        if result["epoch"] == self.epochs:
            self.scheduler.on_trial_complete(trial, dict(result))
        return True


def syne_asha(name: str, seed: int, epochs: int) -> Strategy:
    return OnSyneTune(name, seed, epochs, time_attr="epoch", max_t=epochs)


class NepsPriorBand(Strategy):
    """NePS's PriorBand, asked and told: Hyperband whose proposals lean on a prior, here the reference.

    A configuration that it promotes goes on where it was halted, as its documentation recommends.
    """

    def __init__(self, seed: int, epochs: int) -> None:
        import neps
        from neps.optimizers.ask_and_tell import AskAndTell

        np.random.seed(seed)  # PriorBand draws from the global generators
        torch.manual_seed(seed)
        domains = {
            name: neps.Float(domain.low, domain.high, log=True, prior=REFERENCE[name], prior_confidence="medium")
            for name, domain in SPACE.items()
        }
        space = type("Space", (neps.PipelineSpace,), {**domains, "epochs": neps.IntegerFidelity(1, epochs)})()
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
        return {name: self.works[number].config[name] for name in SPACE}

    def _take(self, number: int) -> None:
        self.works[number] = self.asked
        self.numbers[self.asked.id] = number

    def report(self, number: int, result: Mapping[str, Any]) -> bool:
        work = self.works[number]
        if result["epoch"] < work.config["epochs"]:
            return True
        self.optimizer.tell(work, 1 - result[METRIC])
        return False


def optuna_auto(seed: int, epochs: int) -> Strategy:
    import optunahub

    hub = optunahub.load_module("samplers/auto_sampler", ref=_HUB_COMMIT)
    return OptunaAlone(hub.AutoSampler(seed=seed), NopPruner(), epochs, name=f"search {seed}")


PEERS: dict[str, Make] = {
    "optuna-auto": optuna_auto,
    "syne-asha": partial(syne_asha, "ASHA"),
    "syne-cqr": partial(OnSyneTune, "CQR"),
    "syne-ashacqr": partial(syne_asha, "ASHACQR"),
    "neps-priorband": NepsPriorBand,
}
