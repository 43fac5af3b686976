"""Data sources, their errors and their splits: on small generated trees, on loopback, and on scikit-learn's digits."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tune_resnet.config.sections import DataSpec
from tune_resnet.data import cache as store
from tune_resnet.data import cifar10
from tune_resnet.data.folder import load_folder
from tune_resnet.data.image_file import read_image, read_image_and_shape
from tune_resnet.data.load import load_dataset
from tune_resnet.data.split import baseline_split, final_split, search_split
from tune_resnet.data.types import DataError, Dataset, ImageSet, MappedImages, Split, content_fingerprint


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user cache of the test's own, and no proxies."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tune_resnet"


def write_image(path: Path, colour: int, size: tuple[int, int] = (32, 32)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, 2 * colour, 255 - colour)).save(path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """train/ with 4 cats and 3 dogs, test/ with 2 of each, PNG files of one colour each."""
    root = tmp_path / "tree"
    counts = (("train", "cat", 4), ("train", "dog", 3), ("test", "cat", 2), ("test", "dog", 2))
    for first, (part, name, count) in enumerate(counts):
        for index in range(count):
            write_image(root / part / name / f"{index}.png", 10 * index + first)
    return root


def damage(path: Path) -> None:
    """Other bytes, but the same size and modification time: only who opens the file can tell."""
    before = path.stat()
    path.write_bytes(b"x" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def same(one: ImageSet, other: ImageSet) -> bool:
    return np.array_equal(one.images, other.images) and np.array_equal(one.labels, other.labels)


# --- folder -----------------------------------------------------------------------------------------------------------


def test_a_tree_is_read_by_class_then_name(tree: Path) -> None:
    found = load_folder(tree)
    assert found.test is not None
    assert found.classes == ("cat", "dog")
    assert found.train.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert found.test.labels.tolist() == [0, 0, 1, 1]
    assert found.train.labels.dtype == np.int64
    assert found.train.images.shape == (7, 3, 32, 32)
    assert found.train.images.dtype == np.uint8
    assert found.train.images.flags.c_contiguous
    assert found.train.images[:, :, 5, 9].tolist() == [
        [colour, 2 * colour, 255 - colour] for colour in (0, 10, 20, 30, 1, 11, 21)
    ]


def test_test_is_optional(tree: Path) -> None:
    shutil.rmtree(tree / "test")
    assert load_folder(tree).test is None


def test_hidden_entries_and_other_files_are_ignored(tree: Path) -> None:
    before = load_folder(tree)
    (tree / "train" / ".hidden").mkdir()
    (tree / "train" / "__MACOSX" / "cat").mkdir(parents=True)
    for name in ("cat/.DS_Store", "cat/._0.png", "cat/notes.txt", "README.md"):
        (tree / "train" / name).write_bytes(b"not an image")
    (tree / "train" / "cat" / "folder.png").mkdir()
    with pytest.warns(UserWarning, match="skipped 2 files that are not images, train/README.md among them"):
        assert same(load_folder(tree).train, before.train)


def test_images_in_folders_below_a_class_are_of_that_class(tree: Path) -> None:
    before = load_folder(tree)
    for name in ("b/deep/0.png", "b/1.png", "a.dir/2.png", ".hidden/3.png"):
        write_image(tree / "train" / "cat" / name, 100 + int(Path(name).stem))
    found = load_folder(tree)
    assert found.train.labels.tolist() == [0] * 7 + [1] * 3
    assert found.train.images[4:7, 0, 0, 0].tolist() == [102, 101, 100]  # a.dir/2, b/1, b/deep/0
    assert same(ImageSet(found.train.images[:4], found.train.labels[:4]), first_of(before.train, 4))
    (tree / "train" / "cat" / "b").rename(tree / "train" / "cat" / "c")
    load_folder(tree)
    assert load_folder(tree).fingerprint == found.fingerprint


def first_of(part: ImageSet, count: int) -> ImageSet:
    return ImageSet(part.images[:count], part.labels[:count])


def test_links_to_folders_are_followed_but_not_in_circles(tree: Path, tmp_path: Path) -> None:
    (tree / "train" / "dog").rename(tmp_path / "dogs")
    (tree / "train" / "dog").symlink_to(tmp_path / "dogs")
    write_image(tmp_path / "more" / "9.png", 9)
    (tmp_path / "dogs" / "more").symlink_to(tmp_path / "more")
    assert len(load_folder(tree).train) == 8
    (tmp_path / "more" / "back").symlink_to(tmp_path / "dogs")
    with pytest.raises(DataError, match=r"cannot read .*/train/dog/more/back: it leads back to a folder above it"):
        load_folder(tree)


def test_what_is_no_image_is_counted_and_named_once(tree: Path) -> None:
    (tree / "train" / "cat" / "notes.txt").write_text("")
    with pytest.warns(UserWarning, match="skipped") as caught:
        load_folder(tree)
    assert [str(item.message) for item in caught] == ["skipped 1 file that is not an image: train/cat/notes.txt"]
    for name in ("train/README.md", "test/dog/a/clip.h264", "test/dog/\x1b[31m.txt"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text("")
    write_image(tree / "train" / "loose.png", 3)
    with pytest.warns(UserWarning, match="skipped") as caught:
        assert len(load_folder(tree).train) == 7
    assert [str(item.message) for item in caught] == [
        "skipped 4 files that are not images, train/README.md among them",
        "skipped 1 image that is in no class folder: train/loose.png",
    ]


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_validation_set_beside_the_training_set_is_used(name: str, tree: Path) -> None:
    before = load_folder(tree)
    for label in ("cat", "dog"):
        write_image(tree / name / label / "0.png", 50)
    found = load_folder(tree)
    assert same(found.train, before.train)
    assert found.val is not None
    assert found.val.labels.tolist() == [0, 1]
    assert found.val.images[:, 0, 0, 0].tolist() == [50, 50]
    write_image(tree / name / "dog" / "0.png", 51)
    assert len({before.fingerprint, found.fingerprint, load_folder(tree).fingerprint}) == 3
    (tree / name / "dog").rename(tree / name / "cow")
    with pytest.raises(DataError, match=f"class 'dog' of .*train is missing from .*{name}"):
        load_folder(tree)


@pytest.mark.parametrize(
    ("one", "other", "meant"),
    [("val", "validation", "validation"), ("Val", "valid", "validation"), ("TRAIN", "train", "training")],
)
def test_of_two_folders_for_one_set_none_is_chosen(one: str, other: str, meant: str, tree: Path) -> None:
    for name in (one, other):
        (tree / name).mkdir(exist_ok=True)
    with pytest.raises(DataError, match=f"tree has both {one}/ and {other}/: one of them is to be the {meant} set"):
        load_folder(tree)


def test_folders_for_splits_may_have_capitals(tree: Path) -> None:
    for label in ("cat", "dog"):
        write_image(tree / "val" / label / "0.png", 50)
    before = load_folder(tree)
    for name, other in (("train", "Train"), ("test", "TEST"), ("val", "Validation")):
        (tree / name).rename(tree / other)
    found = load_folder(tree)
    assert (found.classes, found.fingerprint) == (before.classes, before.fingerprint)
    (tree / "TEST" / "dog").rename(tree / "TEST" / "cow")
    with pytest.raises(DataError, match=r"class 'dog' of .*/Train is missing from .*/TEST"):
        load_folder(tree)


def test_the_spec_names_the_folder(tree: Path) -> None:
    assert load_dataset(DataSpec(data_dir=str(tree))).name == "folder"
    assert DataSpec().dataset == DataSpec(dataset="cifar10", data_dir=str(tree)).dataset == "cifar10"
    (tree / "cifar-10-batches-py").mkdir()
    assert DataSpec(data_dir=str(tree)).dataset == "cifar10"
    with pytest.raises(DataError, match=r"needs data\.data_dir, the folder"):
        load_dataset(DataSpec(dataset="folder"))


def remove_class_images(root: Path) -> None:
    (root / "train" / "dog" / "0.png").write_bytes(b"unreadable, but structure is checked first")
    for path in (root / "train" / "cat").iterdir():
        path.unlink()


STRUCTURE_ERRORS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no root": (shutil.rmtree, "tree does not exist"),
    "no train": (lambda root: shutil.rmtree(root / "train"), "has no train/ folder"),
    "one class": (lambda root: shutil.rmtree(root / "train" / "dog"), "at least two class folders, found only 'cat'"),
    "no class": (lambda root: list(map(shutil.rmtree, (root / "train").iterdir())), "class folders, found none"),
    "empty class": (remove_class_images, "class 'cat' has no images: .*/train/cat"),
    "empty test class": (lambda root: list(map(Path.unlink, (root / "test/dog").iterdir())), "'dog' has no images"),
    "class not in test": (lambda root: shutil.rmtree(root / "test" / "dog"), "'dog' of .*train is missing from .*test"),
    "extra test class": (lambda root: (root / "test" / "cow").mkdir(), "'cow' of .*test is missing from .*train"),
    "dangling link": (lambda root: (root / "train/cat/9.png").symlink_to("nowhere"), "cannot read .*9.png: No such"),
}


@pytest.mark.parametrize("case", STRUCTURE_ERRORS)
def test_a_wrong_structure_is_named(case: str, tree: Path) -> None:
    spoil, message = STRUCTURE_ERRORS[case]
    spoil(tree)
    with pytest.raises(DataError, match=message) as raised:
        load_folder(tree)
    assert "\n" not in str(raised.value)


# --- classes without train/, and lists --------------------------------------------------------------------------------


@pytest.fixture
def classes_only(tmp_path: Path) -> Path:
    """20 cats and 10 dogs, PNG files of one colour each, in folders of their own."""
    for name, count in (("cat", 20), ("dog", 10)):
        for number in range(count):
            write_image(tmp_path / "pets" / name / f"{number:02}.png", 3 * number + (name == "dog"))
    return tmp_path / "pets"


def test_a_test_set_is_drawn_where_there_are_only_classes(classes_only: Path) -> None:
    found = [load_dataset(DataSpec(data_dir=str(classes_only), split_seed=seed)) for seed in (0, 0, 1)]
    tests = []
    for dataset in found:
        assert dataset.test is not None
        assert dataset.classes == ("cat", "dog")
        assert np.bincount(dataset.train.labels).tolist() == [16, 8]
        assert np.bincount(dataset.test.labels).tolist() == [4, 2]
        both = np.concatenate([dataset.train.images, dataset.test.images])[:, :, 0, 0]
        assert len({tuple(colour) for colour in both.tolist()}) == 30
        tests.append(dataset.test.images)
    assert np.array_equal(tests[0], tests[1])
    assert not np.array_equal(tests[0], tests[2])
    assert found[0].fingerprint == found[1].fingerprint != found[2].fingerprint
    note = " drawn, 20% of each class by the split seed"
    assert search_split(found[0], DataSpec()).note == f"; 6 test images{note}"
    assert baseline_split(found[0], DataSpec()).note == note  # after their number


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda root: [path.unlink() for path in sorted((root / "dog").iterdir())[2:]],
            "'dog' needs at least 3 images",
        ),
        (lambda root: (root / "bird").mkdir(), "class 'bird' has no images: .*pets/bird"),
        (lambda root: shutil.rmtree(root / "dog"), "pets needs at least two class folders, found only 'cat'"),
        (lambda root: (root / "dog").rename(root / "test"), r"pets has no train/ folder \(wanted: .*/pets/CLASS/IMAGE"),
    ],
)
def test_classes_that_cannot_be_divided_are_named(
    spoil: Callable[[Path], object], message: str, classes_only: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(classes_only)
    with pytest.raises(DataError, match=message):
        load_folder(classes_only)
    assert "decoding" not in capsys.readouterr().err  # the message does not wait for that


def write_list(root: Path, text: str) -> Path:
    (root / "list.csv").write_text(text)
    return root / "list.csv"


def listed(tree: Path, split: Callable[[str], str]) -> str:
    lines = [f"{path.relative_to(tree)},{path.parent.name},{split(path.parts[-3])}" for path in tree.rglob("*.png")]
    return "path,class,split\n" + "\n".join(lines)


def test_a_list_gives_what_its_tree_gives(tree: Path) -> None:
    for name in ("cat", "dog"):
        write_image(tree / "valid" / name / "0.png", 50)
    whole, from_list = load_folder(tree), load_folder(write_list(tree, listed(tree, str.title)))
    assert from_list.fingerprint == whole.fingerprint
    assert from_list.test is not None
    assert from_list.val is not None
    assert (len(from_list.train), len(from_list.test), len(from_list.val)) == (7, 4, 2)
    only_train = load_dataset(DataSpec(data_dir=str(write_list(tree, listed(tree, lambda _: "train")))))
    assert (only_train.test, len(only_train.train)) == (None, 13)


def test_of_a_list_without_splits_a_test_set_is_drawn(classes_only: Path) -> None:
    whole = load_folder(classes_only)
    lines = [f"{path.relative_to(classes_only)}, {path.parent.name},x" for path in classes_only.rglob("*.png")]
    found = load_folder(write_list(classes_only, "\ufeffpath,class,photographer\n" + "\n".join(lines)))
    assert found.fingerprint == whole.fingerprint


def grouped_list(tree: Path, group: Callable[[str], str]) -> Path:
    """A list of all images of a tree of classes, each in a group by its path."""
    paths = sorted(str(path.relative_to(tree)) for path in tree.glob("*/*.png"))
    return write_list(tree, "path,class,group\n" + "\n".join(f"{path},{path[:3]},{group(path)}" for path in paths))


def test_groups_of_a_list_are_not_divided(classes_only: Path) -> None:
    def film(path: str) -> str:
        return f"{path[:3]} {int(path[4:6]) // 3}"

    plain = load_folder(classes_only)
    dataset = load_folder(grouped_list(classes_only, film))
    assert dataset.test is not None
    assert dataset.train.groups is not None
    held_out = {film(path) for path in dataset.test_files}
    everything = [str(path.relative_to(classes_only)) for path in sorted(classes_only.glob("*/*.png"))]
    assert list(dataset.test_files) == [path for path in everything if film(path) in held_out]
    assert len(np.unique(dataset.train.groups)) == 11 - len(held_out)
    groups = f" ({11 - len(held_out)} groups, none of them divided)"
    tests = f"; {len(dataset.test)} test images drawn, in whole groups, about 20% of each class by the split seed"
    assert search_split(dataset, DataSpec()).note == groups + tests
    alone = load_folder(grouped_list(classes_only, lambda path: ""))
    assert alone.train.groups is None
    assert alone.fingerprint == plain.fingerprint != dataset.fingerprint


def test_a_group_in_two_parts_of_a_list_is_an_error(tree: Path) -> None:
    text = "path,class,split,group\ntrain/cat/0.png,cat,train,one\ntest/cat/0.png,cat,test,one\n"
    with pytest.raises(DataError, match="line 3: group 'one' is in test here, and in train in line 2"):
        load_folder(write_list(tree, text))


@pytest.mark.parametrize("column", [" group", "Group", "groups"])
def test_a_column_that_is_nearly_one_with_a_meaning_is_an_error(column: str, classes_only: Path) -> None:
    text = grouped_list(classes_only, lambda path: "one").read_text().replace("group", column, 1)
    with pytest.raises(DataError, match=f"has an unknown column '{column}' \\(did you mean 'group'"):
        load_folder(write_list(classes_only, text))


def test_groups_that_divide_nothing_leave_the_data_as_they_are(tree: Path) -> None:
    for name in ("cat", "dog"):
        write_image(tree / "val" / name / "0.png", 50)
    text = listed(tree, str)
    with_groups = text.replace("\n", ",\n").replace("split,", "split,group") + ",one"
    assert load_folder(write_list(tree, with_groups)).fingerprint == load_folder(write_list(tree, text)).fingerprint


def test_too_few_groups_are_an_error(classes_only: Path) -> None:
    with pytest.raises(DataError, match="'cat' needs at least 3 groups of images, to train, validate and test, has 1"):
        load_folder(grouped_list(classes_only, lambda path: path[:3]))


def test_a_list_that_names_other_classes_is_other_data(tree: Path) -> None:
    text = listed(tree, lambda _: "train")
    first = load_folder(write_list(tree, text))
    other = load_folder(write_list(tree, text.replace("train/cat/0.png,cat", "train/cat/0.png,dog")))
    assert np.bincount(other.train.labels)[1] == np.bincount(first.train.labels)[1] + 1
    assert other.fingerprint != first.fingerprint
    renamed = load_folder(write_list(tree, text.replace(",cat,", ",car,")))
    assert renamed.classes == ("car", "dog")
    assert renamed.fingerprint != first.fingerprint


LIST_ERRORS = {
    "no column": ("file,class\n", "list.csv has no column 'path': its first line is to be path,class, with commas;"),
    "semicolons": ("path;class\n", "list.csv has no column 'path': its first line is to be path,class, with commas;"),
    "empty": ("", "has no column 'path'"),
    "no lines": ("path,class\n", "list.csv lists no images"),
    "not found": ("path,class\na.png,cat\n", r"list.csv line 2: there is no file .*tree/a\.png"),
    "no class": ("path,class\ntrain/cat/0.png,\n", "line 2: class is missing"),
    "no path": ("path,class\n,cat\n", "line 2: path is missing"),
    "unknown split": (
        "path,class,split\ntrain/cat/0.png,cat,tain\n",
        r"line 2: unknown split 'tain' \(did you mean 'train'\?\): wanted train, test, val, valid, validation",
    ),
    "twice": ("path,class\ntrain/cat/0.png,cat\ntrain/./cat/0.png,dog\n", "line 3: train/cat/0.png is in line 2 alr"),
    "one class": ("path,class\ntrain/cat/0.png,cat\n", "list.csv needs at least two classes to train on, found only"),
    "none to train": ("path,class,split\ntrain/cat/0.png,cat,val\n", "at least two classes to train on, found none"),
    "missing in a split": (
        "path,class,split\ntrain/cat/0.png,cat,train\ntrain/dog/0.png,dog,train\ntest/dog/0.png,dog,test\n",
        "class 'cat' of .*list.csv has no image of the split test",
    ),
    "only in a split": (
        "path,class,split\ntrain/cat/0.png,cat,train\ntrain/dog/0.png,dog,train\ntest/dog/0.png,cow,val\n",
        "'cat' of .*list.csv has no image of the split val",
    ),
    "no image": ("path,class,split\ntrain/cat/0.png,cat,train\nlist.csv,dog,train\n", "cannot read image .*list.csv"),
}


@pytest.mark.parametrize("case", LIST_ERRORS)
def test_what_is_wrong_with_a_list_is_said_in_a_line(case: str, tree: Path) -> None:
    text, message = LIST_ERRORS[case]
    with pytest.raises(DataError, match=message) as raised:
        load_folder(write_list(tree, text))
    assert "\n" not in str(raised.value)


def test_a_list_that_is_no_text_is_an_error(tree: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*0\.png: not a CSV file in UTF-8"):
        load_folder(tree / "train" / "cat" / "0.png")


def test_an_unreadable_image_is_named(tree: Path) -> None:
    (tree / "test" / "dog" / "1.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"cannot read image .*/test/dog/1\.png: not a known image format$"):
        load_folder(tree)


def test_all_unreadable_images_are_named_at_once(tree: Path) -> None:
    for name in ("test/cat/0.png", "train/cat/3.png"):
        damage(tree / name)
    (tree / "train" / "cat" / "7.png").symlink_to("nowhere")
    os.mkfifo(tree / "train" / "dog" / "8.png")
    with pytest.raises(DataError) as raised:
        load_folder(tree)
    assert str(raised.value) == (
        f"cannot read 4 of 13 images in {tree}: train/cat/3.png (not a known image format), "
        "train/cat/7.png (No such file or directory), train/dog/8.png (not a regular file), "
        "test/cat/0.png (not a known image format)"
    )


def test_of_very_many_unreadable_images_twenty_are_named(tree: Path) -> None:
    for number in range(100, 125):
        (tree / "train" / "cat" / f"{number}.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"cannot read 25 of 36 images .*/119\.png \([^)]*\), and 5 more$") as raised:
        load_folder(tree)
    assert str(raised.value).count(".png") == 20


def test_a_second_try_decodes_only_what_could_not_be_read(
    tree: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = load_folder(tree)
    shutil.rmtree(cache)
    good = {name: (tree / name).read_bytes() for name in ("train/cat/3.png", "test/dog/0.png")}
    for name in good:
        damage(tree / name)
    capsys.readouterr()
    for decoded in (11, 2, 2):
        with pytest.raises(DataError, match=r"cannot read 2 of 11 images .*train/cat/3\.png .*test/dog/0\.png"):
            load_folder(tree)
        assert f"decoding {decoded} images" in capsys.readouterr().err
    assert len(list((cache / "folders").iterdir())) == 1
    (tree / "test" / "dog" / "0.png").write_bytes(good["test/dog/0.png"])
    damage(tree / "train" / "cat" / "0.png")  # known already
    with pytest.raises(DataError, match=r"cannot read image .*/train/cat/3\.png: "):
        load_folder(tree)
    (tree / "train" / "cat" / "3.png").write_bytes(good["train/cat/3.png"])
    capsys.readouterr()
    found = load_folder(tree)
    assert "decoding 1 image (once; then cached)" in capsys.readouterr().err
    assert found.fingerprint == whole.fingerprint
    assert len(list((cache / "folders").iterdir())) == 1  # what the failures had kept is gone


@pytest.mark.parametrize(
    ("name", "content"), [("meta.json", "{}"), ("meta.json", '{"files": [[]]}'), ("images.npy", "")]
)
def test_a_second_try_does_without_what_the_first_kept(tree: Path, cache: Path, name: str, content: str) -> None:
    original = (tree / "train" / "cat" / "3.png").read_bytes()
    damage(tree / "train" / "cat" / "3.png")
    with pytest.raises(DataError):
        load_folder(tree)
    [kept] = (cache / "folders").iterdir()
    (kept / name).write_text(content)
    (tree / "train" / "cat" / "3.png").write_bytes(original)
    assert len(load_folder(tree).train) == 7


def test_a_truncated_jpeg_is_unreadable(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a\.jpg: .*truncated"):
        read_image(tmp_path / "a.jpg")


# --- image kinds ------------------------------------------------------------------------------------------------------


def sixteen_bit(value: int) -> Image.Image:
    return Image.fromarray(np.full((20, 20), value, dtype=np.uint16))


PURPLE = (200, 0, 100)
KINDS: dict[str, tuple[Image.Image, str, tuple[int, int, int]]] = {
    "grey": (Image.new("L", (32, 32), 77), "png", (77, 77, 77)),
    "black and white": (Image.new("1", (50, 40), 1), "png", (255, 255, 255)),
    "palette": (Image.new("RGB", (32, 32), PURPLE).convert("P", palette=Image.Palette.ADAPTIVE), "png", PURPLE),
    "gif": (Image.new("RGB", (32, 32), PURPLE).convert("P", palette=Image.Palette.ADAPTIVE), "gif", PURPLE),
    "opaque": (Image.new("RGBA", (32, 32), (*PURPLE, 255)), "png", PURPLE),
    "transparent": (Image.new("RGBA", (32, 32), (0, 0, 0, 0)), "png", (255, 255, 255)),
    "half transparent": (Image.new("LA", (32, 32), (0, 128)), "png", (127, 127, 127)),
    "CMYK": (Image.new("CMYK", (32, 32), (0, 0, 0, 255)), "jpg", (0, 0, 0)),
    "16 bits": (sixteen_bit(0x8080), "png", (128, 128, 128)),
    "16 bits, white": (sixteen_bit(65535), "tiff", (255, 255, 255)),
    "one pixel": (Image.new("RGB", (1, 1), PURPLE), "bmp", PURPLE),
    "long": (Image.new("RGB", (301, 7), PURPLE), "png", PURPLE),
    "big": (Image.new("RGB", (1999, 1501), (60, 60, 60)), "jpg", (60, 60, 60)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_becomes_32x32_rgb(kind: str, tmp_path: Path) -> None:
    image, suffix, colour = KINDS[kind]
    path = tmp_path / f"image.{suffix}"
    image.save(path)
    pixels = read_image(path)
    assert pixels.shape == (3, 32, 32)
    assert pixels.dtype == np.uint8
    expected = np.broadcast_to(np.reshape(colour, (3, 1, 1)), pixels.shape)
    np.testing.assert_allclose(pixels.astype(int), expected, atol=1)


def test_a_photograph_keeps_its_picture_when_it_shrinks(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 640).astype(np.uint8)
    Image.fromarray(np.broadcast_to(ramp, (480, 640)).copy()).save(tmp_path / "ramp.jpg", quality=95)
    pixels = read_image(tmp_path / "ramp.jpg").astype(float)
    seen = 80 + (np.arange(32) + 0.5) * 480 / 32  # where in the width of 640 each pixel's middle is
    np.testing.assert_allclose(pixels[0, 16], seen * 255 / 640, atol=3)


@pytest.mark.parametrize(("shape", "size"), [((640, 480), 32), ((100, 300), 64), ((50, 40), 224)])
def test_the_shorter_side_is_scaled_and_the_middle_of_the_longer_kept(
    shape: tuple[int, int], size: int, tmp_path: Path
) -> None:
    (width, height), side = shape, min(shape)
    image = Image.new("RGB", shape, (255, 0, 0))  # red is what is to be lost
    image.paste((0, 0, 0), ((width - side) // 2, (height - side) // 2, (width + side) // 2, (height + side) // 2))
    image.paste((255, 255, 255), (width // 2 - side // 4, height // 2 - side // 4, width // 2, height // 2))
    image.save(tmp_path / "a.png")
    pixels, found = read_image_and_shape(tmp_path / "a.png", size)
    assert pixels.shape == (3, size, size)
    assert found == shape
    edge = size // 16  # where scaling mixes neighbours
    inner = pixels[:, edge:-edge, edge:-edge]
    assert np.array_equal(inner[0], inner[1])  # nothing red
    white = np.argwhere(pixels[1] > 128)
    np.testing.assert_allclose(white.min(axis=0), size / 4, atol=1)  # a square still
    np.testing.assert_allclose(white.max(axis=0), size / 2 - 1, atol=1)


def test_square_images_are_only_scaled(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for side in (7, 32, 100, 333):
        image = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        image.save(tmp_path / "a.png")
        expected = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        assert np.array_equal(read_image(tmp_path / "a.png"), expected)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (32, 32))
    image.paste((255, 255, 255), (0, 0, 32, 16))  # the upper half is white
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "turned.png", exif=exif)
    pixels = read_image(tmp_path / "turned.png")
    assert pixels[:, :15].max() == 0
    assert pixels[:, 17:].min() == 255


@pytest.mark.parametrize(
    ("values", "message"),
    [(np.full((4, 4), 0.5, dtype=np.float32), "floating-point"), (np.full((4, 4), 70_000, dtype=np.int32), "32-bit")],
)
def test_pixels_without_a_known_range_are_refused(values: np.ndarray, message: str, tmp_path: Path) -> None:
    Image.fromarray(values).save(tmp_path / "a.tiff")
    with pytest.raises(DataError, match=f"a.tiff: its {message} pixels have no known range"):
        read_image(tmp_path / "a.tiff")


# --- cache ------------------------------------------------------------------------------------------------------------


def test_a_second_start_decodes_nothing(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = load_folder(tree)
    assert "decoding 11 images" in capsys.readouterr().err
    damage(tree / "train" / "cat" / "0.png")
    second = load_folder(tree)
    assert capsys.readouterr().err == ""
    assert same(first.train, second.train)
    assert first.test is not None
    assert second.test is not None
    assert same(first.test, second.test)
    assert first.fingerprint == second.fingerprint
    assert second.fingerprint == content_fingerprint(second.train, second.test, second.classes)


def test_each_size_has_a_cache_of_its_own(tree: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tree / "train" / "cat" / "wide.png", 9, (60, 40))
    found = [load_dataset(DataSpec(dataset="folder", data_dir=str(tree), image_size=size)) for size in (32, 48, 48, 32)]
    assert [dataset.train.images.shape for dataset in found] == [(8, 3, size, size) for size in (32, 48, 48, 32)]
    assert capsys.readouterr().err.count("decoding 12 images") == 2
    assert len(list((cache / "folders").iterdir())) == 2
    assert [dataset.fingerprint for dataset in found[:2]] == [dataset.fingerprint for dataset in found[:1:-1]]
    assert found[2].shapes == "48x48, scaled from 32x32 to 60x40; 1 of 12 is not square: its middle is kept"


def test_the_plan_is_told_what_was_done_to_the_images(tree: Path) -> None:
    assert load_folder(tree).shapes == "32x32, as they are"
    assert search_split(load_folder(tree, 64), DataSpec()).shapes == "64x64, scaled from 32x32"
    for number in range(2):
        write_image(tree / "test" / "dog" / f"long{number}.png", 9, (20, 40))
    shapes = "32x32, scaled from 20x32 to 32x40; 2 of 13 are not square: their middle is kept"
    assert load_folder(tree).shapes == shapes


def test_a_split_says_what_is_left_to_test_on(tree: Path) -> None:
    assert search_split(load_folder(tree), DataSpec()).note == "; 4 test images untouched"
    shutil.rmtree(tree / "test")
    assert search_split(load_folder(tree), DataSpec()).note == "; no test set"


def test_a_copied_tree_is_known(tree: Path, tmp_path: Path) -> None:
    first = load_folder(tree)
    shutil.copytree(tree, tmp_path / "copy")
    damage(tmp_path / "copy" / "train" / "cat" / "0.png")
    assert load_folder(tmp_path / "copy").fingerprint == first.fingerprint


@pytest.mark.parametrize(("size", "nanoseconds"), [((32, 32), 1), ((33, 32), 0)])
def test_a_file_of_another_time_or_size_is_decoded_again(tree: Path, size: tuple[int, int], nanoseconds: int) -> None:
    changed = tree / "train" / "dog" / "9.bmp"  # uncompressed: as many bytes for any colour
    write_image(changed, 7)
    before = changed.stat().st_mtime_ns
    first = load_folder(tree)
    write_image(changed, 99, size)
    os.utime(changed, ns=(before, before + nanoseconds))
    second = load_folder(tree)
    assert second.train.images[7, 0, 0, 0] == 99
    assert np.array_equal(first.train.images[:7], second.train.images[:7])
    assert first.fingerprint != second.fingerprint


def test_the_same_content_has_the_same_fingerprint_without_a_cache(tree: Path, cache: Path) -> None:
    first = load_folder(tree)
    shutil.rmtree(cache)
    os.utime(tree / "train" / "cat" / "0.png", (1, 1))
    assert load_folder(tree).fingerprint == first.fingerprint


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def wrong_shape(path: Path) -> None:
    np.save(path, np.zeros((2, 3, 32, 32), dtype=np.uint8))


DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "cut": ("images.npy", cut),
    "emptied": ("images.npy", lambda path: path.write_bytes(b"")),
    "removed": ("images.npy", Path.unlink),
    "another shape": ("images.npy", wrong_shape),
    "no shapes": ("shapes.npy", Path.unlink),
    "another type": ("images.npy", lambda path: np.save(path, np.zeros((11, 3, 32, 32)))),
    "pickled": ("images.npy", lambda path: np.save(path, np.array([{}], dtype=object), allow_pickle=True)),
    "not JSON": ("meta.json", lambda path: path.write_text("{")),
    "no fingerprint": ("meta.json", lambda path: path.write_text(json.dumps({"fingerprint": None}))),
    "no meta": ("meta.json", Path.unlink),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_cache_entry_is_rebuilt_silently(case: str, tree: Path, cache: Path) -> None:
    first = load_folder(tree)
    [entry] = (cache / "folders").iterdir()
    name, spoil = DAMAGE[case]
    spoil(entry / name)
    second = load_folder(tree)
    damage(tree / "train" / "cat" / "0.png")
    third = load_folder(tree)  # from the rebuilt entry
    assert same(first.train, second.train)
    assert same(first.train, third.train)
    assert [path.name for path in (cache / "folders").iterdir()] == [entry.name]


def test_a_cache_that_cannot_be_written_costs_one_warning(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="not cached in .*folders: ") as caught:
        found = load_folder(tree)
    assert len(caught) == 1
    assert len(found.train) == 7


def test_a_full_disk_leaves_nothing_behind(tree: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        load_folder(tree)
    assert list((cache / "folders").iterdir()) == []


def test_processes_that_fill_the_cache_together_both_end_well(tree: Path, cache: Path) -> None:
    code = f"from tune_resnet.data.folder import *; print(load_folder(Path({str(tree)!r})).fingerprint)"
    command = [sys.executable, "-W", "error", "-c", code]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = {racer.communicate(timeout=30)[0].strip() for racer in racers}
    assert [racer.returncode for racer in racers] == [0, 0, 0]
    assert printed == {load_folder(tree).fingerprint}
    assert len(list((cache / "folders").iterdir())) == 1


def test_losing_the_race_is_no_warning(tree: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process renames its finished entry just before this one does."""
    load_folder(tree)
    [entry] = (cache / "folders").iterdir()
    aside = entry.rename(cache / "aside")
    rename = Path.rename

    def late(self: Path, target: Path) -> Path:
        shutil.copytree(aside, target)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    load_folder(tree)
    assert list((cache / "folders").iterdir()) == [entry]


