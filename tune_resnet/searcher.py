"""Optuna behind Ray's Searcher interface, told the truth about every trial.

finished      COMPLETE with the validation accuracy after the last epoch
stopped       PRUNED with the validation accuracy of every epoch
failed        FAIL
interrupted   FAIL: the study has no state for it, and no trial may stay RUNNING
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from ray.tune.search import Searcher

from tune_resnet.records import FAILED, FINISHED, STOPPED, ending
from tune_resnet.sampler import EARLY, MultiFidelitySampler, optuna_domain
from tune_resnet.spec import SearchSpec, early_epoch
from tune_resnet.study_file import StudyFile
from tune_resnet.warm_start import WarmStart

STUDY_NAME = "tune_resnet"

_TOLD = {FINISHED: TrialState.COMPLETE, STOPPED: TrialState.PRUNED}


def make_sampler(spec: SearchSpec) -> BaseSampler:
    """The Optuna sampler that a spec names, seeded by the spec."""
    seed = spec.train.seed
    if spec.search.sampler == "multifidelity":
        return MultiFidelitySampler(spec.space, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if spec.search.sampler == "tpe":
            # constant_liar: running trials count as bad ones, so that concurrent proposals keep apart.
            return TPESampler(seed=seed, constant_liar=True)
        if spec.search.sampler == "gp":
            return GPSampler(seed=seed)
        if spec.search.sampler == "cmaes":
            return CmaEsSampler(seed=seed)
    return RandomSampler(seed=seed)


class OptunaSearcher(Searcher):  # type: ignore[misc]
    """Proposes configurations; the reference first. Each is a dict of hyperparameters plus `trial`, its number.

    The study is in memory, and followed by the file `study_db` where that is not None. It begins with what a warm start
    gives, whose trials have no number of this search.
    """

    def __init__(self, spec: SearchSpec, study_db: Path | None, warm: WarmStart | None = None) -> None:
        super().__init__()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.epochs = spec.train.epochs
        self.early_epoch = early_epoch(spec)
        self.study = optuna.create_study(sampler=make_sampler(spec), direction="maximize")
        warm = warm or WarmStart()
        self.study.add_trials(warm.trials)
        self.file = StudyFile(study_db, STUDY_NAME, warm.trials) if study_db else None
        self.earlier = len(warm.trials)
        for configuration in (spec.reference, *warm.configurations):
            self.study.enqueue_trial(configuration)
        self.distributions: dict[str, optuna.distributions.BaseDistribution] = {
            name: optuna_domain(domain) for name, domain in spec.space.items()
        }
        self.running: dict[str, optuna.Trial] = {}

    def suggest(self, trial_id: str) -> dict[str, Any]:
        trial = self.study.ask(self.distributions)
        self.running[trial_id] = trial
        if self.file:
            self.file.start(trial.number, trial.params, self.distributions)
        return {"trial": trial.number - self.earlier, **trial.params}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._learn(self.running[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        trial = self.running.pop(trial_id, None)
        if trial is None:
            return
        if error or not result or "epoch" not in result:
            self._tell(trial, TrialState.FAIL)
            return
        state = ending(result["epoch"], self.epochs, result.get("failure"))
        if state in _TOLD:
            self._learn(trial, result)  # Ray does not pass a trial's last result to on_trial_result.
        if state == FAILED:
            self._note(trial, math.inf)
        self._tell(trial, _TOLD.get(state, TrialState.FAIL), result["val_accuracy"] if state == FINISHED else None)

    def _learn(self, trial: optuna.Trial, result: dict[str, Any]) -> None:
        """What an epoch's result tells the study."""
        if math.isfinite(result["val_accuracy"]):
            trial.report(result["val_accuracy"], result["epoch"])
            if self.file:
                self.file.report(trial.number, result["val_accuracy"], result["epoch"])
        if result["epoch"] == self.early_epoch:
            self._note(trial, result["train_loss"])

    def _note(self, trial: optuna.Trial, early: float) -> None:
        trial.set_user_attr(EARLY, early)
        if self.file:
            self.file.note(trial.number, EARLY, early)

    def _tell(self, trial: optuna.Trial, state: TrialState, value: float | None = None) -> None:
        told = self.study.tell(trial, value, state=state)
        if self.file:
            self.file.end(trial.number, state, told.values)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles it for a restore of its own, which this project does from the run directory instead."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing, for the same reason."""

    def close(self) -> None:
        """The search is over: whatever is still running was interrupted."""
        for trial_id in list(self.running):
            self.on_trial_complete(trial_id, error=True)
