"""One image file of any format and size as a small uint8 array."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from tune_resnet._text import one_line
from tune_resnet.data.types import SIZE, DataError

MAX_NAMED = 20  # unreadable images that one message names


class ImageError(DataError):
    """An image file that cannot be read, and why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"cannot read image {path}: {reason}")
        self.path, self.reason = path, reason


def unreadable(problems: Sequence[ImageError], images: int, root: Path | None = None) -> DataError:
    """One line about the files that cannot be read of so many images, in `root` where all are below one."""
    if len(problems) == 1:
        return problems[0]
    named = [f"{str(one.path).removeprefix(f'{root}{os.sep}')} ({one.reason})" for one in problems[:MAX_NAMED]]
    more = f", and {len(problems) - MAX_NAMED:,} more" if len(problems) > MAX_NAMED else ""
    where = f" in {root}" if root else ""
    return DataError(f"cannot read {len(problems):,} of {images:,} images{where}: {', '.join(named)}{more}")


def read_image(path: Path, size: int = SIZE) -> np.ndarray:
    """The pixels that `read_image_and_shape` gives."""
    return read_image_and_shape(path, size)[0]


def read_image_and_shape(path: Path, size: int = SIZE) -> tuple[np.ndarray, tuple[int, int]]:
    """One image file as uint8 (3, size, size), whatever its shape and colours, and the file's width and height.

    The shorter side becomes `size` pixels, and the middle of the longer one is kept. EXIF orientation is applied,
    transparency shows white, the first frame of an animation counts. ImageError where it cannot be read.
    """
    try:
        with Image.open(path, formats=_formats()) as image:
            shape = image.size
            image.draft(None, (2 * size, 2 * size))  # a big JPEG is decoded at a fraction of its size
            ImageOps.exif_transpose(image, in_place=True)
            small = ImageOps.fit(_to_rgb(image), (size, size), Image.Resampling.BILINEAR)
    except UnidentifiedImageError:
        raise ImageError(path, "not a known image format") from None
    except Exception as error:  # on damaged bytes, Pillow's decoders raise nearly anything
        reason = getattr(error, "strerror", None) or error
        raise ImageError(path, one_line(reason)) from None
    return np.asarray(small).transpose(2, 0, 1), shape


def _formats() -> list[str]:
    """The formats that Pillow reads by itself: PostScript is a program, which Ghostscript would run."""
    Image.init()
    return [name for name in Image.ID if name != "EPS"]


def image_suffixes() -> set[str]:
    """How the names of image files end, in lower case."""
    formats = _formats()
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in formats}


def image_files(named: Path) -> list[Path]:
    """The image files in a folder and those below it, by path, hidden ones left out; DataError where there is none.
    What is no folder is a file by itself."""
    if not named.is_dir():
        return [named]
    suffixes = image_suffixes()
    try:
        found = [named / path for path, _ in files_below(named) if os.path.splitext(path)[1].lower() in suffixes]
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from None
    if not found:
        raise DataError(f"there is no image in {named}")
    return sorted(found)


def files_below(folder: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Each file in a folder and in those below it, by its path from there; nothing hidden. Links are followed.

    OSError where a folder cannot be read, DataError where a link leads back to a folder above it.
    """
    return _files_below(folder, "", frozenset())


def _files_below(
    folder: Path, prefix: str, above: frozenset[tuple[int, int]]
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    about = os.stat(folder)
    here = (about.st_dev, about.st_ino)
    if here in above:
        raise DataError(f"cannot read {folder}: it leads back to a folder above it")
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            # isdir alone would ask the disk about each file; of a link that leads nowhere, is_dir may raise.
            if entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path)):
                yield from _files_below(folder / entry.name, f"{prefix}{entry.name}/", above | {here})
            else:
                yield prefix + entry.name, entry


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # grey of 16 bits, which convert() would clip at 255 instead of scaling
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("its 32-bit pixels have no known range")
        return Image.fromarray(np.rint(values / 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("its floating-point pixels have no known range")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")
