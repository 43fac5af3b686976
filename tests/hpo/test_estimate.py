"""The likely accuracy of finished trials, against synthetic truths and on every input that a run may hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tune_resnet.hpo.estimate import MIN_FINISHED, Floats, estimated_accuracy

many = settings(derandomize=True, deadline=None, max_examples=200)


def trials(count: int, images: int, seed: int, apart: float = 0.0) -> tuple[Floats, Floats, Floats]:
    """True accuracy, accuracy on so many images, and a loss that says the truth but for a deviation of `apart`."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.70, 0.75, count)
    return truth, rng.binomial(images, truth) / images, np.exp(-2 * (truth + rng.normal(0, apart, count)))


def mean_truth_of_choice(images: int, apart: float, by_estimate: bool) -> float:
    chosen = []
    for seed in range(200):
        truth, accuracy, loss = trials(16, images, seed, apart)
        by = estimated_accuracy(accuracy, loss) if by_estimate else accuracy
        chosen.append(truth[by.argmax()])
    return float(np.mean(chosen))


def test_with_few_images_a_good_loss_chooses_better() -> None:
    assert mean_truth_of_choice(500, 0.005, True) > mean_truth_of_choice(500, 0.005, False) + 0.003


def test_with_many_images_a_poor_loss_costs_little() -> None:
    assert (
        mean_truth_of_choice(100_000, 0.03, True) > mean_truth_of_choice(100_000, 0.03, False) - 0.002
    )  # of a span of 0.05


def test_a_loss_that_says_nothing_leaves_accuracies_as_measured() -> None:
    accuracy = np.array([0.5, 0.6, 0.7, 0.8, 0.9])
    for loss in (np.full(5, 0.7), np.array([0.1, 0.2, 0.3, 0.4, 0.5])):  # does not vary, or rises with the accuracy
        np.testing.assert_array_equal(estimated_accuracy(accuracy, loss), accuracy)


@pytest.mark.parametrize("count", range(MIN_FINISHED))
def test_few_finished_trials_are_left_as_measured(count: int) -> None:
    _, accuracy, loss = trials(count, 100, 0)
    np.testing.assert_array_equal(estimated_accuracy(accuracy, loss), accuracy)


@many
@given(
    st.integers(0, 12).flatmap(
        lambda count: st.tuples(
            arrays("float64", count, elements=st.floats(0, 1)), arrays("float64", count, elements=st.floats(0, 1e9))
        )
    )
)
def test_estimates_are_accuracies_equal_for_equal_trials(measured: tuple[Floats, Floats]) -> None:
    accuracy, loss = measured
    before = accuracy.copy()
    found = estimated_accuracy(accuracy, loss)
    assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_array_equal(accuracy, before)
    order = np.random.default_rng(0).permutation(len(accuracy))
    np.testing.assert_allclose(estimated_accuracy(accuracy[order], loss[order]), found[order], atol=1e-6)
    twice = estimated_accuracy(np.repeat(accuracy, 2), np.repeat(loss, 2))
    np.testing.assert_array_equal(twice[::2], twice[1::2])
