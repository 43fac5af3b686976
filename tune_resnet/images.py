"""One image file of any format and size as a small uint8 array."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from tune_resnet.errors import UserError
from tune_resnet.text import one_line

SIZE = 32  # pixels, height and width of every image


class DataError(UserError):
    """Data that are missing, damaged or unsuitable."""


def read_image(path: Path) -> np.ndarray:
    """One image file as uint8 (3, 32, 32), whatever its size and colours; DataError where it cannot be read.

    EXIF orientation is applied, transparency shows white, the first frame of an animation counts.
    """
    try:
        with Image.open(path, formats=_formats()) as image:
            image.draft(None, (2 * SIZE, 2 * SIZE))  # a big JPEG is decoded at a fraction of its size
            ImageOps.exif_transpose(image, in_place=True)
            small = _to_rgb(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    except UnidentifiedImageError:
        raise DataError(f"cannot read image {path}: not a known image format") from None
    except Exception as error:  # on damaged bytes, Pillow's decoders raise nearly anything
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read image {path}: {one_line(reason)}") from None
    return np.asarray(small).transpose(2, 0, 1)


def _formats() -> list[str]:
    """The formats that Pillow reads by itself: PostScript is a program, which Ghostscript would run."""
    Image.init()
    return [name for name in Image.ID if name != "EPS"]


def image_suffixes() -> set[str]:
    """How the names of image files end, in lower case."""
    formats = _formats()
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in formats}


def image_files(folder: Path) -> list[Path]:
    """The image files in a folder and those below it, by path, hidden ones left out; DataError where there is none."""
    suffixes = image_suffixes()
    found = [
        Path(place) / name
        for place, _, names in os.walk(folder)
        for name in names
        if os.path.splitext(name)[1].lower() in suffixes and not name.startswith(".")
    ]
    if not found:
        raise DataError(f"there is no image in {folder}")
    return sorted(found)


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
