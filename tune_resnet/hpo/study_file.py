"""study.db: the search's Optuna study as a file for optuna-dashboard, which may open it at any time.

The search writes it and never reads it: its own study is in memory, where a question takes microseconds, and a resumed
search rebuilds both from the run's tables. Each event of a trial is one transaction here, while Optuna itself takes a
dozen for a trial of two epochs.
"""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError


class StudyFile:
    """One study, named and maximised, that begins with `earlier` trials, numbered from 0.

    Nothing is lost with this process, killed or not. A power cut may cost the file, and so may another program that
    keeps it locked: then a warning says so, and the search goes on without it.
    """

    def __init__(self, path: Path, name: str, earlier: Sequence[FrozenTrial]) -> None:
        self.path = path
        self.lost = False
        self._ids: dict[int, int] = {}
        self._follow(lambda: self._create(name, earlier))

    def start(self, trial: int, params: Mapping[str, float], distributions: Mapping[str, BaseDistribution]) -> None:
        """A trial begins; trials begin in the order of their numbers."""
        begun = optuna.trial.create_trial(
            state=TrialState.RUNNING, params=dict(params), distributions=dict(distributions)
        )

        def create() -> None:
            self._ids[trial] = self._storage.create_new_trial(self._study, begun)

        self._follow(create)

    def report(self, trial: int, value: float, epoch: int) -> None:
        """A running trial's accuracy after an epoch."""
        self._follow(lambda: self._storage.set_trial_intermediate_value(self._ids[trial], epoch, value))

    def end(self, trial: int, state: TrialState, values: Sequence[float] | None) -> None:
        """A running trial ends in a finished state, with its objective's value where it has one."""
        self._follow(lambda: self._storage.set_trial_state_values(self._ids.pop(trial), state, values))

    def describe(self, key: str, text: str) -> None:
        """A user attribute of the study."""
        self._follow(lambda: self._storage.set_study_user_attr(self._study, key, text))

    def _create(self, name: str, earlier: Sequence[FrozenTrial]) -> None:
        for old in self.path.parent.glob(f"{self.path.name}*"):  # and SQLite's journal
            old.unlink()
        self._storage = optuna.storages.RDBStorage(f"sqlite:///{self.path}", {"connect_args": {"factory": _Unsynced}})
        study = optuna.create_study(study_name=name, storage=self._storage, direction="maximize")
        study.add_trials(earlier)
        self._study = self._storage.get_study_id_from_name(name)
        self._ids = {trial.number: trial._trial_id for trial in study.get_trials(deepcopy=False)}

    def _follow(self, write: Callable[[], object]) -> None:
        """Nothing is written any more once that has failed: the file would contradict the search."""
        if self.lost:
            return
        try:
            write()
        except (SQLAlchemyError, StorageInternalError, OSError) as error:
            self.lost = True
            reason = str(error).partition("\n")[0]
            warnings.warn(f"{self.path} no longer follows the search; --resume rebuilds it: {reason}", stacklevel=3)


class _Unsynced(sqlite3.Connection):
    """Leaves it to the system when to write to the disk: what a transaction waits for otherwise, some milliseconds."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.execute("PRAGMA synchronous = OFF")
