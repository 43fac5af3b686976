"""What Ray tells the searcher, and what the study is told of it."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

from tune_resnet.config.sections import TrainSpec
from tune_resnet.config.spec import SearchSpec
from tune_resnet.execution.searcher import OptunaSearcher
from tune_resnet.hpo.study import Study
from tune_resnet.runs.resume import History
from tune_resnet.runs.tables import RUNNING, TrialRow

EPOCHS = 3
SPEC = SearchSpec(train=TrainSpec(epochs=EPOCHS))


@pytest.fixture
def searcher() -> OptunaSearcher:
    return OptunaSearcher(Study(SPEC), EPOCHS)


def known(searcher: OptunaSearcher) -> list[FrozenTrial]:
    return searcher.study.optuna_study.trials


def run_trial(searcher: OptunaSearcher, name: str, accuracies: list[float], **last: Any) -> None:
    """As a search does it: each epoch that is recorded is learnt from, the last result ends the trial."""
    searcher.suggest(name)
    rows = [{"epoch": epoch, "val_accuracy": accuracy} for epoch, accuracy in enumerate(accuracies, start=1)]
    for row in rows[: len(rows) - ("failure" in last)]:
        searcher.learn(name, row)
    searcher.on_trial_complete(name, {**rows[-1], **last})


def test_every_ending_is_told_as_what_it_is(searcher: OptunaSearcher) -> None:
    run_trial(searcher, "finished", [0.3, 0.5, 0.7])
    run_trial(searcher, "stopped", [0.2, 0.4])
    run_trial(searcher, "not finite", [0.2], failure="the loss was not finite in epoch 2")
    run_trial(searcher, "not finite at once", [math.nan], failure="the loss was not finite in epoch 1")
    searcher.suggest("crashed")
    searcher.on_trial_complete("crashed", error=True)
    searcher.suggest("without a result")
    searcher.on_trial_complete("without a result", {})

    trials, fail = known(searcher), TrialState.FAIL
    assert [trial.state for trial in trials] == [TrialState.COMPLETE, TrialState.PRUNED, fail, fail, fail, fail]
    assert trials[0].value == 0.7
    assert trials[0].intermediate_values == {1: 0.3, 2: 0.5, 3: 0.7}
    assert trials[1].intermediate_values == {1: 0.2, 2: 0.4}


def test_a_trial_that_ended_twice_is_told_once(searcher: OptunaSearcher) -> None:
    run_trial(searcher, "a", [0.1, 0.2, 0.3])
    searcher.on_trial_complete("a", error=True)
    assert known(searcher)[0].state == TrialState.COMPLETE


def test_only_trials_that_are_not_on_record_are_announced() -> None:
    announced: list[tuple[int, dict[str, float]]] = []
    history = History(trials=[TrialRow(trial=0, state=RUNNING, seed=0, values=SPEC.reference)])
    searcher = OptunaSearcher(Study(SPEC, None, history), EPOCHS, lambda *new: announced.append(new))
    configs = [searcher.suggest(name) for name in "abc"]
    assert [config["trial"] for config in configs] == [0, 1, 2]
    assert [{"trial": number, **params} for number, params in announced] == configs[1:]


def test_rays_own_pickle_of_it_holds_nothing(searcher: OptunaSearcher) -> None:
    assert len(pickle.dumps(searcher)) < 200
