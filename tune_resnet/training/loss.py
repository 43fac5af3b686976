"""The loss that a training descends."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tune_resnet.config.sections import TrainSpec


def balanced_weights(labels: np.ndarray, classes: int) -> Tensor:
    """What an image of each class counts for so that all classes count the same: (classes,) float32.

    Images over classes and images of the class, as scikit-learn's `compute_class_weight("balanced", ...)` has it.
    `labels`: int (N,), positions in the class names; one without an image, which no data source gives, has some number.
    """
    counts = np.maximum(np.bincount(labels, minlength=classes), 1)
    return torch.from_numpy((len(labels) / (classes * counts)).astype("float32"))


def losses(logits: Tensor, labels: Tensor, spec: TrainSpec, balanced: Tensor) -> tuple[Tensor, Tensor]:
    """What a step descends, and what is reported of it, both scalars: the batch's mean cross-entropy with the labels
    smoothed and the classes weighted as the spec says (a weighted mean, as PyTorch's), and, detached, the plain one,
    since only that can be compared over configurations.

    Args:
        logits: float32 (B, classes).
        labels: int64 (B,).
        spec: the configuration.
        balanced: (classes,), the `balanced_weights`, on the same device.
    """
    weights = balanced if spec.class_weights == "balanced" else None
    loss = functional.cross_entropy(logits, labels, weights, label_smoothing=spec.label_smoothing)
    is_plain = weights is None and not spec.label_smoothing
    return loss, loss.detach() if is_plain else functional.cross_entropy(logits.detach(), labels)
