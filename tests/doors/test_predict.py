"""From a finished baseline to probabilities for image files."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tune_resnet import analysis, export, load_run, report
from tune_resnet.data.image_file import read_image
from tune_resnet.data.types import Dataset
from tune_resnet.errors import UserError
from tune_resnet.predict import _class_of, main
from tune_resnet.runs.load import load_frames
from tune_resnet.search import main as search
from tune_resnet.training import checkpoint
from tune_resnet.training.loop import TrainingRun
from tune_resnet.training.metrics import EpochMetrics, NonFiniteLoss
from tune_resnet.training.saved_model import ModelFileError, load_model, probabilities

SMALL = ["--baseline", "--dataset", "digits", "--width", "8", "--device", "cpu", "--precision", "fp32", "--name", "it"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A baseline on the digits, long enough to have learned them."""
    runs = tmp_path_factory.mktemp("runs")
    spec = runs / "digits.toml"
    spec.write_text("[data]\nflip = false\n[train]\nbatch_size = 50\nepochs = 4\n")
    assert search([*SMALL, "--experiment", str(spec), "--runs-dir", str(runs)]) == 0
    return runs / "it"


@pytest.fixture(scope="module")
def test_files(run: Path, digits: Dataset) -> list[Path]:
    """The first 30 test images as PNG files."""
    assert digits.test is not None
    paths = [run.parent / f"{number}.png" for number in range(30)]
    for path, image in zip(paths, digits.test.images, strict=False):
        Image.fromarray(image.transpose(1, 2, 0)).save(path)
    return paths


def test_the_baseline_is_a_run_like_any_other_judged_on_the_test_set(run: Path) -> None:
    frames = load_frames(run)
    assert list(frames.trials["state"]) == ["finished"]
    assert frames.trials["val_accuracy"].isna().all()
    assert frames.epochs["val_loss"].isna().all()
    assert list(frames.epochs["epoch"]) == [1, 2, 3, 4]
    assert frames.epochs["test_accuracy"].iloc[-1] == frames.trials["test_accuracy"].iloc[0] > 0.9
    assert frames.epochs[["lr", "train_loss", "test_loss", "images_per_second"]].notna().all(axis=None)
    assert (frames.env["held_out"], frames.env["held_out_images"], frames.env["train_images"]) == ("test", 359, 1438)
    assert not (run / "study.log").exists()
    assert sorted(item.name for item in (run / "best").iterdir()) == ["model.safetensors", "spec.toml"]
    assert "data-reload=" not in (run / "report.html").read_text()  # the command that wrote it is at its end


def test_probabilities_of_files_are_what_the_baseline_measured(
    run: Path, test_files: list[Path], digits: Dataset
) -> None:
    assert digits.test is not None
    model = load_model(run / "best" / "model.safetensors")
    from_files = probabilities(model, np.stack([read_image(path) for path in test_files]))
    from_arrays = probabilities(model, digits.test.images)
    assert from_files.shape == (30, 10)
    np.testing.assert_allclose(from_files, from_arrays[:30], atol=1e-5)
    np.testing.assert_allclose(from_arrays.sum(1), 1, atol=1e-5)
    accuracy = (from_arrays.argmax(1) == digits.test.labels).mean()
    assert accuracy == load_frames(run).trials["test_accuracy"].iloc[0]


def test_batches_do_not_change_the_answer(run: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(run / "best" / "model.safetensors")
    whole = probabilities(model, digits.train.images[:25])
    monkeypatch.setattr("tune_resnet.training.saved_model._BATCH", 10)
    np.testing.assert_allclose(probabilities(model, digits.train.images[:25]), whole, atol=1e-6)
    assert probabilities(model, digits.train.images[:0]).shape == (0, 10)


def test_the_command_prints_the_likeliest_classes(
    run: Path, test_files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(run), *map(str, test_files[:2])]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "model: the reference"
    assert len(lines) == 3
    assert lines[1].startswith(f"{test_files[0]}: ")
    assert lines[1].count("%") == 3


def test_as_csv_it_prints_every_class(run: Path, test_files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "--csv", *map(str, test_files)]) == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows[0] == ["file", *"0123456789"]
    assert [row[0] for row in rows[1:]] == [str(path) for path in test_files]
    assert all(math.isclose(sum(map(float, row[1:])), 1, abs_tol=1e-5) for row in rows[1:])

    frame = load_run(run).predict(*test_files[:20], *map(str, test_files[20:])).reset_index()
    assert [list(frame), *([str(cell) for cell in row] for row in frame.to_numpy().tolist())] == rows


