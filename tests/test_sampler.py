"""What the sampler proposes, through the study that asks it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import TrialState, create_trial
from threadpoolctl import threadpool_limits

from tune_resnet.estimate import Floats, unit_points
from tune_resnet.sampler import EARLY, STARTUP_TRIALS, MultiFidelitySampler, observations, optuna_domain
from tune_resnet.space import DEFAULT_SPACE, Domain

SPACE = {"max_lr": Domain(low=1e-3, high=1e-1), "grad_clip": Domain(low=0, high=2, log=False)}
BEST = np.array([0.8, 0.25])


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """On matrices this small, more BLAS threads than free cores take ten times as long."""
    with threadpool_limits(1):
        yield


def new_study(sampler: BaseSampler) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(direction="maximize", sampler=sampler)


def ask(study: optuna.Study, space: Mapping[str, Domain] = SPACE) -> tuple[optuna.Trial, Floats]:
    """A trial, and where it is in the unit cube."""
    trial = study.ask({name: optuna_domain(domain) for name, domain in space.items()})
    return trial, unit_points([trial.params], space)[0]


def add(study: optuna.Study, point: Floats, state: TrialState, early: float | None, final: float | None = None) -> None:
    study.add_trial(
        create_trial(
            state=state,
            params={name: domain.value(float(at)) for (name, domain), at in zip(SPACE.items(), point, strict=True)},
            distributions={name: optuna_domain(domain) for name, domain in SPACE.items()},
            value=final,
            user_attrs={} if early is None else {EARLY: early},
        )
    )


def outcome(point: Floats, rng: np.random.Generator) -> tuple[float, float]:
    """Early loss and accuracy: smooth functions, best near `BEST`, and noise."""
    early = 0.5 * math.exp(1.5 * ((point - BEST) ** 2).sum())
    accuracy = 1 - 0.5 * early * math.exp(0.1 * math.sin(3 * point[0]))
    return early * rng.lognormal(0, 0.01), float(np.clip(accuracy + rng.normal(0, 0.01), 0, 1))


def run(study: optuna.Study, count: int, seed: int = 0) -> Floats:
    """Asks and tells; (count, hyperparameters) in the unit cube."""
    rng, points = np.random.default_rng(seed), []
    for _ in range(count):
        trial, point = ask(study)
        early, accuracy = outcome(point, rng)
        trial.set_user_attr(EARLY, early)
        study.tell(trial, accuracy)
        points.append(point)
    return np.array(points)


def distances(points: Floats) -> Floats:
    """Of all pairs."""
    return np.linalg.norm(points[:, None] - points, axis=-1)[np.triu_indices(len(points), 1)]


# --- the first trials ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_before_anything_is_known_proposals_are_spread_evenly(seed: int) -> None:
    study = new_study(MultiFidelitySampler(DEFAULT_SPACE, seed))
    reference = {"max_lr": 1e-2, "weight_decay": 1e-4, "grad_clip": 0.1}
    study.enqueue_trial(reference)
    assert ask(study, DEFAULT_SPACE)[0].params == reference
    points = np.array([ask(study, DEFAULT_SPACE)[1] for _ in range(7)])
    for eighths in np.floor(8 * points).T:
        assert len(set(eighths)) == 7  # as of 7 of 8 Sobol points


def test_the_spread_goes_on_until_a_trial_has_finished() -> None:
    studies = [new_study(MultiFidelitySampler(SPACE, 3)) for _ in range(2)]
    for study, state in zip(studies, (TrialState.PRUNED, TrialState.FAIL), strict=True):
        for _ in range(STARTUP_TRIALS + 4):
            trial, _ = ask(study)
            trial.set_user_attr(EARLY, math.inf if state == TrialState.FAIL else trial.params["max_lr"])
            study.tell(trial, state=state)
    assert [t.params for t in studies[0].trials] == [t.params for t in studies[1].trials]
    points, _, _ = observations(studies[0].trials, SPACE)
    assert sorted(np.floor(8 * points[:, 0])) == sorted(np.floor(8 * points[:, 1])) == list(range(8))


# --- within the domains ----------------------------------------------------------------------------------------------


@st.composite
def domains(draw: st.DrawFn) -> Domain:
    low, high = sorted(draw(st.lists(st.floats(1e-9, 1e6), min_size=2, max_size=2, unique=True)))
    return Domain(low=low, high=high, log=draw(st.booleans()))


@settings(derandomize=True, deadline=None, max_examples=15)
@given(space=st.dictionaries(st.sampled_from("abcdef"), domains(), min_size=1), seed=st.integers(0, 2**32 - 1))
def test_proposals_lie_within_the_domains(space: dict[str, Domain], seed: int) -> None:
    study = new_study(MultiFidelitySampler(space, seed))
    for number in range(STARTUP_TRIALS + 3):
        trial, point = ask(study, space)
        assert trial.params.keys() == space.keys()
        assert all(domain.low <= trial.params[name] <= domain.high for name, domain in space.items())
        trial.set_user_attr(EARLY, 2 - float(point.mean()))
        if number % 3:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, float(point.mean()))


@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 1)])
def test_an_optimum_in_a_corner_is_approached_without_repeating_it(corner: tuple[int, int]) -> None:
    study = new_study(MultiFidelitySampler(SPACE, 0))
    away = []
    for _ in range(20):
        trial, point = ask(study)
        away.append(np.abs(point - corner).max())
        trial.set_user_attr(EARLY, 0.3 + away[-1])
        study.tell(trial, 1 - 0.5 * (0.3 + away[-1]))
    assert min(away) < 0.03
    assert distances(observations(study.trials, SPACE)[0]).min() > 0


# --- the same again --------------------------------------------------------------------------------------------------


def test_equal_seeds_propose_the_same_and_another_seed_does_not() -> None:
    first, again, other = (run(new_study(MultiFidelitySampler(SPACE, seed)), 10) for seed in (5, 5, 6))
    np.testing.assert_array_equal(again, first)
    assert (np.abs(other - first).max(axis=1) > 1e-6).all()


@pytest.mark.parametrize("pending", [0, 2])
@pytest.mark.parametrize("told", [2, 12])
def test_a_copied_study_with_a_fresh_sampler_goes_on_as_the_original(told: int, pending: int) -> None:
    study = new_study(MultiFidelitySampler(SPACE, 7))
    study.enqueue_trial({"max_lr": 1e-2, "grad_clip": 1.0})
    run(study, told)
    for _ in range(pending):
        ask(study)
    copy = new_study(MultiFidelitySampler(SPACE, 7))
    copy.add_trials(study.trials)
    assert [ask(copy)[0].params for _ in range(4)] == [ask(study)[0].params for _ in range(4)]


# --- running trials --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("told", [0, 4, 25])
def test_trials_that_run_at_once_are_kept_apart(told: int, seed: int) -> None:
    study = new_study(MultiFidelitySampler(SPACE, seed))
    run(study, told, seed)
    assert distances(np.array([ask(study)[1] for _ in range(5)])).min() > 0.02


def test_it_learns_from_the_early_losses_of_running_trials() -> None:
    proposals = []
    for early in (0.1, 2.0):
        study = new_study(MultiFidelitySampler(SPACE, 0))
        run(study, 8)
        for _ in range(3):
            ask(study)[0].set_user_attr(EARLY, early)
        proposals.append(ask(study)[1])
    assert distances(np.array(proposals)).min() > 0.02


# --- where it looks --------------------------------------------------------------------------------------------------


def test_it_comes_closer_to_the_optimum_than_random_search() -> None:
    def nearest(make: Callable[[int], BaseSampler]) -> float:
        runs = [run(new_study(make(seed)), 40, seed) for seed in range(5)]
        return float(np.mean([np.linalg.norm(points - BEST, axis=1).min() for points in runs]))

    guided = nearest(lambda seed: MultiFidelitySampler(SPACE, seed))
    assert guided < 0.5 * nearest(lambda seed: RandomSampler(seed=seed))


def test_later_proposals_are_better_than_random_ones() -> None:
    late = [run(new_study(MultiFidelitySampler(SPACE, seed)), 30, seed)[-15:] for seed in range(3)]
    assert np.median(np.linalg.norm(np.vstack(late) - BEST, axis=1)) < 0.15  # of random ones: 0.5


@pytest.mark.parametrize("seed", range(3))
def test_stopped_trials_show_where_the_optimum_is(seed: int) -> None:
    study, rng = new_study(MultiFidelitySampler(SPACE, seed)), np.random.default_rng(seed)
    for point in ([0.5, 0.5], [0.2, 0.8], [0.9, 0.9]):
        early, final = outcome(np.array(point), rng)
        add(study, np.array(point), TrialState.COMPLETE, early, final)
    for point in rng.random((30, 2)):
        add(study, point, TrialState.PRUNED, outcome(point, rng)[0])
    points = np.array([ask(study)[1] for _ in range(4)])
    assert np.median(np.linalg.norm(points - BEST, axis=1)) < 0.2


@pytest.mark.parametrize("seed", range(3))
def test_it_avoids_the_corner_where_training_diverges(seed: int) -> None:
    def proposals_in_the_corner(diverged: float | None) -> int:
        """The early loss falls towards the corner, but inside of it training diverges."""
        study, rng = new_study(MultiFidelitySampler(SPACE, seed)), np.random.default_rng(seed)
        for point in rng.random((25, 2)):
            early = 0.6 * math.exp(-0.5 * point.sum())
            if point.min() > 0.6:
                add(study, point, TrialState.FAIL, diverged)
            else:
                add(study, point, TrialState.COMPLETE, early, 1 - 0.5 * early)
        proposed = []
        for _ in range(5):
            trial, point = ask(study)
            if point.min() > 0.6 and diverged:
                trial.set_user_attr(EARLY, diverged)
            study.tell(trial, state=TrialState.FAIL)
            proposed.append(point)
        return int((np.array(proposed).min(axis=1) > 0.6).sum())

    assert proposals_in_the_corner(None) == 5
    assert proposals_in_the_corner(math.inf) <= 1


def test_after_very_many_trials_it_still_knows_where_the_bad_ones_were() -> None:
    away = []
    for seed in range(3):
        study, rng = new_study(MultiFidelitySampler(SPACE, seed)), np.random.default_rng(seed)
        for point in np.vstack([rng.random((40, 2)), np.clip(rng.normal(BEST, 0.03, (230, 2)), 0, 1)]):
            add(study, point, TrialState.COMPLETE, *outcome(point, rng))
        away.append(np.linalg.norm(run(study, 4, seed) - BEST, axis=1))
    assert np.mean(away) < 0.2


# --- studies that lack something -------------------------------------------------------------------------------------


def test_finished_trials_without_an_early_loss_are_learnt_from() -> None:
    study, rng = new_study(MultiFidelitySampler(SPACE, 0)), np.random.default_rng(0)
    for point in rng.random((20, 2)):
        add(study, point, TrialState.COMPLETE, None, outcome(point, rng)[1])
    points = np.array([ask(study)[1] for _ in range(3)])
    assert np.median(np.linalg.norm(points - BEST, axis=1)) < 0.4


def test_trials_of_another_space_and_crashed_ones_do_no_harm() -> None:
    study, rng = new_study(MultiFidelitySampler(SPACE, 0)), np.random.default_rng(0)
    for point in rng.random((6, 2)):
        add(study, point, TrialState.COMPLETE, *outcome(point, rng))
    add(study, np.array([0.5, 0.5]), TrialState.FAIL, None)
    lr = optuna_domain(SPACE["max_lr"])
    study.add_trial(create_trial(value=0.9, params={"max_lr": 0.05}, distributions={"max_lr": lr}))
    point = ask(study)[1]
    assert ((point >= 0) & (point <= 1)).all()


def test_observations_tell_apart_what_finished_what_stopped_and_what_diverged() -> None:
    study = new_study(MultiFidelitySampler(SPACE, 0))
    add(study, np.array([0.5, 0.25]), TrialState.COMPLETE, 0.7, 0.8)
    add(study, np.array([0.0, 1.0]), TrialState.PRUNED, 0.9)
    add(study, np.array([1.0, 0.0]), TrialState.FAIL, math.inf)
    add(study, np.array([1.0, 0.5]), TrialState.FAIL, None)
    points, early, final = observations(study.trials, SPACE)
    np.testing.assert_allclose(points, [[0.5, 0.25], [0, 1], [1, 0], [1, 0.5]], atol=1e-12)
    np.testing.assert_array_equal(early, [0.7, 0.9, math.inf, math.nan])
    np.testing.assert_array_equal(final, [0.8, math.nan, math.nan, math.nan])


def test_what_is_not_in_the_space_is_drawn_at_random() -> None:
    study = new_study(MultiFidelitySampler({"max_lr": SPACE["max_lr"]}, 0))
    drawn = {ask(study)[0].params["grad_clip"] for _ in range(3)}
    assert len(drawn) == 3
    assert all(0 <= value <= 2 for value in drawn)
