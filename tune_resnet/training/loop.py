"""One training run: the ResNet9 one-cycle loop, an epoch at a time. No Ray, no printing, no files."""

from __future__ import annotations

import dataclasses
import math
import time
from contextlib import nullcontext
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from tune_resnet.config.sections import ModelSpec, TrainSpec
from tune_resnet.data.types import Split
from tune_resnet.training.augmentation import Normalise, augmented, draw_crops
from tune_resnet.training.cuda_graph import room_for_recording, same_step
from tune_resnet.training.device import choose_precision, epoch_seed, full_fp32, keep_freed_memory, on_stream, seeded
from tune_resnet.training.evaluation import MEASURED, evaluate
from tune_resnet.training.images import to_device
from tune_resnet.training.loss import balanced_weights, losses
from tune_resnet.training.metrics import BrokenRun, EpochMetrics, NonFiniteLoss
from tune_resnet.training.model import Average, ResNet9, fresh_network
from tune_resnet.training.optimizer import OPTIMIZERS, clip_and_decay, gradient_scaler, reset_scaler
from tune_resnet.training.schedule import momentum_at, rate_at

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_UNKNOWN = (math.nan,) * len(MEASURED)


class TrainingRun:
    """Trains one configuration, epoch by epoch, on a split that is moved to the device once where it fits.

    Everything random in an epoch (order, crops, flips, dropout) derives from the seed and the epoch's number, so that a
    run continued from its state gives the numbers of an unbroken one: bit for bit on the CPU at an equal thread count.

    An epoch is whole or it is nothing: after an error in the middle of one, the run `is_broken` and gives no state and
    no further epoch, until `reset` or `load_state_dict`.

    Args:
        spec: the configuration.
        data: training and held-out images; without any of these, loss and accuracy on them are NaN.
        device: where to train.
        model: the network.
        flip: mirror training images at random.
        judge_each: evaluate after each epoch; else only after the last: loss and accuracy of the others are NaN.
    """

    def __init__(
        self,
        spec: TrainSpec,
        data: Split,
        device: torch.device | str = "cpu",
        model: ModelSpec | None = None,
        *,
        flip: bool = True,
        judge_each: bool = True,
    ) -> None:
        self.device = torch.device(device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.flip, self.judge_each, self.size = flip, judge_each, data.train.size
        self.train_images, self.held_out = (to_device(part, self.device) for part in (data.train, data.held_out))
        self.normalise = Normalise(data.mean, data.std, self.device)
        self.blank = self.normalise.mean[0].round().to(torch.uint8)
        self.model_spec, self.classes = model or ModelSpec(), len(data.classes)
        self.balanced = balanced_weights(data.train.labels, self.classes).to(self.device)
        # Tensors, so that a recorded step sees a new value.
        self.lr, self.weight_decay, self.grad_clip = (torch.zeros((), device=self.device) for _ in range(3))
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self.reset(spec)

    def reset(self, spec: TrainSpec, model: ModelSpec | None = None, *, flip: bool | None = None) -> None:
        """Starts another configuration, of the same network where no other `model` is given: new weights from its seed,
        a new optimizer; data and, of the same network, buffers and recording stay."""
        self.is_broken = True  # until all of it is as it should be
        before, self.spec = getattr(self, "spec", None), spec
        self.flip = self.flip if flip is None else flip
        self.epochs_done = 0
        self.last: EpochMetrics | None = None
        self._seen: list[Tensor] = []  # logits, a batch each
        network = fresh_network(model or self.model_spec, self.classes, spec.seed, self.device)
        if before is None or model not in (None, self.model_spec):
            self.model, self.model_spec, before = network, model or self.model_spec, None
        else:  # in place: a recorded step knows the weights by their address
            self.model.load_state_dict(network.state_dict())
        if isinstance(self.model, ResNet9):
            self.model.dropout.p = spec.dropout
        self.weight_decay.fill_(spec.weight_decay)
        self.grad_clip.fill_(spec.grad_clip)
        if before is None or not same_step(before, spec):
            self._prepare_step()
        self.optimizer.reset()
        reset_scaler(self.scaler)
        self.average = Average(self.model, spec.ema_decay) if spec.ema_decay else None
        self.is_broken = False

    @property
    def judged(self) -> nn.Module:
        """The network that is judged and kept: with the average of the weights, where one is asked for."""
        return self.average.module if self.average else self.model

    @property
    def steps(self) -> str:
        """How a GPU runs the steps of this configuration, in words; empty while that is open, and on a CPU."""
        return self.recording.how if self.recording else ""

    def _prepare_step(self) -> None:
        """Makes what updates the parameters that are not frozen, and room for a recording of the step that does."""
        self.precision = choose_precision(self.spec.precision, self.device)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = OPTIMIZERS[self.spec.optimizer](trained, self.lr)
        self.scaler = gradient_scaler(self.precision, self.device)
        self.recording = room_for_recording(self.spec, self.device)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.train_images) / self.spec.batch_size)

    def run_epoch(self) -> EpochMetrics:
        """Trains one epoch, then evaluates on the held-out images where it is to be judged.

        Raises:
            NonFiniteLoss: the epoch's training or held-out loss is infinite or NaN.
            IndexError: all epochs are done.
            BrokenRun: an epoch before was broken off.
        """
        self._check_whole()
        if self.epochs_done >= self.spec.epochs:
            raise IndexError(f"all {self.spec.epochs} epochs are done")
        epoch = self.epochs_done + 1
        judged = len(self.held_out) > 0 and (self.judge_each or epoch == self.spec.epochs)
        self.is_broken = True  # until the epoch is whole
        self._seen = []
        started = time.perf_counter()
        with on_stream(self.stream), full_fp32() if self.precision == "fp32" else nullcontext():
            train_loss_sum = self._train(epoch)
            found = [train_loss_sum.double()[None], *([self._evaluate()] if judged else [])]
            train_loss, *measured = torch.cat(found).tolist()  # the epoch's one transfer that waits for the device
        seconds = time.perf_counter() - started
        if not all(map(math.isfinite, (train_loss, *measured))):
            raise NonFiniteLoss(epoch, self.last)
        self.epochs_done = epoch
        self.last = EpochMetrics(
            epoch=epoch, lr=self.lr_at(epoch * self.steps_per_epoch - 1),
            train_loss=train_loss / len(self.train_images), **dict(zip(MEASURED, measured or _UNKNOWN, strict=True)),
            seconds=seconds, images_per_second=len(self.train_images) / seconds,
        )  # fmt: skip
        self.is_broken = False
        return self.last

    def held_out_logits(self) -> Tensor:
        """The logits (N, classes) of the held-out images by which the last epoch was judged, float32 on the CPU."""
        self._check_whole()
        return torch.cat(self._seen).cpu()

    def _check_whole(self) -> None:
        if self.is_broken:
            raise BrokenRun(f"the epoch after {self.epochs_done} was broken off: its weights are of no use")

    def lr_at(self, step: int) -> float:
        """The learning rate of an optimizer step, counted from 0 over the whole run."""
        return rate_at(self.spec, step, self.spec.epochs * self.steps_per_epoch)

    def identity(self) -> dict[str, Any]:
        """What is trained, as plain values: the part of a state that says whose it is."""
        return {"spec": dataclasses.asdict(self.spec), "network": self.model_spec.to_table(), "flip": self.flip}

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue after the last finished epoch; tensors and plain values only.

        Raises:
            BrokenRun: the epoch after it was broken off, and has changed the weights.
        """
        self._check_whole()
        return {
            **self.identity(),
            "last": None if self.last is None else dataclasses.asdict(self.last),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average and self.average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues the configuration and epoch that a `state_dict` was taken at.

        A state that does not fit raises an exception of any kind, and leaves its configuration at the beginning.
        """
        last = None if state["last"] is None else EpochMetrics(**state["last"])
        self.reset(TrainSpec(**state["spec"]))
        self.is_broken = True
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            if self.average:
                self.average.load_state_dict(state["average"])
        except Exception:
            self.reset(self.spec)
            raise
        self.last, self.epochs_done = last, last.epoch if last else 0
        self.is_broken = False

    def _train(self, epoch: int) -> Tensor:
        """Trains one epoch; the sum of its images' losses, a scalar still on the device."""
        self.model.train()
        count, size = len(self.train_images), self.spec.batch_size
        seed = epoch_seed(self.spec.seed, epoch)
        generator = torch.Generator(self.device).manual_seed(seed)
        order = torch.randperm(count, generator=generator, device=self.device)
        crops = draw_crops(count, self.flip, generator, self.spec.crop_padding, self.spec.cutout, self.size)
        loss_sum = torch.zeros((), device=self.device)
        with seeded(seed, self.device):
            batches = islice(self.train_images.batches(order, size), self.steps_per_epoch)
            for step, (source, chosen, labels) in enumerate(batches):
                images = augmented(source, chosen, crops[step * size : (step + 1) * size], self.blank)
                loss = self._step(images, labels, (epoch - 1) * self.steps_per_epoch + step)
                loss_sum += loss * len(images)
                if self.average:
                    self.average.update(self.model)
        return loss_sum

    def _step(self, images: Tensor, labels: Tensor, step: int) -> Tensor:
        """One optimizer step on uint8 images (B, 3, H, W); the batch's mean loss, detached, until the next step."""
        self.lr.fill_(self.lr_at(step))
        self.optimizer.momentum = momentum_at(self.spec, step, self.spec.epochs * self.steps_per_epoch)
        if self.recording is None:
            return self._descend(images, labels)
        return self.recording(self._descend, images, labels)

    def _descend(self, images: Tensor, labels: Tensor) -> Tensor:
        """An update by gradients clipped by value, with weight decay; the loss that is reported, see `losses`."""
        loss, reported = losses(self._logits(images, self.model), labels, self.spec, self.balanced)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        clip_and_decay(self.optimizer, self.grad_clip, self.weight_decay, decoupled=self.spec.decoupled_decay)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return reported

    def _logits(self, images: Tensor, network: nn.Module) -> Tensor:
        with torch.autocast(self.device.type, _DTYPES[self.precision], enabled=self.precision != "fp32"):
            logits: Tensor = network(self.normalise(images))
        return logits.float()

    def _evaluate(self) -> Tensor:
        """What `MEASURED` names, on the held-out images, still on the device."""
        network, seen = self.judged.eval(), []

        def logits_of(images: Tensor) -> Tensor:
            seen.append(self._logits(images, network))
            return seen[-1]

        found = evaluate(logits_of, self.held_out)
        self._seen = seen  # so that all that is said of this network comes from one pass
        return found