def test_python_gets_a_folders_images_too(run: Path, test_files: list[Path], tmp_path: Path) -> None:
    shutil.copy(test_files[0], tmp_path / "it.png")
    frame = load_run(run).predict(tmp_path, test_files[1])
    assert list(frame.index) == [str(tmp_path / "it.png"), str(test_files[1])]
    assert load_run(run).predict().shape == (0, 10)
    with pytest.raises(UserError, match="cannot read image"):
        load_run(run).predict("nothing.png")
    with pytest.raises(UserError, match="it takes no --model"):
        load_run(run).predict(tmp_path, model="nets:small")
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(UserError, match=r"cannot read 2 of 3 images: .*/a\.jpg \(not a known .*/b\.jpg \(not a"):
        load_run(run).predict(tmp_path)


def test_a_folder_stands_for_its_images_in_order(
    run: Path, test_files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "below").mkdir()
    for name, file in zip(("b.png", "below/a.PNG", ".hidden.png", "notes.txt"), test_files, strict=False):
        shutil.copyfile(file, tmp_path / name)
    assert main([str(run), "--json", "--top", "2", str(tmp_path), str(test_files[0])]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["file"] for row in rows] == [str(tmp_path / "b.png"), str(tmp_path / "below/a.PNG"), str(test_files[0])]
    for row in rows:
        first, second = row["classes"].values()
        assert 1 >= first >= second >= 0
    assert rows[0]["classes"] == rows[2]["classes"]

    (tmp_path / "empty").mkdir()
    assert main([str(run), str(tmp_path / "empty")]) == 2
    assert "there is no image in" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(run), "--top", "0", str(test_files[0])])
    assert "'0' is not a whole number of at least 1" in capsys.readouterr().err


def test_folders_named_after_classes_tell_the_accuracy(
    run: Path, test_files: list[Path], digits: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert digits.test is not None
    for number, (path, label) in enumerate(zip(test_files, digits.test.labels, strict=False)):
        folder = tmp_path / "tree" / ("elsewhere" if number < 2 else str(9 - label if number == 2 else label))
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    assert main([str(run), *map(str, test_files)]) == 0  # single files say nothing of their class
    ranked = [line.split(": ")[1].split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    right = sum(name == str(label) for name, label in zip(ranked[3:], digits.test.labels[3:30], strict=True))
    assert main([str(run), str(tmp_path / "tree")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"accuracy: {right / 28:.2%}, {right} of 28 images in folders named after a class; "
        "2 images in other folders left out"
    )
    assert main([str(run), str(tmp_path / "tree" / "elsewhere")]) == 0
    assert "accuracy" not in capsys.readouterr().out


def test_an_image_in_a_folder_below_a_class_folder_is_of_that_class() -> None:
    def class_of(path: str, folder: str, classes: tuple[str, ...] = ("cat", "dog", "train")) -> str | None:
        return _class_of(Path(folder, path), Path(folder), classes)

    assert class_of("cat/sub/deep/1.png", "tree") == "cat"
    assert class_of("test/dog/cat/1.png", "tree") == "dog"
    assert class_of("sub/1.png", "tree/cat") == class_of("1.png", "tree/cat") == "cat"
    assert class_of("cat/1.png", "photos/dog") == "cat"
    assert class_of("train/cat/1.png", "tree") == "cat"  # a class may be called like a split
    assert class_of("Train/cat/1.png", "tree", ("cat", "Train")) == "cat"
    assert class_of("train/train/1.png", "tree") == class_of("train/sub/1.png", "tree/test") == "train"
    assert class_of("other/1.png", "tree") is None


def test_as_json_it_prints_every_class_with_its_letters(
    run: Path, test_files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "été.png"
    shutil.copyfile(test_files[0], image)
    assert main([str(run), "--json", str(image)]) == 0
    output = capsys.readouterr().out
    assert str(image) in output
    (row,) = json.loads(output)
    assert sorted(row["classes"]) == list("0123456789")
    assert sum(row["classes"].values()) == pytest.approx(1, abs=1e-5)


def test_wrong_input_is_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "x.png"]) == 2
    assert capsys.readouterr().err == f"error: there is no model at {tmp_path}/best/model.safetensors\n"
    assert main([str(run), str(run / "env.json")]) == 2
    assert capsys.readouterr().err == f"error: cannot read image {run}/env.json: not a known image format\n"


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "other model", "wrong shapes"])
def test_what_is_no_model_of_ours_is_refused(run: Path, tmp_path: Path, damage: str) -> None:
    whole = (run / "best" / "model.safetensors").read_bytes()
    path = tmp_path / "model.safetensors"
    about = {"tune_resnet": json.dumps({"classes": ["a", "b"], "mean": [0] * 3, "std": [1] * 3, "width": 4})}
    if damage == "other model":
        save_file({"x": torch.zeros(1)}, path)
    elif damage == "wrong shapes":
        save_file({"conv1.0.weight": torch.zeros(1)}, path, about)
    else:
        path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "text": b"no model at all"}[damage])
    with pytest.raises(ModelFileError, match="cannot use the model"):
        load_model(path)


