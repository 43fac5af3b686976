"""What a search tells TensorBoard, MLflow and Weights & Biases, read back with their own libraries, offline."""

from __future__ import annotations

import csv
import importlib.util
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tune_resnet._text import to_install
from tune_resnet.commands.options import parse_options
from tune_resnet.commands.request import LOGGERS
from tune_resnet.config.validation import SpecError
from tune_resnet.errors import UserError
from tune_resnet.execution.loggers import logger_callbacks
from tune_resnet.runs.directory import RunDirectory

TINY = ["--dataset", "digits", "--limit-train", "200", "--width", "4", "--device", "cpu", "--scheduler", "none"]
TRIALS, EPOCHS = 3, 2

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, on_cluster: Callable[..., int]) -> Path:
    """A search with each logger whose package is there."""
    runs = tmp_path_factory.mktemp("runs")
    known = [name for name in LOGGERS if name == "tensorboard" or importlib.util.find_spec(name)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        flags = ["--num-samples", TRIALS, "--epochs", EPOCHS, "--runs-dir", runs, "--name", "logged"]
        assert on_cluster(*TINY, *flags, "--log", *known) == 0
    return runs / "logged"


def accuracies(run: Path) -> list[float]:
    """Of all trials and epochs, in order of size."""
    with (run / "epochs.csv").open() as file:
        return sorted(float(row["val_accuracy"]) for row in csv.DictReader(file))


def test_tensorboard(run: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = []
    for folder in sorted((run / "ray").glob("trial-*")):
        log = events.EventAccumulator(str(folder)).Reload()
        found += [event.value for event in log.Scalars("ray/tune/val_accuracy")]
    assert sorted(found) == pytest.approx(accuracies(run))


def test_mlflow(run: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{run / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'logged'")
    trials = client.search_runs([experiment.experiment_id])
    assert [trial.info.status for trial in trials] == ["FINISHED"] * TRIALS
    assert {trial.data.params["trial"] for trial in trials} == {"0", "1", "2"}
    history = [
        metric.value for trial in trials for metric in client.get_metric_history(trial.info.run_id, "val_accuracy")
    ]
    assert sorted(history) == pytest.approx(accuracies(run))


def wandb_records(path: Path) -> Iterator[Any]:
    """The records in a file of an offline run: W&B's Python package writes such files, but has no reader for them. They
    are in LevelDB's log format, one record a chunk as long as it is short.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    content = path.read_bytes()
    assert content.startswith(b":W&B")
    at = 7
    while at + 7 <= len(content):
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        assert kind == 1
        yield Record.FromString(content[at + 7 : at + 7 + length])
        at += 7 + length


def test_wandb(run: Path) -> None:
    pytest.importorskip("wandb")
    files = list((run / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == TRIALS
    found = [
        float(item.value_json)
        for file in files
        for record in wandb_records(file)
        for item in record.history.item
        if "val_accuracy" in (item.key, *item.nested_key)
    ]
    assert sorted(found) == pytest.approx(accuracies(run))


def test_a_logger_without_its_package_is_an_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name, package in (("wandb", "wandb"), ("mlflow", "mlflow-skinny"), ("tensorboard", "tensorboardX")):
        with pytest.raises(SpecError) as caught:
            parse_options(["--log", name])
        assert str(caught.value) == f"--log {name} needs a package: {to_install(package)}"
    with pytest.raises(SpecError, match="invalid choice: 'neptune'"):
        parse_options(["--log", "neptune"])


def test_a_package_that_is_broken_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "__init__.py").write_text("raise ImportError('cannot import\\nname service')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "mlflow"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match=r"^--log mlflow: its package does not work: cannot import name service$"):
        logger_callbacks(["mlflow"], RunDirectory(tmp_path))
