"""Image data as uint8 arrays: load a source, take a stratified subset, split it.

Every random choice derives from `DataSpec.split_seed`, so all trials of a search, and a rerun of it, see the same
images. A search sees `search_split` only: the test set is in `baseline_split` alone.
"""

from __future__ import annotations

import queue
import socket
import threading
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
from platformdirs import user_cache_path

from tune_resnet.folder import Dataset, ImageSet, content_fingerprint, load_folder
from tune_resnet.images import SIZE, DataError
from tune_resnet.spec import DataSpec
from tune_resnet.text import counted

__all__ = ["DataError", "Dataset", "ImageSet", "Split", "baseline_split", "load_dataset", "search_split"]

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
CIFAR10_ARCHIVE = "cifar-10-python.tar.gz"
PROBE_SECONDS = 2.0  # for the download host's first answer, name resolution included
STALL_SECONDS = 30.0  # without a byte, after which a download is given up
DIGITS_TEST_FRACTION = 0.2
STATISTICS_BLOCK = 500  # images converted to float64 at a time: 12 MB, where all of CIFAR-10 would be 1.2 GB
SUBSET_STREAM, VALIDATION_STREAM = 0, 1  # separate random streams: the subset's size does not move the other draw


@dataclass(frozen=True, eq=False)
class Split:
    """What one training run sees. `mean`, `std`: float32 (3,), per channel of the train images, on the 0..255 scale.

    `note` is the end of a plan's line about the images: what a person would not expect of them.
    """

    train: ImageSet
    held_out: ImageSet
    classes: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    note: str = ""


def load_dataset(spec: DataSpec) -> Dataset:
    """The whole source that `spec` names (`limit_train` comes with the split); DataError where it cannot be had."""
    if spec.dataset == "digits":
        return _load_digits()
    if spec.dataset == "cifar10":
        default = user_cache_path("tune_resnet") / "cifar10"
        return _load_cifar10(default if spec.data_dir is None else Path(spec.data_dir).expanduser())
    if spec.data_dir is None:
        raise DataError("dataset 'folder' needs --data-dir, the folder that holds train/")
    return load_folder(Path(spec.data_dir).expanduser())


def search_split(dataset: Dataset, spec: DataSpec) -> Split:
    """The training set, or its stratified subset of `limit_train`, divided into training and validation images.

    Each class keeps its share in both parts, and at least one image in each. DataError where that cannot be. A source
    that has a validation set of its own is not divided: all of that set is held out.
    """
    train = _limited_train(dataset, spec)
    if dataset.val is not None:
        return _make_split(train, dataset.val, dataset.classes, "; the validation set is the folder's own")
    counts = np.bincount(train.labels, minlength=len(dataset.classes))
    wanted = round(spec.validation_fraction * len(train))
    total = min(max(wanted, len(counts)), len(train) - len(counts))
    take = _apportion(counts, total, low=np.ones_like(counts), high=counts - 1)
    held_out = _draw(train.labels, take, np.random.default_rng([spec.split_seed, VALIDATION_STREAM]))
    return _make_split(_select(train, ~held_out), _select(train, held_out), dataset.classes)


def baseline_split(dataset: Dataset, spec: DataSpec) -> Split:
    """All of the (limited) training set to train on and the test set held out; without a test set, `search_split`.

    A validation set of the source's own is trained on, too, whole whatever `limit_train`: nothing is chosen by it any
    more. Without a test set it is what judges.
    """
    if dataset.test is None:
        return search_split(dataset, spec)
    train = _limited_train(dataset, spec)
    if dataset.val is None:
        return _make_split(train, dataset.test, dataset.classes)
    both = _joined(train, dataset.val)
    return _make_split(both, dataset.test, dataset.classes, "; the folder's own validation set is trained on, too")


def final_split(dataset: Dataset, spec: DataSpec) -> Split:
    """What `baseline_split` trains on where there is a test set; without one all images train, and none is held out."""
    if dataset.test is not None:
        return baseline_split(dataset, spec)
    train = _limited_train(dataset, spec)
    if dataset.val is not None:
        train = _joined(train, dataset.val)
    return _make_split(train, ImageSet(train.images[:0], train.labels[:0]), dataset.classes)


def _make_split(train: ImageSet, held_out: ImageSet, classes: tuple[str, ...], note: str = "") -> Split:
    mean, std = _channel_statistics(train.images)
    return Split(train, held_out, classes, mean, std, note)


