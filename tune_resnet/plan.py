"""What a search is going to do, before it does it: trials, rungs, epochs, device, concurrency and time."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import Any

import ray

from tune_resnet.data import ImageSet, Split
from tune_resnet.device import DeviceError, choose_device, choose_precision, device_name, gpus_per_trial
from tune_resnet.records import REFERENCE_TRIAL
from tune_resnet.scheduler import stopping_rule
from tune_resnet.spec import SearchSpec, TrainSpec, rung_epochs
from tune_resnet.train import TrainingRun

_SIMULATIONS = 200  # of the stopping rule; the mean's standard error is then about 1% of it
_TIMED_BATCHES = 2


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The resolved plan of a search. `spec` has its device and precision settled."""

    spec: SearchSpec
    trials: int
    epochs: int  # of a trial that is never stopped
    rungs: tuple[int, ...]
    epochs_expected: float  # over all trials, with early stopping
    concurrency: int
    device_name: str
    seconds_per_epoch: float  # one trial, estimated from a few timed steps
    train_images: int
    held_out_images: int

    @property
    def epochs_per_trial(self) -> float:
        return self.epochs_expected / self.trials

    def seconds(self, epochs: float) -> float:
        """Wall time of so many epochs, never less than one whole trial."""
        return max(epochs / self.concurrency, self.epochs) * self.seconds_per_epoch

    def lines(self) -> list[str]:
        """The plan for a person."""
        train, scheduler, resources = self.spec.train, self.spec.scheduler, self.spec.resources
        most = self.trials * self.epochs
        stops = f", rungs at epochs {', '.join(map(str, self.rungs))}" if self.rungs else ""
        share = f" and {resources.gpus_per_trial:g} GPU" if resources.gpus_per_trial else ""
        return [
            f"data        {self.spec.data.dataset}: {self.train_images:,} training and {self.held_out_images:,} validation images",
            f"model       ResNet9, width {self.spec.model.width}; {train.epochs} epochs, batch {train.batch_size}, {train.schedule}",
            f"search      {self.trials} trials, the first is the reference; sampler {self.spec.search.sampler}",
            f"stopping    {scheduler.name} on {scheduler.signal}{stops}",
            f"epochs      about {self.epochs_expected:.0f} expected with early stopping, {most} at most",
            f"device      {self.device_name}, {train.precision}; {self.concurrency} at once, "
            f"each with {resources.cpus_per_trial:g} CPU{share}",
            f"time        about {duration(self.seconds(self.epochs_expected))} expected, "
            f"{duration(self.seconds(most))} at most ({self.seconds_per_epoch:.1f} s an epoch, from {_TIMED_BATCHES} timed steps)",
        ]


