"""The Optuna study of a search, told the truth about every trial, and study.log, the file that follows it.

finished      COMPLETE with the validation accuracy, or whatever is the objective, after the last epoch
stopped       PRUNED with that of every epoch
failed        FAIL
interrupted   FAIL: the study has no state for it, and no trial may stay RUNNING; it runs again in a resumed search

A proposal depends on the seed, the trial's number and what is known of the other trials, and on nothing else: so a
resumed search, which rebuilds the study from the run's tables, proposes what an unbroken one would have.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState

from tune_resnet.config.space import Domain
from tune_resnet.config.spec import SearchSpec
from tune_resnet.hpo.warm_start import WarmStart, distributions, known_trial
from tune_resnet.runs.resume import History
from tune_resnet.runs.tables import FAILED, FINISHED, STOPPED, TrialRow

STUDY_NAME = "tune_resnet"

_SAMPLERS: dict[str, Callable[..., BaseSampler]] = {"gp": GPSampler, "random": RandomSampler}
_RANDOM_TRIALS = 10  # after so many trials, TPE and the Gaussian process propose by what they know: Optuna's default
_TOLD = {FINISHED: TrialState.COMPLETE, STOPPED: TrialState.PRUNED, FAILED: TrialState.FAIL}

Params = dict[str, Any]


class Study:
    """Proposes hyperparameters, the reference first, and learns from the trials that run with them.

    It begins with the trials of a warm start, which have no number of this search, and with the history of a resumed
    search, whose trials that had not ended are the first to be proposed.

    Args:
        log: the file that follows the study, made anew; None: no file.
    """

    def __init__(
        self,
        spec: SearchSpec,
        warm: WarmStart | None = None,
        history: History | None = None,
        log: Path | None = None,
    ) -> None:
        warm, history = warm or WarmStart(), history or History()
        self.spec = spec
        self._space = distributions(spec)
        self.recorded = len(history.trials)  # trials that the run's tables have: numbers below this one
        self.optuna_study = maximizing_study(study_name=STUDY_NAME, storage=JournalStorage(_Journal(log)))
        self.optuna_study.add_trials([*warm.trials, *_known_trials(spec, history)])
        reference, *points = spec.first_points
        self._points = [reference, *warm.configurations, *points][self.recorded :]
        self._earlier = len(warm.trials)
        self._unended = [
            optuna.Trial(self.optuna_study, trial._trial_id)
            for trial in self.optuna_study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        ]
        self._running: dict[int, optuna.Trial] = {}
        self._next = self._earlier + self.recorded

    def propose(self) -> tuple[int, Params]:
        """The number and the hyperparameters of the trial that is to run next."""
        trial = self._unended.pop(0) if self._unended else self._new_trial()
        number = trial.number - self._earlier
        self._running[number] = trial
        return number, {**self.spec.reference, **trial.params}  # the reference's where it varies nothing

    def _new_trial(self) -> optuna.Trial:
        if self._points:
            self.optuna_study.enqueue_trial(self._points.pop(0))
        elif expected := _expected(self.spec, self._next):
            self.optuna_study.enqueue_trial(expected)
        self.optuna_study.sampler = _make_sampler(self.spec, self._space, self._next)
        self._next += 1
        trial = self.optuna_study.ask()
        for name in self.spec.space_in_order:
            if name in self.spec.varied(trial.params):
                _suggest(trial, name, self._space[name])
        return trial

    def report(self, number: int, epoch: int, score: float) -> None:
        """What judges a running trial, after an epoch. Each epoch comes once, and before its trial's end."""
        if math.isfinite(score):
            self._running[number].report(score, epoch)

    def end(self, number: int, state: str, score: float | None = None) -> None:
        """A running trial is finished, stopped or failed, with this score after its last epoch."""
        trial = self._running.pop(number)
        self.optuna_study.tell(trial, score if state == FINISHED else None, state=_TOLD[state])

    def name_winner(self, number: int) -> None:
        """Tells readers of the file which trial has won: Optuna's own best trial may be another."""
        self.optuna_study.set_user_attr(
            "winner",
            f"trial {number + self._earlier}, which has the highest estimate; 'best trial' here is the one with the "
            f"highest {self.spec.search.judged_by} in its single training",
        )

    def close(self) -> None:
        """The search is over: whatever has not ended was interrupted."""
        for trial in [*self._unended, *self._running.values()]:
            self.optuna_study.tell(trial, state=TrialState.FAIL)


