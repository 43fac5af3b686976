"""A tree or a list of image files as uint8 arrays, decoded once and then read from the user's cache.

The tree is `root/train/CLASS/*.jpg` and, optionally, `root/test/CLASS/*` and `root/val/CLASS/*` (or `valid`,
`validation`), with the images in the class folders or in folders below those; or it is `root/CLASS/*.jpg`, of which a
part is drawn to test on. Hidden entries are ignored; a warning tells how many other files are not images. See
`image_list` for a list.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from platformdirs import user_cache_path

from tune_resnet._text import counted
from tune_resnet.data.cache import Decoded, read_partial, read_whole, room_for, write_cache
from tune_resnet.data.image_file import ImageError, read_image_and_shape, unreadable
from tune_resnet.data.image_list import read_list
from tune_resnet.data.image_tree import ImageFile, Tree, scan
from tune_resnet.data.split import check_enough, held_out_of
from tune_resnet.data.types import (
    SIZE,
    Dataset,
    Images,
    ImageSet,
    MappedImages,
    content_fingerprint,
    shapes_line,
    subset,
)

if TYPE_CHECKING:
    from rich.progress import Progress

CACHE_FORMAT = 2  # part of the cache key: raise it when decoding or the cache's files change
TEST_FRACTION = 0.2  # of images that nobody has divided
TEST_STREAM = 2  # beside those of `split`: the test set's draw moves no other
_LEFT = 2  # of each class after that draw: to train and to validate
DECODE_BLOCK = 100  # files decoded by one task: few enough for a smooth bar, enough to hide the task's own cost


def load_folder(root: Path, size: int = SIZE, split_seed: int = 0) -> Dataset:
    """The tree below `root`, or the list that it is, its images made `size` pixels high and wide; DataError, naming the
    class or all files, where its structure or images are unusable.

    The cache key is made of every file's part, class, relative path, size and modification time, not of its bytes:
    opening 60,000 files at every start takes seconds. Paths are relative so that a moved or newly extracted tree is
    still known.
    """
    tree = read_list(root) if root.is_file() else scan(root)
    tree.warn_of_skipped()
    if tree.whole:  # the message comes before all images are decoded
        check_enough(_labels(tree.parts["train"]), _groups(tree.parts["train"]), tree.classes, left=_LEFT)
    files = [file for part in tree.parts.values() for file in part]
    folder = user_cache_path("tune_resnet") / "folders"
    content = [f"{part}\0{tree.classes[file.label]}\0{file.mark}" for part in tree.parts for file in tree.parts[part]]
    entry = folder / _digest(size, "".join(content))
    kept = folder / f"partial-{_digest(size, os.path.realpath(root))}"

    found = read_whole(entry, len(files), size)
    if found is None:
        with room_for(entry.parent, len(files), size) as decoded:
            _decode(decoded, root.parent if root.is_file() else root, files, kept)
            train, test, val = _parts(tree, decoded.images)
            fingerprint = content_fingerprint(train, test, tree.classes, val)
            write_cache(entry, decoded, {"fingerprint": fingerprint})
        shutil.rmtree(kept, ignore_errors=True)
    else:
        decoded, fingerprint = found
    train, test, val = _parts(tree, decoded.images_in(entry))
    paths = tuple(file.path for file in tree.parts["train" if tree.whole else "test"])
    shapes = shapes_line(decoded.shapes, size)
    if isinstance(train.source, MappedImages):
        shapes += f"; {decoded.images.nbytes / 1e9:.1f} GB, read from the cache as they are needed"
    if train.groups is not None and val is None:  # they say how the images will be divided
        fingerprint = hashlib.sha256(fingerprint.encode() + train.groups.astype("<i8").tobytes()).hexdigest()
    dataset = Dataset("folder", train, test, tree.classes, fingerprint, val, paths, shapes)
    return _with_test_set(dataset, split_seed) if tree.whole else dataset


def _parts(tree: Tree, images: Images) -> tuple[ImageSet, ImageSet | None, ImageSet | None]:
    """What trains, tests and validates of all images of a tree."""
    found, end = [], 0
    for part in tree.parts.values():
        begin, end = end, end + len(part)
        found.append(ImageSet(subset(images, slice(begin, end)), _labels(part), _groups(part)))
    train, test, val = found
    return train, test if len(test) else None, val if len(val) else None


def _labels(files: Sequence[ImageFile]) -> np.ndarray:
    return np.array([file.label for file in files], dtype=np.int64)


def _groups(files: Sequence[ImageFile]) -> np.ndarray | None:
    """The number of each file's group, by its first file, int64 (N,); None where no file has one."""
    if not any(file.group for file in files):
        return None
    first: dict[str, int] = {}
    numbers = [first.setdefault(file.group, place) if file.group else place for place, file in enumerate(files)]
    return np.array(numbers, dtype=np.int64)


