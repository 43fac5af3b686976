"""Normalisation and augmentation of whole batches, on the device the images are on."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tune_resnet.data.types import ImageSet

CROP_PADDING = 4  # pixels on each side, reflected


@dataclass(frozen=True)
class DeviceImages:
    """A set of images on a device: uint8 (N, C, H, W), labels int64 (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def to_device(images: ImageSet, device: torch.device) -> DeviceImages:
    """Moves a set to a device, as uint8. On the CPU the tensors share the arrays' memory."""
    return DeviceImages(_tensor_over(images.images).to(device), _tensor_over(images.labels).to(device))


def _tensor_over(array: np.ndarray[Any, Any]) -> Tensor:
    with warnings.catch_warnings():
        # Arrays in Ray's object store are read-only; nothing here writes to them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


@dataclass(frozen=True)
class Crops:
    """What augmentation does to each of N images: offsets in [0, 2 * CROP_PADDING], int64 (N,); flips, bool (N,)."""

    down: Tensor
    right: Tensor
    flip: Tensor

    def __getitem__(self, rows: slice) -> Crops:
        return Crops(self.down[rows], self.right[rows], self.flip[rows])


def draw_crops(count: int, flip: bool, generator: torch.Generator) -> Crops:
    """Random crops for `count` images, mirrored half of the time where `flip`, on the generator's device."""
    device = generator.device
    shifts = torch.randint(0, 2 * CROP_PADDING + 1, (2, count), generator=generator, device=device)
    coins = torch.rand(count, generator=generator, device=device) < 0.5
    return Crops(shifts[0], shifts[1], coins if flip else torch.zeros_like(coins))


def crop_and_flip(images: Tensor, chosen: Tensor, crops: Crops) -> Tensor:
    """Copies the `chosen` images (indices, (B,)) out of `images`, each padded by reflection, cropped and flipped.

    Padding, crop and flip are arithmetic on pixel positions, so that the batch is made by a single gather.

    Returns:
        uint8 (B, C, H, W).
    """
    channels, height, width = images.shape[1:]
    rows = _reflected(crops.down, height)
    columns = _reflected(crops.right, width)
    columns = torch.where(crops.flip[:, None], columns.flip(1), columns)
    channel = torch.arange(channels, device=images.device)
    return images[
        chosen[:, None, None, None], channel[None, :, None, None], rows[:, None, :, None], columns[:, None, None, :]
    ]


def _reflected(offset: Tensor, size: int) -> Tensor:
    """The source position of each of `size` pixels when the crop starts at `offset` of the padded image: (B, size)."""
    position = torch.arange(size, device=offset.device) + offset[:, None] - CROP_PADDING
    return (size - 1) - ((size - 1) - position.abs()).abs()


class Normalise:
    """uint8 images to float32, channels last, each channel minus `mean` and divided by `std` (0..255 scale, (3,))."""

    def __init__(self, mean: np.ndarray[Any, Any], std: np.ndarray[Any, Any], device: torch.device) -> None:
        self.mean = torch.as_tensor(mean, dtype=torch.float32, device=device).view(1, -1, 1, 1)
        self.std = torch.as_tensor(std, dtype=torch.float32, device=device).view(1, -1, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        floats = images.to(torch.float32, memory_format=torch.channels_last)
        return floats.sub_(self.mean).div_(self.std)
