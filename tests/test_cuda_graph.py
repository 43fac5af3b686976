"""Steps recorded as a CUDA graph: the training is the same, recorded or not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tune_resnet.cuda_graph import RecordedStep
from tune_resnet.data import Split
from tune_resnet.spec import ModelSpec, TrainSpec
from tune_resnet.train import TrainingRun

SPEC = TrainSpec(epochs=3, batch_size=25, precision="fp32")  # 7 batches of 25 and one of 5
WIDTH = ModelSpec(width=4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="recording fails only where there is no GPU")
def test_where_recording_fails_a_warning_says_so_and_training_goes_on(split: Split) -> None:
    torch.set_num_threads(1)
    direct, recorded = TrainingRun(SPEC, split, model=WIDTH), TrainingRun(SPEC, split, model=WIDTH)
    recorded._update = RecordedStep(recorded._descend)
    expected = direct.run_epoch()
    with pytest.warns(UserWarning, match="training without a CUDA graph"):
        metrics = recorded.run_epoch()
    assert (metrics.train_loss, metrics.loss) == (expected.train_loss, expected.loss)
    assert recorded.run_epoch().train_loss == direct.run_epoch().train_loss  # it does not try again


def test_a_batch_of_another_shape_is_run_directly() -> None:
    seen: list[int] = []

    def step(images: Tensor, labels: Tensor) -> Tensor:
        seen.append(len(images))
        return images.sum()

    recorded = RecordedStep(step)
    for count in (4, 2, 2, 2, 2, 2):
        recorded(torch.ones(count), torch.ones(count))
    assert seen == [4, 2, 2, 2, 2, 2]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
def test_a_recorded_training_equals_a_direct_one_for_every_configuration(split: Split) -> None:
    recorded, direct = TrainingRun(SPEC, split, "cuda", WIDTH), TrainingRun(SPEC, split, "cuda", WIDTH)
    assert isinstance(recorded._update, RecordedStep)
    graph = None
    for spec in (SPEC, replace(SPEC, max_lr=0.003, weight_decay=0.01, grad_clip=0.01, seed=1)):
        recorded.reset(spec)
        direct.reset(spec)
        direct._update = direct._descend
        for _ in range(spec.epochs):
            ours, theirs = recorded.run_epoch(), direct.run_epoch()
            assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-3)
            assert ours.loss == pytest.approx(theirs.loss, rel=1e-2)
        assert recorded._update.graph is not None
        assert graph in (None, recorded._update.graph)  # recorded once
        graph = recorded._update.graph
