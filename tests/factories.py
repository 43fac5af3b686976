"""What several tests make: small, and like the real thing."""

from __future__ import annotations

import numpy as np
from torch import nn

from tune_resnet.data import ImageSet, Split
from tune_resnet.metrics import EpochMetrics
from tune_resnet.records import RunDirectory, TrialRow, train_spec_of
from tune_resnet.spec import ModelSpec, TrainSpec
from tune_resnet.weights import Outcome, save_model

_NONE = ImageSet(np.zeros((0, 3, 32, 32), dtype=np.uint8), np.zeros(0, dtype=np.int64))
_SPLIT = Split(_NONE, _NONE, ("a", "b"), np.zeros(3, dtype=np.float32), np.ones(3, dtype=np.float32))


def leave_model(run: RunDirectory, row: TrialRow, train: TrainSpec, **last: float) -> None:
    """A model as a trial leaves it after its last epoch, with `last` of its metrics; its network is next to nothing."""
    metrics = {"lr": 0.1, "train_loss": 0.5, "loss": 0.5, "accuracy": 0.5, "seconds": 1.0, "images_per_second": 9.0}
    outcome = Outcome(
        trial=row.trial,
        train=train_spec_of(vars(row), train),
        last=EpochMetrics(epoch=train.epochs, **{**metrics, **last}),  # type: ignore[arg-type]
    )
    save_model(run.model_of(row.trial), nn.Linear(1, 1), _SPLIT, ModelSpec(width=1), outcome)
