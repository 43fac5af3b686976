"""A class-per-folder tree of image files as uint8 arrays, decoded once and then read from the user's cache.

Also the types that every data source fills. The tree is `root/train/CLASS/*.jpg` and, optionally, `root/test/CLASS/*`,
with the images directly in the class folders; hidden entries and files whose suffix is no image's are ignored.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from platformdirs import user_cache_path

from tune_resnet.images import SIZE, DataError, image_suffixes, read_image

if TYPE_CHECKING:
    from rich.progress import Progress

CACHE_FORMAT = 1  # part of the cache key: raise it when decoding or the cache's files change
DECODE_BLOCK = 100  # files decoded by one task: few enough for a smooth bar, enough to hide the task's own cost


@dataclass(frozen=True, eq=False)
class ImageSet:
    """`images`: uint8 (N, 3, 32, 32), C-contiguous, RGB; `labels`: int64 (N,), positions in the class names."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A whole data source. `fingerprint` is the SHA-256 (hex) of all its content: equal on any machine with a copy."""

    name: str
    train: ImageSet
    test: ImageSet | None
    classes: tuple[str, ...]
    fingerprint: str


def content_fingerprint(train: ImageSet, test: ImageSet | None, classes: Sequence[str]) -> str:
    """SHA-256 (hex) of class names, labels and pixels, train and test."""
    digest = hashlib.sha256(json.dumps([list(classes), len(train), -1 if test is None else len(test)]).encode())
    for part in [train] if test is None else [train, test]:
        digest.update(part.labels.astype("<i8").tobytes())
        digest.update(part.images.data)
    return digest.hexdigest()


def load_folder(root: Path) -> Dataset:
    """The tree below `root`; DataError, naming the file or the class, where its structure or an image is unusable.

    The cache key is made of every file's relative path, size and modification time, not of its bytes: opening 60,000
    files at every start takes seconds. Paths are relative so that a moved or newly extracted tree is still known.
    """
    classes, train_files, test_files = _scan(root)
    files = train_files + test_files
    listing = "".join(f"{file.path}\0{file.bytes}\0{file.mtime}\0" for file in files)
    key = hashlib.sha256(os.fsencode(f"{CACHE_FORMAT}\0{SIZE}\0{listing}")).hexdigest()
    entry = user_cache_path("tune_resnet") / "folders" / key

    cached = _read_cache(entry, len(files))
    images = _decode([root / file.path for file in files]) if cached is None else cached[0]
    labels = np.array([file.label for file in files], dtype=np.int64)
    count = len(train_files)
    train = ImageSet(images[:count], labels[:count])
    test = ImageSet(images[count:], labels[count:]) if test_files else None
    fingerprint = content_fingerprint(train, test, classes) if cached is None else cached[1]
    if cached is None:
        _write_cache(entry, images, fingerprint)
    return Dataset("folder", train, test, classes, fingerprint)


@dataclass(frozen=True, slots=True)
class _File:
    """One image file; `path` is relative to the root, `bytes` its size, `mtime` in nanoseconds."""

    path: str
    label: int
    bytes: int
    mtime: int


def _scan(root: Path) -> tuple[tuple[str, ...], list[_File], list[_File]]:
    """Class names, train files and test files (empty without a test/ folder), by class, then by name."""
    try:
        if not root.is_dir():
            raise DataError(f"data folder {root} does not exist")
        if not (root / "train").is_dir():
            raise DataError(f"{root} has no train/ folder (wanted: {root}/train/CLASS/IMAGE)")
        classes = _class_names(root / "train")
        if len(classes) < 2:
            found = f"only {classes[0]!r}" if classes else "none"
            raise DataError(f"{root / 'train'} needs at least two class folders, found {found}")
        train = _scan_part(root, "train", classes)
        if not (root / "test").is_dir():
            return classes, train, []
        _check_test_classes(root, classes, _class_names(root / "test"))
        return classes, train, _scan_part(root, "test", classes)
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from None


