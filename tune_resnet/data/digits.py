"""scikit-learn's handwritten digits: a data set that needs no download."""

from __future__ import annotations

from importlib.metadata import distribution

import numpy as np

from tune_resnet.data.split import stratified
from tune_resnet.data.types import SIZE, Dataset, ImageSet, content_fingerprint, shapes_line

DIGITS_TEST_FRACTION = 0.2


def load_digits(size: int = SIZE) -> Dataset:
    """scikit-learn's 1,797 handwritten digits, enlarged from 8x8; a fixed stratified fifth of them is the test set."""
    from PIL import Image

    # Without importing it, which takes a second. Each line of the table has 64 values of 0..16 and the digit.
    path = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    table = np.loadtxt(str(path), delimiter=",")
    grey = np.rint(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    large = [np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)) for image in grey]
    images = np.repeat(np.stack(large)[:, np.newaxis], 3, axis=1)
    everything = ImageSet(images, table[:, -1].astype(np.int64))
    held_out = stratified(everything.labels, round(DIGITS_TEST_FRACTION * len(images)), seed=0, left=1)
    classes = tuple(str(digit) for digit in range(10))
    train, test = everything.subset(~held_out), everything.subset(held_out)
    shapes = shapes_line(np.full((len(images), 2), grey.shape[-1]), size)
    return Dataset("digits", train, test, classes, content_fingerprint(train, test, classes), shapes=shapes)
