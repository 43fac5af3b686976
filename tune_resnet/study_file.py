"""study.db: the search's Optuna study as a file for optuna-dashboard, which may open it at any time.

The search writes it and never reads it: its own study is in memory, where a question takes microseconds. Each event of
a trial is one transaction here, while Optuna itself takes a dozen for a trial of two epochs.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState


class StudyFile:
    """One study, named and maximised, that begins with finished trials. Trials are known by the number of their start.

    Nothing is lost with this process, killed or not. A power cut may cost the file, never epochs.csv and trials.csv.
    """

    def __init__(self, path: Path, name: str, earlier: Sequence[FrozenTrial]) -> None:
        self._storage = optuna.storages.RDBStorage(f"sqlite:///{path}", {"connect_args": {"factory": _Unsynced}})
        optuna.create_study(study_name=name, storage=self._storage, direction="maximize").add_trials(earlier)
        self._study = self._storage.get_study_id_from_name(name)
        self._ids: dict[int, int] = {}

    def start(self, trial: int, params: Mapping[str, float], distributions: Mapping[str, BaseDistribution]) -> None:
        """A trial begins; trials begin in the order of their numbers."""
        begun = optuna.trial.create_trial(
            state=TrialState.RUNNING, params=dict(params), distributions=dict(distributions)
        )
        self._ids[trial] = self._storage.create_new_trial(self._study, begun)

    def report(self, trial: int, value: float, epoch: int) -> None:
        """A running trial's accuracy after an epoch."""
        self._storage.set_trial_intermediate_value(self._ids[trial], epoch, value)

    def note(self, trial: int, key: str, value: float) -> None:
        """A user attribute of a running trial."""
        self._storage.set_trial_user_attr(self._ids[trial], key, value)

    def end(self, trial: int, state: TrialState, values: Sequence[float] | None) -> None:
        """A running trial ends in a finished state, with its objective's value where it has one."""
        self._storage.set_trial_state_values(self._ids.pop(trial), state, values)


class _Unsynced(sqlite3.Connection):
    """Leaves it to the system when to write to the disk: what a transaction waits for otherwise, some milliseconds."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.execute("PRAGMA synchronous = OFF")
