"""ResNet9, a small residual network for colour images, or the user's own."""

from __future__ import annotations

import copy
import importlib
import sys
import traceback
from collections.abc import Callable
from itertools import compress
from pathlib import Path
from types import FrameType
from typing import Any, cast

import torch
from torch import Tensor, nn

from tune_resnet._text import one_line, shown_path
from tune_resnet.config.sections import ModelSpec
from tune_resnet.data.types import SIZE
from tune_resnet.errors import UserError
from tune_resnet.training.device import seeded


class ModelError(UserError):
    """The user's own network cannot be made or used."""


def build_network(spec: ModelSpec, classes: int) -> nn.Module:
    """A network for images (N, 3, S, S), normalised, that gives logits (N, classes); its weights are drawn anew from
    PyTorch's generator.

    The user's own comes from a call of `spec.factory` with `num_classes=classes`, as torchvision's models are made,
    and its arguments.

    Raises:
        ModelError: the user's own code cannot be imported, or does not make such a network.
    """
    if spec.factory is None:
        return ResNet9(classes, spec.width)
    try:
        network = _imported(spec.factory)(num_classes=classes, **spec.args)
    except Exception as error:  # of any kind: it is the user's code
        raise own_error(spec, error) from error
    if not isinstance(network, nn.Module):
        raise ModelError(f"--model {spec} must make a torch.nn.Module, made {type(network).__name__}")
    return network


def fresh_network(spec: ModelSpec, classes: int, seed: int, device: torch.device) -> nn.Module:
    """The network with the first weights of a seed, which are drawn on the CPU: the same on every device."""
    with seeded(seed, torch.device("cpu")):
        network = build_network(spec, classes)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


class Average:
    """An exponential average of a network's weights and buffers over the steps, in `module`.

    `torch.optim.swa_utils.AveragedModel` does the same, but counts its updates on the CPU and copies the count to the
    GPU at each of them, which waits for it. Whole numbers are rounded here, where it cuts off their fractions: those
    of a frozen layer stay.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.module, self.decay, self.has_begun = copy.deepcopy(network), decay, False

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Takes in the network of one more step; the first is taken as it is."""
        ours, theirs = ([*of.parameters(), *of.buffers()] for of in (self.module, network))
        if not self.has_begun:
            torch._foreach_copy_(ours, theirs)
        else:
            floats = [our.is_floating_point() for our in ours]
            torch._foreach_lerp_([*compress(ours, floats)], [*compress(theirs, floats)], 1 - self.decay)
            for our, their, is_float in zip(ours, theirs, floats, strict=True):
                if not is_float:  # batch norm's count of batches
                    our.copy_((our * self.decay + their * (1 - self.decay)).round_())
        self.has_begun = True

    def state_dict(self) -> dict[str, Any]:
        return {"module": self.module.state_dict(), "has_begun": self.has_begun}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self.has_begun = state["has_begun"]


def check_network(spec: ModelSpec, classes: int, size: int = SIZE) -> None:
    """Tries the network on two black images of this height and width. ModelError where it would not train."""
    network = build_network(spec, classes)
    try:
        logits = network(torch.zeros(2, 3, size, size))
    except Exception as error:
        raise own_error(spec, error, f", on images (2, 3, {size}, {size})") from error
    if not isinstance(logits, Tensor) or logits.shape != (2, classes):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(f"--model {spec} must give logits (2, {classes}), gave {found}")
    if not logits.requires_grad:
        raise ModelError(f"--model {spec} has nothing to train: no parameter with requires_grad on leads to its logits")
    try:
        logits.sum().backward()
    except Exception as error:
        raise own_error(spec, error, ", going back through it") from error
    idle = [name for name, one in network.named_parameters() if one.requires_grad and one.grad is None]
    if idle:
        more = f" and {len(idle) - 1:,} more" if idle[1:] else ""
        raise ModelError(f"--model {spec}: {idle[0]}{more} do not lead to its logits; set requires_grad = False there")


def own_error(spec: ModelSpec, error: Exception, when: str = "") -> ModelError:
    """What the user's own code raised, as one line: with the place in that code where its traceback shows one."""
    own_package = str(spec.factory).partition(":")[0].partition(".")[0]
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if _is_own(frame, own_package):  # the last is the innermost
            place = f" ({shown_path(Path(frame.f_code.co_filename))}, line {line}, in {frame.f_code.co_name})"
    said = f"{type(error).__name__}: {one_line(error)}" if str(error) else type(error).__name__
    return ModelError(f"--model {spec}{when}: {said}{place}")


def _is_own(frame: FrameType, own_package: str) -> bool:
    """Whether it is the user's code that runs in a frame: what is neither installed nor of this package."""
    package = frame.f_globals.get("__name__", "").partition(".")[0]
    installed = {"site-packages", "dist-packages"} & set(Path(frame.f_code.co_filename).parts)
    of_others = installed or package in sys.stdlib_module_names or package == __name__.partition(".")[0]
    return package == own_package or not of_others


def _imported(factory: str) -> Callable[..., object]:
    """`package.module:function`, imported."""
    module, _, function = factory.partition(":")
    found: Callable[..., object] = getattr(importlib.import_module(module), function)
    return found


def _conv_block(in_channels: int, out_channels: int, *, pool: bool = False) -> nn.Sequential:
    """3x3 convolution (no bias, since batch norm follows), batch norm, ReLU, and 2x2 max-pooling where asked.

    Pooling comes before ReLU: the maximum of ReLUs is the ReLU of the maximum, gradients included, for a quarter of the
    work.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
    ]
    if pool:
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


class ResNet9(nn.Module):
    """Images (N, 3, S, S), normalised, to logits (N, num_classes); S from 8 on, for it is pooled to S/8.

    With w = `width` (64 in the reference: 6,573,130 parameters at 10 classes) each part gives, per image of 32 pixels:

        conv1       (w, 32, 32)
        conv2       (2w, 16, 16)   pooled
        res1        (2w, 16, 16)   two blocks, added to their input
        conv3       (4w, 8, 8)     pooled
        conv4       (8w, 4, 4)     pooled
        res2        (8w, 4, 4)     two blocks, added to their input
        classifier  (num_classes,) global max-pooling, dropout 0.2, linear; logits, no softmax
    """

    def __init__(self, num_classes: int = 10, width: int = 64) -> None:
        super().__init__()
        w = width
        self.conv1 = _conv_block(3, w)
        self.conv2 = _conv_block(w, 2 * w, pool=True)
        self.res1 = nn.Sequential(_conv_block(2 * w, 2 * w), _conv_block(2 * w, 2 * w))
        self.conv3 = _conv_block(2 * w, 4 * w, pool=True)
        self.conv4 = _conv_block(4 * w, 8 * w, pool=True)
        self.res2 = nn.Sequential(_conv_block(8 * w, 8 * w), _conv_block(8 * w, 8 * w))
        self.classifier = nn.Sequential(
            nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8 * w, num_classes)
        )

    @property
    def dropout(self) -> nn.Dropout:
        """The layer before the last."""
        return cast(nn.Dropout, self.classifier[2])

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv2(self.conv1(images))
        features = self.res1(features) + features
        features = self.conv4(self.conv3(features))
        features = self.res2(features) + features
        logits: Tensor = self.classifier(features)
        return logits
