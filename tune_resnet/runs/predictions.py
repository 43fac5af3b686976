"""What a final model says of each test image: predictions.csv, and the images that it gets most confidently wrong."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from PIL import Image

from tune_resnet._files import replacing, write_whole
from tune_resnet._text import printable
from tune_resnet.runs.directory import RunDirectory
from tune_resnet.runs.reading import read_table
from tune_resnet.runs.tables import PREDICTION_DTYPES, csv_lines

SHOWN = 12  # mistakes whose image is kept


class ByPlace(Protocol):
    """Images by their place in the test set: an array of all, or what reads one at a time."""

    def __getitem__(self, place: int, /) -> np.ndarray: ...


def write_predictions(
    run: RunDirectory,
    probabilities: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    images: ByPlace,
    files: Sequence[str] = (),
) -> None:
    """Writes what a model says of each test image, the table last: where that is, all of it is.

    Args:
        run: whose model it is.
        probabilities: float (N, classes).
        labels: int (N,), positions in `classes`.
        classes: their names.
        images: uint8 (3, H, W) each.
        files: the images' paths, where they come from files.
    """
    names = np.array([printable(name) for name in classes], dtype=object)
    table = pd.DataFrame(
        {
            "image": [printable(file) for file in files] or [str(place) for place in range(len(labels))],
            "label": names[labels],
            "predicted": names[probabilities.argmax(1)],
            "confidence": np.minimum(probabilities.max(1).astype(float).round(6), 1),  # a sum of floats may exceed 1
        }
    )
    run.mistakes.mkdir(exist_ok=True)
    for place in mistakes(table).index:
        with replacing(mistake_file(run, place)) as file:
            Image.fromarray(images[place].transpose(1, 2, 0)).save(file, "PNG")
    write_whole(run.predictions_csv, csv_lines([PREDICTION_DTYPES, *table.itertuples(index=False)]))


def read_predictions(path: Path) -> pd.DataFrame | None:
    """The predictions of the run in `path`, by place in the test set, columns `PREDICTION_DTYPES`; None where there are
    none. RecordError where the file is damaged."""
    file = RunDirectory(path).predictions_csv
    return read_table(file, PREDICTION_DTYPES) if os.path.exists(file) else None


def mistakes(predictions: pd.DataFrame) -> pd.DataFrame:
    """The `SHOWN` images that are most confidently wrong, the most confident first."""
    wrong = predictions[predictions["label"] != predictions["predicted"]]
    return wrong.sort_values("confidence", ascending=False, kind="stable").head(SHOWN)


def mistake_file(run: RunDirectory, place: int) -> Path:
    """The PNG file of a test image that is wrong, by its place in the test set."""
    return run.mistakes / f"{place:06d}.png"
