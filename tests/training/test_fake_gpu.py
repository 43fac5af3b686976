"""What is known of training on a GPU without one: no tensor is on the wrong device, and nothing makes the GPU wait."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from fake_gpu import GPU, OnGpu, fake_gpu, fake_run
from torch import Tensor, nn

from tune_resnet.config.sections import ModelSpec, TrainSpec
from tune_resnet.data.types import Split
from tune_resnet.training.checkpoint import _copied
from tune_resnet.training.loop import TrainingRun

SPEC = TrainSpec(epochs=3, batch_size=100, precision="fp32")
PRECISIONS = ["fp32", "bf16", "fp16"]
VARIED: list[dict[str, Any]] = [
    {},
    {"optimizer": "sgd", "decoupled_decay": True},
    {"cutout": 8, "label_smoothing": 0.1, "class_weights": "balanced", "dropout": 0.0},
    {"momentum_at_peak": 0.85, "schedule": "cosine"},
    {"ema_decay": 0.9},
]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("varied", VARIED, ids=["default", "sgd", "cutout", "cycled", "averaged"])
def test_nothing_in_an_epoch_makes_the_gpu_wait(split: Split, precision: str, varied: dict[str, Any]) -> None:
    with fake_gpu():
        run = fake_run(replace(SPEC, precision=precision, **varied), split)
        with OnGpu():
            loss = run._train(1)
            found = run._evaluate()
        assert (loss.device, found.device) == (GPU, GPU)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_epoch_waits_for_the_gpu_once(split: Split, precision: str) -> None:
    with fake_gpu():
        run = fake_run(replace(SPEC, precision=precision), split)
        with OnGpu(allowed=True) as seen:
            run.run_epoch()
    assert seen.to_cpu + seen.waits == 1 or seen.waits == 5  # five numbers of one tensor
    assert seen.to_gpu == 0


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_reset_and_a_state_stay_on_their_devices(split: Split, precision: str) -> None:
    spec = replace(SPEC, precision=precision)
    with fake_gpu():
        run = fake_run(spec, split)
        with OnGpu():
            run._train(1)
            run.reset(replace(spec, seed=3, max_lr=0.1, grad_clip=1.0))
            run._train(1)
        with OnGpu(allowed=True):
            state = _copied(run.state_dict())
            assert {tensor.device.type for tensor in _tensors(state)} == {"cpu"}
            run.load_state_dict(state)
            assert {tensor.device for tensor in _tensors(run.state_dict())} == {GPU}
        with OnGpu():
            run._train(2)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [tensor for item in values for tensor in _tensors(item)]


def test_a_wait_would_be_noticed() -> None:
    with fake_gpu():
        values = torch.empty(4, device=GPU)
        for waits in (
            lambda: values.sum().item(),
            lambda: values.nonzero(),
            lambda: values[values > 0],
            lambda: values.cpu(),
            lambda: torch.tensor([1.0, 2.0], device=GPU) + values[:2],
            lambda: bool(values.sum() > 0),
        ):
            with OnGpu(), pytest.raises(AssertionError):
                waits()


def test_the_network_keeps_channels_last_throughout(split: Split) -> None:
    """In any other layout a GPU transposes around each convolution. On the CPU, which has the same layouts: what a
    convolution gives on a GPU is decided by its driver."""
    seen: list[nn.Module] = []

    def check(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        assert all(each.is_contiguous(memory_format=torch.channels_last) for each in (*inputs, output)), module
        seen.append(module)

    run = TrainingRun(replace(SPEC, precision="bf16"), split, "cpu", ModelSpec(width=8))
    for module in run.model.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.ReLU | nn.MaxPool2d):
            module.register_forward_hook(check)
    run._logits(run.train_images.images[:20], run.model)
    assert len(seen) == 8 * 3 + 3
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in run.model.parameters() if p.dim() == 4)
