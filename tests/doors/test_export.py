"""The best model for other programs: the same answers, and names of classes."""

from __future__ import annotations

import errno
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tune_resnet._text import to_install
from tune_resnet.config.sections import ModelSpec, TrainSpec
from tune_resnet.data.types import Split
from tune_resnet.errors import exit_code_of
from tune_resnet.export import main
from tune_resnet.training import exported_model
from tune_resnet.training.exported_model import TOLERANCE, ExportError, export
from tune_resnet.training.loop import TrainingRun
from tune_resnet.training.saved_model import TrainedModel, load_model, probabilities, save_model


@pytest.fixture(scope="module")
def run(split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory, as far as its best model goes, trained a little."""
    path = tmp_path_factory.mktemp("run")
    (path / "best").mkdir()
    training = TrainingRun(TrainSpec(epochs=2, batch_size=45), split, model=ModelSpec(width=8))
    while training.epochs_done < 2:
        training.run_epoch()
    save_model(path / "best" / "model.safetensors", training.model, split, ModelSpec(width=8))
    return path


@pytest.fixture(scope="module")
def model(run: Path) -> TrainedModel:
    return load_model(run / "best" / "model.safetensors")


def test_torch_export_gives_the_same_for_any_number_of_images(run: Path, model: TrainedModel, split: Split) -> None:
    assert main([str(run), "--format", "torch"]) == 0
    extra = {"classes.json": ""}
    loaded = torch.export.load(run / "best" / "model.pt2", extra_files=extra).module()
    assert tuple(json.loads(extra["classes.json"])) == model.classes
    for count in (1, 7, 100):
        images = split.train.images[:count]
        found = loaded(torch.from_numpy(images.copy())).detach().numpy()
        np.testing.assert_allclose(found, probabilities(model, images), atol=TOLERANCE)


def test_onnx_gives_the_same_for_any_number_of_images(
    run: Path, model: TrainedModel, split: Split, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    import onnxruntime

    path = tmp_path / "it.onnx"
    assert main([str(run), "--out", str(path)]) == 0
    assert "at most" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(path)
    assert tuple(json.loads(session.get_modelmeta().custom_metadata_map["classes"])) == model.classes
    for count in (1, 7, 100):
        images = split.train.images[:count]
        (found,) = session.run(["probabilities"], {"images": images})
        np.testing.assert_allclose(found, probabilities(model, images), atol=TOLERANCE)


def test_a_file_that_answers_otherwise_is_an_error(
    model: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = lambda program, path, classes: lambda images: probabilities(model, images) + 2 * TOLERANCE  # noqa: E731
    monkeypatch.setitem(exported_model.FORMATS, "torch", wrong)
    (tmp_path / "it.pt2").write_text("a good one")
    with pytest.raises(ExportError, match=r"probabilities that differ from the model's by up to 0\.0002"):
        export(model, tmp_path / "it.pt2", "torch")
    assert [one.read_text() for one in tmp_path.iterdir()] == ["a good one"]


class Undecided(nn.Module):
    """What it does depends on its images."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :10] * (1 if images.sum() > 0 else 2)


def test_a_network_that_cannot_be_exported_is_said_in_a_line(model: TrainedModel, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="this network cannot be exported: ") as caught:
        export(replace(model, network=Undecided()), tmp_path / "it.pt2", "torch")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_is_said_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "best")

    assert exit_code_of(command) == 1
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device: 'best'\n"


def test_what_is_wrong_is_said_in_a_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert main([str(run), "--format", "torch", "--out", str(tmp_path / "no" / "it.pt2")]) == 2
    errors = io.StringIO(capsys.readouterr().err).readlines()
    assert len(errors) == 2
    assert "there is no model" in errors[0]
    assert "cannot write" in errors[1]


def test_without_its_packages_onnx_says_what_to_install(
    model: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExportError) as caught:
        export(model, tmp_path / "it.onnx", "onnx")
    assert str(caught.value).endswith(f": {to_install('onnx', 'onnxscript', 'onnxruntime')}")
