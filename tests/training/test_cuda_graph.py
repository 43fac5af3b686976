"""Steps recorded as a CUDA graph: the training is the same, recorded or not."""

from __future__ import annotations

import copy
import gc
import warnings
import weakref
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import chain
from typing import Any

import pytest
import torch
from fake_gpu import GPU, fake_gpu
from fake_graph import use_fake_graphs
from torch import Tensor

from tune_resnet.config.sections import ModelSpec, TrainSpec
from tune_resnet.data.types import Split
from tune_resnet.training.cuda_graph import CONSTANTS, RECORDED, RecordedStep
from tune_resnet.training.loop import TrainingRun

SPEC = TrainSpec(epochs=3, batch_size=25, precision="fp32")  # 7 batches of 25 and one of 5
FEW = replace(SPEC, batch_size=7)  # of 30 images: 4 batches of 7 and one of 2
WIDTH = ModelSpec(width=1)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="recording fails only where there is no GPU")
def test_where_recording_fails_a_warning_says_so_and_training_goes_on(split: Split) -> None:
    direct, recorded = TrainingRun(SPEC, split, model=WIDTH), TrainingRun(SPEC, split, model=WIDTH)
    recorded.recording = RecordedStep()
    expected = direct.run_epoch()
    with pytest.warns(UserWarning, match="training without a CUDA graph"):
        metrics = recorded.run_epoch()
    assert (metrics.train_loss, metrics.loss) == (expected.train_loss, expected.loss)
    assert recorded.run_epoch().train_loss == direct.run_epoch().train_loss  # it does not try again


def test_a_batch_of_another_shape_is_run_directly_without_a_search_for_kernels() -> None:
    seen: list[tuple[int, bool]] = []

    def step(images: Tensor, labels: Tensor) -> Tensor:
        seen.append((len(images), torch.backends.cudnn.benchmark))
        return images.sum()

    recorded = RecordedStep()
    for count in (4, 2, 2, 2, 2, 2):
        recorded(step, torch.ones(count), torch.ones(count))
    assert seen == [(4, True), *[(2, False)] * 5]
    assert not torch.backends.cudnn.benchmark


@pytest.mark.parametrize("waits", [False, True])
def test_a_step_that_waits_for_the_gpu_is_never_recorded(monkeypatch: pytest.MonkeyPatch, waits: bool) -> None:
    modes: list[object] = []
    recordings: list[Any] = []
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    monkeypatch.setattr(RecordedStep, "_record", lambda *of: recordings.append(of))

    def step(images: Tensor, labels: Tensor) -> Tensor:
        if waits and modes == ["warn"]:
            warnings.warn("called a synchronizing CUDA operation (Triggered internally ...)", stacklevel=1)
        if modes == ["warn"]:
            warnings.warn("something else", stacklevel=1)
        return images

    recorded = RecordedStep()
    with warnings.catch_warnings(record=True) as caught, fake_gpu():
        warnings.simplefilter("always")
        images = torch.empty(4, device=GPU)
        for _ in range(6):
            recorded(step, images, images)
    assert modes == ["warn", 0]
    said = [str(each.message) for each in caught]
    assert said == ["something else", *["training without a CUDA graph: a step waits for the GPU"] * waits]
    assert len(recordings) == (0 if waits else 1)


# Another value than in FEW of all that a configuration says.
OTHERS: dict[str, Any] = {
    "max_lr": 0.003, "weight_decay": 0.05, "grad_clip": 0.01, "epochs": 2, "batch_size": 6, "schedule": "cosine",
    "peak_at": 0.2, "div_factor": 5.0, "final_div_factor": 100.0, "optimizer": "sgd", "momentum": 0.8,
    "momentum_at_peak": 0.8, "decoupled_decay": True, "label_smoothing": 0.1, "class_weights": "balanced",
    "dropout": 0.5, "crop_padding": 2, "cutout": 8, "ema_decay": 0.9, "seed": 3, "precision": "fp16",
}  # fmt: skip


def test_all_that_a_configuration_says_is_tried_below() -> None:
    assert list(OTHERS) == [field.name for field in fields(TrainSpec)]
    assert all(getattr(FEW, name) != value for name, value in OTHERS.items())


