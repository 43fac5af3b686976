"""What the Optuna study holds after every kind of trial."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from tune_resnet.config.space import Domain
from tune_resnet.config.spec import SAMPLERS, BudgetSpec, SearchSpec, TrainSpec
from tune_resnet.execution.searcher import STUDY_NAME, OptunaSearcher

SPEC = SearchSpec(train=TrainSpec(epochs=3))


def study_of(path: Path) -> optuna.Study:
    return optuna.load_study(study_name=STUDY_NAME, storage=f"sqlite:///{path}")


def result(epoch: int, accuracy: float, **more: Any) -> dict[str, Any]:
    return {"epoch": epoch, "val_accuracy": accuracy, "train_loss": 1 - accuracy, **more}


def run_trial(searcher: OptunaSearcher, name: str, accuracies: list[float], **last: Any) -> dict[str, Any]:
    """As a search does it: each epoch that is recorded is learnt from, the last result ends the trial."""
    config = searcher.suggest(name)
    rows = [result(epoch, accuracy) for epoch, accuracy in enumerate(accuracies, start=1)]
    for row in rows[: len(rows) - ("failure" in last)]:
        searcher.learn(name, row)
    searcher.on_trial_complete(name, {**rows[-1], **last} if rows else None)
    return config


def test_every_ending_is_told_as_what_it_is(tmp_path: Path) -> None:
    searcher = OptunaSearcher(SPEC, tmp_path / "study.db")
    run_trial(searcher, "finished", [0.3, 0.5, 0.7])
    run_trial(searcher, "stopped", [0.2, 0.4])
    run_trial(searcher, "not finite", [0.2], failure="the loss was not finite in epoch 2")
    run_trial(searcher, "not finite at once", [math.nan], failure="the loss was not finite in epoch 1")
    searcher.suggest("crashed")
    searcher.on_trial_complete("crashed", error=True)
    searcher.suggest("without a result")
    searcher.on_trial_complete("without a result", {})
    searcher.suggest("interrupted")
    searcher.learn("interrupted", result(1, 0.4))
    searcher.close()

    trials = study_of(tmp_path / "study.db").trials
    fail = TrialState.FAIL
    assert [trial.state for trial in trials] == [TrialState.COMPLETE, TrialState.PRUNED, fail, fail, fail, fail, fail]
    assert trials[0].value == 0.7
    assert trials[0].intermediate_values == {1: 0.3, 2: 0.5, 3: 0.7}
    assert trials[1].intermediate_values == {1: 0.2, 2: 0.4}
    assert trials[6].intermediate_values == {1: 0.4}


def test_the_study_says_who_has_won(tmp_path: Path) -> None:
    searcher = OptunaSearcher(SPEC, tmp_path / "study.db")
    run_trial(searcher, "a", [0.1, 0.2, 0.3])
    searcher.close()
    searcher.name_winner(0)
    assert study_of(tmp_path / "study.db").user_attrs["winner"].startswith("trial 0, which has the highest estimate;")


def test_a_trial_that_ended_twice_is_told_once(tmp_path: Path) -> None:
    searcher = OptunaSearcher(SPEC, tmp_path / "study.db")
    run_trial(searcher, "a", [0.1, 0.2, 0.3])
    searcher.on_trial_complete("a", error=True)
    searcher.close()
    assert study_of(tmp_path / "study.db").trials[0].state == TrialState.COMPLETE


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_starts_with_the_reference_and_stays_in_bounds(sampler: str, tmp_path: Path) -> None:
    space = {"max_lr": Domain(low=5e-3, high=2e-2), "grad_clip": Domain(low=0.05, high=0.2)}
    spec = SearchSpec(space=space, train=TrainSpec(epochs=1), search=BudgetSpec(sampler=sampler))
    searcher = OptunaSearcher(spec, tmp_path / "study.db")
    configs = [run_trial(searcher, str(number), [number / 20]) for number in range(15)]
    assert configs[0] == {"trial": 0, "max_lr": 0.01, "grad_clip": 0.1}
    assert [config["trial"] for config in configs] == list(range(15))
    for config in configs:
        assert config.keys() == {"trial", "max_lr", "grad_clip"}
        assert all(domain.low <= config[name] <= domain.high for name, domain in space.items())
    assert len({(config["max_lr"], config["grad_clip"]) for config in configs}) > 12


def test_points_to_evaluate_come_after_the_reference_where_they_are_in_the_space() -> None:
    space = {"max_lr": Domain(low=5e-3, high=2e-2), "grad_clip": Domain(low=0.05, high=0.2)}
    points = (
        {"max_lr": 0.012, "weight_decay": 1e-3},  # not searched here: left out; the clip is the reference's
        {"max_lr": 0.05},  # outside
        {"grad_clip": 0.1},  # the reference itself
        {"grad_clip": 0.2, "max_lr": 0.006},
    )
    searcher = OptunaSearcher(SearchSpec(space=space, points_to_evaluate=points), None)
    assert [searcher.suggest(str(number)) for number in range(3)] == [
        {"trial": 0, "max_lr": 0.01, "grad_clip": 0.1},
        {"trial": 1, "max_lr": 0.012, "grad_clip": 0.1},
        {"trial": 2, "max_lr": 0.006, "grad_clip": 0.2},
    ]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_equal_seeds_propose_equal_configurations(sampler: str, tmp_path: Path) -> None:
    def proposals(name: str, seed: int) -> list[dict[str, Any]]:
        spec = SearchSpec(train=TrainSpec(epochs=1, seed=seed), search=BudgetSpec(sampler=sampler))
        searcher = OptunaSearcher(spec, tmp_path / name)
        return [run_trial(searcher, str(number), [0.5 + math.sin(number) / 9]) for number in range(12)]

    first = proposals("a", 0)
    assert proposals("b", 0) == first
    given = len(SPEC.first_points)
    assert proposals("c", 1)[given:] != first[given:]


def test_the_sampler_learns_from_what_it_is_told(tmp_path: Path) -> None:
    searcher = OptunaSearcher(SearchSpec(train=TrainSpec(epochs=1)), tmp_path / "study.db")
    distances = []
    for number in range(40):
        config = searcher.suggest(str(number))
        distance = abs(math.log10(config["max_lr"]) + 1.5)  # the best is at 10^-1.5, the space is two decades wide
        distances.append(distance)
        searcher.on_trial_complete(str(number), result(1, 1 - distance))
    assert sum(distances[-10:]) < 0.7 * sum(distances[1:11])


def test_rays_own_pickle_of_it_holds_nothing(tmp_path: Path) -> None:
    searcher = OptunaSearcher(SPEC, tmp_path / "study.db")
    assert len(pickle.dumps(searcher)) < 200
