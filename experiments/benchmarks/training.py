"""How fast a CPU trains, beside its fastest matrix product and beside the tutorial's loop; and at what accuracy.

    python experiments/benchmarks/training.py --out experiments/results/benchmarks

One process, all cores, digits repeated to a few thousand images. `Benchmark` describes the files.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from goals import Benchmark, Goal, alone, options, paired
from measures import digits, flops_per_image, matmul_flops
from tutorial import TutorialRun

from tune_resnet.augment import crop_and_flip, draw_crops
from tune_resnet.data import Split
from tune_resnet.paired import analyse_pairs
from tune_resnet.spec import ModelSpec, TrainSpec, load_spec
from tune_resnet.train import TrainingRun

PAIRS = 5
SEEDS = 5  # of the trainings whose accuracies are compared
IMAGES = {64: 2400, 16: 8000}  # for one measurement of ours, by width
TUTORIAL_IMAGES = {64: 800, 16: 4000}  # its loop is slower
SPEED_UP = {64: 2.2, 16: 3.0}  # goals
CPU = torch.device("cpu")
QUICKSTART = Path(__file__).parent.parent / "quickstart.toml"


def speeds(benchmark: Benchmark, width: int) -> None:
    """Images per second of ours and of the tutorial's loop; operations per second beside a matrix product."""
    spec = TrainSpec(epochs=1000, seed=0)
    run = TrainingRun(spec, digits(IMAGES[width], 400), CPU, ModelSpec(width=width))
    peer = TutorialRun(spec, digits(TUTORIAL_IMAGES[width], 400), width, flip=True)
    run.run_epoch()  # warms up
    work = flops_per_image(width)
    peaks, rates, shares = [], [], []
    for pair in range(PAIRS):
        peak = matmul_flops(CPU)
        started = time.perf_counter()
        run._train(pair + 2)
        ours = IMAGES[width] / (time.perf_counter() - started)
        preparing = preparation_seconds(run)
        started = time.perf_counter()
        peer.train_epoch()
        theirs = TUTORIAL_IMAGES[width] / (time.perf_counter() - started)
        benchmark.sample(
            f"width {width}", pair=pair, matmul_gflops=peak / 1e9, ours=ours, tutorial=theirs, preparing=preparing
        )
        peaks.append((peak / 1e9, ours * work / 1e9))
        rates.append((theirs, ours))
        shares.append(preparing * ours / IMAGES[width])
    if width == 64 and run.precision == "bf16":
        goal = Goal(at_least=0.90)
        benchmark.row(paired("training, width 64", peaks, peer="bf16 matmul", unit="GFLOP/s", goal=goal))
    goal = Goal(at_least=SPEED_UP[width])
    benchmark.row(paired(f"training, width {width}", rates, peer="tutorial loop", unit="images/s", goal=goal))
    name = f"preparing images, width {width}, share of training"
    benchmark.row(alone(name, shares, unit="", goal=Goal(at_most=0.05)))


def preparation_seconds(run: TrainingRun) -> float:
    """All that an epoch does to images before the network sees them: order, crops, flips, normalisation."""
    started = time.perf_counter()
    generator = torch.Generator(CPU).manual_seed(0)
    count, size = len(run.train_images), run.spec.batch_size
    order = torch.randperm(count, generator=generator)
    crops = draw_crops(count, True, generator)
    for start in range(0, count, size):
        rows = slice(start, start + size)
        run.normalise(crop_and_flip(run.train_images.images, order[rows], crops[rows]))
    return time.perf_counter() - started


def accuracies(benchmark: Benchmark) -> None:
    """Whole quickstart trainings, the same seeds: bf16, fp32, the tutorial's loop."""
    quickstart = load_spec(QUICKSTART)
    data, model = digits(), quickstart.model
    bf16, fp32, tutorial = [], [], []
    for seed in range(SEEDS):
        spec = replace(quickstart.train, seed=seed)
        bf16.append(trained(replace(spec, precision="bf16"), data, model))
        fp32.append(trained(replace(spec, precision="fp32"), data, model))
        tutorial.append(tutored(spec, data, model))
        for name, (losses, accuracy) in {"bf16": bf16[-1], "fp32": fp32[-1], "tutorial": tutorial[-1]}.items():
            shown = " ".join(f"{loss:.4f}" for loss in losses)
            benchmark.sample(f"quickstart {name}", seed=seed, accuracy=accuracy, losses=shown)
    difference = analyse_pairs([100 * (ours[1] - theirs[1]) for ours, theirs in zip(bf16, fp32, strict=True)])
    benchmark.sample("bf16 minus fp32, points", mean=difference.mean, low=difference.low, high=difference.high)
    name = "bf16 minus fp32, final accuracy, upper end of the 95% interval over 5 seeds"
    benchmark.row(alone(name, [difference.high or difference.mean], unit="points", goal=Goal(at_least=0)))
    ours, theirs = (np.mean([losses for losses, _ in runs], axis=0) for runs in (bf16, tutorial))
    name = "training loss against the tutorial's, mean of 5 seeds, largest difference of an epoch"
    benchmark.row(alone(name, [float(np.max(np.abs(ours / theirs - 1)))], unit="", goal=Goal(at_most=0.05)))


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
    arguments = options(__doc__).parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    with Benchmark("training", arguments.out) as benchmark:
        for width in IMAGES:
            speeds(benchmark, width)
        accuracies(benchmark)


if __name__ == "__main__":
    main()