# --- images larger than memory ----------------------------------------------------------------------------------------


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even the images of a small tree are to stay in their file."""
    monkeypatch.setattr(store, "available_memory", lambda: 0)


@pytest.mark.parametrize("spec", [DataSpec(), DataSpec(limit_train=6)])
def test_images_that_stay_in_their_file_are_the_same(
    spec: DataSpec, tree: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        write_image(tree / "val" / ("cat", "dog")[number % 2] / f"{number}.png", 90 + number)
    whole = load_folder(tree)
    shutil.rmtree(cache)
    monkeypatch.setattr(store, "available_memory", lambda: 0)
    for _ in range(2):  # decoded, then from the cache
        found = load_folder(tree)
        assert found.fingerprint == whole.fingerprint
        assert found.fingerprint == content_fingerprint(*(found.train, found.test, found.classes, found.val))
        assert found.shapes == whole.shapes + "; 0.0 GB, read from the cache as they are needed"
        for make in (search_split, baseline_split, final_split):
            one, other = make(found, spec), make(whole, spec)
            assert isinstance(one.train.source, MappedImages)
            assert isinstance(one.held_out.source, MappedImages)
            assert same(one.train, other.train)
            assert same(one.held_out, other.held_out)
            assert np.array_equal([one.mean, one.std], [other.mean, other.std])
            assert len(pickle.dumps(one)) < 3000
            assert same(pickle.loads(pickle.dumps(one)).train, other.train)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    damage(tree / "train" / "cat" / "0.png")
    assert isinstance(load_folder(tree).train.source, np.ndarray)  # of the same cache entry, where there is room


@pytest.mark.usefixtures("no_memory")
@pytest.mark.parametrize("full", [(os, "posix_fallocate"), (np, "save")])
def test_where_a_disk_has_no_room_for_them_nothing_is_left(
    full: tuple[Any, str], tree: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*full, fail)
    with pytest.raises(DataError, match=r"^no room for 11 decoded images, 0.0 GB, in .*: No space left on device$"):
        load_folder(tree)
    assert list((cache / "folders").iterdir()) == []


@pytest.mark.usefixtures("no_memory")
def test_a_file_that_cannot_be_read_costs_no_other_its_decoding(
    tree: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right = (tree / "train" / "cat" / "1.png").read_bytes()
    damage(tree / "train" / "cat" / "1.png")
    with pytest.raises(DataError, match=r"1\.png: not a known image format"):
        load_folder(tree)
    (tree / "train" / "cat" / "1.png").write_bytes(right)
    capsys.readouterr()
    assert load_folder(tree).fingerprint == load_folder(tree).fingerprint
    assert "decoding 1 image " in capsys.readouterr().err
    assert len(list((cache / "folders").iterdir())) == 1


@pytest.mark.usefixtures("no_memory")
def test_what_a_killed_process_left_is_removed(tree: Path, cache: Path) -> None:
    for name in ("left", "at-work"):
        (cache / "folders" / f"mapped-{name}").mkdir(parents=True)
        (cache / "folders" / f"mapped-{name}" / "images.npy").touch()
    with (cache / "folders" / "mapped-at-work" / "images.npy").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        load_folder(tree)
    assert {path.name for path in (cache / "folders").glob("mapped-*")} == {"mapped-at-work"}


@pytest.mark.usefixtures("no_memory")
def test_images_whose_file_is_gone_are_a_clear_error(tree: Path, cache: Path) -> None:
    train = pickle.loads(pickle.dumps(load_folder(tree).train))
    shutil.rmtree(cache)
    with pytest.raises(DataError, match=r"cannot read decoded images from .*images\.npy, which every machine needs: "):
        len(train.images)


# --- digits -----------------------------------------------------------------------------------------------------------


def test_digits_are_the_1797_real_ones() -> None:
    digits = load_dataset(DataSpec(dataset="digits"))
    assert digits.test is not None
    assert (len(digits.train), len(digits.test)) == (1438, 359)
    assert digits.classes == tuple("0123456789")
    assert digits.train.images.shape == (1438, 3, 32, 32)
    assert (digits.train.images.min(), digits.train.images.max()) == (0, 255)
    assert np.array_equal(digits.train.images[:, 0], digits.train.images[:, 2])
    everyone = np.bincount(np.concatenate([digits.train.labels, digits.test.labels]))
    assert everyone.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert np.abs(np.bincount(digits.test.labels) - everyone * 359 / 1797).max() < 1
    assert load_dataset(DataSpec(dataset="digits")).fingerprint == digits.fingerprint
    larger = load_dataset(DataSpec(dataset="digits", image_size=64))
    assert larger.train.images.shape == (1438, 3, 64, 64)
    assert (digits.shapes, larger.shapes) == ("32x32, scaled from 8x8", "64x64, scaled from 8x8")


def test_a_folder_is_not_passed_over_for_the_digits(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the digits are not in '.*': --dataset folder takes images from there"):
        load_dataset(DataSpec(dataset="digits", data_dir=str(tmp_path)))


def test_cifar10_has_one_size(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"CIFAR-10's images have 32 pixels: data\.image_size is for a folder or digits"
    ):
        load_dataset(DataSpec(dataset="cifar10", data_dir=str(tmp_path), image_size=64))


@pytest.mark.parametrize(
    ("copied", "said"),
    [
        ("val", "1 of 2 validation images is a copy of images to train on, which makes accuracies too good"),
        ("test", "2 of 4 test images are copies of images to train on"),
    ],
)
def test_copies_among_the_images_that_judge_are_told(tree: Path, copied: str, said: str) -> None:
    for name in ("cat", "dog"):
        write_image(tree / "val" / name / "0.png", 200 + len(name + "s" * (name == "dog")))
    dataset = load_folder(tree)
    baseline_split(dataset, DataSpec())
    search_split(dataset, DataSpec())
    for name in ("cat", "dog")[: 1 if copied == "val" else 2]:
        shutil.copy(tree / "train" / "cat" / "2.png", tree / copied / name / "0.png")
    split = search_split if copied == "val" else baseline_split
    with pytest.warns(UserWarning, match=said):
        split(load_folder(tree), DataSpec())


# --- splits -----------------------------------------------------------------------------------------------------------


def numbered(counts: list[int], test: ImageSet | None = None, seed: int = 0) -> Dataset:
    """A dataset whose image i carries the number i in its first two pixels, and the seed; labels in random order."""
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    images = np.zeros((len(labels), 3, 32, 32), dtype=np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.divmod(np.arange(len(labels)), 256)
    images[:, 0, 0, 2] = seed
    names = tuple(f"class{index}" for index in range(len(counts)))
    return Dataset("numbered", ImageSet(images, labels), test, names, "0" * 64)


def numbers(images: ImageSet) -> list[int]:
    found: list[int] = (images.images[:, 0, 0, 0].astype(int) * 256 + images.images[:, 0, 0, 1]).tolist()
    return found


def check_labels(split: Split, dataset: Dataset) -> None:
    for part in (split.train, split.held_out):
        assert np.array_equal(part.labels, dataset.train.labels[numbers(part)])
        assert part.images.flags.c_contiguous


COUNTS = st.lists(st.integers(2, 60), min_size=2, max_size=8)


@given(COUNTS, st.floats(0.01, 0.9), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_the_validation_split_is_stratified(counts: list[int], fraction: float, seed: int) -> None:
    dataset = numbered(counts)
    spec = DataSpec(validation_fraction=fraction, split_seed=seed)
    split = search_split(dataset, spec)
    train, held_out = numbers(split.train), numbers(split.held_out)
    check_labels(split, dataset)
    assert sorted(train + held_out) == list(range(sum(counts)))
    assert (train, held_out) == (sorted(train), sorted(held_out))
    assert len(held_out) == np.clip(round(fraction * sum(counts)), len(counts), sum(counts) - len(counts))
    taken = np.bincount(split.held_out.labels, minlength=len(counts))
    assert (taken >= 1).all()
    assert (taken < counts).all()
    share = len(held_out) * np.array(counts) / sum(counts)
    if (np.floor(share) >= 1).all() and (np.ceil(share) < counts).all():  # no class is held at its limit
        assert (np.abs(taken - share) < 1).all()
    assert numbers(search_split(dataset, spec).held_out) == held_out


@given(st.lists(st.integers(4, 60), min_size=2, max_size=8), st.floats(0.05, 0.6), st.data())
@settings(max_examples=60, deadline=None)
def test_whole_groups_are_held_out(counts: list[int], fraction: float, draw: st.DataObject) -> None:
    dataset = numbered(counts)
    labels, size = dataset.train.labels, draw.draw(st.integers(1, min(counts) // 2))
    groups = np.empty(len(labels), dtype=np.int64)  # of so many images of one class each; a smaller one of the rest
    for label in range(len(counts)):
        places = np.flatnonzero(labels == label)
        groups[places] = places[np.arange(len(places)) // size * size]
    dataset = replace(dataset, train=replace(dataset.train, groups=groups))
    spec = DataSpec(validation_fraction=fraction)
    split = search_split(dataset, spec)
    train, held_out = numbers(split.train), numbers(split.held_out)
    assert sorted(train + held_out) == list(range(sum(counts)))
    assert not set(groups[train]) & set(groups[held_out])
    for part in (split.train, split.held_out):
        assert set(part.labels) == set(range(len(counts)))
    taken = np.bincount(split.held_out.labels, minlength=len(counts))
    share = fraction * np.array(counts)
    assert (np.abs(taken - share) <= size + 1).all()
    assert numbers(search_split(dataset, spec).held_out) == held_out


def test_groups_may_have_images_of_several_classes() -> None:
    """Patients, each with images of both classes."""
    dataset = numbered([60, 90])
    groups = np.random.default_rng(0).integers(0, 15, 150)
    split = search_split(
        replace(dataset, train=replace(dataset.train, groups=groups)), DataSpec(validation_fraction=0.3)
    )
    assert not set(groups[numbers(split.train)]) & set(groups[numbers(split.held_out)])
    np.testing.assert_allclose(np.bincount(split.held_out.labels), [18, 27], atol=5)


def test_a_division_is_found_where_there_is_one() -> None:
    """Of four groups only two can be held out together, so that each class is held out and trained on."""
    labels, groups = np.array([0, 1, 0, 2, 1, 2]), np.array([0, 0, 1, 1, 2, 3])
    dataset = numbered([2, 2, 2])
    dataset = replace(dataset, train=ImageSet(dataset.train.images, labels, groups))
    for seed in range(20):
        split = search_split(dataset, DataSpec(split_seed=seed))
        assert set(split.train.labels) == set(split.held_out.labels) == {0, 1, 2}


def test_groups_that_cannot_be_held_out_are_an_error() -> None:
    """Each class is in two groups of three: with one of these held out, every other has a class that needs it."""
    labels, groups = np.array([0, 1, 1, 2, 2, 0]), np.array([0, 0, 1, 1, 2, 2])
    dataset = numbered([2, 2, 2])
    dataset = replace(dataset, train=ImageSet(dataset.train.images, labels, groups))
    with pytest.raises(DataError, match=r"cannot hold out images of class 'class\d': its groups are of other"):
        search_split(dataset, DataSpec())


@given(COUNTS, st.data())
@settings(max_examples=60, deadline=None)
def test_a_limited_training_set_is_stratified(counts: list[int], draw: st.DataObject) -> None:
    total, least = sum(counts), 2 * len(counts)
    limit = draw.draw(st.integers(least, total))
    dataset = numbered(counts, test=numbered(counts, seed=1).train)
    split = baseline_split(dataset, DataSpec(limit_train=limit))
    chosen = numbers(split.train)
    assert len(chosen) == limit
    assert chosen == sorted(set(chosen))
    assert np.array_equal(split.train.labels, dataset.train.labels[chosen])
    taken = np.bincount(split.train.labels, minlength=len(counts))
    assert (taken >= 2).all()
    share = limit * np.array(counts) / total
    if (np.floor(share) >= 2).all():
        assert (np.abs(taken - share) < 1).all()
    searched = search_split(dataset, DataSpec(limit_train=limit))
    assert sorted(numbers(searched.train) + numbers(searched.held_out)) == chosen


def test_a_larger_limit_includes_a_smaller_one() -> None:
    dataset = numbered([50, 100], test=numbered([2, 2], seed=1).train)
    chosen = [set(numbers(baseline_split(dataset, DataSpec(limit_train=limit)).train)) for limit in (30, 90, 150)]
    assert chosen[0] < chosen[1] < chosen[2]


def test_a_validation_set_of_its_own_is_what_a_search_judges_on() -> None:
    val, test = numbered([4, 4], seed=2).train, numbered([5, 5], seed=1).train
    dataset = replace(numbered([20, 30], test=test), val=val)
    split = search_split(dataset, DataSpec(validation_fraction=0.5))
    assert same(split.train, dataset.train)
    assert split.held_out is val
    limited = search_split(dataset, DataSpec(limit_train=10))
    assert (len(limited.train), len(limited.held_out)) == (10, 8)
    assert len(search_split(replace(numbered([1, 30]), val=val), DataSpec(limit_train=4)).train) == 4
    with pytest.raises(DataError, match="limit_train = 4 is too few for 5 classes: at least 1 image of each"):
        search_split(replace(numbered([9] * 5), val=val), DataSpec(limit_train=4))


def test_a_baseline_trains_on_the_validation_set_too_where_there_is_a_test_set() -> None:
    val, test = numbered([4, 4], seed=2).train, numbered([5, 5], seed=1).train
    dataset = replace(numbered([20, 30], test=test), val=val)
    split = baseline_split(dataset, DataSpec(limit_train=10))
    assert split.held_out is test
    assert len(split.train) == 10 + 8
    assert split.train.images.flags.c_contiguous
    assert numbers(split.train)[10:] == numbers(val)
    assert split.train.labels[10:].tolist() == val.labels.tolist()
    assert same(
        baseline_split(dataset, DataSpec()).train,
        ImageSet(
            np.concatenate([dataset.train.images, val.images]), np.concatenate([dataset.train.labels, val.labels])
        ),
    )
    without = replace(dataset, test=None)
    assert baseline_split(without, DataSpec()).held_out is val
    assert same(baseline_split(without, DataSpec()).train, dataset.train)


def test_the_split_seed_decides() -> None:
    dataset = numbered([50, 50])
    held_out = [numbers(search_split(dataset, DataSpec(split_seed=seed)).held_out) for seed in (0, 0, 1)]
    assert held_out[0] == held_out[1]
    assert held_out[0] != held_out[2]


def test_a_search_never_sees_the_test_set() -> None:
    alone, accompanied = numbered([20, 30]), numbered([20, 30], test=numbered([5, 5], seed=1).train)
    for part in ("train", "held_out"):
        one, other = (getattr(search_split(dataset, DataSpec()), part) for dataset in (alone, accompanied))
        assert same(one, other)


def test_the_baseline_trains_on_everything_and_holds_out_the_test_set() -> None:
    dataset = numbered([20, 30], test=numbered([5, 5], seed=1).train)
    split = baseline_split(dataset, DataSpec())
    assert same(split.train, dataset.train)
    assert split.held_out is dataset.test
    assert split.classes == dataset.classes


def test_without_a_test_set_the_baseline_is_the_search_split() -> None:
    dataset = numbered([20, 30])
    baseline, search = baseline_split(dataset, DataSpec()), search_split(dataset, DataSpec())
    assert same(baseline.train, search.train)
    assert same(baseline.held_out, search.held_out)


@pytest.mark.parametrize(
    ("counts", "limit", "message"),
    [
        ([5, 1], None, "class 'class1' needs at least 2 training images .* has 1"),
        ([600, 700], 1301, "limit_train = 1,301 is more than the 1,300 training images"),
        ([9, 9, 9], 5, "limit_train = 5 is too few for 3 classes: at least 2 images of each"),
    ],
)
@pytest.mark.parametrize("make_split", [search_split, baseline_split])
def test_impossible_splits(
    make_split: Callable[[Dataset, DataSpec], Split], counts: list[int], limit: int | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        make_split(numbered(counts, test=numbered([2, 2], seed=1).train), DataSpec(limit_train=limit))


def test_channel_statistics_are_those_of_the_train_images() -> None:
    dataset = numbered([700, 700])
    larger = np.repeat(np.repeat(dataset.train.images, 2, axis=2), 2, axis=3)
    doubled = search_split(replace(dataset, train=ImageSet(larger, dataset.train.labels)), DataSpec())
    assert doubled.mean.tolist() == search_split(dataset, DataSpec()).mean.tolist()
    dataset.train.images[:, 1] = np.random.default_rng(0).integers(0, 256, (1400, 32, 32), dtype=np.uint8)
    dataset.train.images[:, 2] = 201  # constant
    split = search_split(dataset, DataSpec())
    values = split.train.images.astype(np.float64)
    assert split.mean.dtype == split.std.dtype == np.float32
    np.testing.assert_allclose(split.mean, values.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(split.std[:2], values[:, :2].std(axis=(0, 2, 3)), rtol=1e-6)
    assert (split.mean[2], split.std[2]) == (201, 1)


def test_the_fingerprint_covers_all_content() -> None:
    base, part = numbered([3, 3]), numbered([2, 2]).train
    other_pixel = ImageSet(base.train.images.copy(), base.train.labels)
    other_pixel.images[-1, -1, -1, -1] = 1
    variants = [
        (base.train, None, base.classes),
        (base.train, part, base.classes),
        (part, base.train, base.classes),
        (other_pixel, None, base.classes),
        (ImageSet(base.train.images, base.train.labels[::-1]), None, base.classes),
        (base.train, None, ("class0", "another")),
    ]
    prints = {content_fingerprint(*variant) for variant in variants}
    prints |= {content_fingerprint(base.train, part, base.classes, val) for val in (part, base.train)}
    prints.add(content_fingerprint(base.train, None, base.classes, part))
    assert len(prints) == len(variants) + 3


# --- cifar10 ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A loopback port that refuses connections: bound, so that nobody else gets it, but not listening."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield unused.getsockname()[1]


def test_without_data_and_network_the_answer_is_quick_and_says_what_to_do(tmp_path: Path, closed_port: int) -> None:
    code = f"""
