"""What several tests make: small, and like the real thing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from rich.console import Console
from torch import nn

from tune_resnet.config.default_space import NARROW_SPACE
from tune_resnet.config.sections import DataSpec, ModelSpec, SchedulerSpec, TrainSpec
from tune_resnet.config.space import Choices, Domain
from tune_resnet.config.spec import SearchSpec
from tune_resnet.data.types import ImageSet, Split
from tune_resnet.hpo.study import STUDY_NAME
from tune_resnet.results.tables import ranked_table
from tune_resnet.runs.directory import RunDirectory
from tune_resnet.runs.load import RunFrames, load_frames
from tune_resnet.runs.predictions import write_predictions
from tune_resnet.runs.recorder import Recorder
from tune_resnet.runs.tables import INTERRUPTED, RUNNING, TrialRow, spec_of
from tune_resnet.training.metrics import EpochMetrics
from tune_resnet.training.saved_model import Outcome, save_model

MIXED: dict[str, Domain | Choices] = {  # a float, an integer, choices of each kind, a condition
    "max_lr": Domain(low=1e-3, high=1e-1, log=True),
    "batch_size": Choices(choices=(45, 90, 180)),
    "crop_padding": Domain(low=0, high=8, log=False),
    "schedule": Choices(choices=("linear-exponential", "cosine")),
    "decoupled_decay": Choices(choices=(False, True)),
    "optimizer": Choices(choices=("adam", "sgd")),
    "momentum": Domain(low=0.8, high=0.99, log=False, when="optimizer=sgd"),
    "model.width": Domain(low=4, high=64, log=True),
    "data.flip": Choices(choices=(True, False)),
}

NO_PROCESS = 2**22 + 1  # Linux numbers processes no higher than 2^22
ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
SEARCH = RESULTS / "cifar10-jpeg-search"

_NONE = ImageSet(np.zeros((0, 3, 32, 32), dtype=np.uint8), np.zeros(0, dtype=np.int64))
_SPLIT = Split(_NONE, _NONE, ("a", "b"), np.zeros(3, dtype=np.float32), np.ones(3, dtype=np.float32))


def leave_model(run: RunDirectory, row: TrialRow, spec: SearchSpec, **last: float) -> None:
    """A model as a trial leaves it after its last epoch, with `last` of its metrics; its network is next to nothing."""
    metrics = {"lr": 0.1, "train_loss": 0.5, "loss": 0.5, "accuracy": 0.5, "seconds": 1.0, "images_per_second": 9.0}
    outcome = Outcome(
        trial=row.trial,
        train=spec_of(row.cells(), spec).train,
        last=EpochMetrics(epoch=spec.train.epochs, **{**metrics, **last}),
    )
    save_model(run.model_of(row.trial), nn.Linear(1, 1), _SPLIT, ModelSpec(width=1), outcome)


def leave_predictions(
    run: RunDirectory, classes: Sequence[str], images: int = 200
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions of a model of four classes that is right about two thirds of the time, and knows none of the last,
    as a run keeps them: labels, probabilities and pixels."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 4, images)
    scores = draw.random((images, 4)) + np.eye(4)[labels] * 0.8
    scores[:, 3] = 0
    pixels = draw.integers(0, 256, (images, 3, 32, 32), dtype=np.uint8)
    shares = (scores / scores.sum(1, keepdims=True)).astype(np.float32)
    write_predictions(run, shares, labels, classes, pixels)
    return labels, shares, pixels


def load_study(path: Path) -> optuna.Study:
    """A search's study from its file, opened as optuna-dashboard opens it."""
    return optuna.load_study(study_name=STUDY_NAME, storage=JournalStorage(JournalFileBackend(str(path))))


EPOCHS = 4
PLAIN = SchedulerSpec(grace_epochs=1, reduction_factor=2, signal="val_accuracy", margin=0)
SPEC = SearchSpec(data=DataSpec(dataset="digits"), train=TrainSpec(epochs=EPOCHS), scheduler=PLAIN, space=NARROW_SPACE)


class Build:
    """A run directory under construction, through the classes that a search uses."""

    def __init__(self, path: Path, spec: SearchSpec = SPEC) -> None:
        self.directory = RunDirectory.create(path, spec)
        self.recorder = Recorder(self.directory, spec)

    def trial(
        self,
        accuracies: Sequence[float],
        state: str,
        *,
        on: str = "val",
        error: str = "",
        luck: float = 0,
        scores: Sequence[float] = (),
        **params: Any,
    ) -> int:
        """A trial that showed these accuracies, epoch by epoch, and is now in `state`. `luck`: what its accuracies have
        more than its losses tell; `scores`: what another objective gives where the run has one."""
        trial = len(self.recorder.trials)
        self.recorder.start(trial, params)
        for epoch, accuracy in enumerate(accuracies, start=1):
            metrics = {"epoch": epoch, "lr": 0.1, "train_loss": 1 - accuracy, "seconds": 0.5, "images_per_second": 9.0}
            if scores:
                metrics[self.recorder.spec.search.column(on)] = scores[epoch - 1]
            self.recorder.epoch(
                trial, metrics | {f"{on}_accuracy": accuracy, f"{on}_loss": 1 - accuracy + luck}, "host:1"
            )
        if state == INTERRUPTED:
            self.recorder.close()
        elif state != RUNNING:
            self.directory.model_of(trial).touch()
            self.recorder.end(trial, state, error)
        return trial

    def load(self) -> RunFrames:
        return load_frames(self.directory.path)


def plain(frames: RunFrames, top: int = 100, width: int = 300) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(ranked_table(frames, top))
    return capture.get()


class Page(HTMLParser):
    """What a browser would make of a page: its text, what it would fetch, its figures."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = ""
        self.links: list[str | None] = []
        self.figures: dict[str, dict[str, Any]] = {}
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.inside: str | None = ""  # the name of a figure; None in any other script or style
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.attributes |= values.keys()
        self.links += [values[name] for name in ("src", "href") if name in values]
        self.inside = values.get("data-plot") if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.figures[self.inside] = json.loads(data)
        elif self.inside == "":
            self.text += data


@st.composite
def searchable(draw: st.DrawFn) -> Domain:
    """A domain of any hyperparameter whose bounds differ by more than rounding."""
    log = draw(st.booleans())
    low = draw(st.floats(1e-12 if log else 0, 100))
    return Domain(low=low, high=draw(st.floats(low * 1.001 + 1e-12, 1e6)), log=log)
