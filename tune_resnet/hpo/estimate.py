"""What accuracy a configuration is likely to have: the one measured and the one that its validation loss stands for.

The accuracy on some hundred or thousand images is noisy: good configurations differ by less than the luck of which
images lie near the boundary. The loss on the same images uses how near they are. Neither chooses the better winner on
every kind of images (experiments/FINDING.md), so both count by a half. Weights worked out from the trials themselves,
as in Fay and Herriot, 1979, were tried: from a dozen trials they are all or nothing, and chose worse winners.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MIN_FINISHED = 4  # trials, below which a line through them says nothing


def estimated_accuracy(accuracy: Floats, loss: Floats) -> Floats:
    """Each finished trial's likely accuracy on images of the same kind, in [0, 1].

    The mean of the accuracy and of its least-squares line over the logarithm of the loss.

    Args:
        accuracy: (trials,) on the validation images, in [0, 1].
        loss: (trials,) mean cross-entropy on them.

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
    # Rounded, so that equal trials stay equal: a sum's last digits depend on the machine.
    return np.asarray(np.clip((accuracy + fitted) / 2, 0, 1).round(9))
