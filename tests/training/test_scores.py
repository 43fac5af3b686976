"""What an evaluation says, beside scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from tune_resnet.training.evaluation import scores


@pytest.mark.parametrize(
    ("labels", "predicted"),
    [
        ([0, 0, 0, 0, 1, 2], [0, 0, 0, 1, 1, 0]),
        ([0, 0, 2, 2], [0, 0, 2, 0]),  # a class without images that is not predicted either
        ([0, 0, 2, 2], [0, 1, 2, 1]),  # ... and that is
        ([1, 1], [1, 1]),
        ([1, 1], [0, 2]),
        (None, None),
    ],
)
def test_scores_are_scikit_learns(labels: list[int] | None, predicted: list[int] | None) -> None:
    if labels is None or predicted is None:
        draw = np.random.default_rng(0)
        labels, predicted = (draw.choice(5, 400, p=[0.6, 0.2, 0.1, 0.07, 0.03]).tolist() for _ in range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scikit-learn's: classes without images
        expected = [
            accuracy_score(labels, predicted),
            balanced_accuracy_score(labels, predicted),
            f1_score(labels, predicted, average="macro"),
        ]
    assert scores(torch.tensor(predicted), torch.tensor(labels), 5).tolist() == pytest.approx(expected, abs=1e-12)
