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
LEAST = 0.001  # share of images that counts as wrong, or right, where none is: a logit wants both


def estimated_accuracy(accuracy: Floats, loss: Floats) -> Floats:
    """Each finished trial's likely accuracy on images of the same kind, in [0, 1].

    The mean of the accuracy and of its least-squares line over the loss: logit over logarithm, which keeps it a share.

    Args:
        accuracy: (trials,) on the validation images, in [0, 1].
        loss: (trials,) mean cross-entropy on them.

    Returns:
        (trials,), `accuracy` itself for fewer than four trials, or where it does not fall as the loss rises.
    """
    if len(accuracy) < MIN_FINISHED:
        return accuracy
    inside = np.clip(accuracy, LEAST, 1 - LEAST)
    logs, logits = np.log(np.maximum(loss, 1e-12)), np.log(inside / (1 - inside))
    away = logs - logs.mean()
    spread = away @ away
    slope = away @ logits / spread if spread > 0 else 0.0
    if not slope < -1e-9:  # a sum of zeros may be a little less
        return accuracy
    fitted = (1 + np.tanh((logits.mean() + slope * away) / 2)) / 2  # the logistic function, which does not overflow
    # Rounded, so that equal trials stay equal: a sum's last digits depend on the machine.
    return np.asarray(((accuracy + fitted) / 2).round(9))
