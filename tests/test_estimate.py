"""The estimate against synthetic truths, and on every input that a study may hold."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from tune_resnet.estimate import LEAST_FINISHED, Estimate, Floats, estimated_accuracy, unit_points
from tune_resnet.space import Domain

NAN, INF = np.nan, np.inf


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """On matrices this small, more BLAS threads than free cores take ten times as long."""
    with threadpool_limits(1):
        yield


@dataclass
class Trials:
    points: Floats
    early: Floats
    final: Floats
    truth: Floats  # the final accuracy without noise


def synthetic(count: int, dimensions: int, seed: int, finished: float = 1, noise: float = 0.02) -> Trials:
    """Early loss with 1% noise; accuracy by it, by a smooth difference and by noise; a random share is stopped."""
    rng = np.random.default_rng(seed)
    points = rng.random((count, dimensions))
    early = 0.6 * np.exp(1.5 * ((points - 0.6) ** 2).mean(axis=1) * 2)
    truth = 1 - 0.4 * early * np.exp(0.1 * np.sin(4 * points[:, 0]))
    measured = np.clip(truth + rng.normal(0, noise, count), 0, 1)
    stopped = rng.permutation(count) >= finished * count
    return Trials(points, early * rng.lognormal(0, 0.01, count), np.where(stopped, NAN, measured), truth)


def root_mean_square(errors: Floats) -> float:
    return float(np.sqrt(np.mean(errors**2)))


def rank_correlation(a: Floats, b: Floats) -> float:
    return float(np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1])


def replaced(values: Floats, where: int | slice | list[int], value: float) -> Floats:
    copy = values.copy()
    copy[where] = value
    return copy


# --- better than what was measured -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("count", [12, 30])
def test_the_estimate_is_nearer_to_the_truth_than_the_measurement(dimensions: int, count: int) -> None:
    errors, measured, ranks, ranks_measured = [], [], [], []
    for seed in range(5):
        trials = synthetic(count, dimensions, seed)
        estimated = estimated_accuracy(trials.points, trials.early, trials.final)
        errors.append(root_mean_square(estimated - trials.truth))
        measured.append(root_mean_square(trials.final - trials.truth))
        ranks.append(rank_correlation(estimated, trials.truth))
        ranks_measured.append(rank_correlation(trials.final, trials.truth))
    assert np.mean(errors) < 0.7 * np.mean(measured)
    assert np.mean(ranks) > np.mean(ranks_measured)


def test_among_good_configurations_the_highest_estimate_loses_less_than_the_highest_measurement() -> None:
    lost, lost_measured = [], []
    for seed in range(10):
        trials = synthetic(25, 3, seed, noise=0.04)
        estimated = estimated_accuracy(trials.points, trials.early, trials.final)
        lost.append(trials.truth.max() - trials.truth[estimated.argmax()])
        lost_measured.append(trials.truth.max() - trials.truth[trials.final.argmax()])
    assert np.mean(lost) < 0.6 * np.mean(lost_measured)


def test_the_early_losses_of_stopped_trials_improve_it() -> None:
    errors, without = [], []
    for seed in range(6):
        trials = synthetic(40, 3, seed, finished=0.2)
        stopped = np.isnan(trials.final)
        for early, into in ((trials.early, errors), (np.where(stopped, NAN, trials.early), without)):
            accuracy = Estimate(trials.points, early, trials.final).accuracy(trials.points[stopped])
            into.append(root_mean_square(accuracy - trials.truth[stopped]))
    assert np.mean(errors) < 0.6 * np.mean(without)


def test_accuracies_are_interpolated_smoothly_where_no_early_loss_tells_them_apart() -> None:
    points = np.linspace(0, 1, 15)[:, None]
    truth = 0.8 - 0.3 * (points[:, 0] - 0.5) ** 2
    accuracy = Estimate(points, np.full(15, 0.7), truth).accuracy(np.array([[0.5], [0.0], [0.25]]))
    assert accuracy == pytest.approx([0.8, 0.725, 0.78125], abs=0.02)


# --- deviation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimensions", [1, 2, 4])
def test_the_deviation_is_smaller_near_the_trials_than_far_away(dimensions: int) -> None:
    trials = synthetic(20, dimensions, seed=1)
    estimate = Estimate(trials.points / 2, trials.early, trials.final)
    near = estimate.mean_and_deviation(trials.points / 2)[1]
    far = estimate.mean_and_deviation(1 - trials.points / 10)[1]
    assert (near >= 0).all()
    assert near.max() < far.min()


def test_more_trials_leave_less_deviation() -> None:
    few, many = synthetic(8, 2, seed=3), synthetic(60, 2, seed=3)
    inner = np.random.default_rng(0).uniform(0.2, 0.8, (50, 2))
    deviations = [Estimate(t.points, t.early, t.final).mean_and_deviation(inner)[1].mean() for t in (few, many)]
    assert deviations[1] < deviations[0]


# --- any input -------------------------------------------------------------------------------------------------------


def assert_sound(points: Floats, early: Floats, final: Floats) -> None:
    estimate = Estimate(points, early, final)
    asked = np.vstack([points, np.random.default_rng(0).random((30, points.shape[1]))])
    mean, deviation = estimate.mean_and_deviation(asked)
    accuracy = estimate.accuracy(asked)
    assert np.isfinite(mean).all()
    assert np.isfinite(deviation).all()
    assert (deviation >= 0).all()
    assert ((accuracy >= 0) & (accuracy <= 1)).all()


@pytest.mark.parametrize(("count", "dimensions"), [(2, 1), (2, 3), (2, 6), (5, 1), (20, 6), (100, 1), (100, 6)])
def test_any_number_of_trials_and_hyperparameters_gives_finite_estimates(count: int, dimensions: int) -> None:
    trials = synthetic(count, dimensions, seed=0)
    assert_sound(trials.points, trials.early, trials.final)


BASE = synthetic(12, 2, seed=2)
REPEATED = replaced(BASE.points, 1, 0.5)
ODD = {
    "one diverged": (BASE.points, replaced(BASE.early, 6, INF), replaced(BASE.final, 6, NAN)),
    "all but one diverged": (BASE.points, replaced(BASE.early, slice(1, None), INF), BASE.final),
    "all diverged": (BASE.points, np.full(12, INF), BASE.final),
    "some early losses unknown": (BASE.points, replaced(BASE.early, [0, 5, 6], NAN), BASE.final),
    "one early loss known": (BASE.points, replaced(BASE.early, slice(1, None), NAN), BASE.final),
    "one finished": (BASE.points, BASE.early, replaced(BASE.final, slice(1, None), NAN)),
    "one perfect": (BASE.points, BASE.early, replaced(BASE.final, 0, 1)),
    "one all wrong": (BASE.points, BASE.early, replaced(BASE.final, 0, 0)),
    "all perfect": (BASE.points, BASE.early, np.ones(12)),
    "all wrong": (BASE.points, BASE.early, np.zeros(12)),
    "an early loss of zero": (BASE.points, replaced(BASE.early, 3, 0), BASE.final),
    "a huge early loss": (BASE.points, replaced(BASE.early, 3, 1e300), BASE.final),
    "two equal points": (replaced(REPEATED, 2, 0.5), BASE.early, BASE.final),
    "two equal trials": (
        replaced(REPEATED, 2, 0.5),
        replaced(BASE.early, [1, 2], 0.7),
        replaced(BASE.final, [1, 2], 0.6),
    ),
    "all points equal": (np.full((12, 2), 0.5), BASE.early, BASE.final),
    "equal early losses": (BASE.points, np.full(12, 0.7), BASE.final),
    "equal accuracies": (BASE.points, BASE.early, np.full(12, 0.8)),
    "all values equal": (BASE.points, np.full(12, 0.7), np.full(12, 0.8)),
    "corners only": (BASE.points.round(), BASE.early, BASE.final),
}


@pytest.mark.parametrize(("points", "early", "final"), ODD.values(), ids=ODD.keys())
def test_odd_trials_give_finite_estimates(points: Floats, early: Floats, final: Floats) -> None:
    assert_sound(points, early, final)


def test_without_any_early_loss_it_learns_from_the_accuracies() -> None:
    assert_sound(BASE.points, np.full(12, NAN), BASE.final)


@st.composite
def wild(draw: st.DrawFn) -> tuple[Floats, Floats, Floats]:
    """Any few trials of which one has finished and one has an early loss."""
    count, dimensions = draw(st.integers(1, 10)), draw(st.integers(1, 6))
    place = st.sampled_from((0.0, 0.5, 1.0)) | st.floats(0, 1)
    points = [[draw(place) for _ in range(dimensions)] for _ in range(count)]
    loss = st.sampled_from((NAN, INF, 0.0, 0.5)) | st.floats(0, 1e6)
    accuracy = st.sampled_from((NAN, 0.0, 0.1, 1.0)) | st.floats(0, 1)
    early, final = ([draw(kind) for _ in range(count)] for kind in (loss, accuracy))
    early[draw(st.integers(0, count - 1))] = draw(st.floats(0, 1e3) | st.just(INF))
    final[draw(st.integers(0, count - 1))] = draw(st.floats(0, 1))
    return np.array(points), np.array(early), np.array(final)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(trials=wild())
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_any_trials_give_finite_estimates(trials: tuple[Floats, Floats, Floats]) -> None:
    assert_sound(*trials)


@settings(derandomize=True, deadline=None, max_examples=20)
@given(order=st.permutations(range(15)))
def test_the_order_of_trials_does_not_matter(order: list[int]) -> None:
    trials, asked = synthetic(15, 3, seed=5, finished=0.6), np.random.default_rng(0).random((20, 3))
    early = replaced(replaced(trials.early, 2, INF), 3, NAN)
    mean, deviation = Estimate(trials.points, early, trials.final).mean_and_deviation(asked)
    again = Estimate(trials.points[order], early[order], trials.final[order]).mean_and_deviation(asked)
    np.testing.assert_allclose(again[0], mean, atol=2e-3)
    np.testing.assert_allclose(again[1], deviation, atol=2e-3)


def test_a_noise_free_early_loss_brings_no_warning() -> None:
    points = synthetic(40, 1, seed=4).points
    early = 0.3 + points[:, 0]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Estimate(points, early, 1 - early / 2)
    assert [str(warning.message) for warning in caught] == []


# --- outliers --------------------------------------------------------------------------------------------------------


def shifts(trials: Trials, accuracy: float) -> Floats:
    """How far the estimates of the others move where the first trial's accuracy is another one."""
    before = estimated_accuracy(trials.points, trials.early, trials.final)
    return np.abs(estimated_accuracy(trials.points, trials.early, replaced(trials.final, 0, accuracy)) - before)[1:]


