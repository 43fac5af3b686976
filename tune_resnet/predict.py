"""What a run's best model sees in image files: `python -m tune_resnet.predict RUN IMAGE [IMAGE ...]`."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from tune_resnet.errors import UserError
from tune_resnet.folder import read_image
from tune_resnet.records import RunDirectory
from tune_resnet.text import percent, printable
from tune_resnet.weights import TrainedModel, load_model

_BATCH = 500  # images


def probabilities(model: TrainedModel, images: np.ndarray) -> np.ndarray:
    """Softmax class probabilities.

    Args:
        model: as `load_model` gives it.
        images: uint8 (N, 3, 32, 32).

    Returns:
        float32 (N, classes); each row adds up to 1.
    """
    parts = [np.empty((0, len(model.classes)), dtype=np.float32)]
    with torch.inference_mode():
        for start in range(0, len(images), _BATCH):
            batch = torch.from_numpy(images[start : start + _BATCH])
            parts.append(model.network(model.normalise(batch)).softmax(1).numpy())
    return np.concatenate(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code: 0, or 2 after one line on stderr."""
    options = _parser().parse_args(arguments)
    try:
        model = load_model(RunDirectory(options.run).best / "model.safetensors")
        images = np.stack([read_image(path) for path in options.images])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = probabilities(model, images)
    if options.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["file", *model.classes])
        writer.writerows([printable(path), *row.tolist()] for path, row in zip(options.images, rows, strict=True))
        return 0
    for path, row in zip(options.images, rows, strict=True):
        ranked = np.argsort(-row, kind="stable")[:3]
        print(f"{printable(path)}: " + ", ".join(f"{model.classes[place]} {percent(row[place])}" for place in ranked))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tune_resnet.predict",
        description="Prints what a run's best model sees in image files: the three likeliest classes of each.",
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory, as runs/NAME")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image files, of any size")
    parser.add_argument("--csv", action="store_true", help="print every class's probability, as CSV")
    return parser


if __name__ == "__main__":
    sys.exit(main())
