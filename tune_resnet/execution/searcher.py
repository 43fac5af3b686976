"""Optuna behind Ray's Searcher interface, told the truth about every trial.

finished      COMPLETE with the validation accuracy after the last epoch
stopped       PRUNED with the validation accuracy of every epoch
failed        FAIL
interrupted   FAIL: the study has no state for it, and no trial may stay RUNNING; it runs again in a resumed search

A proposal depends on the seed, the trial's number and what is known of the other trials, and on nothing else: so a
resumed search, which rebuilds the study from the run's tables, proposes what an unbroken one would have.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher

from tune_resnet.config.spec import SearchSpec
from tune_resnet.hpo.study_file import StudyFile
from tune_resnet.hpo.warm_start import WarmStart, distributions
from tune_resnet.runs.resume import History
from tune_resnet.runs.tables import ENDED, FAILED, FINISHED, STOPPED, TrialRow, ending

STUDY_NAME = "tune_resnet"

_SAMPLERS: dict[str, Callable[..., BaseSampler]] = {"tpe": TPESampler, "gp": GPSampler, "random": RandomSampler}
_TOLD = {FINISHED: TrialState.COMPLETE, STOPPED: TrialState.PRUNED, FAILED: TrialState.FAIL}

Params = dict[str, float]


def make_sampler(spec: SearchSpec, number: int) -> BaseSampler:
    """The Optuna sampler that a spec names, for one trial.

    Optuna's own draw from a generator that goes on from trial to trial, and cannot be set to where it was: a fresh one
    for each trial can.
    """
    seed = int(np.random.SeedSequence([spec.train.seed, number]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _SAMPLERS[spec.search.sampler](seed=seed)


class OptunaSearcher(Searcher):  # type: ignore[misc]
    """Proposes configurations; the reference first. Each is a dict of hyperparameters plus `trial`, its number.

    The study is in memory, and followed by the file `study_db` where that is not None. It begins with what a warm start
    gives, whose trials have no number of this search, and with the `history` of a resumed one, whose trials that had
    not ended are the first to be proposed. `on_new` is called with the number and hyperparameters of each new trial.
    """

    def __init__(
        self,
        spec: SearchSpec,
        study_db: Path | None,
        warm: WarmStart | None = None,
        history: History | None = None,
        on_new: Callable[[int, Params], None] | None = None,
    ) -> None:
        super().__init__()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warm, history = warm or WarmStart(), history or History()
        self.spec, self.on_new = spec, on_new
        self.distributions = distributions(spec)
        self.study = optuna.create_study(sampler=make_sampler(spec, 0), direction="maximize")
        self.study.add_trials(warm.trials)
        self.earlier = len(warm.trials)
        self.study.add_trials(self._known_trials(history))
        known = self.study.get_trials(deepcopy=False)
        self.unended = [trial for trial in known if trial.state == TrialState.RUNNING]
        self.file = StudyFile(study_db, STUDY_NAME, known) if study_db else None
        self.next_number = len(known)
        reference, *points = spec.first_points
        for configuration in [reference, *warm.configurations, *points][len(history.trials) :]:
            self.study.enqueue_trial(configuration)
        self.running: dict[str, optuna.Trial] = {}

    def _known_trials(self, history: History) -> list[FrozenTrial]:
        """A resumed run's trials as the search would have told them; what has not ended is running."""
        epochs: dict[int, list[dict[str, Any]]] = {row.trial: [] for row in history.trials}
        for epoch in history.epochs:
            epochs[epoch["trial"]].append(epoch)
        return [self._known_trial(row, epochs[row.trial]) for row in history.trials]

    def _known_trial(self, row: TrialRow, epochs: Sequence[dict[str, Any]]) -> FrozenTrial:
        state = _TOLD[row.state] if row.state in ENDED else TrialState.RUNNING
        return optuna.trial.create_trial(
            state=state,
            params={name: getattr(row, name) for name in self.spec.space},
            distributions=self.distributions,
            # Optuna itself gives a pruned trial its last value.
            value=row.val_accuracy if row.state in (FINISHED, STOPPED) and math.isfinite(row.val_accuracy) else None,
            intermediate_values={
                epoch["epoch"]: epoch["val_accuracy"] for epoch in epochs if math.isfinite(epoch["val_accuracy"])
            },
        )

    def suggest(self, trial_id: str) -> dict[str, Any]:
        if self.unended:
            known = self.unended.pop(0)
            trial = optuna.Trial(self.study, known._trial_id)
            params: Params = known.params
        else:
            self.study.sampler = make_sampler(self.spec, self.next_number)
            self.next_number += 1
            trial = self.study.ask(self.distributions)
            params = trial.params
            if self.file:
                self.file.start(trial.number, params, self.distributions)
            if self.on_new:
                self.on_new(trial.number - self.earlier, params)
        self.running[trial_id] = trial
        return {"trial": trial.number - self.earlier, **params}

    def learn(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """What an epoch's result tells the study. Each epoch comes once, and before its trial's end."""
        trial = self.running[trial_id]
        if math.isfinite(result["val_accuracy"]):
            trial.report(result["val_accuracy"], result["epoch"])
            if self.file:
                self.file.report(trial.number, result["val_accuracy"], result["epoch"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        trial = self.running.pop(trial_id, None)
        if trial is None:
            return
        if error or not result or "epoch" not in result:
            self._tell(trial, TrialState.FAIL)
            return
        state = ending(result["epoch"], self.spec.train.epochs, result.get("failure"))
        self._tell(trial, _TOLD[state], result["val_accuracy"] if state == FINISHED else None)

    def _tell(self, trial: optuna.Trial, state: TrialState, value: float | None = None) -> None:
        told = self.study.tell(trial, value, state=state)
        if self.file:
            self.file.end(trial.number, state, told.values)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles it for a restore of its own, which this project does from the run directory instead."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing, for the same reason."""

    def name_winner(self, trial: int) -> None:
        """Tells readers of the study file who has won: Optuna's own best trial may be another."""
        if self.file:
            self.file.describe(
                "winner",
                f"trial {trial + self.earlier}, which has the highest estimate; 'best trial' here is the one with the "
                "highest accuracy in its single training",
            )

    def close(self) -> None:
        """The search is over: whatever is still running was interrupted."""
        for trial_id in list(self.running):
            self.on_trial_complete(trial_id, error=True)
