"""Whole training runs on Ray, many at once, without a search: processes that go from one configuration to the next."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import ray
import torch
from ray.exceptions import RayError

from tune_resnet.data import Split
from tune_resnet.metrics import NonFiniteLoss
from tune_resnet.spec import TUNABLE, SearchSpec, TrainSpec
from tune_resnet.text import one_line
from tune_resnet.train import TrainingRun

_POLL_SECONDS = 0.5  # between two looks at `stop`


def train_all(
    spec: SearchSpec, data: Split, configurations: Sequence[TrainSpec], concurrency: int, stop: Callable[[], bool]
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Each configuration's position as it ends, with what `Trainer.train` gave, or why its process gave nothing.

    `spec` has its device and precision settled. A process that dies costs the run in it only. Ends early, without the
    runs in progress, once `stop` says so.
    """
    resources = spec.resources
    actor = ray.remote(num_cpus=resources.cpus_per_trial, num_gpus=resources.gpus_per_trial)(Trainer)
    shared = ray.put(data)  # a node holds one copy
    idle = [actor.remote(spec, shared) for _ in range(min(concurrency, len(configurations)))]
    waiting = list(enumerate(configurations))
    running: dict[Any, tuple[Any, int]] = {}
    while (waiting or running) and not stop():
        while waiting and idle:
            worker, (position, configuration) = idle.pop(), waiting.pop(0)
            running[worker.train.remote(configuration)] = worker, position
        ended, _ = ray.wait(list(running), timeout=_POLL_SECONDS)
        if not ended:
            continue
        worker, position = running.pop(ended[0])
        try:
            outcome = ray.get(ended[0])
        except RayError as error:
            outcome = one_line(error)
            worker = actor.remote(spec, shared)  # the old one has died, or may be in any state
        idle.append(worker)
        yield position, outcome


class Trainer:
    """Trains one configuration after another on the same images."""

    def __init__(self, spec: SearchSpec, data: Split) -> None:
        torch.set_num_threads(max(1, int(spec.resources.cpus_per_trial)))
        self.precision = spec.train.precision
        self.training = TrainingRun(spec.train, data, spec.resources.device, spec.model, flip=spec.data.flip)

    def train(self, spec: TrainSpec) -> dict[str, Any]:
        """All epochs: seed, hyperparameters, epochs done, accuracy and loss after the last (None after an error)."""
        started = time.perf_counter()
        self.training.reset(replace(spec, precision=self.precision))
        error = ""
        try:
            while self.training.epochs_done < spec.epochs:
                self.training.run_epoch()
        except NonFiniteLoss as failure:
            error = str(failure)
        last = None if error else self.training.last
        return {
            "seed": spec.seed,
            **{name: getattr(spec, name) for name in TUNABLE},
            "epochs": self.training.epochs_done,
            "accuracy": last.accuracy if last else None,
            "loss": last.loss if last else None,
            "seconds": time.perf_counter() - started,
            "worker": f"{platform.node()}:{os.getpid()}",
            "error": error,
        }
