"""The pace of a training, from a few timed steps."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import torch

from tune_resnet._text import one_line
from tune_resnet.config.sections import ModelSpec, TrainSpec
from tune_resnet.config.spec import SearchSpec
from tune_resnet.data.types import Split, with_pixels_of
from tune_resnet.errors import UserError
from tune_resnet.training.device import (
    OUT_OF_MEMORY,
    choose_device,
    choose_precision,
    device_name,
    limit_to_share,
    ran_out_of_memory,
)
from tune_resnet.training.loop import TrainingRun
from tune_resnet.training.metrics import NonFiniteLoss
from tune_resnet.training.model import own_error

_CPU_BATCH = 100  # images of 32x32; a step of 400 takes seconds on a small CPU, and the speed per image is the same

_ENOUGH_SECONDS = 0.25  # a shorter measurement is repeated with more images


@dataclass(frozen=True, kw_only=True)
class Speed:
    """A device, the precision chosen for it, and its pace with evaluation included."""

    device_name: str
    precision: str
    images_per_second: float  # training images


class TimingError(UserError):
    """A few steps could not be timed: out of memory, say."""


def measure_speed(spec: TrainSpec, data: Split, device: torch.device, model: ModelSpec) -> Speed:
    """Times training on the first images of a split, for less than a second where a batch takes less.

    Raises:
        ModelError: the user's own network raised.
        TimingError: PyTorch could not train.
    """
    precision = choose_precision(spec.precision, device)
    try:
        rate = _images_per_second(replace(spec, precision=precision, epochs=2), data, device, model)
    except UserError:
        raise
    except Exception as error:
        if ran_out_of_memory(error):
            raise TimingError(f"timing a few steps: {OUT_OF_MEMORY}") from error
        if model.factory is not None:
            raise own_error(model, error, ", while a few steps were timed") from error
        if isinstance(error, RuntimeError | MemoryError):  # what PyTorch raises; others are mistakes of this package
            raise TimingError(f"timing a few steps: {type(error).__name__}: {one_line(error)}") from error
        raise
    return Speed(device_name=device_name(device), precision=precision, images_per_second=rate)


def _images_per_second(spec: TrainSpec, data: Split, device: torch.device, model: ModelSpec) -> float:
    """The rate over whole batches: a smaller one, of one image say, may be none that a training has."""
    most = with_pixels_of(_CPU_BATCH, data.train.size) if device.type == "cpu" else spec.batch_size
    batch = min(spec.batch_size, len(data.train), max(2, most))
    all_batches, batches = len(data.train) // batch, 1
    while True:
        run = TrainingRun(replace(spec, batch_size=batch), _share(data, batches * batch), device, model)
        _epoch_seconds(run)  # warms up: memory, kernels
        seconds = _epoch_seconds(run)
        if seconds >= _ENOUGH_SECONDS or batches == all_batches:
            return batches * batch / seconds
        enough = math.ceil(1.2 * batches * _ENOUGH_SECONDS / seconds)
        batches = min(max(2 * batches, enough), all_batches)


def _epoch_seconds(run: TrainingRun) -> float:
    """How long the next epoch takes; on a CPU without waiting for others, as Ray may be starting meanwhile."""
    clock = time.perf_counter if run.device.type == "cuda" else time.thread_time
    started = clock()
    try:
        run.run_epoch()
    except NonFiniteLoss:  # takes as long; its trial is going to say so
        run.reset(run.spec)
    return clock() - started


def measure_here(spec: SearchSpec, data: Split) -> Speed:
    """The pace of a trial of `spec` in this process, with as many threads as a trial has; afterwards it has as many as
    before."""
    threads, device = torch.get_num_threads(), choose_device(spec.resources.device)
    limit_to_share(spec.resources)
    try:
        return measure_speed(spec.train, data, device, spec.model)
    finally:
        torch.set_num_threads(threads)


def _share(data: Split, count: int) -> Split:
    """The first `count` training images, and of the held-out ones the same share."""
    held_out = max(1, round(len(data.held_out) * count / len(data.train)))
    return replace(data, train=data.train.subset(slice(count)), held_out=data.held_out.subset(slice(held_out)))
