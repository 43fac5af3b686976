"""What the speed benchmarks measure with: images to train on, the work in one of them, the most a device can do."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from tune_resnet.config.sections import DataSpec
from tune_resnet.data.load import load_dataset
from tune_resnet.data.split import search_split
from tune_resnet.data.types import SIZE, ImageSet, Split
from tune_resnet.training.model import ResNet9

MATMUL = {"cpu": 4096, "cuda": 8192}  # rows and columns
MATMULS = 5  # timed at a time


def digits(train_images: int | None = None, held_out: int | None = None, size: int = SIZE) -> Split:
    """scikit-learn's digits, 3 x `size` x `size`, repeated or cut to so many images: the speed does not depend on their
    content."""
    spec = DataSpec(dataset="digits", flip=False, image_size=size)
    split = search_split(load_dataset(spec), spec)
    return replace(split, train=_sized(split.train, train_images), held_out=_sized(split.held_out, held_out))


def _sized(images: ImageSet, count: int | None) -> ImageSet:
    rows = np.arange(len(images) if count is None else count) % len(images)
    return ImageSet(images.images[rows], images.labels[rows])


def flops_per_image(width: int, classes: int = 10, size: int = SIZE) -> float:
    """Floating-point operations of one training image, forward and backward: convolutions and the linear layer only."""
    network = ResNet9(classes, width)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(2, 3, size, size)).sum().backward()
    return float(counter.get_total_flops()) / 2


def matmul_flops(device: torch.device) -> float:
    """Operations per second of a bf16 matrix product, the median of five: 4096-cubed on a CPU, by the clock;
    8192-cubed on a GPU, by its own clock, so that the launch does not count."""
    size = MATMUL[device.type]
    left, right = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    left @ right  # warms up
    timed = _product_on_gpu if device.type == "cuda" else _product_on_cpu
    return 2 * size**3 / statistics.median(timed(left, right) for _ in range(MATMULS))


def _product_on_cpu(left: torch.Tensor, right: torch.Tensor) -> float:
    started = time.perf_counter()
    left @ right
    return time.perf_counter() - started


def _product_on_gpu(left: torch.Tensor, right: torch.Tensor) -> float:
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    left @ right
    ended.record()
    ended.synchronize()
    return float(began.elapsed_time(ended)) / 1000


def synchronise(device: torch.device) -> None:
    """Waits until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