@pytest.mark.parametrize("name", OTHERS)
def test_a_recorded_step_sees_each_new_value(few: Split, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """To the bit: nothing that a configuration says is left in a recording of another's step."""
    spec = replace(FEW, **{name: OTHERS[name]})
    direct = TrainingRun(spec, few, model=WIDTH)
    expected = direct.run_epoch()
    use_fake_graphs(monkeypatch)
    reused = TrainingRun(FEW, few, model=WIDTH)
    reused.run_epoch()
    assert reused.steps == RECORDED
    graph = weakref.ref(reused.recording.graph)  # type: ignore[union-attr]
    reused.reset(spec)
    assert (graph() is None) == (name in CONSTANTS)  # freed at once, or used again
    found = reused.run_epoch()
    assert reused.steps == ("run directly: the momentum changes" if name == "momentum_at_peak" else RECORDED)
    assert (found.train_loss, found.loss) == (expected.train_loss, expected.loss)
    weights = zip(reused.judged.state_dict().values(), direct.judged.state_dict().values(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in weights)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_scale_of_fp16_moves_in_a_recording_as_without(
    few: Split, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    spec = replace(FEW, precision="fp16", optimizer=optimizer)

    def trained() -> tuple[float, Any]:
        run = TrainingRun(spec, few, model=WIDTH)
        run.scaler.update(2.0**16)  # too much: steps are left out until it is small enough
        return run.run_epoch().train_loss, run.scaler.state_dict()

    expected = trained()
    assert expected[1]["scale"] < 2.0**16
    use_fake_graphs(monkeypatch)
    assert trained() == expected


def test_what_a_recording_knows_stays_where_it_is(few: Split) -> None:
    run = TrainingRun(replace(FEW, precision="fp16"), few, model=WIDTH)

    def places() -> list[int]:
        state = [*run.model.state_dict().values(), *chain(*run.optimizer.state.values())]
        scaler = [run.scaler._scale, run.scaler._growth_tracker]
        return [tensor.data_ptr() for tensor in (*state, *scaler, run.lr, run.weight_decay, run.grad_clip)]

    before = places()
    run.run_epoch()
    state = copy.deepcopy(run.state_dict())
    run.reset(replace(run.spec, seed=1, max_lr=0.1))
    run.load_state_dict(state)
    assert places() == before


def test_an_error_in_a_step_is_forgotten_by_a_reset(few: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    run = TrainingRun(replace(FEW, precision="fp16"), few, model=WIDTH)
    with monkeypatch.context() as patch:
        patch.setattr(run.optimizer, "step", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run.run_epoch()
    run.reset(run.spec)
    run._train(1)


def test_memory_that_runs_out_while_a_step_is_recorded_is_no_reason_to_go_on_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_fake_graphs(monkeypatch)
    room = [1, 2, 3]  # for so many steps

    def step(images: Tensor, labels: Tensor) -> Tensor:
        if not room:
            raise torch.OutOfMemoryError
        room.pop()
        return images

    recorded = RecordedStep()
    for _ in range(3):
        recorded(step, torch.ones(4), torch.ones(4))
    with pytest.raises(torch.OutOfMemoryError):
        recorded(step, torch.ones(4), torch.ones(4))


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_run_is_freed_with_its_last_name(few: Split, recorded: bool, precision: str) -> None:
    """A graph that waits for the collector may be collected while another is recorded, and break that."""
    run = TrainingRun(replace(SPEC, precision=precision), few, model=WIDTH)
    if recorded:
        run.recording = RecordedStep()
        run.recording.direct_steps = -SPEC.epochs * run.steps_per_epoch  # none is recorded where there is no GPU
    run.run_epoch()
    run.reset(replace(SPEC, precision=precision, seed=1))
    run.run_epoch()
    run.load_state_dict(run.state_dict())
    kept: list[weakref.ref[Any]] = [
        weakref.ref(run),
        weakref.ref(run.model),
        weakref.ref(run.optimizer),
        *map(weakref.ref, run.model.parameters()),
    ]
    if run.recording is not None:
        kept.append(weakref.ref(run.recording))
    del run
    assert [ref() for ref in kept if ref() is not None] == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
def test_a_recorded_training_equals_a_direct_one_for_every_configuration(split: Split) -> None:
    """For one epoch at a tiny rate: a GPU adds in any order, and in longer trainings such differences grow."""
    spec = replace(SPEC, max_lr=1e-6)
    recorded, direct = TrainingRun(spec, split, "cuda", WIDTH), TrainingRun(spec, split, "cuda", WIDTH)
    assert recorded.recording is not None
    graph = None
    for each in (spec, replace(spec, max_lr=3e-7, weight_decay=0.01, grad_clip=0.01, seed=1)):
        recorded.reset(each)
        direct.reset(each)
        direct.recording = None
        ours, theirs = recorded.run_epoch(), direct.run_epoch()
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-4)
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-3)
        assert recorded.recording.graph is not None
        assert graph in (None, recorded.recording.graph)  # recorded once
        graph = recorded.recording.graph
