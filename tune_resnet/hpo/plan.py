"""What a search is going to do, before it does it: images, network, trials, rungs, epochs and time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from tune_resnet._text import counted, duration, printable
from tune_resnet.config.sections import OBJECTIVES, VAL_ACCURACY, BudgetSpec, ResourceSpec
from tune_resnet.data.types import Split
from tune_resnet.hpo.stopping import expected_survival, rung_epochs
from tune_resnet.runs.tables import REFERENCE_TRIAL
from tune_resnet.training.device import ResolvedSpec
from tune_resnet.training.evaluation import scores

_START_SECONDS = 4.0  # until the processes of trials train, on a machine with nothing else to do
_ENOUGH_STEPS = 10  # of the optimizer in an epoch
_MIN_TIMEOUT = 600.0  # seconds: a trial's process takes some to start
_TIMEOUT_EPOCHS = 20  # so much longer than expected may an epoch take on a busy machine
_LONG = 3600.0  # seconds of a search on a CPU, from which on a plan says how to have it sooner
_NARROW = 16  # channels of a network for a CPU
_REGULARISERS = ("label_smoothing", "class_weights", "dropout", "cutout")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be trained: the trials of a search, or a single training."""

    spec: ResolvedSpec
    device_name: str
    seconds_per_epoch: float  # of one trial, estimated from a few timed steps
    concurrency: int  # trials at once
    train_images: int
    held_out_images: int
    held_out: str  # "validation" or "test"
    note: str = ""  # of the split
    image_lines: tuple[str, ...] = ()  # see `image_lines`
    trials: int = 1
    ended: int = 0  # trials of a resumed search that are done
    single: int | None = None  # the number of the trial of which this is a single training

    @property
    def epochs(self) -> int:
        """Of a trial that is never stopped."""
        return self.spec.train.epochs

    @property
    def rungs(self) -> tuple[int, ...]:
        """The epochs at which trials are compared."""
        return () if self.single is not None else rung_epochs(self.spec.scheduler, self.epochs)

    @cached_property
    def survival(self) -> tuple[float, ...]:
        """Expected share of the trials that train each epoch, from the first (1.0) on."""
        return (1.0,) * self.epochs if self.single is not None else expected_survival(self.spec)

    @property
    def epochs_expected(self) -> float:
        """Over all trials, with early stopping."""
        return self.trials * sum(self.survival)

    @property
    def epoch_timeout(self) -> float:
        """Seconds after which a trial without a new epoch hangs."""
        return self.spec.search.epoch_timeout or max(_MIN_TIMEOUT, _TIMEOUT_EPOCHS * self.seconds_per_epoch)

    def left(self, epochs: float) -> float:
        """Of the epochs of all trials, those of the trials that have not ended."""
        return epochs * (self.trials - self.ended) / self.trials

    def seconds(self, epochs: float) -> float:
        """Wall time of what is left where all trials take so many epochs, never less than one whole trial, the start
        of their processes included."""
        alone = max(self.left(epochs) / self.concurrency, self.epochs)
        return self.start_seconds + alone * self.seconds_per_epoch

    @property
    def start_seconds(self) -> float:
        """Until the processes train, if others than this one do."""
        return _START_SECONDS if self.single is None else 0.0

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one trial."""
        return math.ceil(self.train_images / self.spec.train.batch_size)

    def _data_lines(self) -> list[str]:
        """Images and network, for a person."""
        spec, train = self.spec, self.spec.train
        place = f" {printable(spec.data.data_dir)}" if spec.data.data_dir else ""
        return [
            f"data        {spec.data.dataset}{place}: {self.train_images:,} training, "
            f"{self.held_out_images:,} {self.held_out} images{self.note}",
            *self.image_lines,
            f"model       {spec.model}; {counted(train.epochs, 'epoch')} of {counted(self.steps_per_epoch, 'step')}, "
            f"batch {train.batch_size}, {train.schedule}",
            *self.step_warning(),
        ]

    def step_warning(self) -> list[str]:
        """A line about epochs of too few optimizer steps, and its mend; none where there are enough, with the smallest
        batch that is searched, or no mend."""
        batch, varied = self.spec.train.batch_size, self.spec.space.get("batch_size")
        if varied and self.single is None:
            batch = min(batch, *map(int, varied.ends))
        if math.ceil(self.train_images / batch) >= _ENOUGH_STEPS or batch == 1:
            return []
        smaller = max(1, self.train_images // _ENOUGH_STEPS)
        steps = counted(math.ceil(self.train_images / smaller), "step")
        return [
            f"warning     only {counted(self.steps_per_epoch, 'optimizer step')} an epoch, too few to learn much: "
            f"choose a smaller --batch-size ({smaller} gives {steps})"
        ]

    def machine(self) -> dict[str, Any]:
        """On what it is trained, and how many at once."""
        return {
            "device": self.spec.resources.device,
            "device_name": self.device_name,
            "precision": self.spec.train.precision,
            "concurrency": self.concurrency,
        }

    def about(self) -> dict[str, Any]:
        """What the figures of the run depend on, for its env.json."""
        return {
            **self.machine(),
            "train_images": self.train_images,
            "held_out": self.held_out,
            "held_out_images": self.held_out_images,
        }

    def lines(self) -> list[str]:
        """The plan for a person."""
        return [*self._data_lines(), *(self._search_lines() if self.single is None else self._single_lines())]

    def _search_lines(self) -> list[str]:
        trials = counted(self.trials, "trial")
        spec, resources, most = self.spec, self.spec.resources, self.trials * self.epochs
        after = "epoch" if len(self.rungs) == 1 else "epochs"
        stops = f", judged after {after} {', '.join(map(str, self.rungs))}" if self.rungs else ""
        share = f" and {resources.gpus_per_trial:g} GPU" if resources.gpus_per_trial else ""
        known = min(len(spec.first_points), self.trials) - 1
        points = f", then {known} that did well elsewhere" if known else ""
        together = trials_per_gpu(resources, self.concurrency)
        pace = ", from a few timed steps"
        if together > 1:
            pace = f": a few steps timed alone, times the {together} trials on one GPU"
        judged = spec.search.named and f"; judged by{spec.search.named}"
        other = judged and spec.scheduler.name != "none" and spec.scheduler.signal != VAL_ACCURACY
        whatever = " whatever the objective is" if other else ""
        limit = f", ended after {duration(spec.search.time_budget)}" if spec.search.time_budget else ""
        return [
            f"search      {trials}, the first is the reference{points}; sampler {spec.search.sampler}{judged}{limit}",
            printable(f"space       {' '.join(f'{name}={domain.words}' for name, domain in spec.space.items())}"),
            *self._fixed_warning(),
            *([f"resume      {self.ended} of {trials} ended, {self.trials - self.ended} left"] if self.ended else []),
            f"stopping    {spec.scheduler.name} on {spec.signal}{whatever}{stops}",
            *self._signal_warning(),
            f"epochs      about {self.left(self.epochs_expected):.0f} expected with early stopping, "
            f"{self.left(most):.0f} at most",
            f"device      {self.device_name}, {spec.train.precision}; {self.concurrency} at once, "
            f"each with {resources.cpus_per_trial:g} CPU{share}",
            f"time        {self._time_words(most)} ({duration(_START_SECONDS)} to start, "
            f"{self.seconds_per_epoch:.1f} s an epoch{pace})",
            *self._sooner(),
        ]

    def _fixed_warning(self) -> list[str]:
        """A line where the search ends before the sampler proposes, and some hyperparameters stay as they are."""
        points = self.spec.first_points
        tried = points[: self.trials]
        fixed = [name for name in self.spec.space if all(point[name] == points[0][name] for point in tried)]
        if self.trials > len(points) or not fixed:
            return []
        return [
            f"warning     {', '.join(fixed)}: the same in every trial; from --num-samples {len(points) + 1} on, "
            "the sampler proposes other values"
        ]

    def _time_words(self, most: float) -> str:
        """How long the search takes, which has so many epochs at most."""
        expected, longest = self.seconds(self.epochs_expected), self.seconds(most)
        budget = self.spec.search.time_budget
        if budget is not None and budget < expected:
            return f"{duration(budget)}, the time budget; all trials would take about {duration(expected)}"
        longest = longest if budget is None else min(budget, longest)
        return f"about {duration(expected)} expected, {duration(longest)} at most"

    def _sooner(self) -> list[str]:
        """A line about shorter searches, where this one is long and on a CPU."""
        spec, ways = self.spec, []
        if spec.resources.device != "cpu" or self.seconds(self.epochs_expected) < _LONG:
            return []
        if spec.model.factory is None and spec.model.width > _NARROW:
            ways.append(f"--width {_NARROW} trains {spec.model.width / _NARROW:.2g} times as fast or more")
        if spec.search.time_budget is None:
            ways.append("--time-budget 1h ends the search after an hour, with the best so far")
        return [f"sooner      {'; '.join(ways)}"] if ways else []

    def _signal_warning(self) -> list[str]:
        """A line where trials are judged by what some of the hyperparameters change by themselves."""
        regularisers = [name for name in self.spec.space if name in _REGULARISERS]
        judged = self.spec.scheduler.name != "none" and self.spec.scheduler.signal == "train_loss"
        if not (regularisers and judged):
            return []
        return [
            f"warning     {', '.join(regularisers)}: its value alone changes the training loss, by which trials are "
            "judged here, whatever it does for other images (see --signal, --scheduler)"
        ]

    def _single_lines(self) -> list[str]:
        train = self.spec.train
        name = "reference" if self.single == REFERENCE_TRIAL else f"trial {self.single}"
        return [
            f"{name:12}max_lr {train.max_lr:g}, weight_decay {train.weight_decay:g}, grad_clip {train.grad_clip:g}, "
            f"seed {train.seed}",
            f"device      {self.device_name}, {train.precision}",
            f"time        about {duration(self.seconds(self.epochs))} "
            f"({self.train_images / self.seconds_per_epoch:,.0f} images/s, from a few timed steps)",
        ]


def image_lines(data: Split, search: BudgetSpec) -> tuple[str, ...]:
    """The lines about the images: their sizes, where known, how even the classes are, and the chance level.

    That is the objective of who always answers with the class that is the most common one in training.
    """
    counts = np.bincount(data.train.labels, minlength=len(data.classes))
    spread = f"{counts.min():,}" if counts.min() == counts.max() else f"{counts.min():,} to {counts.max():,}"
    each = "training image" if counts.max() == 1 else "training images"
    judged = torch.tensor(data.held_out.labels if len(data.held_out) else data.train.labels)
    always = scores(torch.full_like(judged, int(counts.argmax())), judged, len(counts))
    chance = always[list(OBJECTIVES).index(search.objective)].item()
    balance = f"classes     {len(counts):,}, of {spread} {each} each; the chance level{search.of_what} is {chance:.1%}"
    return (*([f"images      {data.shapes}"] if data.shapes else []), balance)


def trials_per_gpu(resources: ResourceSpec, concurrency: int) -> int:
    """How many of the trials that run at once are on one GPU, at most; 1 on a CPU. The device is settled."""
    share = resources.gpus_per_trial
    if resources.device == "cpu" or share is None or share >= 1:
        return 1
    return min(shares(share), concurrency) if share > 0 else concurrency


def shares(gpus: float) -> int:
    """How often a share of a GPU fits on one."""
    return math.floor(1 / gpus + 1e-9)
