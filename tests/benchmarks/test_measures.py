"""What the speed benchmarks measure with, and the peer that they measure."""

from __future__ import annotations

import pytest
import torch

from experiments.benchmarks.speed.measures import digits, flops_per_image
from experiments.benchmarks.speed.tutorial import TutorialRun, loaders
from tune_resnet.config.sections import TrainSpec
from tune_resnet.data.types import Split
from tune_resnet.training.augmentation import Normalise


@pytest.mark.parametrize(("train", "held_out"), [(10, 5), (5000, 400)])
def test_digits_come_in_any_number(train: int, held_out: int) -> None:
    split = digits(train, held_out)
    assert split.train.images.shape == (train, 3, 32, 32)
    assert split.held_out.labels.shape == (held_out,)
    assert digits(10, 5, 64).train.images.shape == (10, 3, 64, 64)


def test_the_work_of_an_image_is_that_of_its_convolutions() -> None:
    """Multiplications and additions by hand at width 1: nine a weight, output pixel and input channel; forward once,
    backward twice, but once for the first layer, whose input needs no gradient."""
    pixels = [1024, 1024, 256, 256, 256, 64, 16, 16]
    channels = [(3, 1), (1, 2), (2, 2), (2, 2), (2, 4), (4, 8), (8, 8), (8, 8)]
    forward = [2 * 9 * size * before * after for size, (before, after) in zip(pixels, channels, strict=True)]
    linear = 2 * 8 * 10
    assert flops_per_image(1) == 3 * sum(forward[1:]) + 2 * forward[0] + 3 * linear
    assert flops_per_image(1, size=64) - 3 * linear == 4 * (flops_per_image(1) - 3 * linear)


def test_the_tutorials_images_are_ours(split: Split) -> None:
    _, held_out = loaders(split, 7, flip=False, workers=0)
    theirs = torch.cat([images for images, _ in held_out])
    ours = Normalise(split.mean, split.std, torch.device("cpu"))(torch.from_numpy(split.held_out.images))
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)


def test_the_tutorial_learns(split: Split) -> None:
    run = TutorialRun(TrainSpec(epochs=12, batch_size=20), split, width=8, flip=False, workers=0)
    losses = [run.train_epoch() for _ in range(12)]
    assert losses[-1] < 0.7 < losses[0]
    assert run.accuracy() >= 0.7  # chance is 0.1
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(0.01 / 25, rel=0.01)