@pytest.mark.parametrize("seed", range(4))
def test_one_catastrophic_trial_does_not_change_the_estimates_of_the_others_much(seed: int) -> None:
    moved = shifts(synthetic(24, 2, seed), 0.1)
    assert moved.mean() < 0.02
    assert moved.max() < 0.1


@pytest.mark.parametrize("seed", range(4))
def test_one_perfect_trial_does_not_change_the_estimates_of_the_others_much(seed: int) -> None:
    moved = shifts(synthetic(24, 2, seed), 1.0)
    assert moved.mean() < 0.02
    assert moved.max() < 0.1


def test_where_training_diverged_little_is_expected() -> None:
    trials = synthetic(20, 2, seed=6)
    diverged = trials.points.sum(axis=1) > 1.3
    early, final = np.where(diverged, INF, trials.early), np.where(diverged, NAN, trials.final)
    accuracy = Estimate(trials.points, early, final).accuracy(trials.points)
    assert accuracy[diverged].max() < np.median(accuracy[~diverged])


@pytest.mark.parametrize("known", [[0.6], [0.6, 0.61]])
def test_where_training_diverged_little_is_expected_even_if_hardly_any_trial_did_not(known: list[float]) -> None:
    points = np.array([[0.2, 0.2], [0.2, 0.4], [0.9, 0.9], [0.7, 0.8], [0.85, 0.6]])[2 - len(known) :]
    early = np.array([*known, INF, INF, INF])
    final = replaced(np.full(len(early), NAN), 0, 0.7)
    accuracy = Estimate(points, early, final).accuracy(points)
    assert accuracy[-3:].max() < accuracy[0] - 0.05


