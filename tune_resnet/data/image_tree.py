"""What there is in a tree of image files, without opening one of them: a folder for each class, see `folder`."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tune_resnet._text import printable
from tune_resnet.data.image_file import files_below, image_suffixes
from tune_resnet.data.types import DataError

PARTS = {"train": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}  # by what they are called
_MEANING = {"train": "training", "test": "test", "val": "validation"}


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image file; `path` is relative to the root, `bytes` its size, `mtime` in nanoseconds; `problem`: why it is
    not to be opened; `group`: those of one name are not to be divided, empty: it stands alone."""

    path: str
    label: int
    bytes: int
    mtime: int
    problem: str = ""
    group: str = ""

    @property
    def mark(self) -> str:
        """What tells this content of the file from another."""
        return f"{self.path}\0{self.bytes}\0{self.mtime}\0"


@dataclass(frozen=True)
class Tree:
    """The image files of each part, by class, then by path (none where there is no such folder); and what is left out,
    as paths below the root. Where nothing says which are to test, all are of the part `train`, and `whole`."""

    classes: tuple[str, ...] = ()
    parts: dict[str, list[ImageFile]] = field(default_factory=lambda: {"train": [], "test": [], "val": []})
    others: list[str] = field(default_factory=list)  # no images
    loose: list[str] = field(default_factory=list)  # images in no class folder
    whole: bool = False

    def warn_of_skipped(self) -> None:
        """A warning of each kind that is left out, with one of them as an example."""
        for paths, one, several in (
            (self.others, "file that is not an image", "files that are not images"),
            (self.loose, "image that is in no class folder", "images that are in no class folder"),
        ):
            if len(paths) == 1:
                warnings.warn(f"skipped 1 {one}: {printable(paths[0])}", stacklevel=3)
            elif paths:
                warnings.warn(f"skipped {len(paths):,} {several}, {printable(paths[0])} among them", stacklevel=3)


def scan(root: Path) -> Tree:
    """What is in the tree below `root`; DataError where its structure is unusable."""
    try:
        if not root.is_dir():
            raise DataError(f"data folder {root} does not exist")
        folders = _split_folders(root)
        train = folders.get("train")
        if train is None and (folders or not _folder_names(root)):
            raise DataError(f"{root} has no train/ folder (wanted: {root}/train/CLASS/IMAGE, or {root}/CLASS/IMAGE)")
        tree = Tree(_folder_names(root / (train or "")), whole=train is None)
        if len(tree.classes) < 2:
            found = f"only {tree.classes[0]!r}" if tree.classes else "none"
            raise DataError(f"{root / (train or '')} needs at least two class folders, found {found}")
        for part, folder in {"train": ".", **folders}.items():
            _check_classes(root / folder, root / (train or ""), tree.classes)
            _scan_part(root, folder, tree.parts[part], tree)
        return tree
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from None


def _folder_names(folder: Path) -> tuple[str, ...]:
    with os.scandir(folder) as entries:
        return tuple(sorted(entry.name for entry in entries if entry.is_dir() and not _is_hidden(entry.name)))


def _is_hidden(name: str) -> bool:
    """Also the folder that a Mac adds to a zip file."""
    return name.startswith(".") or name == "__MACOSX"


def part_of(name: str) -> str | None:
    """The part that a folder or a list means by this name, in small or capital letters; None where it is no split."""
    return PARTS.get(name.lower())


def _split_folders(root: Path) -> dict[str, str]:
    """The names of the folders that are there for parts; DataError where two are for the same."""
    found: dict[str, str] = {}
    for name in _folder_names(root):
        part = part_of(name)
        if part in found:
            one_set = f"one of them is to be the {_MEANING[part]} set"
            raise DataError(f"{root} has both {found[part]}/ and {name}/: {one_set}")
        if part:
            found[part] = name
    return found


def _check_classes(folder: Path, train: Path, wanted: Sequence[str]) -> None:
    found = _folder_names(folder)
    for name in sorted({*wanted} - {*found}):
        raise DataError(f"class {name!r} of {train} is missing from {folder}")
    for name in sorted({*found} - {*wanted}):
        raise DataError(f"class {name!r} of {folder} is missing from {train}")


def _scan_part(root: Path, part: str, files: list[ImageFile], tree: Tree) -> None:
    """Adds the image files of one part to `files`, and to the tree what is left out there."""
    folder, suffixes = root / part, image_suffixes()
    before = "" if part == "." else f"{part}/"

    def is_image(name: str) -> bool:
        return os.path.splitext(name)[1].lower() in suffixes

    for name in sorted(os.listdir(folder)):
        if name not in tree.classes and not _is_hidden(name):
            (tree.loose if is_image(name) else tree.others).append(f"{before}{name}")
    for label, name in enumerate(tree.classes):
        below = sorted(files_below(folder / name), key=lambda found: found[0])
        images = [image_file(f"{before}{name}/{path}", label, entry.stat) for path, entry in below if is_image(path)]
        if not images:
            raise DataError(f"class {name!r} has no images: {folder / name}")
        files += images
        tree.others.extend(f"{before}{name}/{path}" for path, _ in below if not is_image(path))


def image_file(path: str, label: int, look: Callable[[], os.stat_result]) -> ImageFile:
    """The file at a path below the root, as a `look` at it shows it."""
    try:
        about = look()
    except OSError as error:
        return ImageFile(path, label, 0, 0, error.strerror or str(error))
    problem = "" if stat.S_ISREG(about.st_mode) else "not a regular file"  # a pipe, say, would be waited for
    return ImageFile(path, label, about.st_size, about.st_mtime_ns, problem)
