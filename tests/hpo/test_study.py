"""What is proposed, what the study knows, and the file that follows it."""

from __future__ import annotations

import math
import statistics
import time
from pathlib import Path

import pytest
import scipy.stats
from factories import load_study
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from tune_resnet.config.sections import SAMPLERS, BudgetSpec, TrainSpec
from tune_resnet.config.space import Choices, Domain
from tune_resnet.config.spec import SearchSpec
from tune_resnet.hpo.study import Params, Study
from tune_resnet.runs.resume import History
from tune_resnet.runs.tables import FAILED, FINISHED, INTERRUPTED, STOPPED, TrialRow

SPEC = SearchSpec(train=TrainSpec(epochs=3))


def run_trial(study: Study, accuracy: float, state: str = FINISHED) -> tuple[int, Params]:
    number, params = study.propose()
    study.report(number, 1, accuracy)
    study.end(number, state, accuracy)
    return number, params


# --- proposals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_starts_with_the_reference_and_stays_in_bounds(sampler: str) -> None:
    space = {"max_lr": Domain(low=5e-3, high=2e-2), "grad_clip": Domain(low=0.05, high=0.2)}
    study = Study(SearchSpec(space=space, search=BudgetSpec(sampler=sampler)))
    proposals = [run_trial(study, number / 20) for number in range(15)]
    assert proposals[0] == (0, {"max_lr": 0.01, "grad_clip": 0.1})
    assert [number for number, _ in proposals] == list(range(15))
    for _, params in proposals:
        assert params.keys() == space.keys()
        assert all(domain.low <= params[name] <= domain.high for name, domain in space.items())
    assert len({tuple(params.values()) for _, params in proposals}) > 12


def test_points_to_evaluate_come_after_the_reference_with_its_values_where_they_are_outside_of_the_space() -> None:
    space = {"max_lr": Domain(low=5e-3, high=2e-2), "grad_clip": Domain(low=0.05, high=0.2)}
    points = (
        {"max_lr": 0.012, "weight_decay": 1e-3},  # not searched here: left out; the clip is the reference's
        {"max_lr": 0.05},  # outside, so the reference itself
        {"grad_clip": 0.1},  # the reference itself
        {"grad_clip": 0.2, "max_lr": 0.006},
        {"grad_clip": 0.15, "max_lr": 0.0001},
        {"grad_clip": "x2", "max_lr": "x3"},
    )
    study = Study(SearchSpec(space=space, points_to_evaluate=points))
    assert [study.propose() for _ in range(5)] == [
        (0, {"max_lr": 0.01, "grad_clip": 0.1}),
        (1, {"max_lr": 0.012, "grad_clip": 0.1}),
        (2, {"max_lr": 0.006, "grad_clip": 0.2}),
        (3, {"max_lr": 0.01, "grad_clip": 0.15}),
        (4, {"max_lr": 0.01, "grad_clip": 0.2}),
    ]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_equal_seeds_propose_equal_configurations_whether_a_file_follows_or_not(sampler: str, tmp_path: Path) -> None:
    def proposals(seed: int, log: Path | None = None) -> list[tuple[int, Params]]:
        spec = SearchSpec(train=TrainSpec(seed=seed), search=BudgetSpec(sampler=sampler))
        study = Study(spec, log=log)
        return [run_trial(study, 0.5 + math.sin(number) / 9) for number in range(12)]

    first = proposals(0)
    assert proposals(0, tmp_path / "study.log") == first
    given = len(SPEC.first_points)
    assert proposals(1)[given:] != first[given:]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_first_trials_are_drawn_around_a_prior(sampler: str) -> None:
    space = {
        "max_lr": Domain(low=1e-3, high=1e-1, prior=0.05),
        "batch_size": Domain(low=50, high=800, prior=200),
        "grad_clip": Domain(low=1e-2, high=1.0),
    }
    proposals = []
    for seed in range(20):
        train = TrainSpec(seed=seed)
        spec = SearchSpec(train=train, space=space, search=BudgetSpec(sampler=sampler), points_to_evaluate=())
        study = Study(spec)
        proposals += [run_trial(study, 0.5)[1] for _ in range(10)][1:]
    domains = {name: domain for name, domain in spec.space.items() if isinstance(domain, Domain)}
    shares = {name: [domain.share(row[name]) for row in proposals] for name, domain in domains.items()}
    for name, mean, deviation in (("max_lr", 0.74, 0.18), ("batch_size", 0.5, 0.22), ("grad_clip", 0.5, 0.29)):
        assert statistics.mean(shares[name]) == pytest.approx(mean, abs=0.06)
        assert statistics.stdev(shares[name]) == pytest.approx(deviation, abs=0.04)
    assert all(isinstance(row["batch_size"], int) and 50 <= row["batch_size"] <= 800 for row in proposals)


def test_what_is_expected_is_a_normal_distribution_cut_off_at_the_bounds() -> None:
    domain = Domain(low=1, high=100, prior=10, log=True)
    around = scipy.stats.truncnorm(-2, 2, loc=0.5, scale=0.25)
    for level in (0.01, 0.3, 0.5, 0.99):
        assert domain.share(domain.expected(level)) == pytest.approx(around.ppf(level))


