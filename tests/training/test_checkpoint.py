"""Checkpoints: when they are written, what they hold, and what a damaged one may do."""

from __future__ import annotations

import errno
import io
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tune_resnet.config.hyperparameters import Configuration
from tune_resnet.config.sections import ModelSpec, TrainSpec
from tune_resnet.data.types import Split
from tune_resnet.training.checkpoint import MAX_LOST_SECONDS, Checkpoint, ResumableRun, is_due
from tune_resnet.training.loop import TrainingRun
from tune_resnet.training.metrics import BrokenRun, EpochMetrics

SPEC = TrainSpec(epochs=4, batch_size=50, precision="fp32")
WIDTH = ModelSpec(width=4)
NARROW = ModelSpec(width=1)  # for half precision, which a CPU is slow at
LONG = 2 * MAX_LOST_SECONDS  # an epoch after which saving is always due


@given(st.floats(1e-3, 1e4), st.integers(1, 300))
def test_a_crash_costs_at_most_one_epoch_or_half_a_minute(epoch_seconds: float, epochs: int) -> None:
    unsaved = worst = 0.0
    for _ in range(epochs):
        unsaved += epoch_seconds
        worst = max(worst, unsaved)
        if is_due(unsaved, epoch_seconds):
            unsaved = 0.0
    assert worst <= max(epoch_seconds, MAX_LOST_SECONDS) * (1 + 1e-9)


@given(st.floats(1e-3, MAX_LOST_SECONDS / 2))
def test_short_epochs_share_a_checkpoint(epoch_seconds: float) -> None:
    assert not is_due(MAX_LOST_SECONDS / 2 - 1e-6, epoch_seconds)


def test_a_run_continued_from_disk_equals_an_unbroken_one(split: Split, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    run = TrainingRun(SPEC, split, model=WIDTH)
    run.run_epoch()
    checkpoint = Checkpoint(tmp_path / "trial.pt")
    checkpoint.offer(run.state_dict, LONG)
    expected = [run.run_epoch().train_loss for _ in range(3)]  # while the copy is on its way to the disk
    checkpoint.wait()

    continued = TrainingRun(replace(SPEC, seed=5), split, model=WIDTH)
    state = Checkpoint(tmp_path / "trial.pt").load()
    assert state is not None
    continued.load_state_dict(state)
    assert [continued.run_epoch().train_loss for _ in range(3)] == expected
    assert [path.name for path in tmp_path.iterdir()] == ["trial.pt"]


def broken_after(steps: int, training: TrainingRun) -> None:
    """The training raises once, at that step of the next epoch."""
    whole, done = training._step, iter(range(steps))

    def step(images: torch.Tensor, labels: torch.Tensor, step: int) -> torch.Tensor:
        if next(done, None) is None:
            training._step = whole  # type: ignore[method-assign]
            raise MemoryError
        return whole(images, labels, step)

    training._step = step  # type: ignore[method-assign]


@pytest.mark.parametrize(("steps", "precision"), [(0, "fp32"), (1, "fp32"), (3, "fp32"), (2, "bf16"), (3, "fp16")])
def test_an_epoch_that_is_broken_off_leaves_the_state_of_the_last_whole_one(
    steps: int, precision: str, few: Split, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    split, spec = few, replace(SPEC, precision=precision, batch_size=9)
    unbroken = TrainingRun(spec, split, model=NARROW)
    expected = [unbroken.run_epoch() for _ in range(4)]

    first = ResumableRun(Configuration(train=spec, model=NARROW), split, "cpu", tmp_path / "it.pt")
    first.run_epoch()
    first.save()
    first.run_epoch()
    broken_after(steps, first.training)
    with pytest.raises(MemoryError):
        first.run_epoch()
    first.save()  # what Ray calls then: it must not save what the broken epoch has made of the weights
    for forbidden in (first.training.state_dict, first.run_epoch):
        with pytest.raises(BrokenRun):
            forbidden()

    again = ResumableRun(Configuration(train=spec, model=NARROW), split, "cpu", tmp_path / "it.pt")
    assert without_seconds(again.saved) == without_seconds(expected[0])
    assert [without_seconds(again.run_epoch()) for _ in range(3)] == list(map(without_seconds, expected[1:]))
    assert again.is_done
    for name, tensor in again.training.model.state_dict().items():
        assert torch.equal(tensor, unbroken.model.state_dict()[name]), name


def without_seconds(metrics: EpochMetrics | None) -> EpochMetrics:
    assert metrics is not None
    return replace(metrics, seconds=0.0, images_per_second=0.0)


def test_a_broken_run_can_be_begun_anew(split: Split, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    run = ResumableRun(Configuration(train=SPEC, model=WIDTH), split, "cpu", tmp_path / "a.pt")
    expected = without_seconds(run.run_epoch())
    broken_after(2, run.training)
    with pytest.raises(MemoryError):
        run.run_epoch()
    run.restart(Configuration(train=SPEC, model=WIDTH), tmp_path / "b.pt")
    assert run.saved is None
    assert without_seconds(run.run_epoch()) == expected


@pytest.mark.parametrize("other", [{"max_lr": 0.02}, {"model.width": 5}, {"data.flip": False}], ids=str)
def test_a_checkpoint_of_another_configuration_counts_as_none(
    other: dict[str, Any], split: Split, tmp_path: Path
) -> None:
    run = ResumableRun(Configuration(train=SPEC, model=WIDTH), split, "cpu", tmp_path / "a.pt")
    run.run_epoch()
    run.save()
    configuration = Configuration(train=SPEC, model=WIDTH)
    run.restart(configuration.configured(other), tmp_path / "a.pt")
    assert run.saved is None
    run.restart(configuration, tmp_path / "a.pt")
    assert run.saved is not None


def test_nothing_is_written_before_it_pays(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "trial.pt")
    for _ in range(5):
        checkpoint.offer(lambda: pytest.fail("the state was asked for"), 0.1)
    checkpoint.wait()
    assert not list(tmp_path.iterdir())


class Harmful:
    def __reduce__(self) -> Any:
        return os.mkdir, ("harm",)


@pytest.mark.parametrize("content", ["missing", "empty", "half", "code", "list"])
def test_what_cannot_be_read_is_no_state_and_runs_no_code(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "trial.pt"
    buffer = io.BytesIO()
    torch.save([1, 2] if content == "list" else {"weights": torch.ones(1000)}, buffer)
    whole = buffer.getvalue()
    content_of = {"empty": b"", "half": whole[: len(whole) // 2], "code": pickle.dumps(Harmful(), 2), "list": whole}
    if content != "missing":
        path.write_bytes(content_of[content])
    assert Checkpoint(path).load() is None
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("unexpected pos")])
def test_a_write_that_fails_leaves_what_was_saved_before(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint(tmp_path / "trial.pt")
    checkpoint.offer(lambda: {"epoch": 1}, LONG)
    checkpoint.wait()

    def fail(state: object, file: io.BytesIO) -> None:
        file.write(b"half")
        raise error

    monkeypatch.setattr(torch, "save", fail)
    checkpoint.offer(lambda: {"epoch": 2}, LONG)
    checkpoint.wait()
    assert checkpoint.load() == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["trial.pt"]
