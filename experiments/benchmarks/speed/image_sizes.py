"""How fast a CPU trains on larger images: beside its fastest matrix product, a DataLoader, and images kept in a file.

    python -m experiments.benchmarks.speed.image_sizes --out experiments/results/benchmarks

Digits, ResNet9 of width 64, all cores. Every batch has the pixels of 400 images of 32. `Benchmark` describes the files.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from experiments.benchmarks.speed.goals import Benchmark, Goal, options, paired
from experiments.benchmarks.speed.measures import digits, flops_per_image, matmul_flops
from experiments.benchmarks.speed.training import rate_of_the_peer
from tune_resnet.config.sections import ModelSpec, TrainSpec
from tune_resnet.data.types import ImageSet, MappedImages, Split, with_pixels_of
from tune_resnet.training.loop import TrainingRun

SIZES = (32, 64, 128)  # pixels
WIDTH = 64
PAIRS = 3
BATCHES = 2  # for one measurement of ours
CPU = torch.device("cpu")


def speeds(benchmark: Benchmark, size: int, folder: Path) -> None:
    """Operations per second beside a matrix product; images per second beside the peer's, and from a file beside those
    from memory."""
    batch = with_pixels_of(TrainSpec().batch_size, size)
    data = digits(BATCHES * batch, batch, size)
    spec = TrainSpec(epochs=1000, batch_size=batch)
    in_memory, in_file = (TrainingRun(spec, each, CPU, ModelSpec(width=WIDTH)) for each in (data, filed(data, folder)))
    for run in (in_memory, in_file):
        run.run_epoch()  # warms up
    work = flops_per_image(WIDTH, size=size)
    peaks, peers, sources = [], [], []
    for pair in range(PAIRS):
        peak = matmul_flops(CPU)
        ours, filed_rate = (rate(run, pair + 2) for run in (in_memory, in_file))
        theirs = rate_of_the_peer(WIDTH, size)
        values = {"matmul_gflops": peak / 1e9, "ours": ours, "from_file": filed_rate, "tutorial": theirs}
        benchmark.sample(f"{size} pixels", pair=pair, **values)
        peaks.append((peak / 1e9, ours * work / 1e9))
        peers.append((theirs, ours))
        sources.append((ours, filed_rate))
    what, precision = f"training, {size} pixels", in_memory.precision
    goal = Goal(at_least=0.90)
    benchmark.row(paired(what, peaks, peer="bf16 matmul", unit=f"GFLOP/s in {precision}", goal=goal))
    benchmark.row(paired(what, peers, peer="tutorial loop", unit="images/s", goal=Goal(at_least=2.2)))
    benchmark.row(
        paired(f"{what}, from a file", sources, peer="from memory", unit="images/s", goal=Goal(at_least=0.95))
    )


def rate(run: TrainingRun, epoch: int) -> float:
    """Training images per second of an epoch."""
    started = time.perf_counter()
    run._train(epoch)
    return len(run.train_images) / (time.perf_counter() - started)


def filed(data: Split, folder: Path) -> Split:
    """The split with its training images in a file."""
    path = folder / f"{data.train.size}.npy"
    np.save(path, data.train.images)
    return replace(data, train=ImageSet(MappedImages(path, np.arange(len(data.train))), data.train.labels))


def main() -> None:
    arguments = options(__doc__).parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    with Benchmark("image_sizes", arguments.out) as benchmark, tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            speeds(benchmark, size, Path(folder))


if __name__ == "__main__":
    main()
