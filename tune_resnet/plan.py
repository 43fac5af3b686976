"""What a search is going to do, before it does it: trials, rungs, epochs, device, concurrency and time."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import ray
from ray.exceptions import LocalRayletDiedError, NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError

from tune_resnet.data import Split
from tune_resnet.device import DeviceError, gpus_per_trial, resolved
from tune_resnet.errors import UserError
from tune_resnet.outlook import Outlook, Speed, TimingError, measure_here
from tune_resnet.records import REFERENCE_TRIAL
from tune_resnet.spec import ResourceSpec, SearchSpec
from tune_resnet.stopping import rung_epochs, stopping_rule
from tune_resnet.text import counted, duration

_LEAST_TIMEOUT = 600.0  # seconds: a trial's process takes some to start
_TIMEOUT_EPOCHS = 20  # so much longer than expected may an epoch take on a busy machine
_SIMULATIONS = 200  # of the stopping rule; the mean's standard error is then about 1% of it
_MEAN_SHORTFALL = 0.04  # of trials from the best, as a share of the loss, such that recorded searches come out right
_DEATHS = (WorkerCrashedError, OutOfMemoryError, NodeDiedError, LocalRayletDiedError)  # of a task's process


@dataclass(frozen=True, kw_only=True)
class Plan(Outlook):
    """The resolved plan of a search."""

    trials: int
    epochs: int  # of a trial that is never stopped
    rungs: tuple[int, ...]
    survival: tuple[float, ...]  # expected share of the trials that train each epoch, from the first (1.0) on
    ended: int = 0  # trials of a resumed search that are done

    @property
    def epochs_expected(self) -> float:
        """Over all trials, with early stopping."""
        return self.trials * sum(self.survival)

    @property
    def epoch_timeout(self) -> float:
        """Seconds after which a trial without a new epoch hangs."""
        return self.spec.search.epoch_timeout or max(_LEAST_TIMEOUT, _TIMEOUT_EPOCHS * self.seconds_per_epoch)

    def seconds(self, epochs: float) -> float:
        """Wall time of what is left where all trials take so many epochs, never less than one whole trial."""
        left = epochs * (self.trials - self.ended) / self.trials
        return max(left / self.concurrency, self.epochs) * self.seconds_per_epoch

    def lines(self) -> list[str]:
        """The plan for a person."""
        trials = counted(self.trials, "trial")
        spec, resources, most = self.spec, self.spec.resources, self.trials * self.epochs
        stops = f", rungs at epochs {', '.join(map(str, self.rungs))}" if self.rungs else ""
        share = f" and {resources.gpus_per_trial:g} GPU" if resources.gpus_per_trial else ""
        known = min(len(spec.first_points), self.trials) - 1
        points = f", then {known} that did well elsewhere" if known else ""
        together = trials_per_gpu(resources, self.concurrency)
        pace = ", from a few timed steps"
        if together > 1:
            pace = f": a few steps timed alone, times the {together} trials on one GPU"
        limit = f", ended after {duration(spec.search.time_budget)}" if spec.search.time_budget else ""
        return [
            *self.data_lines(),
            f"search      {trials}, the first is the reference{points}; sampler {spec.search.sampler}{limit}",
            *([f"resume      {self.ended} of {trials} ended, {self.trials - self.ended} left"] if self.ended else []),
            f"stopping    {spec.scheduler.name} on {spec.scheduler.signal}{stops}",
            f"epochs      about {self.epochs_expected:.0f} expected with early stopping, {most} at most",
            f"device      {self.device_name}, {spec.train.precision}; {self.concurrency} at once, "
            f"each with {resources.cpus_per_trial:g} CPU{share}",
            f"time        about {duration(self.seconds(self.epochs_expected))} expected, "
            f"{duration(self.seconds(most))} at most ({self.seconds_per_epoch:.1f} s an epoch{pace})",
        ]


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
        epochs=spec.train.epochs,
        rungs=rung_epochs(spec.scheduler, spec.train.epochs),
        survival=expected_survival(spec),
        concurrency=concurrency,
        device_name=speed.device_name,
        # Steps are timed alone. What shares a GPU takes at most as long as one after the other.
        seconds_per_epoch=len(data.train) / speed.images_per_second * trials_per_gpu(spec.resources, concurrency),
        train_images=len(data.train),
        held_out_images=len(data.held_out),
        held_out="validation",
        note=data.note,
    )


def expected_survival(spec: SearchSpec) -> tuple[float, ...]:
    """Mean share of a search's trials that train each epoch under the spec's stopping rule, simulated.

    Each simulated trial is worse than the best possible by a random share of the loss, exponentially distributed, which
    its signal shows at every epoch: signals keep their order. It is exact for no stopping.
    """
    trials, epochs = spec.search.num_samples, spec.train.epochs
    if spec.scheduler.name == "none":
        return (1.0,) * epochs
    draw = random.Random(0)
    runs = min(_SIMULATIONS, max(1, 20_000 // trials))
    reached = Counter(epoch for _ in range(runs) for epoch in _simulated_epochs(spec, draw))
    return tuple(reached[epoch] / (runs * trials) for epoch in range(1, epochs + 1))


def _simulated_epochs(spec: SearchSpec, draw: random.Random) -> Iterator[int]:
    """Each epoch, counted from 1, of each trial of one search."""
    rule, epochs = stopping_rule(spec), spec.train.epochs
    for trial in range(spec.search.num_samples):
        quality = -draw.expovariate(1 / _MEAN_SHORTFALL)
        for epoch in range(1, epochs + 1):
            yield epoch
            if rule.should_stop(trial, epoch, quality) and trial != REFERENCE_TRIAL:
                break


def _settle_device(spec: SearchSpec, growing: bool) -> SearchSpec:
    """`auto` becomes cuda where the cluster has a GPU."""
    has_gpu = ray.cluster_resources().get("GPU", 0) > 0 or (growing and spec.resources.device == "cuda")
    if spec.resources.device == "cuda" and not has_gpu:
        raise DeviceError("device cuda was asked for, but Ray sees no GPU (try --device cpu)")
    device = "cuda" if spec.resources.device != "cpu" and has_gpu else "cpu"
    share = gpus_per_trial(spec.resources, device)
    return replace(spec, resources=replace(spec.resources, device=device, gpus_per_trial=share))


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
        raise DeviceError(f"no node has the {cpus:g} CPUs and {gpus:g} GPUs that one trial is to use")
    return min(fit, spec.resources.max_concurrent or fit, trials)


def trials_per_gpu(resources: ResourceSpec, concurrency: int) -> int:
    """How many of the trials that run at once are on one GPU, at most; 1 on a CPU. The device is settled."""
    share = resources.gpus_per_trial
    if resources.device == "cpu" or share is None or share >= 1:
        return 1
    return min(_shares(share), concurrency) if share > 0 else concurrency


def _shares(gpus: float) -> int:
    """How often a share of a GPU fits on one."""
    return math.floor(1 / gpus + 1e-9)


def _fit(node: dict[str, float], cpus: float, gpus: float) -> int:
    """Trials that fit on one node. A trial's share of a GPU lies on one GPU; whole ones may be several."""
    by_cpu = math.floor(node.get("CPU", 0) / cpus + 1e-9)
    if gpus == 0:
        return by_cpu
    count = node.get("GPU", 0)
    by_gpu = int(count) * _shares(gpus) if gpus < 1 else math.floor(count / gpus + 1e-9)
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
