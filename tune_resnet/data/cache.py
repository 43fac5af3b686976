"""Decoded images on disk, so that no later start decodes them again: a folder of two arrays and what is noted of them.

`images.npy` and `shapes.npy` hold what `Decoded` has, `meta.json` the content's fingerprint, or the files' marks where
some could not be read. Images that would take too much of the memory are decoded into that file, and stay in it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tune_resnet._files import locked_folder
from tune_resnet._text import counted
from tune_resnet.data.types import DataError, Images, MappedImages

MEMORY_SHARE = 0.25  # of the memory available: images there are decoded, divided and shared by trials, so three times
IMAGES, SHAPES, ABOUT = "images.npy", "shapes.npy", "meta.json"
_MAPPED = "mapped-"  # how the folder's name begins in which a file is filled that images stay in


@dataclass(frozen=True)
class Decoded:
    """Images as uint8 (N, 3, S, S), an array or a mapped file, and the width and height that each file had, int32
    (N, 2)."""

    images: np.ndarray
    shapes: np.ndarray

    def images_in(self, entry: Path) -> Images:
        """The images, once they are in that cache entry."""
        if isinstance(self.images, np.memmap):
            return MappedImages(entry / IMAGES, np.arange(len(self.images)))
        return self.images


def empty(count: int, size: int) -> Decoded:
    return Decoded(np.zeros((count, 3, size, size), dtype=np.uint8), np.zeros((count, 2), dtype=np.int32))


def read_whole(entry: Path, count: int, size: int) -> tuple[Decoded, str] | None:
    """Images and content fingerprint of a whole tree's cache entry; None where it is absent or damaged."""
    decoded, about = _read(entry, size)
    fingerprint = about.get("fingerprint")
    return (decoded, fingerprint) if len(decoded.images) == count and isinstance(fingerprint, str) else None


def read_partial(entry: Path, size: int) -> tuple[dict[str, int], Decoded]:
    """What an earlier try could read, with the place of each file by its mark; none where it is absent or damaged."""
    decoded, about = _read(entry, size)
    marks = about.get("files")
    if not isinstance(marks, list) or len(marks) != len(decoded.images):
        return {}, decoded
    return {str(mark): place for place, mark in enumerate(marks) if mark is not None}, decoded


def _read(entry: Path, size: int) -> tuple[Decoded, dict[str, Any]]:
    """The images of a cache entry, and what is noted about them; neither where it is damaged."""
    nothing: tuple[Decoded, dict[str, Any]] = empty(0, size), {}
    try:
        decoded = Decoded(*(_read_array(entry / name) for name in (IMAGES, SHAPES)))
        about = json.loads((entry / ABOUT).read_text())
    except Exception:  # whatever a damaged file raises, the tree itself is still there
        return nothing
    pairs = zip((decoded.images, decoded.shapes), (nothing[0].images, nothing[0].shapes), strict=True)
    fits = all(found.shape[1:] == right.shape[1:] and found.dtype == right.dtype for found, right in pairs)
    fits = fits and len(decoded.images) == len(decoded.shapes) and isinstance(about, dict)
    return (decoded, about) if fits else nothing


def _read_array(path: Path) -> np.ndarray:
    if is_too_large(path.stat().st_size):
        mapped: np.ndarray = np.lib.format.open_memmap(path, mode="r")
        return mapped
    with path.open("rb") as stream:
        array: np.ndarray = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def is_too_large(size: int) -> bool:
    """Whether so many bytes of images are to stay in their file."""
    return size > MEMORY_SHARE * available_memory()


def available_memory() -> int:
    """Bytes of memory that are free, or could be at once; no more than a container may have."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with suppress(OSError, ValueError):  # "max": no limit
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(found)


@contextmanager
def room_for(folder: Path, count: int, size: int) -> Iterator[Decoded]:
    """Room for so many images, empty: in memory or, where they would be too large, in a file of a cache folder. After
    the block that file is gone, unless `write_cache` has made an entry of it. DataError where there is no room."""
    if not is_too_large(count * 3 * size**2):
        yield empty(count, size)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked_folder(folder, _MAPPED, IMAGES) as scratch:
            images = np.lib.format.open_memmap(scratch / IMAGES, "w+", np.uint8, (count, 3, size, size))
            with (scratch / IMAGES).open("rb+") as file:
                # All of it now: on a full disk, the first write to a page that has no place would end the process.
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
            yield Decoded(images, empty(count, 1).shapes)
    except OSError as error:
        large = f"{counted(count, 'decoded image')}, {count * 3 * size**2 / 1e9:.1f} GB"
        raise DataError(f"no room for {large}, in {folder}: {error.strerror or error}") from None


def write_cache(entry: Path, decoded: Decoded, about: dict[str, Any]) -> None:
    """Fills a temporary folder, then renames it: a reader, or a second process doing the same, sees all or nothing.

    Where it cannot be written, images in memory cost a warning; those in a file have nowhere to be: OSError.
    """
    file = decoded.images.filename if isinstance(decoded.images, np.memmap) else None
    scratch = Path(file).parent if file else None
    try:
        if scratch is None:
            entry.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(dir=entry.parent))
            np.save(scratch / IMAGES, decoded.images, allow_pickle=False)
        np.save(scratch / SHAPES, decoded.shapes, allow_pickle=False)
        (scratch / ABOUT).write_text(json.dumps(about))
        shutil.rmtree(entry, ignore_errors=True)  # what could be used of it has been
        scratch.rename(entry)
    except OSError as error:
        if _read(entry, decoded.images.shape[-1])[1]:  # another process was faster
            return
        if file:
            raise
        warnings.warn(f"decoded images are not cached in {entry.parent}: {error.strerror or error}", stacklevel=2)
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
