"""Images that do not fit: read from a file, or copied to the device batch by batch. The numbers are the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_gpu import GPU, OnGpu, fake_gpu, fake_run

from tune_resnet.config.sections import ModelSpec, TrainSpec
from tune_resnet.data.types import ImageSet, MappedImages, Split
from tune_resnet.training.images import to_device
from tune_resnet.training.loop import TrainingRun

SPEC = TrainSpec(epochs=2, batch_size=50, precision="fp32")  # batches of 50, 50, 50 and 30
CPU = torch.device("cpu")


@pytest.fixture
def mapped(split: Split, tmp_path: Path) -> Split:
    """The split, its images mixed in one file."""
    everything = np.concatenate([split.train.images, split.held_out.images])
    rows = np.random.default_rng(0).permutation(len(everything))
    path = tmp_path / "images.npy"
    shuffled = np.empty_like(everything)
    shuffled[rows] = everything
    np.save(path, shuffled)
    count = len(split.train)
    return replace(
        split,
        train=ImageSet(MappedImages(path, rows[:count]), split.train.labels),
        held_out=ImageSet(MappedImages(path, rows[count:]), split.held_out.labels),
    )


@pytest.mark.parametrize("streamed", [False, True])
def test_a_training_that_reads_a_file_gives_the_same_numbers(split: Split, mapped: Split, streamed: bool) -> None:
    here, there = (TrainingRun(SPEC, data, model=ModelSpec(width=2)) for data in (split, mapped))
    there.train_images = replace(there.train_images, streamed=streamed)
    there.held_out = replace(there.held_out, streamed=streamed)
    for _ in range(2):
        one, other = (replace(run.run_epoch(), seconds=0, images_per_second=0) for run in (here, there))
        assert one == other
    assert torch.equal(here.held_out_logits(), there.held_out_logits())
    for name, tensor in here.model.state_dict().items():
        assert torch.equal(tensor, there.model.state_dict()[name]), name


def test_an_array_too_large_for_the_device_is_streamed_in_the_same_order(split: Split) -> None:
    whole = to_device(split.train, CPU)
    order = torch.randperm(len(whole))
    pairs = zip(whole.batches(order, 50), replace(whole, streamed=True).batches(order, 50), strict=True)
    for (images, chosen, labels), (copied, all_of_it, same_labels) in pairs:
        assert torch.equal(images[chosen], copied[all_of_it])
        assert torch.equal(labels, same_labels)
    assert torch.equal(torch.cat([*replace(whole, streamed=True).in_order(70)]), whole.images)


@pytest.mark.parametrize(
    ("free", "kept", "share", "streamed"),
    [
        (1 << 33, 0, 1.0, False),
        (1 << 20, 0, 1.0, True),
        (1 << 20, 1 << 32, 1.0, False),  # what PyTorch has kept of a training before is free, too
        (1 << 33, 0, 2**-13, True),  # a share of the GPU of a megabyte
    ],
)
def test_a_gpu_gets_what_fits_a_quarter_of_its_free_memory(
    free: int, kept: int, share: float, streamed: bool, split: Split, mapped: Split
) -> None:
    """The streamed half on a GPU that is not there: an order goes to the CPU and each batch comes back."""
    assert 0.25 * (1 << 20) < split.train.source.nbytes < 0.25 * (1 << 33)
    for data in (split, mapped):
        with fake_gpu(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 1 << 33))
            patch.setattr(torch.cuda, "memory_reserved", lambda device: kept)
            patch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: share)
            run = fake_run(SPEC, data)
            assert (run.train_images.streamed, run.train_images.labels.device) == (streamed, GPU)
            with OnGpu(allowed=True) as seen:
                loss = run._train(1)
        assert (loss.device, seen.to_cpu, seen.to_gpu) == (GPU, int(streamed), 4 * streamed)
