"""A class-per-folder tree of image files as uint8 arrays, decoded once and then read from the user's cache.

Also the types that every data source fills. The tree is `root/train/CLASS/*.jpg` and, optionally, `root/test/CLASS/*`
and `root/val/CLASS/*` (or `valid`, `validation`), with the images in the class folders or in folders below those.
Hidden entries are ignored; a warning tells how many other files are not images.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from platformdirs import user_cache_path

from tune_resnet._text import counted
from tune_resnet.data.image_file import ImageError, read_image
from tune_resnet.data.image_tree import ImageFile, scan
from tune_resnet.data.types import SIZE, DataError, Dataset, ImageSet, content_fingerprint

if TYPE_CHECKING:
    from rich.progress import Progress

CACHE_FORMAT = 1  # part of the cache key: raise it when decoding or the cache's files change
MAX_NAMED = 20  # unreadable images that one message names
DECODE_BLOCK = 100  # files decoded by one task: few enough for a smooth bar, enough to hide the task's own cost


def load_folder(root: Path) -> Dataset:
    """The tree below `root`; DataError, naming the class or all files, where its structure or images are unusable.

    The cache key is made of every file's relative path, size and modification time, not of its bytes: opening 60,000
    files at every start takes seconds. Paths are relative so that a moved or newly extracted tree is still known.
    """
    tree = scan(root)
    tree.warn_of_skipped()
    files = [file for part in tree.parts.values() for file in part]
    folder = user_cache_path("tune_resnet") / "folders"
    entry = folder / _digest("".join(file.mark for file in files))
    kept = folder / f"partial-{_digest(os.path.realpath(root))}"

    cached = _read_whole(entry, len(files))
    images = _decode(root, files, kept) if cached is None else cached[0]
    labels = np.array([file.label for file in files], dtype=np.int64)
    ends = np.cumsum([len(part) for part in tree.parts.values()])[:-1]
    train, *others = map(ImageSet, np.split(images, ends), np.split(labels, ends))
    test, val = (part if len(part) else None for part in others)
    fingerprint = content_fingerprint(train, test, tree.classes, val) if cached is None else cached[1]
    if cached is None:
        _write_cache(entry, images, {"fingerprint": fingerprint})
        shutil.rmtree(kept, ignore_errors=True)
    test_files = tuple(file.path for file in tree.parts["test"])
    return Dataset("folder", train, test, tree.classes, fingerprint, val, test_files)


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(f"{CACHE_FORMAT}\0{SIZE}\0{text}")).hexdigest()


def _decode(root: Path, files: Sequence[ImageFile], kept: Path) -> np.ndarray:
    """Every file as uint8 (N, 3, 32, 32); DataError with all that cannot be read.

    After such a failure `kept` holds the images that could be read, for the next try.
    """
    images = np.empty((len(files), 3, SIZE, SIZE), dtype=np.uint8)
    problems = {number: file.problem for number, file in enumerate(files) if file.problem}
    known = _read_partial(kept)
    left = []
    for number, file in enumerate(files):
        if file.mark in known:
            images[number] = known[file.mark]
        elif not file.problem:
            left.append(number)
    problems |= _decode_into(images, left, [root / file.path for file in files])
    if problems:
        good = [number for number in range(len(files)) if number not in problems]
        _write_cache(kept, images[good], {"files": [files[number].mark for number in good]})
        raise _unreadable(root, files, problems)
    return images


def _decode_into(images: np.ndarray, numbers: Sequence[int], paths: Sequence[Path]) -> dict[int, str]:
    """Decodes the files of these numbers into their places; of those that cannot be read, the reasons."""
    if not numbers:
        return {}

    def decode_block(start: int) -> dict[int, str]:
        problems = {}
        for number in numbers[start : start + DECODE_BLOCK]:
            try:
                images[number] = read_image(paths[number])
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


def _read_whole(entry: Path, count: int) -> tuple[np.ndarray, str] | None:
    """Images and content fingerprint of a whole tree's cache entry; None where it is absent or damaged."""
    images, about = _read_cache(entry)
    fingerprint = about.get("fingerprint")
    return (images, fingerprint) if len(images) == count and isinstance(fingerprint, str) else None


def _read_partial(entry: Path) -> dict[str, np.ndarray]:
    """The images that an earlier try could read, by their files' marks; none where the entry is absent or damaged."""
    images, about = _read_cache(entry)
    marks = about.get("files")
    return (
        dict(zip(map(str, marks), images, strict=True)) if isinstance(marks, list) and len(marks) == len(images) else {}
    )


def _read_cache(entry: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """The images of a cache entry, uint8 (N, 3, 32, 32), and what is noted about them; neither where it is damaged."""
    nothing: tuple[np.ndarray, dict[str, Any]] = np.empty((0, 3, SIZE, SIZE), dtype=np.uint8), {}
    try:
        with (entry / "images.npy").open("rb") as stream:
            images = np.lib.format.read_array(stream, allow_pickle=False)
        about = json.loads((entry / "meta.json").read_text())
    except Exception:  # whatever a damaged file raises, the tree itself is still there
        return nothing
    fits = images.shape[1:] == (3, SIZE, SIZE) and images.dtype == np.uint8 and isinstance(about, dict)
    return (images, about) if fits else nothing


def _write_cache(entry: Path, images: np.ndarray, about: dict[str, Any]) -> None:
    """Fills a temporary folder, then renames it: a reader, or a second process doing the same, sees all or nothing."""
    scratch = None
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=entry.parent))
        np.save(scratch / "images.npy", images, allow_pickle=False)
        (scratch / "meta.json").write_text(json.dumps(about))
        shutil.rmtree(entry, ignore_errors=True)  # what could be used of it has been
        scratch.rename(entry)
    except OSError as error:
        if not _read_cache(entry)[1]:  # else another process was faster
            warnings.warn(f"decoded images are not cached in {entry.parent}: {error.strerror or error}", stacklevel=2)
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
