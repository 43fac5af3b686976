"""A set of images where a training reaches them: on its device, or in memory or a file and streamed to it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tune_resnet.data.types import BLOCK, ImageSet, MappedImages, with_pixels_of

# Of a GPU's free memory, what a set of images may take: trials that begin on one together see the same free memory.
GPU_SHARE = 0.25


@dataclass(frozen=True)
class DeviceImages:
    """A set of images for a device.

    Args:
        images: uint8 (M, C, H, W), on the device, or on the CPU where they are `streamed`.
        labels: int64 (N,), on the device.
        rows: the images that are the set's, int64 (N,), where `images` are; None: all, in their order.
        streamed: each batch is copied to the device when it is its turn.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor | None = None
    streamed: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, order: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """For each batch of an `order`, places in the set, (N,), on the device: images there, uint8 (M, C, H, W); which
        of them are the batch's, (B,); and their labels, (B,)."""
        places = order.to(self.images.device)
        rows = places if self.rows is None else self.rows[places]
        for chosen, labels in zip(rows.split(size), self.labels[order].split(size), strict=True):
            if self.streamed:
                yield self._copied(chosen), torch.arange(len(chosen), device=labels.device), labels
            else:
                yield self.images, chosen, labels

    def in_order(self, size: int) -> Iterator[Tensor]:
        """All images as batches on the device, uint8 (B, C, H, W)."""
        if self.rows is None and not self.streamed:
            yield from self.images.split(size)
            return
        rows = torch.arange(len(self.images)) if self.rows is None else self.rows
        for chosen in rows.split(size):
            yield self._copied(chosen) if self.streamed else self.images[chosen]

    def _copied(self, chosen: Tensor) -> Tensor:
        """These images on the device. PyTorch keeps pinned memory from other use until the copy is made."""
        device = self.labels.device
        found = torch.empty((len(chosen), *self.images.shape[1:]), dtype=torch.uint8, pin_memory=device.type == "cuda")
        torch.index_select(self.images, 0, chosen, out=found)
        return found.to(device, non_blocking=True)


def to_device(images: ImageSet, device: torch.device) -> DeviceImages:
    """A set for a device. On the CPU its tensors share the memory of an array, and read a file as they are used; a GPU
    gets all of it where that is at most a quarter of its free memory."""
    source, labels = images.source, _tensor_over(images.labels).to(device)
    if isinstance(source, MappedImages):
        whole, rows = _tensor_over(source.whole), _tensor_over(source.rows)
    else:
        whole, rows = _tensor_over(source), None
    streamed = device.type == "cuda" and source.nbytes > GPU_SHARE * free_memory(device)
    if device.type == "cpu" or streamed:
        return DeviceImages(whole, labels, rows, streamed)
    return DeviceImages(whole.to(device) if rows is None else _moved(whole, rows, device), labels)


def free_memory(device: torch.device) -> int:
    """Bytes of a GPU's memory that this process may still take: of what nobody has, what PyTorch keeps for it unused
    included, and within its share of the GPU."""
    free, total = torch.cuda.mem_get_info(device)
    used, kept = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    share = torch.cuda.get_per_process_memory_fraction(device)
    return min(free + kept - used, int(share * total) - used)


def _moved(whole: Tensor, rows: Tensor, device: torch.device) -> Tensor:
    """Those images of a file, on the device: some at a time, so that the memory is not filled by them."""
    moved = torch.empty((len(rows), *whole.shape[1:]), dtype=torch.uint8, device=device)
    size = with_pixels_of(BLOCK, whole.shape[-1])
    for part, chosen in zip(moved.split(size), rows.split(size), strict=True):
        part.copy_(whole[chosen])
    return moved


def _tensor_over(array: np.ndarray[Any, Any]) -> Tensor:
    with warnings.catch_warnings():
        # Arrays in Ray's object store and in a file are read-only; nothing here writes to them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
