"""How good a network is on images that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from tune_resnet.data.types import with_pixels_of
from tune_resnet.training.images import DeviceImages

_BATCH = {"cuda": 1000, "cpu": 200}  # images of 32x32: enough to fill a GPU; a CPU is as fast with few, in less memory


@torch.inference_mode()
def evaluate(logits_of: Callable[[Tensor], Tensor], held_out: DeviceImages) -> tuple[Tensor, Tensor]:
    """Sum of cross-entropies and number of right answers, scalars still on the device.

    Args:
        logits_of: gives logits (B, classes) for uint8 images (B, 3, H, W).
        held_out: the images.
    """
    device = held_out.labels.device
    size = with_pixels_of(_BATCH[device.type], held_out.images.shape[-1])
    loss_sum, correct = torch.zeros((), device=device), torch.zeros((), device=device)
    for images, labels in zip(held_out.in_order(size), held_out.labels.split(size), strict=True):
        logits = logits_of(images)
        loss_sum += functional.cross_entropy(logits, labels, reduction="sum")
        correct += (logits.argmax(1) == labels).sum()
    return loss_sum, correct


@torch.inference_mode()
def all_logits(logits_of: Callable[[Tensor], Tensor], held_out: DeviceImages) -> Tensor:
    """The logits (N, classes) of all images, still on the device; arguments as for `evaluate`."""
    size = with_pixels_of(_BATCH[held_out.labels.device.type], held_out.images.shape[-1])
    return torch.cat([logits_of(images) for images in held_out.in_order(size)])
