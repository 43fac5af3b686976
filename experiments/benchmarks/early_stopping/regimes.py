"""Records learning curves in several regimes: other data, widths, lengths and shapes of the schedule, a wider space.

    python -m experiments.benchmarks.early_stopping.regimes --data-dir DIR --out experiments/results/regimes

trains the Sobol design of `curves.py` over the space of each file in regimes/, one file after the other (or those that
--regimes names), into OUT/NAME/curves.parquet. DIR holds the folders that the files name (`cifar10-jpeg`, `gtsrb`,
`sign`). The same command continues where it was stopped, in whatever way. What the columns mean: README.md in
experiments/results/regimes.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments.benchmarks.early_stopping.curves import Run, planned, record_all
from tune_resnet.config.default_space import NARROW_SPACE
from tune_resnet.config.sections import DataSpec
from tune_resnet.config.spec import SearchSpec
from tune_resnet.config.toml import load_spec
from tune_resnet.data.load import load_dataset
from tune_resnet.data.split import search_split
from tune_resnet.data.types import ImageSet, Split
from tune_resnet.errors import UserError
from tune_resnet.training.images import to_device
from tune_resnet.training.loop import TrainingRun

REGIMES = Path(__file__).parent / "regimes"
ORDER = (
    "gtsrb",
    "sign-300",
    "cifar10-2000",
    "cifar10-width8",
    "cifar10-width8-cosine",
    "cifar10-width16",
    "wide",
    "wide-gtsrb",
    "wide-sign-300",
)
CONFIGURATIONS = 48
OF_A_WIDE_SPACE = 96  # configurations, and no shorter cycles
UNUSED = 10_000  # images at most, which neither train nor choose: what the last epoch's weights are really worth


def free_rows(spec: SearchSpec) -> Iterator[dict[str, float]]:
    """The signals that cost a search nothing, and at the end the accuracy on images that it does not use."""
    split, unused = used_and_unused(spec.data)
    run = TrainingRun(spec.train, split, model=spec.model, flip=spec.data.flip)
    for epoch in range(1, spec.train.epochs + 1):
        row = run.run_epoch().columns("val")
        if epoch == spec.train.epochs and unused is not None:
            run.held_out = to_device(unused, run.device)
            row["unused_loss"], row["unused_accuracy"], *_ = run._evaluate().tolist()
        yield row


@functools.cache
def used_and_unused(spec: DataSpec) -> tuple[Split, ImageSet | None]:
    """What a search sees, and some of the training images that its `limit_train` leaves out (None: all are used)."""
    dataset = load_dataset(spec)
    split = search_split(dataset, spec)
    if spec.limit_train is None:
        return split, None
    # A larger subset includes a smaller one: what is in it, and not in the smaller, is unused.
    larger = replace(spec, limit_train=min(spec.limit_train + UNUSED, len(dataset.train)), validation_fraction=0.5)
    used = {image.tobytes() for part in (split.train, split.held_out) for image in part.images}
    halves = search_split(dataset, larger)
    both = (halves.train, halves.held_out)
    kept = [[n for n, image in enumerate(part.images) if image.tobytes() not in used] for part in both]
    images, labels = (
        np.concatenate([getattr(part, name)[rows] for part, rows in zip(both, kept, strict=True)])
        for name in ("images", "labels")
    )
    return split, ImageSet(images, labels)


def plan_of(spec: SearchSpec) -> tuple[list[Run], int]:
    """The runs of a regime, and how many configurations they are of."""
    epochs = spec.train.epochs
    if spec.space != NARROW_SPACE:
        return planned(OF_A_WIDE_SPACE, epochs, cycles=()), OF_A_WIDE_SPACE
    cycles = (epochs // 8, epochs // 4)
    return planned(CONFIGURATIONS, epochs, cycles=cycles, compressed=CONFIGURATIONS), CONFIGURATIONS


def main() -> None:
    options = _options()
    try:
        for name in options.regimes:
            spec = load_spec(REGIMES / f"{name}.toml")
            spec = replace(spec, data=replace(spec.data, data_dir=f"{options.data_dir}/{spec.data.data_dir}"))
            print(f"{name}: ", end="")
            plan, configurations = plan_of(spec)
            record_all(spec, plan, configurations, options.workers, options.out / name, free_rows)
    except UserError as error:
        sys.exit(f"error: {error}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="folder that holds the data sets' folders")
    parser.add_argument("--out", type=Path, required=True, help="folder for one folder a regime")
    parser.add_argument(
        "--regimes", nargs="+", choices=ORDER, default=ORDER, metavar="NAME", help="of files: only these"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    return parser.parse_args()


if __name__ == "__main__":
    main()