def test_a_baseline_whose_loss_is_not_finite_is_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Diverging(TrainingRun):
        def run_epoch(self) -> EpochMetrics:
            raise NonFiniteLoss(1, None)

    monkeypatch.setattr(checkpoint, "TrainingRun", Diverging)
    assert search([*SMALL, "--limit-train", "100", "--runs-dir", str(tmp_path)]) == 1
    trials = load_frames(tmp_path / "it").trials
    assert (trials["state"].item(), trials["error"].item()) == ("failed", "the loss was not finite in epoch 1")
    assert "the loss was not finite" in capsys.readouterr().out


def test_an_interrupted_baseline_keeps_its_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(TrainingRun):
        def run_epoch(self) -> EpochMetrics:
            if self.epochs_done == 2:
                raise KeyboardInterrupt
            return super().run_epoch()

    monkeypatch.setattr(checkpoint, "TrainingRun", Interrupted)
    assert search([*SMALL, "--limit-train", "100", "--runs-dir", str(tmp_path)]) == 130
    frames = load_frames(tmp_path / "it")
    assert (frames.trials["state"].item(), len(frames.epochs)) == ("interrupted", 2)


def test_a_closed_terminal_interrupts_a_baseline_which_is_recorded_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal, inside = os.openpty()

    class HungUp(TrainingRun):
        def run_epoch(self) -> EpochMetrics:
            if self.epochs_done == 2:
                os.close(terminal)
                os.kill(os.getpid(), signal.SIGHUP)
                os.kill(os.getpid(), signal.SIGHUP)
            return super().run_epoch()

    monkeypatch.setattr(checkpoint, "TrainingRun", HungUp)
    with os.fdopen(inside, "w", buffering=1, closefd=False) as gone:  # what it still holds cannot be written
        monkeypatch.setattr(sys, "stdout", gone)
        code = search([*SMALL, "--limit-train", "100", "--runs-dir", str(tmp_path)])
        with pytest.raises(OSError, match="Input/output error"):
            gone.close()
    os.close(inside)
    assert code == 128 + signal.SIGHUP
    frames = load_frames(tmp_path / "it")
    assert (frames.trials["state"].item(), len(frames.epochs)) == ("interrupted", 2)
    assert (tmp_path / "it" / "report.html").exists()


