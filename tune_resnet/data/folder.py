"""A class-per-folder tree of image files as uint8 arrays, decoded once and then read from the user's cache.

Also the types that every data source fills. The tree is `root/train/CLASS/*.jpg` and, optionally, `root/test/CLASS/*`
and `root/val/CLASS/*` (or `valid`, `validation`), with the images in the class folders or in folders below those.
Hidden entries are ignored; a warning tells how many other files are not images.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from platformdirs import user_cache_path

from tune_resnet._text import counted
from tune_resnet.data.cache import Decoded, empty, read_partial, read_whole, write_cache
from tune_resnet.data.image_file import ImageError, read_image_and_shape
from tune_resnet.data.image_tree import ImageFile, scan
from tune_resnet.data.types import SIZE, DataError, Dataset, ImageSet, content_fingerprint

if TYPE_CHECKING:
    from rich.progress import Progress

CACHE_FORMAT = 2  # part of the cache key: raise it when decoding or the cache's files change
MAX_NAMED = 20  # unreadable images that one message names
DECODE_BLOCK = 100  # files decoded by one task: few enough for a smooth bar, enough to hide the task's own cost


def load_folder(root: Path, size: int = SIZE) -> Dataset:
    """The tree below `root`, its images made `size` pixels high and wide; DataError, naming the class or all files,
    where its structure or images are unusable.

    The cache key is made of every file's relative path, size and modification time, not of its bytes: opening 60,000
    files at every start takes seconds. Paths are relative so that a moved or newly extracted tree is still known.
    """
    tree = scan(root)
    tree.warn_of_skipped()
    files = [file for part in tree.parts.values() for file in part]
    folder = user_cache_path("tune_resnet") / "folders"
    entry = folder / _digest(size, "".join(file.mark for file in files))
    kept = folder / f"partial-{_digest(size, os.path.realpath(root))}"

    cached = read_whole(entry, len(files), size)
    decoded = _decode(root, files, kept, size) if cached is None else cached[0]
    labels = np.array([file.label for file in files], dtype=np.int64)
    ends = np.cumsum([len(part) for part in tree.parts.values()])[:-1]
    train, *others = map(ImageSet, np.split(decoded.images, ends), np.split(labels, ends))
    test, val = (part if len(part) else None for part in others)
    fingerprint = content_fingerprint(train, test, tree.classes, val) if cached is None else cached[1]
    if cached is None:
        write_cache(entry, decoded, {"fingerprint": fingerprint})
        shutil.rmtree(kept, ignore_errors=True)
    shapes = _shapes_line(decoded.shapes, size)
    return Dataset("folder", train, test, tree.classes, fingerprint, val, shapes)


def _shapes_line(shapes: np.ndarray, size: int) -> str:
    """What files of these widths and heights have become."""
    low, high = shapes.min(axis=0), shapes.max(axis=0)
    if (low == size).all() and (high == size).all():
        return f"{size}x{size}, as they are"
    found = f"{low[0]}x{low[1]}" + ("" if (low == high).all() else f" to {high[0]}x{high[1]}")
    long = int((shapes[:, 0] != shapes[:, 1]).sum())
    are, their = ("is", "its") if long == 1 else ("are", "their")
    cut = f"; {long:,} of {len(shapes):,} {are} not square: {their} middle is kept" if long else ""
    return f"{size}x{size}, scaled from {found}{cut}"


def _digest(size: int, text: str) -> str:
    return hashlib.sha256(os.fsencode(f"{CACHE_FORMAT}\0{size}\0{text}")).hexdigest()


def _decode(root: Path, files: Sequence[ImageFile], kept: Path, size: int) -> Decoded:
    """Every file; DataError with all that cannot be read.

    After such a failure `kept` holds the images that could be read, for the next try.
    """
    decoded = empty(len(files), size)
    problems = {number: file.problem for number, file in enumerate(files) if file.problem}
    known, before = read_partial(kept, size)
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
        raise _unreadable(root, files, problems)
    return decoded


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


def _unreadable(root: Path, files: Sequence[ImageFile], problems: dict[int, str]) -> DataError:
    """One line about the files of these numbers."""
    if len(problems) == 1:
        [(number, problem)] = problems.items()
        return ImageError(root / files[number].path, problem)
    named = [f"{files[number].path} ({problems[number]})" for number in sorted(problems)[:MAX_NAMED]]
    more = f", and {len(problems) - MAX_NAMED:,} more" if len(problems) > MAX_NAMED else ""
    return DataError(f"cannot read {len(problems):,} of {len(files):,} images in {root}: {', '.join(named)}{more}")


def _progress_bar(total: int) -> Progress:
    """A bar on a terminal; elsewhere one plain line says what takes the time, and the bar stays silent."""
    from rich.console import Console
    from rich.progress import Progress

    silent = not sys.stderr.isatty()
    if silent:
        print(f"decoding {counted(total, 'image')} (once; then cached)", file=sys.stderr)
    return Progress(console=Console(stderr=True), transient=True, disable=silent)