def _suggest(trial: optuna.Trial, name: str, domain: BaseDistribution) -> None:
    if isinstance(domain, CategoricalDistribution):
        trial.suggest_categorical(name, domain.choices)
    elif isinstance(domain, IntDistribution):
        trial.suggest_int(name, domain.low, domain.high, step=domain.step, log=domain.log)
    elif isinstance(domain, FloatDistribution):
        trial.suggest_float(name, domain.low, domain.high, step=domain.step, log=domain.log)


def _known_trials(spec: SearchSpec, history: History) -> list[FrozenTrial]:
    """A resumed run's trials as the search would have told them; what has not ended is running."""
    epochs: dict[int, list[dict[str, Any]]] = {row.trial: [] for row in history.trials}
    for epoch in history.epochs:
        epochs[epoch["trial"]].append(epoch)
    return [_known_trial(spec, row, epochs[row.trial]) for row in history.trials]


def _known_trial(spec: SearchSpec, row: TrialRow, epochs: Sequence[dict[str, Any]]) -> FrozenTrial:
    column = spec.search.column("val")
    last = row.cells()[column]
    return known_trial(
        spec,
        row.values,
        state=_TOLD.get(row.state, TrialState.RUNNING),
        # Optuna itself gives a pruned trial its last value.
        value=last if row.state in (FINISHED, STOPPED) and math.isfinite(last) else None,
        intermediate_values={epoch["epoch"]: epoch[column] for epoch in epochs if math.isfinite(epoch[column])},
    )


def _expected(spec: SearchSpec, number: int) -> Params:
    """What a trial draws around the priors of the space, while the sampler draws at random; the rest is Optuna's."""
    if number >= _RANDOM_TRIALS and spec.search.sampler != "random":
        return {}
    draw, found = np.random.default_rng([spec.train.seed, number]), {}
    for name, domain in spec.space.items():
        if isinstance(domain, Domain) and domain.prior is not None:
            value = domain.expected(draw.uniform())
            found[name] = round(value) if spec.kind(name) is int else value
    return found


def _make_sampler(spec: SearchSpec, space: Mapping[str, BaseDistribution], number: int) -> BaseSampler:
    """The Optuna sampler that a spec names, for one trial.

    Optuna's own draw from a generator that goes on from trial to trial, and cannot be set to where it was: a fresh one
    for each trial can.
    """
    seed = int(np.random.SeedSequence([spec.train.seed, number]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if spec.search.sampler == "tpe":
            every = {name: space[name] for name in sorted(space) if spec.space[name].when is None}  # in Optuna's order
            return _TPE(every, seed)
        return _SAMPLERS[spec.search.sampler](seed=seed)


class _TPE(TPESampler):
    """Optuna's, told what every trial varies: with 1,000 trials, a quarter of a proposal's time goes into looking that
    up in each."""

    def __init__(self, every: dict[str, BaseDistribution], seed: int) -> None:
        super().__init__(seed=seed)
        self._every = every

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._every


def maximizing_study(**settings: Any) -> optuna.Study:
    """An Optuna study that says nothing of its own accord."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(direction="maximize", **settings)


class _Journal(BaseJournalBackend):
    """Optuna's journal of a study, in memory, and the same in a file, which optuna-dashboard may open at any time.

    The file is written and never read, takes no lock and does not wait for the disk: so nothing that happens to it
    changes the search or delays it, and an event costs microseconds instead of milliseconds. A power cut may cost the
    file. Where it cannot be written, a warning says so, and nothing more is written: it would contradict the study.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._unread: list[dict[str, Any]] = []
        if path:
            with self._writing():
                path.unlink(missing_ok=True)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self._unread += logs
        if self._path:
            lines = "".join(json.dumps(log) + "\n" for log in logs)
            with self._writing(), self._path.open("a") as file:  # whole lines in one write, whoever else appends
                file.write(lines)

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        logs, self._unread = self._unread, []
        return logs

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            warnings.warn(f"{self._path} no longer follows the search; --resume rebuilds it: {error}", stacklevel=2)
            self._path = None