def test_a_dry_baseline_says_how_long_it_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert search([*SMALL, "--limit-train", "100", "--runs-dir", str(tmp_path), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    parts = ["data", "images", "classes", "model", "warning", "reference", "device", "time"]
    assert [line.split()[0] for line in lines] == parts
    assert "100 training, 359 test images" in lines[0]
    assert "images/s, from a few timed steps" in lines[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("default:skipped 1 file:UserWarning")  # which the command itself prints
def test_a_dry_run_says_which_images_it_is_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part, count in (("train", 3), ("val", 2), ("test", 1)):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                colour = (40 * number, 10 * count, 255 * (name == "cat"))
                Image.new("RGB", (32, 32), colour).save(tmp_path / part / name / f"{number}.png")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("")
    words = [*SMALL[:1], *SMALL[3:], "--batch-size", "4", "--dataset", "folder", "--data-dir", str(tmp_path)]
    plans = []
    for _ in ("with test/", "without"):
        assert search([*words, "--dry-run", "--runs-dir", str(tmp_path)]) == 0
        plans.append(capsys.readouterr().out.splitlines())
        shutil.rmtree(tmp_path / "test", ignore_errors=True)
    assert plans[0][:6] == [
        "warning: skipped 1 file that is not an image: train/cat/notes.txt",
        f"data        folder {tmp_path}: 10 training, 2 test images; "
        "the folder's own validation set is trained on, too",
        "images      32x32, as they are",
        "classes     2, of 5 training images each; the chance level is 50.0%",
        "model       ResNet9, width 8; 8 epochs of 3 steps, batch 4, linear-exponential",
        "warning     only 3 optimizer steps an epoch, too few to learn much: "
        "choose a smaller --batch-size (1 gives 10 steps)",
    ]
    assert plans[1][1] == (
        f"data        folder {tmp_path}: 6 training, 4 validation images; "
        "the validation set is the folder's own; no test set"
    )


def test_a_share_of_a_gpu_is_refused_where_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert search([*SMALL, "--gpus-per-trial", "0.5", "--runs-dir", str(tmp_path)]) == 2
    message = "resources.gpus_per_trial = 0.5, but trials run on the CPU: leave --gpus-per-trial out"
    assert capsys.readouterr().err == f"error: {message}\n"


def test_a_run_is_found_by_its_name(
    run: Path,
    test_files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "runs").symlink_to(run.parent)
    monkeypatch.chdir(tmp_path)
    for name in ("it", "latest"):
        assert main([name, str(test_files[0])]) == 0
        assert analysis.main([name]) == 0
        assert report.main([name]) == 0
        assert export.main([name, "--format", "torch"]) == 0
        output = capsys.readouterr()
        assert output.err == ""
        assert "wrote runs/it/report.html\n" in output.out
    for command in (main, analysis.main, report.main, export.main):
        assert command(["in", *([str(test_files[0])] if command is main else [])]) == 2
        assert capsys.readouterr().err == "error: there is no run in, nor runs/in (did you mean 'it'?)\n"


def test_whoever_reads_the_output_may_stop_reading(run: Path, test_files: list[Path]) -> None:
    words = [sys.executable, "-m", "tune_resnet.predict", str(run), str(test_files[0]), "--csv"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of 200x100 pixels in two classes, told apart by the colour of their middle; the rest is noise."""
    root, rng = tmp_path_factory.mktemp("wide"), np.random.default_rng(0)
    for part, count in (("train", 24), ("test", 6)):
        for name, colour in (("green", (0, 200, 0)), ("red", (200, 0, 0))):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(rng.integers(0, 256, (100, 200, 3), dtype=np.uint8))
                image.paste(colour, (60, 10, 140, 90))
                image.save(root / part / name / f"{number}.png")
    return root


@pytest.mark.parametrize("size", [64, 96])
def test_a_model_knows_the_size_of_its_images(
    size: int, wide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    about = ["--dataset", "folder", "--data-dir", str(wide), "--image-size", str(size), "--runs-dir", str(tmp_path)]
    about += ["--width", "4", "--batch-size", "12", "--epochs", "3", "--device", "cpu", "--name", "it", "--baseline"]
    assert search(about) == 0
    shapes = f"images      {size}x{size}, scaled from 200x100; 60 of 60 are not square: their middle is kept"
    assert shapes in capsys.readouterr().out
    run = tmp_path / "it"
    assert load_frames(run).trials["test_accuracy"].iloc[0] == 1
    assert load_model(run / "best" / "model.safetensors").size == size
    assert main([str(run), "--json", "--top", "1", str(wide / "test")]) == 0
    answers = {Path(row["file"]).parent.name: next(iter(row["classes"])) for row in json.loads(capsys.readouterr().out)}
    assert answers == {"green": "green", "red": "red"}
    assert export.main([str(run), "--format", "torch"]) == 0
    loaded = torch.export.load(run / "best" / "model.pt2").module()
    assert loaded(torch.zeros((3, 3, size, size), dtype=torch.uint8)).shape == (3, 2)
