"""A trained model as one safetensors file: the weights, and what is needed to use them. No pickle."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tune_resnet.augment import Normalise
from tune_resnet.data import Split
from tune_resnet.errors import UserError
from tune_resnet.model import ResNet9
from tune_resnet.spec import ModelSpec
from tune_resnet.text import one_line, printable


class ModelFileError(UserError):
    """A model file that cannot be read."""


@dataclass(frozen=True)
class TrainedModel:
    """A network on the CPU in evaluation mode, the normalisation of its input, and its classes' names, printable."""

    network: ResNet9
    normalise: Normalise
    classes: tuple[str, ...]


def save_model(path: Path, network: ResNet9, data: Split, width: int) -> None:
    """Writes the network, whole or not at all, with the classes and channel statistics of its training data."""
    about = {"classes": data.classes, "mean": data.mean.tolist(), "std": data.std.tolist(), "width": width}
    # safetensors wants contiguous tensors; channels_last ones are not.
    tensors = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_file(tensors, temporary, {"tune_resnet": json.dumps(about)})
    temporary.replace(path)


def load_model(path: Path) -> TrainedModel:
    """Reads a file that `save_model` wrote. ModelFileError where it is missing, damaged or something else."""
    if not os.path.isfile(path):  # a pipe, say, would be waited for
        raise ModelFileError(f"there is no model at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["tune_resnet"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        classes = tuple(printable(name) for name in about["classes"])
        network = _network(len(classes), ModelSpec(width=about["width"]), tensors)
        normalise = Normalise(about["mean"], about["std"], torch.device("cpu"))
        if normalise.mean.numel() != 3 or normalise.std.numel() != 3:
            raise ValueError("mean and std must be of 3 channels")
    except Exception as error:  # a damaged file raises whatever its bytes lead to
        raise ModelFileError(f"{path} is not a model of ours: {one_line(error)}") from None
    return TrainedModel(network.eval(), normalise, classes)


def _network(classes: int, model: ModelSpec, tensors: dict[str, torch.Tensor]) -> ResNet9:
    """The network that consists of these tensors; an error of some kind where they are not its own."""
    with torch.device("meta"):  # without memory: a file must not have more of it than its own size
        network = ResNet9(classes, model.width)
    kinds = {name: tensor.dtype for name, tensor in network.state_dict().items()}
    network.load_state_dict(tensors, assign=True)
    if kinds != {name: tensor.dtype for name, tensor in network.state_dict().items()}:
        raise ValueError("its tensors are of other types")
    return network
