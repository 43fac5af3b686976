"""Decoded images on disk, so that no later start decodes them again: a folder of two arrays and what is noted of them.

`images.npy` and `shapes.npy` hold what `Decoded` has, `meta.json` the content's fingerprint, or the files' marks where
some could not be read.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Decoded:
    """Images as uint8 (N, 3, S, S), and the width and height that each file had, int32 (N, 2)."""

    images: np.ndarray
    shapes: np.ndarray


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
        decoded = Decoded(*(_read_array(entry / name) for name in ("images.npy", "shapes.npy")))
        about = json.loads((entry / "meta.json").read_text())
    except Exception:  # whatever a damaged file raises, the tree itself is still there
        return nothing
    wanted = empty(len(decoded.images), size)
    pairs = ((decoded.images, wanted.images), (decoded.shapes, wanted.shapes))
    fits = all(found.shape == right.shape and found.dtype == right.dtype for found, right in pairs)
    return (decoded, about) if fits and isinstance(about, dict) else nothing


def _read_array(path: Path) -> np.ndarray:
    with path.open("rb") as stream:
        array: np.ndarray = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def write_cache(entry: Path, decoded: Decoded, about: dict[str, Any]) -> None:
    """Fills a temporary folder, then renames it: a reader, or a second process doing the same, sees all or nothing."""
    scratch = None
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=entry.parent))
        np.save(scratch / "images.npy", decoded.images, allow_pickle=False)
        np.save(scratch / "shapes.npy", decoded.shapes, allow_pickle=False)
        (scratch / "meta.json").write_text(json.dumps(about))
        shutil.rmtree(entry, ignore_errors=True)  # what could be used of it has been
        scratch.rename(entry)
    except OSError as error:
        if not _read(entry, decoded.images.shape[-1])[1]:  # else another process was faster
            warnings.warn(f"decoded images are not cached in {entry.parent}: {error.strerror or error}", stacklevel=2)
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
