"""How good a network is on images that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from tune_resnet.config.sections import OBJECTIVES
from tune_resnet.data.types import with_pixels_of
from tune_resnet.training.images import DeviceImages

MEASURED = ("loss", *OBJECTIVES)  # what an evaluation gives, in this order

_BATCH = {"cuda": 1000, "cpu": 200}  # images of 32x32: enough to fill a GPU; a CPU is as fast with few, in less memory


@torch.inference_mode()
def evaluate(logits_of: Callable[[Tensor], Tensor], held_out: DeviceImages) -> Tensor:
    """What `MEASURED` names, float64 (4,), still on the device: the mean cross-entropy, all images counting the same,
    and the `scores`.

    Args:
        logits_of: gives logits (B, classes) for uint8 images (B, 3, H, W).
        held_out: the images, at least one.
    """
    device = held_out.labels.device
    size = with_pixels_of(_BATCH[device.type], held_out.images.shape[-1])
    loss_sum, predicted = torch.zeros((), device=device), []
    for images, labels in zip(held_out.in_order(size), held_out.labels.split(size), strict=True):
        logits = logits_of(images)
        loss_sum += functional.cross_entropy(logits, labels, reduction="sum")
        predicted.append(logits.argmax(1))
    found = scores(torch.cat(predicted), held_out.labels, logits.shape[1])
    return torch.cat([(loss_sum.double() / len(held_out))[None], found])


def scores(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Accuracy, balanced accuracy and macro F1, in [0, 1]: float64 (3,), on the same device, without waiting for it.

    As scikit-learn has them: `balanced_accuracy_score` is the mean recall of the classes that have images, and
    `f1_score(average="macro")` the mean F1 of those that have images or are predicted.

    Args:
        predicted: int64 (N,), the likeliest class of each image.
        labels: int64 (N,), its own class.
        classes: how many there are.
    """
    zeros, is_right = torch.zeros(classes, dtype=torch.float64, device=labels.device), (predicted == labels).double()
    right, images, found = (
        zeros.index_add(0, which, weights)  # bincount would wait for the device
        for which, weights in (
            (labels, is_right),
            (labels, torch.ones_like(is_right)),
            (predicted, torch.ones_like(is_right)),
        )
    )
    # 0 / 0 is NaN: a class that does not count.
    recall, f1 = right / images, 2 * right / (images + found)
    return torch.stack([right.sum() / len(labels), recall.nanmean(), f1.nanmean()])
