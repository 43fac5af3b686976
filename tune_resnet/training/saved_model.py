"""A trained model as one safetensors file: the weights, and what is needed to use them. No pickle."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from tune_resnet._files import replacing
from tune_resnet._text import one_line, printable
from tune_resnet.config.sections import DataSpec, ModelSpec, TrainSpec
from tune_resnet.data.image_file import ImageError, read_image, unreadable
from tune_resnet.data.types import SIZE, Split, with_pixels_of
from tune_resnet.errors import UserError
from tune_resnet.training.augmentation import Normalise
from tune_resnet.training.metrics import EpochMetrics
from tune_resnet.training.model import build_network


class ModelFileError(UserError):
    """A model file that cannot be read."""


@dataclass(frozen=True)
class TrainedModel:
    """A network on the CPU in evaluation mode, the normalisation of its input, its classes' names, printable, and the
    height and width of the images that it was trained on."""

    network: nn.Module
    normalise: Normalise
    classes: tuple[str, ...]
    size: int = SIZE


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Which training a model comes from, and how that ended."""

    trial: int
    train: TrainSpec
    last: EpochMetrics


def save_model(path: Path, network: nn.Module, data: Split, model: ModelSpec, outcome: Outcome | None = None) -> None:
    """Writes the network, whole or not at all, with the classes, channel statistics and size of its training images."""
    about = {
        "classes": data.classes,
        "mean": data.mean.tolist(),
        "std": data.std.tolist(),
        "image_size": data.train.size,
        **model.to_table(),
        "outcome": outcome and dataclasses.asdict(outcome),
    }
    # safetensors wants contiguous tensors; channels_last ones are not.
    tensors = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    with replacing(path) as file:
        file.write(save(tensors, {"tune_resnet": json.dumps(about)}))


def read_outcome(path: Path) -> Outcome | None:
    """The outcome beside a model; None where there is none, or no model that can be read."""
    if not os.path.isfile(path):  # a pipe, say, would be waited for
        return None
    try:
        with safe_open(path, framework="pt") as file:
            kept = json.loads(file.metadata()["tune_resnet"])["outcome"]
        trial, last = kept["trial"], EpochMetrics.from_file(kept["last"])
        if type(trial) is not int or trial < 0 or last is None:
            return None
        return Outcome(trial=trial, train=TrainSpec.from_table(kept["train"]), last=last)
    except Exception:  # a damaged file raises whatever its bytes lead to
        return None


def load_model(path: Path, factory: str | None = None) -> TrainedModel:
    """Reads a file that `save_model` wrote. Code is imported only where the caller names it: the file may be anybody's.

    Raises:
        ModelFileError: it is missing, damaged, something else, or the model of another `factory`.
    """
    if not os.path.isfile(path):  # a pipe, say, would be waited for
        raise ModelFileError(f"there is no model at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["tune_resnet"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        classes = tuple(printable(name) for name in about["classes"])
        model = ModelSpec.from_table({name: about[name] for name in ("width", "factory", "args") if name in about})
        if model.factory != factory:
            how = f"--model {model.factory} imports it" if model.factory else "it takes no --model"
            raise ValueError(f"it is {model.factory or model}: {how}")
        network = _network(len(classes), model, tensors)
        normalise = Normalise(about["mean"], about["std"], torch.device("cpu"))
        if normalise.mean.numel() != 3 or normalise.std.numel() != 3:
            raise ValueError("mean and std must be of 3 channels")
        size = DataSpec(image_size=about.get("image_size", SIZE)).image_size
    except Exception as error:  # a damaged file raises whatever its bytes lead to
        raise ModelFileError(f"cannot use the model {path}: {one_line(error)}") from None
    return TrainedModel(network.eval(), normalise, classes, size)


def _network(classes: int, model: ModelSpec, tensors: dict[str, torch.Tensor]) -> nn.Module:
    """The network that consists of these tensors; an error of some kind where they are not its own."""
    # ResNet9 is made without memory: a file must not have more of it than its own size.
    with nullcontext() if model.factory else torch.device("meta"):
        network = build_network(model, classes)
    kinds = {name: tensor.dtype for name, tensor in network.state_dict().items()}
    network.load_state_dict(tensors, assign=True)
    if kinds != {name: tensor.dtype for name, tensor in network.state_dict().items()}:
        raise ValueError("its tensors are of other types")
    return network


_BATCH = 500  # images of 32x32


def file_probabilities(model: TrainedModel, files: Sequence[Path]) -> np.ndarray:
    """`probabilities` of image files, of any size; DataError, naming all, where some cannot be read."""
    images, problems = [], []
    for file in files:
        try:
            images.append(read_image(file, model.size))
        except ImageError as error:
            problems.append(error)
    if problems:
        raise unreadable(problems, len(files))
    return probabilities(model, np.stack(images) if images else np.empty((0, 3, model.size, model.size), np.uint8))


def probabilities(model: TrainedModel, images: np.ndarray) -> np.ndarray:
    """Softmax class probabilities.

    Args:
        model: as `load_model` gives it.
        images: uint8 (N, 3, S, S), of the model's size.

    Returns:
        float32 (N, classes); each row adds up to 1.
    """
    parts = [np.empty((0, len(model.classes)), dtype=np.float32)]
    step = with_pixels_of(_BATCH, model.size)
    with torch.inference_mode():
        for start in range(0, len(images), step):
            batch = torch.from_numpy(images[start : start + step])
            parts.append(model.network(model.normalise(batch)).softmax(1).numpy())
    return np.concatenate(parts)
