"""Whole-batch augmentation against the same thing done image by image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tune_resnet.data.types import ImageSet
from tune_resnet.training.augmentation import Crops, Normalise, augmented, draw_crops
from tune_resnet.training.images import to_device

MOST = 16  # pixels of padding
BLANK = torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1)


def one_by_one(images: np.ndarray, chosen: np.ndarray, crops: Crops) -> np.ndarray:
    """Pads, crops, flips and blanks each image with NumPy, in a loop."""
    size, results = images.shape[-1], []
    for place, index in enumerate(chosen):
        padded = np.pad(images[index], ((0, 0), (MOST,) * 2, (MOST,) * 2), mode="reflect")
        down, right = MOST + int(crops.down[place]), MOST + int(crops.right[place])
        crop = padded[:, down : down + size, right : right + size]
        crop = crop[:, :, ::-1].copy() if crops.flip[place] else crop.copy()
        if crops.centres is not None:
            top, left = ((crops.centres[place] * size).long() - crops.cutout // 2).tolist()
            bottom, end = top + crops.cutout, left + crops.cutout
            crop[:, max(top, 0) : max(bottom, 0), max(left, 0) : max(end, 0)] = BLANK.numpy()
        results.append(crop)
    return np.stack(results)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 20),
    flip=st.booleans(),
    padding=st.integers(0, MOST),
    cutout=st.integers(0, 31),
)
def test_a_batch_equals_its_images_one_by_one(seed: int, count: int, flip: bool, padding: int, cutout: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8, generator=generator)
    chosen = torch.randint(0, len(images), (count,), generator=generator)
    crops = draw_crops(count, flip, generator, padding, cutout)
    batch = augmented(images, chosen, crops, BLANK)
    assert batch.dtype == torch.uint8
    np.testing.assert_array_equal(batch.numpy(), one_by_one(images.numpy(), chosen.numpy(), crops))


@pytest.mark.parametrize(("size", "most"), [(32, 4), (64, 8), (96, 12), (224, 28)])
def test_pixels_are_in_proportion_to_the_size(size: int, most: int) -> None:
    crops = draw_crops(500, True, torch.Generator().manual_seed(0), padding=4, cutout=2, size=size)
    assert crops.down.min() == crops.right.min() == -most
    assert crops.down.max() == crops.right.max() == most
    assert crops.cutout == most // 2


def test_an_image_that_is_not_shifted_is_itself() -> None:
    images = torch.arange(3 * 32 * 32).remainder(251).to(torch.uint8).reshape(1, 3, 32, 32)
    still = Crops(torch.tensor([0]), torch.tensor([0]), torch.tensor([False]))
    assert torch.equal(augmented(images, torch.tensor([0]), still, BLANK), images)


def test_every_offset_is_drawn_equally_often_and_half_are_flipped() -> None:
    crops = draw_crops(90_000, True, torch.Generator().manual_seed(0))
    for offsets in (crops.down, crops.right):
        shares = torch.bincount(offsets + 4, minlength=9) / len(offsets)
        assert len(shares) == 9
        torch.testing.assert_close(shares, torch.full((9,), 1 / 9), atol=0.005, rtol=0)
    assert crops.flip.float().mean().item() == pytest.approx(0.5, abs=0.01)


def test_flips_can_be_switched_off_without_moving_the_crops() -> None:
    with_flips = draw_crops(100, True, torch.Generator().manual_seed(3))
    without = draw_crops(100, False, torch.Generator().manual_seed(3))
    assert not without.flip.any()
    assert torch.equal(with_flips.down, without.down)
    assert torch.equal(with_flips.right, without.right)


def test_a_square_is_blanked_without_moving_the_crops() -> None:
    with_square = draw_crops(100, True, torch.Generator().manual_seed(3), cutout=8)
    without = draw_crops(100, True, torch.Generator().manual_seed(3))
    assert torch.equal(with_square.down, without.down)
    assert torch.equal(with_square.flip, without.flip)


def test_normalised_images_have_mean_zero_and_deviation_one() -> None:
    images = torch.randint(0, 256, (50, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    floats = images.double()
    mean, std = floats.mean((0, 2, 3)).numpy(), floats.std((0, 2, 3), correction=0).numpy()
    result = Normalise(mean, std, torch.device("cpu"))(images)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(result.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_on_the_cpu_the_device_shares_the_arrays_even_read_only_ones() -> None:
    array = np.zeros((4, 3, 32, 32), dtype=np.uint8)
    array.setflags(write=False)
    labels = np.zeros(4, dtype=np.int64)
    moved = to_device(ImageSet(array, labels), torch.device("cpu"))
    assert moved.images.data_ptr() == array.ctypes.data
    assert len(moved) == 4
