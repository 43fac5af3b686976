"""The study behind Ray's Searcher interface: Ray's names of trials become numbers, its endings become states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ray.tune.search import Searcher

from tune_resnet.hpo.study import Params, Study
from tune_resnet.runs.tables import FAILED, ending


class OptunaSearcher(Searcher):  # type: ignore[misc]
    """Proposes what a study does, each a dict of hyperparameters plus `trial`, its number.

    Args:
        epochs: of a whole trial.
        on_new: called with the number and hyperparameters of each trial that is not on record yet.
    """

    def __init__(self, study: Study, epochs: int, on_new: Callable[[int, Params], None] | None = None) -> None:
        super().__init__()
        self.study, self.epochs, self.on_new = study, epochs, on_new
        self.column = study.spec.search.column("val")
        self.numbers: dict[str, int] = {}  # of running trials

    def suggest(self, trial_id: str) -> dict[str, Any]:
        number, params = self.study.propose()
        self.numbers[trial_id] = number
        if self.on_new and number >= self.study.recorded:
            self.on_new(number, params)
        return {"trial": number, **params}

    def learn(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """What an epoch's result tells the study. Each epoch comes once, and before its trial's end."""
        self.study.report(self.numbers[trial_id], result["epoch"], result[self.column])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        number = self.numbers.pop(trial_id, None)
        if number is None:  # it has ended before
            return
        if error or not result or "epoch" not in result:
            self.study.end(number, FAILED)
        else:
            state = ending(result["epoch"], self.epochs, result.get("failure"))
            self.study.end(number, state, result[self.column])

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles it for a restore of its own, which this project does from the run directory instead."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing, for the same reason."""