import sys
from tune_resnet.config.sections import DataSpec
from tune_resnet.data import cifar10, load
cifar10.CIFAR10_URL = "http://127.0.0.1:{closed_port}/cifar-10-python.tar.gz"
try:
    load.load_dataset(DataSpec(dataset="cifar10", data_dir={str(tmp_path)!r}))
except load.DataError as error:
    print(error)
print(sorted({{"torch", "torchvision", "ray", "sklearn"}} & set(sys.modules)))
"""
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert time.monotonic() - start < 5
    message, loaded = done.stdout.splitlines()
    assert message.startswith(f"CIFAR-10 is neither in {tmp_path} nor downloadable (no network): put cifar-10-python")
    assert "--dataset folder --data-dir DIR" in message
    assert "--dataset digits" in message
    assert loaded == "[]"


def test_a_host_that_never_answers_is_given_up(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(cifar10, "CIFAR10_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/")
        start = time.monotonic()
        with pytest.raises(DataError, match=f"neither in {cache / 'cifar10'} nor downloadable"):
            load_dataset(DataSpec())
        assert time.monotonic() - start < 4


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that a loopback download host serves; torchvision and the probe both ask that host."""
    torchvision = pytest.importorskip("torchvision")
    folder = tmp_path / "host"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/cifar-10-python.tar.gz"
        monkeypatch.setattr(cifar10, "CIFAR10_URL", url)
        monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", url)
        yield folder
        server.shutdown()


