"""How fast a CPU trains, beside its fastest matrix product and beside the tutorial's loop; and at what accuracy.

    python -m experiments.benchmarks.speed.training --out experiments/results/benchmarks

Digits repeated to a few thousand images. `Benchmark` describes the files.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from experiments.benchmarks.speed.goals import Benchmark, Goal, alone, no_difference, options, paired
from experiments.benchmarks.speed.measures import digits, flops_per_image, matmul_flops
from experiments.benchmarks.speed.tutorial import TutorialRun
from tune_resnet.config.sections import ModelSpec, TrainSpec
from tune_resnet.config.toml import load_spec
from tune_resnet.data.types import SIZE, Split, with_pixels_of
from tune_resnet.training.augmentation import augmented, draw_crops
from tune_resnet.training.loop import TrainingRun

PAIRS = 5
SEEDS = 5  # of the trainings whose accuracies are compared
IMAGES = {64: 1200, 16: 4000}  # for one measurement of ours, by width
TUTORIAL_IMAGES = {64: 800, 16: 4000}  # its loop is slower
SPEED_UP = {64: 2.2, 16: 3.0}  # goals
CPU = torch.device("cpu")
DIGITS = Path(__file__).with_name("digits.toml")


def speeds(benchmark: Benchmark, width: int, threads: int, *, peer: bool) -> None:
    """Operations per second of ours beside a matrix product; with `peer`, images per second beside the tutorial's."""
    torch.set_num_threads(threads)
    cores = f"width {width}, {threads} thread{'s' * (threads > 1)}"
    run = TrainingRun(TrainSpec(epochs=1000), digits(IMAGES[width], 400), CPU, ModelSpec(width=width))
    run.run_epoch()  # warms up
    work = flops_per_image(width)
    peaks, rates, shares = [], [], []
    for pair in range(PAIRS):
        peak = matmul_flops(CPU)
        started = time.perf_counter()
        run._train(pair + 2)
        ours = IMAGES[width] / (time.perf_counter() - started)
        preparing = preparation_seconds(run)
        theirs = rate_of_the_peer(width) if peer else math.nan
        benchmark.sample(cores, pair=pair, matmul_gflops=peak / 1e9, ours=ours, tutorial=theirs, preparing=preparing)
        peaks.append((peak / 1e9, ours * work / 1e9))
        rates.append((theirs, ours))
        shares.append(preparing * ours / IMAGES[width])
    if width == 64 and run.precision == "bf16":
        goal = Goal(at_least=0.90)
        benchmark.row(paired(f"training, {cores}", peaks, peer="bf16 matmul", unit="GFLOP/s", goal=goal))
    if peer:
        goal = Goal(at_least=SPEED_UP[width])
        benchmark.row(paired(f"training, {cores}", rates, peer="tutorial loop", unit="images/s", goal=goal))
        name = f"preparing images, {cores}, share of training"
        benchmark.row(alone(name, shares, unit="", goal=Goal(at_most=0.05)))


def rate_of_the_peer(width: int, size: int = SIZE) -> float:
    """`tutorial_rate` in a process of its own.

    The tutorial's workers are forks, and a process that was forked copies every page that it writes to. It is a plain
    process: in one of a pool that spawns, each start of its loader's workers takes five seconds more.
    """
    command = [sys.executable, "-m", __spec__.name, "--out", os.devnull, "--peer", str(width), str(size)]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def tutorial_rate(width: int, size: int) -> float:
    """Images per second of an epoch of the tutorial's loop, after a step that warms it up. A batch has the pixels of
    400 images of 32, the epoch of `TUTORIAL_IMAGES`."""
    step, images = (with_pixels_of(count, size) for count in (TrainSpec().batch_size, TUTORIAL_IMAGES[width]))
    spec = TrainSpec(epochs=1, batch_size=step)
    TutorialRun(spec, digits(step, step, size), width, flip=True).train_epoch()
    run = TutorialRun(spec, digits(images, step, size), width, flip=True)
    started = time.perf_counter()
    run.train_epoch()
    return images / (time.perf_counter() - started)


def preparation_seconds(run: TrainingRun) -> float:
    """All that an epoch does to images before the network sees them: order, crops, flips, normalisation."""
    started = time.perf_counter()
    generator = torch.Generator(CPU).manual_seed(0)
    count, size = len(run.train_images), run.spec.batch_size
    order = torch.randperm(count, generator=generator)
    crops = draw_crops(count, True, generator)
    for start in range(0, count, size):
        rows = slice(start, start + size)
        run.normalise(augmented(run.train_images.images, order[rows], crops[rows], run.blank))
    return time.perf_counter() - started


def accuracies(benchmark: Benchmark) -> None:
    """Whole trainings on the digits, the same seeds: bf16, fp32, the tutorial's loop."""
    spec_of_digits = load_spec(DIGITS)
    data, model = digits(), spec_of_digits.model
    bf16, fp32, tutorial = [], [], []
    for seed in range(SEEDS):
        spec = replace(spec_of_digits.train, seed=seed)
        bf16.append(trained(replace(spec, precision="bf16"), data, model))
        fp32.append(trained(replace(spec, precision="fp32"), data, model))
        tutorial.append(tutored(spec, data, model))
        for name, (losses, accuracy) in {"bf16": bf16[-1], "fp32": fp32[-1], "tutorial": tutorial[-1]}.items():
            shown = " ".join(f"{loss:.4f}" for loss in losses)
            benchmark.sample(f"digits {name}", seed=seed, accuracy=accuracy, losses=shown)
    points = [100 * (ours[1] - theirs[1]) for ours, theirs in zip(bf16, fp32, strict=True)]
    benchmark.row(no_difference("final accuracy, bf16 minus fp32, mean and 95% interval", points, unit="points"))
    losses = [float(np.mean(ours[0]) - np.mean(theirs[0])) for ours, theirs in zip(bf16, tutorial, strict=True)]
    name = "training loss over all epochs, ours minus the tutorial's, mean and 95% interval"
    benchmark.row(no_difference(name, losses, unit=""))


def trained(spec: TrainSpec, data: Split, model: ModelSpec) -> tuple[list[float], float]:
    """Training loss by epoch, and the final accuracy."""
    run = TrainingRun(spec, data, CPU, model, flip=False)
    metrics = [run.run_epoch() for _ in range(spec.epochs)]
    return [epoch.train_loss for epoch in metrics], metrics[-1].accuracy


def tutored(spec: TrainSpec, data: Split, model: ModelSpec) -> tuple[list[float], float]:
    """The same of the tutorial's loop."""
    run = TutorialRun(spec, data, model.width, flip=False)
    return [run.train_epoch() for _ in range(spec.epochs)], run.accuracy()


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--peer", type=int, nargs=2, metavar=("WIDTH", "SIZE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        print(tutorial_rate(*arguments.peer))
        return
    with Benchmark("training", arguments.out) as benchmark:
        speeds(benchmark, 64, threads=1, peer=False)  # as a trial of a search trains by default
        for width in IMAGES:
            speeds(benchmark, width, threads=os.cpu_count() or 1, peer=True)
        accuracies(benchmark)


if __name__ == "__main__":
    main()