def _channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation per channel, float32 (3,); the deviation of a constant channel is given as 1.

    The sums are of whole numbers below 2**53, hence exact in float64 and independent of the order.
    """
    sums, squares = np.zeros(3), np.zeros(3)
    for start in range(0, len(images), STATISTICS_BLOCK):
        block = images[start : start + STATISTICS_BLOCK]
        values = block.transpose(1, 0, 2, 3).reshape(3, -1).astype(np.float64)
        sums += values.sum(axis=1)
        squares += np.einsum("cp,cp->c", values, values)
    pixels = len(images) * SIZE * SIZE
    mean = sums / pixels
    # n * sum(x^2) - sum(x)^2 in whole numbers of any size: exactly 0 for a constant channel
    spread = [pixels * int(square) - int(total) ** 2 for total, square in zip(sums, squares, strict=True)]
    std = [value**0.5 / pixels if value else 1.0 for value in spread]
    return mean.astype(np.float32), np.array(std, dtype=np.float32)


def _limited_train(dataset: Dataset, spec: DataSpec) -> ImageSet:
    """The training set, or its stratified subset of `limit_train` images, with at least two of each class; one, where
    none is needed for validation."""
    train = dataset.train
    counts = np.bincount(train.labels, minlength=len(dataset.classes))
    least = 2 if dataset.val is None else 1
    for name, count in zip(dataset.classes, counts, strict=True):
        if count < least:
            raise DataError(f"class {name!r} needs at least 2 training images (one is for validation), has {count}")
    limit = spec.limit_train
    if limit is None:
        return train
    if limit > len(train):
        raise DataError(f"limit_train = {limit:,} is more than the {len(train):,} training images there are")
    if limit < least * len(counts):
        wanted = f"at least {counted(least, 'image')} of each"
        raise DataError(f"limit_train = {limit:,} is too few for {len(counts):,} classes: {wanted}")
    take = _apportion(counts, limit, low=np.full_like(counts, least), high=counts)
    return _select(train, _draw(train.labels, take, np.random.default_rng([spec.split_seed, SUBSET_STREAM])))


def _apportion(counts: np.ndarray, total: int, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """`total` shared among classes in proportion to `counts` by largest remainder, each within its `low`..`high`."""
    quota = total * counts / counts.sum()
    take: np.ndarray = np.clip(np.floor(quota).astype(np.int64), low, high)
    while take.sum() < total:
        take[np.argmax(np.where(take < high, quota - take, -np.inf))] += 1
    while take.sum() > total:  # where raising small classes to `low` took more than their share
        take[np.argmin(np.where(take > low, quota - take, np.inf))] -= 1
    return take


def _draw(labels: np.ndarray, take: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A mask (N,) of `take[c]` random images of each class c; a larger `take` includes a smaller one's choice."""
    chosen = np.zeros(len(labels), dtype=np.bool_)
    for label, count in enumerate(take):
        chosen[rng.permutation(np.flatnonzero(labels == label))[:count]] = True
    return chosen


def _select(images: ImageSet, mask: np.ndarray) -> ImageSet:
    return ImageSet(images.images[mask], images.labels[mask])


def _joined(one: ImageSet, other: ImageSet) -> ImageSet:
    return ImageSet(np.concatenate([one.images, other.images]), np.concatenate([one.labels, other.labels]))


def _load_digits() -> Dataset:
    """scikit-learn's 1,797 handwritten digits, enlarged from 8x8; a fixed stratified fifth of them is the test set."""
    from PIL import Image

    # Without importing it, which takes a second. Each line of the table has 64 values of 0..16 and the digit.
    path = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    table = np.loadtxt(str(path), delimiter=",")
    grey = np.rint(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    large = [np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR)) for image in grey]
    images = np.repeat(np.stack(large)[:, np.newaxis], 3, axis=1)
    everything = ImageSet(images, table[:, -1].astype(np.int64))
    counts = np.bincount(everything.labels)
    take = _apportion(counts, round(DIGITS_TEST_FRACTION * len(images)), low=np.ones_like(counts), high=counts - 1)
    held_out = _draw(everything.labels, take, np.random.default_rng(0))
    classes = tuple(str(digit) for digit in range(10))
    train, test = _select(everything, ~held_out), _select(everything, held_out)
    return Dataset("digits", train, test, classes, content_fingerprint(train, test, classes))


def _load_cifar10(root: Path) -> Dataset:
    """CIFAR-10 from `root`, downloaded there first where it is missing; torchvision checks every file's MD5.

    The cheap look for files and network comes first, since importing torchvision takes seconds.
    """
    advice = f"put {CIFAR10_ARCHIVE} into {root}, or use --dataset folder --data-dir DIR, or --dataset digits"
    present = (root / "cifar-10-batches-py").is_dir() or (root / CIFAR10_ARCHIVE).is_file()
    if not present and not _answers(CIFAR10_URL):
        raise DataError(f"CIFAR-10 is neither in {root} nor downloadable (no network): {advice}")
    from torchvision.datasets import CIFAR10

    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_SECONDS)  # torchvision sets none: a stalled download would wait for ever
    try:
        parts = [CIFAR10(root, train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataError(
            f"CIFAR-10 in {root} is missing or damaged, and getting it failed ({error}): {advice}"
        ) from None
    finally:
        socket.setdefaulttimeout(patience)
    train, test = (
        ImageSet(np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)), np.array(part.targets, dtype=np.int64))
        for part in parts
    )
    classes = tuple(parts[0].classes)
    return Dataset("cifar10", train, test, classes, content_fingerprint(train, test, classes))


def _answers(url: str) -> bool:
    """Whether the host can be reached, through proxies where set, within `PROBE_SECONDS`.

    In a thread because no timeout bounds name resolution.
    """
    answers: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PROBE_SECONDS):
                answers.put(True)
        except (OSError, HTTPException, ValueError):
            answers.put(False)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answers.get(timeout=PROBE_SECONDS)
    except queue.Empty:
        return False
