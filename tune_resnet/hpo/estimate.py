"""What accuracy a configuration is likely to have: the one measured, and the one that its validation loss stands for.

The accuracy on some hundred or thousand images is noisy: good configurations differ by less than the luck of which
images lie near the boundary. The loss on the same images uses how near they are, and ranks good configurations better
(experiments/FINDING.md). So both are weighed, as a sample and a regression are in Fay and Herriot, "Estimates of Income
for Small Places", Journal of the American Statistical Association, 1979: the fewer images, the more the loss counts;
the less closely accuracies follow the losses, the more they count themselves.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MIN_FINISHED = 4  # trials, below which a line through them says nothing


def estimated_accuracy(accuracy: Floats, loss: Floats, images: int) -> Floats:
    """Each finished trial's likely accuracy on images of the same kind, in [0, 1].

    Args:
        accuracy: (trials,) on the validation images, in [0, 1].
        loss: (trials,) mean cross-entropy on them.
        images: how many they are.

    Returns:
        (trials,), `accuracy` itself for fewer than four trials, or where it does not fall as the loss rises.
    """
    if len(accuracy) < MIN_FINISHED:
        return accuracy
    logs = np.log(np.maximum(loss, 1e-12))
    away = logs - logs.mean()
    spread = away @ away
    slope = away @ accuracy / spread if spread > 0 else 0.0
    if not slope < 0:
        return accuracy
    fitted = accuracy.mean() + slope * away
    residual = ((accuracy - fitted) ** 2).sum() / (len(accuracy) - 2)
    sampling = accuracy.mean() * (1 - accuracy.mean()) / images  # variance of a share
    apart = max(residual - sampling, 0.0)  # how far true accuracies lie from the line, as a variance
    weight = apart / (apart + sampling) if apart > 0 else 0.0
    # Rounded, so that equal trials stay equal: a sum's last digits depend on the machine.
    return np.asarray(np.clip(weight * accuracy + (1 - weight) * fitted, 0, 1).round(9))
