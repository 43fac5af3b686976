"""Whole training runs on Ray, many at once, without a search: processes that go from one configuration to the next."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from tune_resnet._text import duration, one_line
from tune_resnet.config.spec import SearchSpec
from tune_resnet.data.types import Split
from tune_resnet.runs.environment import this_process
from tune_resnet.training.checkpoint import ResumableRun
from tune_resnet.training.device import OUT_OF_MEMORY, ResolvedSpec, limit_to_share, ran_out_of_memory
from tune_resnet.training.metrics import NonFiniteLoss

_POLL_SECONDS = 0.5  # between two looks at `stop` and at what hangs


@dataclass
class Training:
    """One configuration and its checkpoint, from which it goes on where there is one."""

    spec: SearchSpec
    checkpoint: Path
    failures: int = 0  # of its processes
    epochs: int = 0  # done, those of its checkpoint included
    trained: int = 0  # epochs, here
    seconds: float = 0.0  # of these


def train_all(
    spec: ResolvedSpec,
    data: Split,
    trainings: Sequence[Training],
    concurrency: int,
    epoch_timeout: float,
    stop: Callable[[], bool],
    tried_again: Callable[[int, str], None] = lambda position, reason: None,
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Each training's position as it ends, with what `Trainer.epoch` gave last, or why there is no result.

    One whose process dies, raises or gives no epoch for `epoch_timeout` seconds is tried again from its checkpoint, as
    often as a search's trials are; `tried_again` is told its position and the reason. Ends early, without the trainings
    in progress, once `stop` says so.
    """
    processes = _Processes(spec, data, min(concurrency, len(trainings)))
    waiting = list(range(len(trainings)))
    while (waiting or processes.busy) and not stop():
        while waiting and processes.idle:
            processes.begin_epoch(waiting[0], trainings[waiting.pop(0)])
        for position, outcome in processes.ended(epoch_timeout):
            training = trainings[position]
            if isinstance(outcome, str):
                training.failures += 1
                if training.failures <= spec.search.max_retries:
                    tried_again(position, outcome)
                    waiting.insert(0, position)
                    continue
            else:
                training.epochs, training.trained = outcome["epochs"], training.trained + 1
                training.seconds += outcome["seconds"]
                if not outcome["done"]:
                    waiting.insert(0, position)  # before any other training, with a process that has just become idle
                    continue
            yield position, outcome


@dataclass(frozen=True)
class _Process:
    """A `Trainer`'s process, and what is there once it has started, for which it may have to wait."""

    trainer: Any
    started: Any


@dataclass
class _Epoch:
    """An epoch under way: the training's position, its process, and when it began to train; None: not yet."""

    position: int
    process: _Process
    began: float | None = None


class _Processes:
    """The processes that train, each an epoch at a time."""

    def __init__(self, spec: ResolvedSpec, data: Split, count: int) -> None:
        resources = spec.resources
        actor = ray.remote(num_cpus=resources.cpus_per_trial, num_gpus=resources.gpus_per_trial)(Trainer)
        shared = ray.put(data)  # a node holds one copy
        self._make: Callable[[], Any] = lambda: actor.remote(spec, shared)
        self.idle = [self._start() for _ in range(count)]
        self.busy: dict[Any, _Epoch] = {}

    def _start(self) -> _Process:
        trainer = self._make()
        return _Process(trainer, trainer.started.remote())

    def begin_epoch(self, position: int, training: Training) -> None:
        process = self.idle.pop()
        self.busy[process.trainer.epoch.remote(training.spec, training.checkpoint)] = _Epoch(position, process)

    def ended(self, epoch_timeout: float) -> Iterator[tuple[int, dict[str, Any] | str]]:
        """The epochs that have ended meanwhile: the training's position, and what `Trainer.epoch` gave or why there is
        nothing. A process that gave nothing may be in any state: another takes its place."""
        ready, _ = ray.wait(list(self.busy), timeout=_POLL_SECONDS)
        hung = [each for each, epoch in self.busy.items() if _seconds(epoch) > epoch_timeout]
        for reference in dict.fromkeys([*ready, *hung]):
            epoch = self.busy.pop(reference)
            outcome = _outcome(reference) if reference in ready else f"it hung: no epoch for {duration(epoch_timeout)}"
            if isinstance(outcome, str):
                ray.kill(epoch.process.trainer)
                epoch.process = self._start()
            self.idle.append(epoch.process)  # last, so that it is taken first: it knows the training
            yield epoch.position, outcome


def _seconds(epoch: _Epoch) -> float:
    """How long an epoch has been under way; 0 until its process has been seen to have started."""
    if epoch.began is None and ray.wait([epoch.process.started], timeout=0)[0]:
        epoch.began = time.monotonic()
    return 0.0 if epoch.began is None else time.monotonic() - epoch.began


def _outcome(reference: Any) -> dict[str, Any] | str:
    """What an epoch gave, or why it gave nothing."""
    try:
        found: dict[str, Any] = ray.get(reference)
    except RayActorError:
        return "its process died (killed, or out of memory)"
    except RayTaskError as error:
        return one_line(f"{type(error.cause).__name__}: {error.cause}")
    except RayError as error:
        return one_line(error)
    return found


class Trainer:
    """Trains one configuration after another on the same images, an epoch a call."""

    def __init__(self, spec: ResolvedSpec, data: Split) -> None:
        limit_to_share(spec.resources)
        self.spec, self.data = spec, data
        self.resumable: ResumableRun | None = None
        self.path: Path | None = None  # of the configuration's checkpoint

    def started(self) -> None:
        """Returns once the process is there."""

    def epoch(self, spec: SearchSpec, path: Path) -> dict[str, Any]:
        """The next epoch of a configuration: what a row of confirm.csv has of it, this epoch's seconds, and whether all
        are `done`. Loss and scores are NaN before the last epoch, and missing after an error."""
        started, last, epochs, error = time.perf_counter(), None, 0, ""
        try:
            resumable = self._attached(spec, path)
            epochs = resumable.training.epochs_done
            last = resumable.run_epoch()
            epochs = last.epoch
        except NonFiniteLoss as failure:
            error = str(failure)
        except RuntimeError as failure:
            if not ran_out_of_memory(failure):
                raise
            error, self.resumable = OUT_OF_MEMORY, None  # again it would, as often as it was tried
        return {
            **(last.columns("test", self.spec.search.objective) if last else {}),
            "seed": spec.train.seed,
            **spec.values,
            "epochs": epochs,
            "done": bool(error) or epochs == spec.train.epochs,
            "seconds": time.perf_counter() - started,
            "worker": this_process(),
            "error": error,
        }

    def _attached(self, spec: SearchSpec, path: Path) -> ResumableRun:
        """The run of this configuration: the one that is under way, or begun from its checkpoint."""
        spec = spec.configured({"precision": self.spec.train.precision})
        if self.resumable is None:
            self.resumable = ResumableRun(spec, self.data, self.spec.resources.device, path, judge_each=False)
        elif path != self.path:
            self.resumable.restart(spec, path)
        self.path = path
        return self.resumable
