"""The images that a CSV file lists, by the columns `path`, relative to the file, `class` and, optionally, `split` and
`group`."""

from __future__ import annotations

import csv
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from tune_resnet.config.validation import nearest
from tune_resnet.data.image_tree import PARTS, ImageFile, Tree, image_file, part_of
from tune_resnet.data.types import DataError

COLUMNS = ("path", "class", "split", "group")


def read_list(path: Path) -> Tree:
    """The images of a list, in the order that a tree of them would have; DataError, with the line, where it is wrong.

    Without a column `split` nothing says which images are to test. Images of one `group` are to be in one part.
    """
    rows = _rows(path)
    has_split = "split" in rows[0][1]
    listed: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}, "val": {}}  # part, class, paths
    seen: dict[str, int] = {}
    groups: dict[str, str] = {}  # by image
    parts: dict[str, tuple[str, int]] = {}  # of each group, with its first line
    for line, row in rows:
        where = f"{path} line {line}"
        name, image = row["class"], os.path.normpath(row["path"])
        split = row["split"] if has_split else "train"
        if not name or not row["path"]:
            raise DataError(f"{where}: {'class' if row['path'] else 'path'} is missing")
        part = part_of(split)
        if part is None:
            raise DataError(f"{where}: unknown split {split!r}{nearest(split, PARTS)}: wanted {', '.join(PARTS)}")
        if image in seen:
            raise DataError(f"{where}: {image} is in line {seen[image]} already")
        if not os.path.lexists(path.parent / image):
            raise DataError(f"{where}: there is no file {path.parent / image}")
        seen[image] = line
        if group := row.get("group", ""):
            groups[image] = group
            first, begun = parts.setdefault(group, (part, line))
            if first != part:
                raise DataError(f"{where}: group {group!r} is in {part} here, and in {first} in line {begun}")
        listed[part].setdefault(name, []).append(image)
    classes = tuple(sorted(listed["train"]))
    if len(classes) < 2:
        found = f"only {classes[0]!r}" if classes else "none"
        raise DataError(f"{path} needs at least two classes to train on, found {found}")
    tree = Tree(classes, whole=not has_split)
    for part, by_class in listed.items():
        _check_classes(path, part, set(by_class), set(classes))
        files = _files(path.parent, by_class, classes)
        tree.parts[part].extend(replace(file, group=groups.get(file.path, "")) for file in files)
    return tree


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The lines of a list after its first, with their numbers, as texts by column."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, restval="")
            missing = [name for name in ("path", "class") if name not in (reader.fieldnames or ())]
            if missing:
                wanted = "its first line is to be path,class, with commas; split and group may follow"
                raise DataError(f"{path} has no column {missing[0]!r}: {wanted}")
            for name in reader.fieldnames or ():
                if name not in COLUMNS and (meant := nearest(name.strip().lower(), COLUMNS, cutoff=0.85)):
                    raise DataError(f"{path} has an unknown column {name!r}{meant}")
            rows = [(reader.line_num, {name: value.strip() for name, value in row.items() if name}) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"cannot read {path}: {getattr(error, 'strerror', None) or 'not a CSV file in UTF-8'}"
        ) from None
    if not rows:
        raise DataError(f"{path} lists no images")
    return rows


def _check_classes(path: Path, part: str, found: set[str], wanted: set[str]) -> None:
    for name in sorted(wanted - found) if found else ():
        raise DataError(f"class {name!r} of {path} has no image of the split {part}")
    for name in sorted(found - wanted):
        raise DataError(f"class {name!r} of {path} has no image to train on")


def _files(root: Path, by_class: dict[str, list[str]], classes: tuple[str, ...]) -> list[ImageFile]:
    return [
        image_file(image, label, partial(os.stat, root / image))
        for label, name in enumerate(classes)
        for image in sorted(by_class.get(name, ()))
    ]
