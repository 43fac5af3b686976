"""What a final model is worth, class by class, from its predictions alone."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from factories import SPEC, Build, Page, leave_predictions
from PIL import Image
from rich.console import Console
from sklearn.metrics import confusion_matrix as confusion_by_scikit_learn
from sklearn.metrics import precision_recall_fscore_support

from tune_resnet.config.sections import DataSpec, ModelSpec, ResourceSpec, TrainSpec
from tune_resnet.data.folder import load_folder
from tune_resnet.data.types import Dataset
from tune_resnet.errors import RecordError
from tune_resnet.results.evaluation import (
    BINS,
    calibration_error,
    class_metrics,
    confusion_matrix,
    evaluation_sentences,
    predictions,
    reliability,
)
from tune_resnet.results.page import write_report
from tune_resnet.results.tables import print_evaluation, print_run
from tune_resnet.runs.directory import RunDirectory
from tune_resnet.runs.load import load_frames
from tune_resnet.runs.predictions import SHOWN, mistake_file, mistakes, read_predictions, write_predictions
from tune_resnet.runs.tables import FINISHED
from tune_resnet.search import main

CLASSES = ("ant", "bee", "<b>cat</b>", "dog")


def evaluated(build: Build, images: int = 200) -> pd.DataFrame:
    """Predictions of a model that is right about two thirds of the time, and knows no dogs, as a run keeps them."""
    labels, shares, pixels = leave_predictions(build.directory, CLASSES, images)
    found = read_predictions(build.directory.path)
    assert found is not None
    assert found["label"].tolist() == [CLASSES[label] for label in labels]
    assert found["predicted"].tolist() == [CLASSES[place] for place in shares.argmax(1)]
    assert found["confidence"].tolist() == pytest.approx(shares.max(1), abs=1e-6)
    for place in mistakes(found).index:
        kept = np.asarray(Image.open(mistake_file(build.directory, place)))
        assert np.array_equal(kept.transpose(2, 0, 1), pixels[place])
    return found


@pytest.fixture
def build(tmp_path: Path) -> Build:
    build = Build(tmp_path / "run")
    build.trial([0.5, 0.6, 0.7, 0.8], FINISHED, on="test")
    return build


def test_the_figures_are_scikit_learns(build: Build) -> None:
    found = evaluated(build)
    classes = sorted(CLASSES)
    expected = confusion_by_scikit_learn(found["label"], found["predicted"], labels=classes)
    assert confusion_matrix(found).to_numpy().tolist() == expected.tolist()
    assert confusion_matrix(found).index.tolist() == confusion_matrix(found).columns.tolist() == classes
    scores = precision_recall_fscore_support(found["label"], found["predicted"], labels=classes, zero_division=0)
    table = class_metrics(found)
    assert table.T["dog"].tolist()[:3] == [0, 0, 0]
    for name, values in zip(("precision", "recall", "f1", "images"), scores, strict=True):
        assert table[name].tolist() == pytest.approx(values)


def test_calibration_is_how_far_confidence_is_from_accuracy() -> None:
    right = pd.DataFrame({"label": "a", "predicted": "a", "confidence": [0.9, 0.92]})
    wrong = pd.DataFrame({"label": "a", "predicted": "b", "confidence": [0.5, 1.0]})
    both = pd.concat([right, wrong], ignore_index=True)
    bins = reliability(both)
    assert bins["images"].tolist() == [1, 2, 1]  # in the bins that end at 8/15, 14/15 and 1
    assert bins["confidence"].tolist() == pytest.approx([0.5, 0.91, 1.0])
    assert bins["accuracy"].tolist() == [0, 1, 0]
    assert calibration_error(both) == pytest.approx((0.5 + 2 * 0.09 + 1) / 4)
    assert calibration_error(right.assign(confidence=1.0)) == 0
    every = pd.DataFrame({"label": "a", "predicted": "a", "confidence": np.linspace(0, 1, 900)[1:]})
    assert len(reliability(every)) == BINS


def test_what_is_most_confidently_wrong_comes_first(build: Build) -> None:
    found = evaluated(build)
    first = mistakes(found)
    assert len(first) == SHOWN
    assert (first["label"] != first["predicted"]).all()
    left = found.drop(first.index)
    assert first["confidence"].is_monotonic_decreasing
    assert left.loc[left["label"] != left["predicted"], "confidence"].max() <= first["confidence"].min()


def test_it_is_told_in_a_terminal_and_in_the_page(build: Build) -> None:
    found = evaluated(build)
    frames = build.load()
    console = Console(file=io.StringIO(), width=80)
    print_evaluation(console, found)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines[0].split() == ["class", "precision", "recall", "F1", "images"]
    assert lines[1].split()[:2] == ["dog", "0.00%"]  # the lowest F1 comes first
    assert lines[-2].startswith("Most often mistaken: dog for ")
    again = Console(file=io.StringIO(), width=80)
    print_run(again, frames, frames.name, 10)  # as `analysis` does
    assert isinstance(again.file, io.StringIO)
    assert f"\n\n{console.file.getvalue()}\n" in again.file.getvalue()
    page = Page(write_report([build.directory.path]))
    assert [sentence for sentence in evaluation_sentences(found) if sentence not in " ".join(page.text.split())] == []
    assert '<button type="button">F1</button>' in (build.directory.path / "report.html").read_text()  # it sorts
    assert page.tags.count("img") == SHOWN
    assert all(str(link).startswith("data:") for link in page.links)
    assert "<b>cat</b>, taken for" in page.text or "taken for <b>cat</b>" in page.text
    drawn = [[trace["type"] for trace in figure["data"]] for figure in page.figures.values()]
    assert ["heatmap", "heatmap"] in drawn

    shutil.rmtree(build.directory.mistakes)
    assert "img" not in Page(write_report([build.directory.path])).tags


def test_a_perfect_model_has_no_mistakes_to_show(build: Build) -> None:
    pixels = np.zeros((3, 3, 32, 32), dtype=np.uint8)
    write_predictions(build.directory, np.eye(3), np.arange(3), CLASSES[:3], pixels)
    found = predictions(build.load())
    assert found is not None
    assert evaluation_sentences(found) == [
        "The model is 100.00% sure on average and right on 100.00% of 3 test images: expected calibration error 0.00 "
        "points."
    ]
    assert "Most confidently wrong" not in Page(write_report([build.directory.path])).text


def test_without_predictions_nothing_is_said(build: Build) -> None:
    assert predictions(build.load()) is None
    assert "Class by class" not in Page(write_report([build.directory.path])).text
    build.directory.predictions_csv.write_text("image,label,predicted,confidence\n0,a,b,1.5\n")
    with pytest.raises(RecordError, match=r"confidence is '1\.5', not between 0 and 1"):
        predictions(build.load())


def test_finalize_keeps_what_the_model_says_of_each_test_image(
    tmp_path: Path, digits: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    for part, images in (("train", digits.train), ("test", digits.test)):
        assert images is not None
        for number in range(60):
            folder = data / part / f"digit {images.labels[number]}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images.images[number].transpose(1, 2, 0)).save(folder / f"{number:02d}.png")
    spec = replace(
        SPEC,
        data=DataSpec(dataset="folder", data_dir=str(data)),
        model=ModelSpec(width=2),
        train=TrainSpec(epochs=2, batch_size=10),
        resources=ResourceSpec(device="cpu"),
    )
    build = Build(tmp_path / "run", spec)
    build.trial([0.3, 0.4], FINISHED)
    build.directory.write_env({"dataset_fingerprint": load_folder(data).fingerprint, "kind": "search"})
    assert main(["--finalize", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    final = RunDirectory(tmp_path / "run" / "final")
    found = read_predictions(final.path)
    assert found is not None
    assert found["image"].tolist() == sorted(str(file.relative_to(data)) for file in (data / "test").rglob("*.png"))
    assert all(f"test/{label}/" in image for image, label in zip(found["image"], found["label"], strict=True))
    accuracy = (found["label"] == found["predicted"]).mean()
    assert load_frames(final.path).trials["test_accuracy"].item() == accuracy  # both are of one pass
    assert evaluation_sentences(found)[-1] in printed
    page = Page(tmp_path / "run" / "report.html")
    assert page.tags.count("img") == min(SHOWN, int((found["label"] != found["predicted"]).sum()))
