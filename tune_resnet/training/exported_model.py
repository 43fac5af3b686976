"""A trained model for other programs, as ONNX or by torch.export.

It takes uint8 images (N, 3, S, S) of the size that it was trained on, as `image_file.read_image` makes them, and gives
class probabilities, float32 (N, classes), for any N. The file holds the classes' names as JSON: in ONNX's metadata or,
from torch.export, in the extra file `classes.json`.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tune_resnet._text import one_line, printable, to_install
from tune_resnet.errors import UserError
from tune_resnet.training.saved_model import TrainedModel, probabilities

TOLERANCE = 1e-4  # of a probability
COMPARED_IMAGES = 100  # random ones, to compare on
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch": ()}  # that each format needs besides


class ExportError(UserError):
    """A model that cannot be exported, or would not give the same answers."""


class Classifier(nn.Module):
    """From uint8 images to class probabilities."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        self.network = model.network
        self.register_buffer("mean", model.normalise.mean)
        self.register_buffer("std", model.normalise.std)

    def forward(self, images: Tensor) -> Tensor:
        probabilities: Tensor = self.network((images.float() - self.mean) / self.std).softmax(1)
        return probabilities


def export(model: TrainedModel, path: Path, form: str) -> float:
    """Writes the model as `onnx` or `torch`; the greatest difference of a probability on 100 random images.

    Raises:
        ExportError: a package is missing, the file cannot be written, or a probability differs by more than 1e-4.
    """
    missing = [name for name in PACKAGES[form] if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(f"--format {form} needs more packages: {to_install(*missing)}")
    images = np.random.default_rng(0).integers(0, 256, (COMPARED_IMAGES, 3, model.size, model.size), dtype=np.uint8)
    batch = torch.export.Dim("batch")
    try:
        program = torch.export.export(
            Classifier(model).eval(), (torch.from_numpy(images[:2]),), dynamic_shapes=({0: batch},)
        )
    except Exception as error:  # of any kind: the network may be the user's code
        raise ExportError(f"this network cannot be exported: {type(error).__name__}: {one_line(error)}") from error
    written = path.with_name(f".{path.name}.new{SUFFIXES[form]}")
    try:
        answer = FORMATS[form](program, written, json.dumps(model.classes))
        difference = float(np.abs(answer(images) - probabilities(model, images)).max())
        if not difference <= TOLERANCE:
            raise ExportError(f"{form} gives probabilities that differ from the model's by up to {difference:.2g}")
        written.replace(path)
    except (OSError, RuntimeError) as error:
        raise ExportError(f"cannot write {printable(path)}: {one_line(error)}") from None
    finally:
        written.unlink(missing_ok=True)
    return difference


Answer = Callable[[np.ndarray], np.ndarray]  # what a written file makes of images


def _write_torch(program: torch.export.ExportedProgram, path: Path, classes: str) -> Answer:
    torch.export.save(program, path, extra_files={"classes.json": classes})
    loaded = torch.export.load(path).module()

    def answer(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            found: np.ndarray = loaded(torch.from_numpy(images)).numpy()
        return found

    return answer


def _write_onnx(program: torch.export.ExportedProgram, path: Path, classes: str) -> Answer:
    import onnxruntime

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's own inner workings
        converted = torch.onnx.export(program, input_names=["images"], output_names=["probabilities"], verbose=False)
    assert converted is not None
    converted.model.metadata_props["classes"] = classes
    converted.save(path)
    session = onnxruntime.InferenceSession(path)
    return lambda images: np.asarray(session.run(None, {"images": images})[0])


FORMATS = {"onnx": _write_onnx, "torch": _write_torch}
SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
