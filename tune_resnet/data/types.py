"""What every data source gives: images and labels as arrays, and a split of them to train and judge on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from tune_resnet.errors import UserError

SIZE = 32  # pixels, height and width of an image where nothing else is asked for
BLOCK = 500  # images of 32x32 looked at together: 12 MB as float64, where all of CIFAR-10 would be 1.2 GB


class DataError(UserError):
    """Data that are missing, damaged or unsuitable."""


@dataclass(frozen=True, eq=False)
class MappedImages:
    """The `rows`, int64 (N,), of an array uint8 (M, 3, S, S) that stays in its npy file, as it would fill the memory.

    Indexed as an array is, by a place, a slice or an array of places, it reads the images that are asked for. Pickled,
    it is no more than the file's path and the rows: each process opens the file for itself.
    """

    path: Path
    rows: np.ndarray

    @cached_property
    def whole(self) -> np.ndarray:
        """All of the file, mapped into memory; DataError where it is not there, as on another machine."""
        try:
            mapped: np.ndarray = np.lib.format.open_memmap(self.path, mode="r")
        except (OSError, ValueError) as error:
            raise DataError(
                f"cannot read decoded images from {self.path}, which every machine needs: {error}"
            ) from None
        return mapped

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.rows), *self.whole.shape[1:]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, places: int | slice | np.ndarray) -> np.ndarray:
        found: np.ndarray = self.whole[self.rows[places]]
        return found

    def __reduce__(self) -> tuple[Callable[..., MappedImages], tuple[Path, np.ndarray]]:
        return MappedImages, (self.path, self.rows)


Images = np.ndarray | MappedImages


def subset(images: Images, which: slice | np.ndarray) -> Images:
    """Those of a slice, a mask or places, where images in a file stay."""
    return MappedImages(images.path, images.rows[which]) if isinstance(images, MappedImages) else images[which]


def blocks(images: Images) -> Iterator[np.ndarray]:
    """All of them, some at a time."""
    step = with_pixels_of(BLOCK, int(images.shape[-1]))
    return (images[start : start + step] for start in range(0, len(images), step))


@dataclass(frozen=True, eq=False)
class ImageSet:
    """`source`: uint8 (N, 3, S, S), RGB, a C-contiguous array or what stays in a file; `labels`: int64 (N,), positions
    in the class names; `groups`: int64 (N,), a number for each group of images that are not to be divided."""

    source: Images
    labels: np.ndarray
    groups: np.ndarray | None = None

    @property
    def images(self) -> np.ndarray:
        """The images as an array: all of them, in memory."""
        return self.source[:]

    def subset(self, which: slice | np.ndarray) -> ImageSet:
        """Those of a slice, a mask or places."""
        groups = None if self.groups is None else self.groups[which]
        return ImageSet(subset(self.source, which), self.labels[which], groups)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> int:
        """Height and width of each image, in pixels."""
        return int(self.source.shape[-1])


def with_pixels_of(count: int, size: int) -> int:
    """How many images of `size` have the pixels of `count` of 32: batches that are to fit in memory; at least one."""
    return max(1, count * SIZE**2 // size**2)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A whole data source. `fingerprint` is the SHA-256 (hex) of all its content: equal on any machine with a copy.

    `val` is a validation set that comes with the source; None: the training set is to be divided. `test_files` are the
    test images' paths below the data folder, where they come from files. For a plan, `shapes` says what sizes they had
    and what was done to them, and `note` how they were divided.
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


def shapes_line(shapes: np.ndarray, size: int) -> str:
    """What images of these widths and heights, int (N, 2), have become, made `size` pixels high and wide."""
    low, high = shapes.min(axis=0), shapes.max(axis=0)
    if (low == size).all() and (high == size).all():
        return f"{size}x{size}, as they are"
    found = f"{low[0]}x{low[1]}" + ("" if (low == high).all() else f" to {high[0]}x{high[1]}")
    long = int((shapes[:, 0] != shapes[:, 1]).sum())
    are, their = ("is", "its") if long == 1 else ("are", "their")
    cut = f"; {long:,} of {len(shapes):,} {are} not square: {their} middle is kept" if long else ""
    return f"{size}x{size}, scaled from {found}{cut}"


def check_test_set(dataset: Dataset) -> None:
    """DataError where there are no images to confirm a result on."""
    if not dataset.has_test_set:
        wanted = "a folder's is DIR/test/CLASS/*, or drawn from DIR/CLASS/*; a list's has the split test"
        raise DataError(f"{dataset.name} has no test set ({wanted}): nothing to confirm on")


def content_fingerprint(
    train: ImageSet, test: ImageSet | None, classes: Sequence[str], val: ImageSet | None = None
) -> str:
    """SHA-256 (hex) of class names, labels and pixels: train, test and, where there is one, val."""
    counts = [len(train), -1 if test is None else len(test)] + ([] if val is None else [len(val)])
    digest = hashlib.sha256(json.dumps([list(classes), *counts]).encode())
    for part in (part for part in (train, test, val) if part is not None):
        digest.update(part.labels.astype("<i8").tobytes())
        for block in blocks(part.source):
            digest.update(np.ascontiguousarray(block).data)
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
