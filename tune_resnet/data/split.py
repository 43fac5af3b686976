"""Stratified subsets and splits; where images come in groups, what is held out is whole groups.

Every random choice derives from `DataSpec.split_seed`, so all trials of a search, and a rerun of it, see the same
images. A search sees `search_split` only: the test set is in `baseline_split` alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from operator import itemgetter

import numpy as np

from tune_resnet._text import counted
from tune_resnet.config.sections import DataSpec
from tune_resnet.data.types import DataError, Dataset, Images, ImageSet, MappedImages, Split, blocks

DIVISIONS = 10  # of groups with several classes, of which the best is taken: any one may be poor, ...
MANY_GROUPS = 1000  # ... but not of so many
SUBSET_STREAM, VALIDATION_STREAM = 0, 1  # separate random streams: the subset's size does not move the other draw


def search_split(dataset: Dataset, spec: DataSpec) -> Split:
    """The training set, or its stratified subset of `limit_train`, divided into training and validation images.

    Each class keeps its share in both parts, and at least one image in each; no group of images is in both, and shares
    are about as near as that allows. DataError where no such division is found. A source that has a validation set of
    its own is not divided: all of that set is held out.
    """
    train = _limited_train(dataset, spec)
    if dataset.val is not None:
        own = "; the validation set is the folder's own"
        return _make_split(train, dataset.val, dataset, own + _test_note(dataset))
    wanted, classes = round(spec.validation_fraction * len(train)), len(dataset.classes)
    total = min(max(wanted, classes), len(train) - classes)
    held_out = held_out_of(train, dataset.classes, total, [spec.split_seed, VALIDATION_STREAM], left=1)
    note = _groups_note(train) + _test_note(dataset)
    return _make_split(train.subset(~held_out), train.subset(held_out), dataset, note)


def _groups_note(train: ImageSet) -> str:
    return "" if train.groups is None else f" ({counted(len(np.unique(train.groups)), 'group')}, none of them divided)"


def _test_note(dataset: Dataset) -> str:
    """Whether there is a test set, which nothing else of a search's plan says."""
    if dataset.test is None:
        return "; no test set"
    return f"; {counted(len(dataset.test), 'test image')}{dataset.note or ' untouched'}"


def baseline_split(dataset: Dataset, spec: DataSpec) -> Split:
    """All of the (limited) training set to train on and the test set held out; without a test set, `search_split`.

    A validation set of the source's own is trained on, too, whole whatever `limit_train`: nothing is chosen by it any
    more. Without a test set it is what judges.
    """
    if dataset.test is None:
        return search_split(dataset, spec)
    train = _limited_train(dataset, spec)
    if dataset.val is None:
        return _make_split(train, dataset.test, dataset, dataset.note)
    both = _joined(train, dataset.val)
    return _make_split(both, dataset.test, dataset, "; the folder's own validation set is trained on, too")


def final_split(dataset: Dataset, spec: DataSpec) -> Split:
    """What `baseline_split` trains on where there is a test set; without one all images train, and none is held out."""
    if dataset.test is not None:
        return baseline_split(dataset, spec)
    train = _limited_train(dataset, spec)
    if dataset.val is not None:
        train = _joined(train, dataset.val)
    return _make_split(train, train.subset(slice(0)), dataset)


def _make_split(train: ImageSet, held_out: ImageSet, dataset: Dataset, note: str = "") -> Split:
    _warn_of_copies(train, held_out, "validation" if held_out is not dataset.test else "test")
    mean, std = _channel_statistics(train.source)
    return Split(train, held_out, dataset.classes, mean, std, note, dataset.shapes)


def _warn_of_copies(train: ImageSet, held_out: ImageSet, use: str) -> None:
    """A warning where images that judge are trained on, too: equal in each pixel at the size that a network sees."""
    judging = list(_hashes(held_out.source))
    known = set(_hashes(train.source)) if judging else set()
    copies = sum(image in known for image in judging)
    if copies:
        of = f"{copies:,} of {counted(len(held_out), f'{use} image')}"
        warnings.warn(
            f"{of} {'is a copy' if copies == 1 else 'are copies'} of images to train on, which makes accuracies too "
            "good: leave copies out, or list your images with one group for each image and its copies",
            stacklevel=4,
        )


def _hashes(images: Images) -> Iterator[int]:
    return (hash(image.tobytes()) for block in blocks(images) for image in block)


