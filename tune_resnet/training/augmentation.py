"""Normalisation and augmentation of whole batches, on the device the images are on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tune_resnet.data.types import SIZE


@dataclass(frozen=True)
class Crops:
    """What augmentation does to each of N images: shifts in pixels, int64 (N,), at most the padding either way; flips,
    bool (N,); centres of the blanked square, in [0, 1), float32 (N, 2), None: there is none."""

    down: Tensor
    right: Tensor
    flip: Tensor
    cutout: int = 0  # side of the square, in pixels
    centres: Tensor | None = None

    def __getitem__(self, rows: slice) -> Crops:
        centres = None if self.centres is None else self.centres[rows]
        return Crops(self.down[rows], self.right[rows], self.flip[rows], self.cutout, centres)


def draw_crops(
    count: int, flip: bool, generator: torch.Generator, padding: int = 4, cutout: int = 0, size: int = SIZE
) -> Crops:
    """Random crops for `count` images of `size`, mirrored half of the time where `flip`, on the generator's device;
    `padding` and `cutout` are in pixels of an image of 32."""
    device = generator.device
    padding, cutout = round(padding * size / SIZE), round(cutout * size / SIZE)
    shifts = torch.randint(0, 2 * padding + 1, (2, count), generator=generator, device=device) - padding
    coins = torch.rand(count, generator=generator, device=device) < 0.5
    centres = torch.rand((count, 2), generator=generator, device=device) if cutout else None
    return Crops(shifts[0], shifts[1], coins if flip else torch.zeros_like(coins), cutout, centres)


def augmented(images: Tensor, chosen: Tensor, crops: Crops, blank: Tensor) -> Tensor:
    """Copies the `chosen` images (indices, (B,)) out of `images`, each padded by reflection, cropped and flipped, and
    with a square of the colour `blank`, uint8 (C, 1, 1), where there is to be one.

    Padding, crop and flip are arithmetic on pixel positions, so that the batch is made by a single gather.

    Returns:
        uint8 (B, C, H, W).
    """
    channels, height, width = images.shape[1:]
    rows = _reflected(crops.down, height)
    columns = _reflected(crops.right, width)
    columns = torch.where(crops.flip[:, None], columns.flip(1), columns)
    channel = torch.arange(channels, device=images.device)
    batch = images[
        chosen[:, None, None, None], channel[None, :, None, None], rows[:, None, :, None], columns[:, None, None, :]
    ]
    return batch if crops.centres is None else torch.where(_square(crops, crops.centres, height, width), blank, batch)


def _square(crops: Crops, centres: Tensor, height: int, width: int) -> Tensor:
    """Where each image is blanked, bool (B, 1, H, W): a square around any of its pixels, cut off at its edges (DeVries
    and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017)."""
    top, left = ((centres[:, axis] * size).long() - crops.cutout // 2 for axis, size in enumerate((height, width)))
    row, column = (torch.arange(size, device=top.device) for size in (height, width))
    rows = (row >= top[:, None]) & (row < top[:, None] + crops.cutout)
    columns = (column >= left[:, None]) & (column < left[:, None] + crops.cutout)
    square: Tensor = rows[:, None, :, None] & columns[:, None, None, :]
    return square


def _reflected(offset: Tensor, size: int) -> Tensor:
    """The source position of each of `size` pixels of an image that is shifted by `offset`: (B, size)."""
    position = torch.arange(size, device=offset.device) + offset[:, None]
    return (size - 1) - ((size - 1) - position.abs()).abs()


class Normalise:
    """uint8 images to float32, channels last, each channel minus `mean` and divided by `std` (0..255 scale, (3,))."""

    def __init__(self, mean: np.ndarray[Any, Any], std: np.ndarray[Any, Any], device: torch.device) -> None:
        self.mean = torch.as_tensor(mean, dtype=torch.float32, device=device).view(1, -1, 1, 1)
        self.std = torch.as_tensor(std, dtype=torch.float32, device=device).view(1, -1, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        floats = images.to(torch.float32, memory_format=torch.channels_last)
        return floats.sub_(self.mean).div_(self.std)