def duration(seconds: float) -> str:
    """Seconds as `42s`, `3m 05s` or `2h 10m`."""
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m {rest:02d}s" if minutes < 60 else f"{minutes // 60}h {minutes % 60:02d}m"


def make_plan(spec: SearchSpec, data: Split) -> Plan:
    """Settles device, precision and concurrency on the running Ray cluster, and times a few steps on it.

    Raises:
        DeviceError: the device is not there, or no node is large enough for a trial.
    """
    spec = _settle_device(spec)
    concurrency = _concurrency(spec)
    speed = _measure(spec, data)
    train = replace(spec.train, precision=speed["precision"])
    return Plan(
        spec=replace(spec, train=train),
        trials=spec.search.num_samples,
        epochs=spec.train.epochs,
        rungs=rung_epochs(spec.scheduler, spec.train.epochs),
        epochs_expected=expected_epochs(spec),
        concurrency=concurrency,
        device_name=speed["device_name"],
        seconds_per_epoch=len(data.train) / speed["images_per_second"],
        train_images=len(data.train),
        held_out_images=len(data.held_out),
    )


def expected_epochs(spec: SearchSpec) -> float:
    """Mean total epochs of a search under the spec's stopping rule, simulated.

    Each simulated trial has one random quality that its signal shows at every epoch, so the figure assumes signals that
    keep their order; it is exact for no stopping.
    """
    trials, epochs = spec.search.num_samples, spec.train.epochs
    if spec.scheduler.name == "none":
        return float(trials * epochs)
    draw = random.Random(0)
    runs = min(_SIMULATIONS, max(1, 20_000 // trials))
    return sum(_simulated_epochs(spec, draw) for _ in range(runs)) / runs


def _simulated_epochs(spec: SearchSpec, draw: random.Random) -> int:
    rule, epochs, total = stopping_rule(spec), spec.train.epochs, 0
    for trial in range(spec.search.num_samples):
        quality = draw.random()
        for epoch in range(1, epochs + 1):
            total += 1
            if rule.should_stop(trial, epoch, quality) and trial != REFERENCE_TRIAL:
                break
    return total


def _settle_device(spec: SearchSpec) -> SearchSpec:
    """`auto` becomes cuda where the cluster has a GPU."""
    has_gpu = ray.cluster_resources().get("GPU", 0) > 0
    if spec.resources.device == "cuda" and not has_gpu:
        raise DeviceError("device cuda was asked for, but Ray sees no GPU (try --device cpu)")
    device = "cuda" if spec.resources.device != "cpu" and has_gpu else "cpu"
    share = gpus_per_trial(spec.resources, device)
    return replace(spec, resources=replace(spec.resources, device=device, gpus_per_trial=share))


def _concurrency(spec: SearchSpec) -> int:
    """How many trials run at once: what fits on the nodes, at most `max_concurrent` and the number of trials."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = spec.resources.cpus_per_trial, spec.resources.gpus_per_trial or 0.0
    fit = sum(_fit(node, cpus, gpus) for node in nodes)
    if fit == 0:
        raise DeviceError(f"no node has the {cpus:g} CPUs and {gpus:g} GPUs that one trial is to use")
    return min(fit, spec.resources.max_concurrent or fit, spec.search.num_samples)


def _fit(node: dict[str, float], cpus: float, gpus: float) -> int:
    """Trials that fit on one node. A trial's share of a GPU lies on one GPU; whole ones may be several."""
    by_cpu = math.floor(node.get("CPU", 0) / cpus + 1e-9)
    if gpus == 0:
        return by_cpu
    count = node.get("GPU", 0)
    by_gpu = int(count) * math.floor(1 / gpus + 1e-9) if gpus < 1 else math.floor(count / gpus + 1e-9)
    return min(by_cpu, by_gpu)


def _measure(spec: SearchSpec, data: Split) -> dict[str, Any]:
    """Times a few steps in a process with one trial's resources, on as many images as they need."""
    resources = spec.resources
    batches = min(len(data.train), _TIMED_BATCHES * spec.train.batch_size)
    held_out = max(1, round(len(data.held_out) * batches / len(data.train)))
    sample = replace(data, train=_first(data.train, batches), held_out=_first(data.held_out, held_out))
    task = _time_steps.options(num_cpus=resources.cpus_per_trial, num_gpus=resources.gpus_per_trial)
    measured: dict[str, Any] = ray.get(task.remote(spec, sample))
    return measured


def _first(images: ImageSet, count: int) -> ImageSet:
    return ImageSet(images.images[:count], images.labels[:count])


@ray.remote(max_retries=0)  # type: ignore[untyped-decorator]
def _time_steps(spec: SearchSpec, data: Split) -> dict[str, Any]:
    import torch

    torch.set_num_threads(max(1, int(spec.resources.cpus_per_trial)))
    device = choose_device(spec.resources.device)
    train = TrainSpec(precision=choose_precision(spec.train.precision, device), epochs=2, batch_size=spec.train.batch_size)
    run = TrainingRun(train, data, device, spec.model)
    run.run_epoch()  # warms up: memory, kernels
    return {
        "images_per_second": run.run_epoch().images_per_second,
        "precision": train.precision,
        "device_name": device_name(device),
    }
