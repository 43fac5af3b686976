"""What is known of a run before its first epoch: its images, its network, its device, and its pace from timed steps."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, replace

import torch

from tune_resnet.data import ImageSet, Split
from tune_resnet.device import choose_device, choose_precision, device_name
from tune_resnet.spec import ModelSpec, SearchSpec, TrainSpec
from tune_resnet.text import counted
from tune_resnet.train import TrainingRun

_CPU_BATCH = 100  # images; a step of 400 takes seconds on a small CPU, and the speed per image is the same
_ENOUGH_SECONDS = 0.25  # a shorter measurement is repeated with more images


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """A run to come. `spec` has its device and precision settled."""

    spec: SearchSpec
    device_name: str
    seconds_per_epoch: float  # of one trial, estimated from a few timed steps
    concurrency: int  # trials at once
    train_images: int
    held_out_images: int
    held_out: str  # "validation" or "test"

    def data_lines(self) -> list[str]:
        """Images and network, for a person."""
        spec = self.spec
        return [
            f"data        {spec.data.dataset}: {self.train_images:,} training, "
            f"{self.held_out_images:,} {self.held_out} images",
            f"model       {spec.model}; {counted(spec.train.epochs, 'epoch')}, "
            f"batch {spec.train.batch_size}, {spec.train.schedule}",
        ]


@dataclass(frozen=True, kw_only=True)
class Speed:
    """A device, the precision chosen for it, and its pace with evaluation included."""

    device_name: str
    precision: str
    images_per_second: float  # training images


def measure_speed(spec: TrainSpec, data: Split, device: torch.device, model: ModelSpec) -> Speed:
    """Times training on the first images of a split: at least one batch, at most all, for less than a second where a
    batch takes less."""
    precision = choose_precision(spec.precision, device)
    batch = min(spec.batch_size, _CPU_BATCH) if device.type == "cpu" else spec.batch_size
    settings = replace(spec, precision=precision, batch_size=batch, epochs=2)
    count = min(batch, len(data.train))
    while True:
        run = TrainingRun(settings, _share(data, count), device, model)
        run.run_epoch()  # warms up: memory, kernels
        seconds = _epoch_seconds(run)
        if seconds >= _ENOUGH_SECONDS or count == len(data.train):
            return Speed(device_name=device_name(device), precision=precision, images_per_second=count / seconds)
        enough = math.ceil(1.2 * count * _ENOUGH_SECONDS / seconds)
        count = min(max(2 * count, enough), len(data.train))


def _epoch_seconds(run: TrainingRun) -> float:
    """How long the next epoch takes; on a CPU without waiting for others, as Ray may be starting meanwhile."""
    clock = time.perf_counter if run.device.type == "cuda" else time.thread_time
    started = clock()
    run.run_epoch()
    return clock() - started


def measure_here(spec: SearchSpec, data: Split) -> Speed:
    """The pace of a trial of `spec` in this process, with as many threads as a trial has."""
    cores = os.cpu_count() or 1  # a trial that is to have more is refused later
    torch.set_num_threads(max(1, min(int(spec.resources.cpus_per_trial), cores)))
    return measure_speed(spec.train, data, choose_device(spec.resources.device), spec.model)


def _share(data: Split, count: int) -> Split:
    """The first `count` training images, and of the held-out ones the same share."""
    held_out = max(1, round(len(data.held_out) * count / len(data.train)))
    return replace(data, train=_first(data.train, count), held_out=_first(data.held_out, held_out))


def _first(images: ImageSet, count: int) -> ImageSet:
    return ImageSet(images.images[:count], images.labels[:count])