def _channel_statistics(images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation per channel, float32 (3,); the deviation of a constant channel is given as 1.

    The sums are of whole numbers below 2**53, hence exact in float64 and independent of the order.
    """
    sums, squares = np.zeros(3), np.zeros(3)
    for block in blocks(images):
        values = block.transpose(1, 0, 2, 3).reshape(3, -1).astype(np.float64)
        sums += values.sum(axis=1)
        squares += np.einsum("cp,cp->c", values, values)
    pixels = len(images) * int(images.shape[-1]) ** 2
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
    return train.subset(stratified(train.labels, limit, [spec.split_seed, SUBSET_STREAM], least=least))


def stratified(labels: np.ndarray, total: int, seed: int | list[int], *, least: int = 1, left: int = 0) -> np.ndarray:
    """A mask (N,) of `total` random images, the same share of each class; `least` of each at least, and all but `left`
    at most. No class is empty."""
    counts = np.bincount(labels)
    take = apportion(counts, total, low=np.full_like(counts, least), high=counts - left)
    return draw(labels, take, np.random.default_rng(seed))


def held_out_of(
    images: ImageSet, classes: Sequence[str], total: int, seed: int | list[int], *, left: int
) -> np.ndarray:
    """A mask (N,) of about `total` images, the same share of each class: of whole groups, where an image without groups
    is one. At least one group of each class is held out and `left` remain; DataError where no such mask is found."""
    labels, groups = images.labels, images.groups
    check_enough(labels, groups, classes, left=left)
    if groups is None:
        return stratified(labels, total, seed, left=left)
    group, label, count = _pairs(groups, labels)
    there = np.bincount(label)
    counts, rng = np.bincount(labels), np.random.default_rng(seed)
    take = apportion(counts, total, low=np.ones_like(counts), high=counts - left)
    begins = np.flatnonzero(np.diff(group)) + 1
    inside = list(zip(np.split(label, begins), np.split(count, begins), strict=True))
    tries = DIVISIONS if len(inside) < len(group) and len(inside) <= MANY_GROUPS else 1
    without, _, chosen = min(
        (_random_groups(inside, take, there - left, rng) for _ in range(tries)), key=itemgetter(0, 1)
    )
    if without:
        raise DataError(
            f"cannot hold out images of class {classes[without[0]]!r}: its groups are of other classes, too"
        )
    held_out: np.ndarray = chosen[np.unique(groups, return_inverse=True)[1]]
    return held_out


def check_enough(labels: np.ndarray, groups: np.ndarray | None, classes: Sequence[str], *, left: int) -> None:
    """DataError where a class has no image, or no group of images, to hold out with `left` remaining."""
    _, label, _ = _pairs(np.arange(len(labels)) if groups is None else groups, labels)
    for name, number in zip(classes, np.bincount(label, minlength=len(classes)), strict=True):
        if number <= left:
            wanted = f"{left + 1} images" if groups is None else f"{left + 1} groups of images"
            uses = "train, validate and test" if left == 2 else "train and validate"
            raise DataError(f"class {name!r} needs at least {wanted}, to {uses}, has {number}")


def _pairs(groups: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each group with each class that it has images of, by group, and how many images these are."""
    classes = int(labels.max()) + 1
    found, count = np.unique(groups * classes + labels, return_counts=True)
    return found // classes, found % classes, count


def _random_groups(
    inside: list[tuple[np.ndarray, np.ndarray]], take: np.ndarray, most: np.ndarray, rng: np.random.Generator
) -> tuple[list[int], float, np.ndarray]:
    """A mask of random groups that have about `take[c]` images of each class c, and are `most[c]` of its groups at
    most; before it, the classes of which it has none, and the sum of squares by which their shares miss what is wanted.
    `inside`: each group's classes, and its images of each."""
    missing, most = take.astype(np.float64), most.copy()
    chosen = np.zeros(len(inside), dtype=np.bool_)

    def choose(group: int) -> None:
        found, counts = inside[group]
        missing[found] -= counts
        most[found] -= 1
        chosen[group] = True

    shuffled = rng.permutation(len(inside))
    for group in shuffled:  # each that brings the shares nearer to what is wanted
        found, counts = inside[group]
        if (most[found] > 0).all() and (counts * (counts - 2 * missing[found]) / take[found] ** 2).sum() < 0:
            choose(group)
    for label in np.flatnonzero(missing == take):  # their groups are large
        able = [group for group in shuffled if label in inside[group][0] and (most[inside[group][0]] > 0).all()]
        if able and missing[label] == take[label]:
            choose(min(able, key=lambda group: int(inside[group][1].sum())))
    return np.flatnonzero(missing == take).tolist(), float(np.square(missing / take).sum()), chosen


def apportion(counts: np.ndarray, total: int, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """`total` shared among classes in proportion to `counts` by largest remainder, each within its `low`..`high`."""
    quota = total * counts / counts.sum()
    take: np.ndarray = np.clip(np.floor(quota).astype(np.int64), low, high)
    while take.sum() < total:
        take[np.argmax(np.where(take < high, quota - take, -np.inf))] += 1
    while take.sum() > total:  # where raising small classes to `low` took more than their share
        take[np.argmin(np.where(take > low, quota - take, np.inf))] -= 1
    return take


def draw(labels: np.ndarray, take: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A mask (N,) of `take[c]` random images of each class c; a larger `take` includes a smaller one's choice."""
    chosen = np.zeros(len(labels), dtype=np.bool_)
    for label, count in enumerate(take):
        chosen[rng.permutation(np.flatnonzero(labels == label))[:count]] = True
    return chosen


def _joined(one: ImageSet, other: ImageSet) -> ImageSet:
    labels = np.concatenate([one.labels, other.labels])
    first, second = one.source, other.source
    if isinstance(first, MappedImages) and isinstance(second, MappedImages):  # of one source, so of one file
        return ImageSet(MappedImages(first.path, np.concatenate([first.rows, second.rows])), labels)
    return ImageSet(np.concatenate([first[:], second[:]]), labels)