def _with_test_set(dataset: Dataset, seed: int) -> Dataset:
    """The images of a dataset that nobody has divided, whose `test_files` are all there are, a share of each class to
    test on."""
    total = max(round(TEST_FRACTION * len(dataset.train)), len(dataset.classes))
    held_out = held_out_of(dataset.train, dataset.classes, total, [seed, TEST_STREAM], left=_LEFT)
    share = f"{TEST_FRACTION:.0%}" if dataset.train.groups is None else f"in whole groups, about {TEST_FRACTION:.0%}"
    return replace(
        dataset,
        train=dataset.train.subset(~held_out),
        test=dataset.train.subset(held_out),
        test_files=tuple(compress(dataset.test_files, held_out)),
        fingerprint=hashlib.sha256(f"{dataset.fingerprint}\0{TEST_FRACTION}\0{seed}".encode()).hexdigest(),
        note=f" drawn, {share} of each class by the split seed",
    )


def _digest(size: int, text: str) -> str:
    return hashlib.sha256(os.fsencode(f"{CACHE_FORMAT}\0{size}\0{text}")).hexdigest()


def _decode(decoded: Decoded, root: Path, files: Sequence[ImageFile], kept: Path) -> None:
    """Every file, into its place; DataError with all that cannot be read.

    After such a failure `kept` holds the images that could be read, for the next try.
    """
    problems = {number: file.problem for number, file in enumerate(files) if file.problem}
    known, before = read_partial(kept, decoded.images.shape[-1])
    left = []
    for number, file in enumerate(files):
        if (place := known.get(file.mark)) is not None:
            decoded.images[number], decoded.shapes[number] = before.images[place], before.shapes[place]
        elif not file.problem:
            left.append(number)
    problems |= _decode_into(decoded, left, [root / file.path for file in files])
    if problems:
        marks = [None if number in problems else file.mark for number, file in enumerate(files)]
        write_cache(kept, decoded, {"files": marks})
        raise unreadable(
            [ImageError(root / files[number].path, problems[number]) for number in sorted(problems)], len(files), root
        )


def _decode_into(decoded: Decoded, numbers: Sequence[int], paths: Sequence[Path]) -> dict[int, str]:
    """Decodes the files of these numbers into their places; of those that cannot be read, the reasons."""
    if not numbers:
        return {}
    size = decoded.images.shape[-1]

    def decode_block(start: int) -> dict[int, str]:
        problems = {}
        for number in numbers[start : start + DECODE_BLOCK]:
            try:
                decoded.images[number], decoded.shapes[number] = read_image_and_shape(paths[number], size)
            except ImageError as error:
                problems[number] = error.reason
        return problems

    problems: dict[int, str] = {}
    with ThreadPoolExecutor() as pool, _progress_bar(len(numbers)) as bar:
        task = bar.add_task("decoding images", total=len(numbers))
        for block_problems in pool.map(decode_block, range(0, len(numbers), DECODE_BLOCK)):
            problems |= block_problems
            bar.advance(task, DECODE_BLOCK)
    return problems


def _progress_bar(total: int) -> Progress:
    """A bar on a terminal; elsewhere one plain line says what takes the time, and the bar stays silent."""
    from rich.console import Console
    from rich.progress import Progress

    silent = not sys.stderr.isatty()
    if silent:
        print(f"decoding {counted(total, 'image')} (once; then cached)", file=sys.stderr)
    return Progress(console=Console(stderr=True), transient=True, disable=silent)