def make_small_cifar10(archive: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """An archive in CIFAR-10's format, 20 images a batch, whose checksums torchvision is told; pixels by batch."""
    from torchvision.datasets import CIFAR10

    rng = np.random.default_rng(0)
    pixels = {
        name: rng.integers(0, 256, (20, 3072), dtype=np.uint8)
        for name in [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]
    }
    labels = [index % 10 for index in range(20)]
    content: dict[str, object] = {name: {"data": values, "labels": labels} for name, values in pixels.items()}
    content["batches.meta"] = {"label_names": [f"thing{index}" for index in range(10)]}
    sums = {}
    with tarfile.open(archive, "w:gz") as tar:
        for name, value in content.items():
            raw = pickle.dumps(value)
            sums[name] = hashlib.md5(raw).hexdigest()
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(CIFAR10, "train_list", [[f"data_batch_{n}", sums[f"data_batch_{n}"]] for n in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})
    return pixels


def test_cifar10_is_downloaded_once_into_the_user_cache(
    host: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = make_small_cifar10(host / "cifar-10-python.tar.gz", monkeypatch)
    first = load_dataset(DataSpec())
    assert first.test is not None
    assert (cache / "cifar10" / "cifar-10-python.tar.gz").is_file()
    assert np.array_equal(first.train.images[20:40].reshape(20, 3072), pixels["data_batch_2"])
    assert np.array_equal(first.test.images.reshape(20, 3072), pixels["test_batch"])
    assert first.train.images.flags.c_contiguous
    assert first.train.labels.tolist() == [index % 10 for index in range(20)] * 5
    assert first.classes == tuple(f"thing{index}" for index in range(10))
    assert first.shapes == "32x32, as they are"
    shutil.rmtree(host)
    assert load_dataset(DataSpec()).fingerprint == first.fingerprint


def test_an_archive_put_in_place_needs_no_network(host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_small_cifar10(tmp_path / "cifar-10-python.tar.gz", monkeypatch)
    assert len(load_dataset(DataSpec(data_dir=str(tmp_path))).train) == 100


def test_a_damaged_archive_without_network_is_an_error(host: Path, tmp_path: Path) -> None:
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"interrupted")
    with pytest.raises(DataError, match=f"CIFAR-10 in {tmp_path} is missing or damaged, .*404.*--dataset digits"):
        load_dataset(DataSpec(data_dir=str(tmp_path)))
    assert socket.getdefaulttimeout() is None


def test_a_download_that_is_not_cifar10_is_an_error(host: Path, tmp_path: Path) -> None:
    (host / "cifar-10-python.tar.gz").write_bytes(b"please log in")
    with pytest.raises(DataError, match=r"getting it failed \(File not found or corrupted"):
        load_dataset(DataSpec(dataset="cifar10", data_dir=str(tmp_path)))