# --- what a winner is chosen by --------------------------------------------------------------------------------------


def test_stopped_trials_have_no_estimated_accuracy() -> None:
    trials = synthetic(20, 2, seed=0, finished=0.5)
    before = trials.final.copy()
    estimated = estimated_accuracy(trials.points, trials.early, trials.final)
    np.testing.assert_array_equal(np.isnan(estimated), np.isnan(trials.final))
    np.testing.assert_array_equal(trials.final, before)
    known = estimated[~np.isnan(estimated)]
    assert ((known >= 0) & (known <= 1)).all()


@pytest.mark.parametrize("finished", range(LEAST_FINISHED))
def test_few_finished_trials_are_left_as_measured(finished: int) -> None:
    final = replaced(BASE.final, slice(finished, None), NAN)
    np.testing.assert_array_equal(estimated_accuracy(BASE.points, BASE.early, final), final)


def test_without_early_losses_accuracies_are_left_as_measured() -> None:
    np.testing.assert_array_equal(estimated_accuracy(BASE.points, np.full(12, NAN), BASE.final), BASE.final)


def test_unit_points_are_on_each_domains_scale_in_the_spaces_order() -> None:
    space = {"max_lr": Domain(low=1e-3, high=1e-1), "grad_clip": Domain(low=0, high=4, log=False)}
    rows = [{"grad_clip": 1, "max_lr": 1e-2}, {"max_lr": 0.1, "grad_clip": 4.0, "other": 7}]
    np.testing.assert_allclose(unit_points(rows, space), [[0.5, 0.25], [1, 1]])
