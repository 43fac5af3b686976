"""A training run that measures every candidate early-stopping signal after each epoch, and is not changed by it.

Whatever needs other weights, other statistics or more training works on copies, in a second run on the same images;
the run itself gives the numbers of a plain `TrainingRun`, bit for bit.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from tune_resnet.config.sections import ModelSpec, TrainSpec
from tune_resnet.data.types import ImageSet, Split
from tune_resnet.training.loop import TrainingRun

HORIZONS = (8, 33, 100)  # optimizer steps that an average of the weights looks back
REESTIMATED_HORIZON = 33  # also judged with batch-norm statistics measured for its weights
STATISTICS_IMAGES = 2000  # training images that re-estimated batch-norm statistics come from
COOL_DOWN_SHARE = 0.25  # of an epoch's steps
COOL_DOWN_SEED = 1_000_000  # added to the run's seed: the branch must not see the next epoch's order and crops early
FAMILIES = ("train", "val", "batch_stats", "ema_update", "ema_val", "ema_reestimate", "cool_down")


class WatchedRun(TrainingRun):
    """A `TrainingRun` on the CPU whose epochs come as rows of signals.

    Args:
        spec: the configuration.
        data: training and validation images.
        model: the network's size.
    """

    def __init__(self, spec: TrainSpec, data: Split, model: ModelSpec) -> None:
        self.bench = _Bench(spec, data, model)
        super().__init__(spec, data, model=model)

    def reset(self, spec: TrainSpec, model: ModelSpec | None = None, *, flip: bool | None = None) -> None:
        super().reset(spec, model, flip=flip)
        self.seconds = dict.fromkeys(FAMILIES, 0.0)
        self.live = _float_tensors(self.model)
        self.averages = {horizon: _Average(horizon, self.live) for horizon in HORIZONS}

    def watched_epoch(self) -> dict[str, float]:
        """Trains one epoch, as `run_epoch`, and measures: name of each signal -> value, `seconds_*` of each family.

        A signal whose weights are not finite has a loss that is not finite; the run itself raises `NonFiniteLoss`.
        """
        self.seconds = dict.fromkeys(FAMILIES, 0.0)
        metrics = self.run_epoch()
        self.seconds["train"] = metrics.seconds - self.seconds["val"] - self.seconds["ema_update"]
        row = {"epoch": metrics.epoch, "lr": metrics.lr, "train_loss": metrics.train_loss}
        row |= _columns("", (metrics.loss, metrics.accuracy))
        with self._timed("batch_stats"):
            row |= _columns("batch_stats_", self.bench.batch_statistics(self.model))
        for horizon, average in self.averages.items():
            with self._timed("ema_val"):
                row |= _columns(f"ema{horizon}_", self.bench.averaged(self.model, average.tensors))
        with self._timed("ema_reestimate"):
            tensors = self.averages[REESTIMATED_HORIZON].tensors
            row |= _columns(f"ema{REESTIMATED_HORIZON}_reestimated_", self.bench.reestimated(self.model, tensors))
        with self._timed("cool_down"):
            row |= _columns("cool_down_", self.bench.cooled_down(self, metrics.lr))
        return row | {f"seconds_{family}": seconds for family, seconds in self.seconds.items()}

    def _step(self, images: Tensor, labels: Tensor, step: int) -> Tensor:
        loss = super()._step(images, labels, step)
        with self._timed("ema_update"):
            for average in self.averages.values():
                average.update(self.live)
        return loss

    def _evaluate(self) -> Tensor:
        with self._timed("val"):
            return super()._evaluate()

    @contextmanager
    def _timed(self, family: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[family] += time.perf_counter() - started


class _Average:
    """Exponential moving average of all of a model's floating-point tensors, batch-norm statistics included.

    Bias-corrected as Adam's moments are: until about `horizon` steps are done it is close to the plain mean of all
    weights since step 1. The usual warm-up, decay = min(decay, (1 + t) / (10 + t)), looks back fewer than t / 9 steps,
    which in a run of 200 steps makes horizons of 33 and 100 the same average.
    """

    def __init__(self, horizon: int, tensors: list[Tensor]) -> None:
        self.decay = 1 - 1 / horizon
        self.steps = 0
        self.tensors = [tensor.clone() for tensor in tensors]

    def update(self, tensors: list[Tensor]) -> None:
        """Takes in the weights after one more step."""
        self.steps += 1
        torch._foreach_lerp_(self.tensors, tensors, (1 - self.decay) / (1 - self.decay**self.steps))


class _Bench(TrainingRun):
    """Tries weights out on copies of a model: every method leaves what it is given as it was.

    Its images are the run's in another, fixed order: a data source may sort them by class, and the statistics of a
    batch that holds few classes are not those of a batch that holds all.
    """

    def __init__(self, spec: TrainSpec, data: Split, model: ModelSpec) -> None:
        self.start_lr = spec.max_lr
        mixed = dataclasses.replace(data, train=_mixed(data.train), held_out=_mixed(data.held_out))
        super().__init__(spec, mixed, model=model)

    def batch_statistics(self, model: nn.Module) -> tuple[float, float]:
        """Loss and accuracy when batch norm uses each validation batch's own statistics; dropout is off."""
        self.model = copy.deepcopy(model)
        for layer in _batch_norms(self.model):
            layer.running_mean = layer.running_var = None  # without them, it does so in evaluation mode too
        return self._judge()

    def averaged(self, model: nn.Module, tensors: list[Tensor]) -> tuple[float, float]:
        """Loss and accuracy of averaged weights and batch-norm statistics."""
        self._take(model, tensors)
        return self._judge()

    def reestimated(self, model: nn.Module, tensors: list[Tensor]) -> tuple[float, float]:
        """Loss and accuracy of averaged weights with batch-norm statistics measured anew.

        They are the mean over training batches, which are not augmented, as the validation images are not.
        """
        self._take(model, tensors)
        self.model.eval()  # dropout is off, and draws no random numbers
        for layer in _batch_norms(self.model):
            layer.reset_running_stats()
            layer.momentum = None  # the plain mean over batches
            layer.train()
        with torch.no_grad():
            for images in self.train_images.images[:STATISTICS_IMAGES].split(self.spec.batch_size):
                self._logits(images, self.model)
        return self._judge()

    def cooled_down(self, run: TrainingRun, lr: float) -> tuple[float, float]:
        """Loss and accuracy after a share of an epoch in which the learning rate falls linearly from `lr` to zero."""
        # The copy matters: Adam's load_state_dict keeps the very tensors it is given.
        state = copy.deepcopy(run.state_dict())
        self.model = copy.deepcopy(run.model)  # whatever was tried before may have changed more than weights
        self._prepare_step()
        self.load_state_dict(state | {"spec": state["spec"] | {"seed": run.spec.seed + COOL_DOWN_SEED}})
        self.start_lr = lr
        self._train(run.epochs_done + 1)
        return self._judge()

    @property
    def steps_per_epoch(self) -> int:
        return max(1, round(COOL_DOWN_SHARE * super().steps_per_epoch))

    def lr_at(self, step: int) -> float:
        """The cool-down's: the step before the first would have `start_lr`, the one after the last zero."""
        steps = self.steps_per_epoch
        return self.start_lr * (1 - (step % steps + 1) / (steps + 1))

    def _take(self, model: nn.Module, tensors: list[Tensor]) -> None:
        self.model = copy.deepcopy(model)
        torch._foreach_copy_(_float_tensors(self.model), tensors)

    def _judge(self) -> tuple[float, float]:
        loss, accuracy, *_ = self._evaluate().tolist()
        return loss, accuracy


def _columns(prefix: str, judged: tuple[float, float]) -> dict[str, float]:
    return {f"{prefix}val_loss": judged[0], f"{prefix}val_accuracy": judged[1]}


def _float_tensors(model: nn.Module) -> list[Tensor]:
    """Parameters and batch-norm statistics, sharing the model's memory, in a fixed order."""
    return [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]


def _batch_norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]


def _mixed(images: ImageSet) -> ImageSet:
    order = np.random.default_rng(0).permutation(len(images))
    return ImageSet(images.images[order], images.labels[order])