def _class_names(folder: Path) -> tuple[str, ...]:
    with os.scandir(folder) as entries:
        return tuple(sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")))


def _check_test_classes(root: Path, train: Sequence[str], test: Sequence[str]) -> None:
    for name in sorted({*train} - {*test}):
        raise DataError(f"class {name!r} of {root / 'train'} is missing from {root / 'test'}")
    for name in sorted({*test} - {*train}):
        raise DataError(f"class {name!r} of {root / 'test'} is missing from {root / 'train'}")


def _scan_part(root: Path, part: str, classes: Sequence[str]) -> list[_File]:
    suffixes = image_suffixes()
    files = []
    for label, name in enumerate(classes):
        found = []
        with os.scandir(root / part / name) as entries:
            for entry in entries:
                suffix = os.path.splitext(entry.name)[1].lower()
                if suffix in suffixes and not entry.name.startswith(".") and not entry.is_dir():
                    about = entry.stat()
                    if not stat.S_ISREG(about.st_mode):  # a pipe, say, would be waited for
                        raise DataError(f"cannot read {entry.path}: not a regular file")
                    found.append(_File(f"{part}/{name}/{entry.name}", label, about.st_size, about.st_mtime_ns))
        if not found:
            raise DataError(f"class {name!r} has no images: {root / part / name}")
        files += sorted(found, key=lambda file: file.path)
    return files


def _decode(paths: Sequence[Path]) -> np.ndarray:
    """Every file as uint8 (N, 3, 32, 32); DataError with the first unreadable one and how many there are."""
    images = np.empty((len(paths), 3, SIZE, SIZE), dtype=np.uint8)

    def decode_block(start: int) -> list[DataError]:
        errors = []
        for index in range(start, min(start + DECODE_BLOCK, len(paths))):
            try:
                images[index] = read_image(paths[index])
            except DataError as error:
                errors.append(error)
        return errors

    errors: list[DataError] = []
    with ThreadPoolExecutor() as pool, _progress_bar(len(paths)) as bar:
        task = bar.add_task("decoding images", total=len(paths))
        for block_errors in pool.map(decode_block, range(0, len(paths), DECODE_BLOCK)):
            errors += block_errors
            bar.advance(task, DECODE_BLOCK)
    if errors:
        others = f" ({len(errors):,} of {len(paths):,} images are unreadable)" if len(errors) > 1 else ""
        raise DataError(f"{errors[0]}{others}")
    return images


def _progress_bar(total: int) -> Progress:
    """A bar on a terminal; elsewhere one plain line says what takes the time, and the bar stays silent."""
    from rich.console import Console
    from rich.progress import Progress

    silent = not sys.stderr.isatty()
    if silent:
        print(f"decoding {total:,} images (once; then cached)", file=sys.stderr)
    return Progress(console=Console(stderr=True), transient=True, disable=silent)


def _read_cache(entry: Path, count: int) -> tuple[np.ndarray, str] | None:
    """Images and content fingerprint of a cache entry; None where it is absent or damaged."""
    try:
        with (entry / "images.npy").open("rb") as stream:
            images = np.lib.format.read_array(stream, allow_pickle=False)
        fingerprint = json.loads((entry / "meta.json").read_text())["fingerprint"]
    except Exception:  # whatever a damaged file raises, the tree itself is still there
        return None
    if images.shape != (count, 3, SIZE, SIZE) or images.dtype != np.uint8 or not isinstance(fingerprint, str):
        return None
    return images, fingerprint


def _write_cache(entry: Path, images: np.ndarray, fingerprint: str) -> None:
    """Fills a temporary folder, then renames it: a reader, or a second process doing the same, sees all or nothing."""
    scratch = None
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=entry.parent))
        np.save(scratch / "images.npy", images, allow_pickle=False)
        (scratch / "meta.json").write_text(json.dumps({"fingerprint": fingerprint}))
        shutil.rmtree(entry, ignore_errors=True)  # it is absent or damaged, or else it would have been read
        scratch.rename(entry)
    except OSError as error:
        if _read_cache(entry, len(images)) is None:  # else another process was faster
            warnings.warn(f"decoded images are not cached in {entry.parent}: {error.strerror or error}", stacklevel=2)
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