def test_tpe_is_told_the_space_that_optuna_would_find_in_the_trials() -> None:
    space: dict[str, Domain | Choices] = {
        "max_lr": Domain(low=5e-3, high=2e-2),
        "batch_size": Domain(low=200, high=400),
        "schedule": Choices(choices=("cosine", "linear", "linear-exponential")),
        "momentum": Domain(low=0.8, high=0.9, when="schedule=linear"),
    }
    study = Study(SearchSpec(space=space))
    for number in range(6):
        run_trial(study, number / 20, STOPPED if number % 2 else FINISHED)
    sampler, trial = study.optuna_study.sampler, study.optuna_study.trials[-1]
    told = sampler.infer_relative_search_space(study.optuna_study, trial)
    assert list(told) == ["batch_size", "max_lr", "schedule"]
    found = TPESampler().infer_relative_search_space(study.optuna_study, trial)
    assert list(told.items()) == list(found.items())


def test_the_sampler_learns_from_what_it_is_told() -> None:
    study = Study(SearchSpec())
    distances = []
    for _ in range(40):
        number, params = study.propose()
        distance = abs(math.log10(params["max_lr"]) + 1.5)  # the best is at 10^-1.5, the space is two decades wide
        distances.append(distance)
        study.end(number, FINISHED, 1 - distance)
    assert sum(distances[-10:]) < 0.7 * sum(distances[1:11])


# --- the file --------------------------------------------------------------------------------------------------------


def test_who_has_the_file_open_sees_all_as_it_happens(tmp_path: Path) -> None:
    study = Study(SPEC, log=tmp_path / "study.log")
    seen = load_study(tmp_path / "study.log")
    assert seen.trials == []
    run_trial(study, 0.7)
    run_trial(study, 0.4, STOPPED)
    run_trial(study, math.nan, FAILED)
    number, params = study.propose()
    study.report(number, 1, 0.3)
    trials = seen.trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "FAIL", "RUNNING"]
    assert [trial.value for trial in trials] == [0.7, 0.4, None, None]
    assert [trial.intermediate_values for trial in trials] == [{1: 0.7}, {1: 0.4}, {}, {1: 0.3}]
    assert trials[3].params == params
    study.close()
    study.name_winner(0)
    assert seen.trials == study.optuna_study.trials
    assert seen.trials[3].state == TrialState.FAIL
    assert seen.user_attrs["winner"].startswith("trial 0, which has the highest estimate;")


def test_a_resumed_search_that_ends_at_once_leaves_no_trial_running(tmp_path: Path) -> None:
    history = History(trials=[TrialRow(trial=0, state=INTERRUPTED, seed=0, values=SPEC.reference)])
    Study(SPEC, None, history, tmp_path / "study.log").close()
    assert [trial.state for trial in load_study(tmp_path / "study.log").trials] == [TrialState.FAIL]


def test_what_a_killed_search_left_is_replaced(tmp_path: Path) -> None:
    log = tmp_path / "study.log"
    run_trial(Study(SPEC, log=log), 0.7)
    log.write_bytes(log.read_bytes()[:-9])
    study = Study(SPEC, log=log)
    run_trial(study, 0.5)
    assert [trial.value for trial in load_study(log).trials] == [0.5]


def test_a_lock_that_a_killed_dashboard_left_delays_nothing(tmp_path: Path) -> None:
    log = tmp_path / "study.log"
    (tmp_path / "study.log.lock").symlink_to(log)  # Optuna itself would wait for it, half a minute
    started = time.monotonic()
    run_trial(Study(SPEC, log=log), 0.7)
    assert time.monotonic() - started < 10
    assert [trial.value for trial in load_study(log).trials] == [0.7]


def test_a_file_that_cannot_be_written_any_more_changes_nothing(tmp_path: Path) -> None:
    log, unfollowed = tmp_path / "study.log", Study(SPEC)
    study = Study(SPEC, log=log)
    assert run_trial(study, 0.7) == run_trial(unfollowed, 0.7)
    written = log.rename(tmp_path / "before").read_bytes()
    log.symlink_to("/dev/full")
    with pytest.warns(UserWarning, match=r"study\.log no longer follows the search; --resume .* No space left") as told:
        assert [run_trial(study, 0.1 * n) for n in range(9)] == [run_trial(unfollowed, 0.1 * n) for n in range(9)]
    assert len(told) == 1
    (tmp_path / "before").replace(log)  # there is room again: what is missing would make no sense of the rest
    assert run_trial(study, 0.7) == run_trial(unfollowed, 0.7)
    assert log.read_bytes() == written


def test_a_file_that_cannot_be_made_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "study.log").mkdir()
    with pytest.warns(UserWarning, match="no longer follows the search"):
        study = Study(SPEC, log=tmp_path / "study.log")
    assert run_trial(study, 0.7) == (0, SPEC.reference)
