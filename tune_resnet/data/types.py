"""What every data source gives: images and labels as arrays, and a split of them to train and judge on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tune_resnet.errors import UserError

SIZE = 32  # pixels, height and width of an image where nothing else is asked for


class DataError(UserError):
    """Data that are missing, damaged or unsuitable."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """`images`: uint8 (N, 3, S, S), C-contiguous, RGB; `labels`: int64 (N,), positions in the class names."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> int:
        """Height and width of each image, in pixels."""
        return int(self.images.shape[-1])


def with_pixels_of(count: int, size: int) -> int:
    """How many images of `size` have the pixels of `count` of 32: batches that are to fit in memory; at least one."""
    return max(1, count * SIZE**2 // size**2)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A whole data source. `fingerprint` is the SHA-256 (hex) of all its content: equal on any machine with a copy.

    `val` is a validation set that comes with the source; None: the training set is to be divided. `test_files` are the
    test images' paths below the data folder, where they come from files. For a plan, `shapes` says what sizes the files
    had and what was done to them, and `note` how they were divided.
    """

    name: str
    train: ImageSet
    test: ImageSet | None
    classes: tuple[str, ...]
    fingerprint: str
    val: ImageSet | None = None
    test_files: tuple[str, ...] = ()
    shapes: str = ""
    note: str = ""

    @property
    def has_test_set(self) -> bool:
        return self.test is not None


def check_test_set(dataset: Dataset) -> None:
    """DataError where there are no images to confirm a result on."""
    if not dataset.has_test_set:
        wanted = "a folder's is DIR/test/CLASS/*, a list's has the split test"
        raise DataError(f"{dataset.name} has no test set ({wanted}): nothing to confirm on")


def content_fingerprint(
    train: ImageSet, test: ImageSet | None, classes: Sequence[str], val: ImageSet | None = None
) -> str:
    """SHA-256 (hex) of class names, labels and pixels: train, test and, where there is one, val."""
    counts = [len(train), -1 if test is None else len(test)] + ([] if val is None else [len(val)])
    digest = hashlib.sha256(json.dumps([list(classes), *counts]).encode())
    for part in (part for part in (train, test, val) if part is not None):
        digest.update(part.labels.astype("<i8").tobytes())
        digest.update(part.images.data)
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Split:
    """What one training run sees. `mean`, `std`: float32 (3,), per channel of the train images, on the 0..255 scale.

    `note` is the end of a plan's line about the images: how they are divided. `shapes`: as `Dataset` has it.
    """

    train: ImageSet
    held_out: ImageSet
    classes: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    note: str = ""
    shapes: str = ""

    def lines(self) -> tuple[str, ...]:
        """A plan's further lines about the images: their sizes, where known, and how even the classes are.

        The chance level is the accuracy of who always answers with the class that is the most common one in training.
        """
        counts = np.bincount(self.train.labels, minlength=len(self.classes))
        judged = self.held_out.labels if len(self.held_out) else self.train.labels
        chance = (judged == counts.argmax()).mean()
        spread = f"{counts.min():,}" if counts.min() == counts.max() else f"{counts.min():,} to {counts.max():,}"
        each = "training image" if counts.max() == 1 else "training images"
        balance = f"classes     {len(counts):,}, of {spread} {each} each; the chance level is {chance:.1%}"
        return (*([f"images      {self.shapes}"] if self.shapes else []), balance)
