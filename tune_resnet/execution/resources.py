"""What the running Ray cluster has for the trials: device, concurrency, and the pace of a few timed steps on it."""

from __future__ import annotations

import math
import socket
from dataclasses import replace

import ray
import torch
from ray.exceptions import LocalRayletDiedError, NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError

from tune_resnet.config.spec import SearchSpec
from tune_resnet.data.types import Split
from tune_resnet.errors import UserError
from tune_resnet.hpo.plan import Plan, image_lines, shares, trials_per_gpu
from tune_resnet.training.device import DeviceError, gpus_per_trial, resolved
from tune_resnet.training.speed import Speed, TimingError, measure_here

_DEATHS = (WorkerCrashedError, OutOfMemoryError, NodeDiedError, LocalRayletDiedError)  # of a task's process


def make_plan(
    spec: SearchSpec, data: Split, speed: Speed | None = None, *, ended: int = 0, growing: bool = False
) -> Plan:
    """Settles device, precision and concurrency on the running Ray cluster, and times a few steps on it.

    Where trials are going to run on a CPU, a `speed` that is known already is taken instead. `ended`: how many trials
    of a resumed search are done; fewer than all. `growing`: the cluster gets the nodes that `max_concurrent` trials
    need when they are waiting for them, and may have none yet.

    Raises:
        DeviceError: the device is not there, or no node is large enough for a trial.
        ModelError, TimingError: the steps that were to be timed failed.
    """
    expected = spec.resources.max_concurrent if growing else None
    spec = _settle_device(spec, expected is not None)
    concurrency = _concurrency(spec, spec.search.num_samples - ended, expected)
    if speed is None or spec.resources.device != "cpu":
        speed = _measure(spec, data)
    return Plan(
        spec=resolved(spec, spec.resources.device, speed.precision),
        trials=spec.search.num_samples,
        ended=ended,
        concurrency=concurrency,
        device_name=speed.device_name,
        # Steps are timed alone. What shares a GPU takes at most as long as one after the other.
        seconds_per_epoch=len(data.train) / speed.images_per_second * trials_per_gpu(spec.resources, concurrency),
        train_images=len(data.train),
        held_out_images=len(data.held_out),
        held_out="validation",
        note=data.note,
        image_lines=image_lines(data, spec.search),
    )


def _settle_device(spec: SearchSpec, growing: bool) -> SearchSpec:
    """`auto` becomes cuda where the cluster has a GPU, and PyTorch can use it where that is this machine's."""
    has_gpu = ray.cluster_resources().get("GPU", 0) > 0 or (growing and spec.resources.device == "cuda")
    if spec.resources.device == "auto" and _is_this_machine():
        has_gpu = has_gpu and torch.cuda.is_available()
    if spec.resources.device == "cuda" and not has_gpu:
        raise DeviceError("device cuda was asked for, but Ray sees no GPU (try --device cpu)")
    device = "cuda" if spec.resources.device != "cpu" and has_gpu else "cpu"
    share = gpus_per_trial(spec.resources, device)
    return replace(spec, resources=replace(spec.resources, device=device, gpus_per_trial=share))


def _is_this_machine() -> bool:
    """Whether the cluster is this machine alone."""
    hosts = [node.get("NodeManagerHostname") for node in ray.nodes() if node["Alive"]]
    return hosts == [socket.gethostname()]


def _concurrency(spec: SearchSpec, trials: int, expected: int | None) -> int:
    """How many trials run at once: what the cluster grows to, else what fits on its nodes and `max_concurrent` allows;
    at most `trials`.
    """
    if expected:
        return min(expected, trials)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = spec.resources.cpus_per_trial, spec.resources.gpus_per_trial or 0.0
    fit = sum(_fit(node, cpus, gpus) for node in nodes)
    if fit == 0:
        raise DeviceError(f"no node has the {cpus:g} CPUs and {gpus:g} GPUs that one trial needs")
    return min(fit, spec.resources.max_concurrent or fit, trials)


def _fit(node: dict[str, float], cpus: float, gpus: float) -> int:
    """Trials that fit on one node. A trial's share of a GPU lies on one GPU; whole ones may be several."""
    by_cpu = math.floor(node.get("CPU", 0) / cpus + 1e-9)
    if gpus == 0:
        return by_cpu
    count = node.get("GPU", 0)
    by_gpu = int(count) * shares(gpus) if gpus < 1 else math.floor(count / gpus + 1e-9)
    return min(by_cpu, by_gpu)


def _measure(spec: SearchSpec, data: Split) -> Speed:
    """Times a few steps in a process with one trial's resources.

    Raises:
        UserError: what `measure_speed` raises, or that the process died.
    """
    resources = spec.resources
    task = _time_steps.options(num_cpus=resources.cpus_per_trial, num_gpus=resources.gpus_per_trial)
    try:
        speed: Speed = ray.get(task.remote(spec, data))
    except RayTaskError as error:
        # What was raised there; Ray's own is of the same class, but its text is a traceback.
        raise (error.cause if isinstance(error.cause, UserError) else error) from None
    except _DEATHS:
        raise TimingError("the process that timed a few steps died (killed, or out of memory)") from None
    return speed


# max_calls: the process ends with the call, and gives back the memory of its GPU. Ray does so by itself only where
# num_gpus stands here.
@ray.remote(max_retries=0, max_calls=1)  # type: ignore[untyped-decorator]
def _time_steps(spec: SearchSpec, data: Split) -> Speed:
    return measure_here(spec, data)
