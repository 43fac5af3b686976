"""How fast a GPU trains the full-size reference: beside its fastest matrix product, alone and several trials at a time.

    python -m experiments.benchmarks.speed.gpu --out experiments/results/gpu

Needs an NVIDIA GPU. 50,000 training and 10,000 held-out images, digits repeated; whole epochs, evaluation included.
`Benchmark` describes the files.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from dataclasses import replace
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier

import torch

from experiments.benchmarks.speed.goals import Benchmark, Goal, alone, options, paired
from experiments.benchmarks.speed.measures import digits, flops_per_image, matmul_flops, synchronise
from tune_resnet.config.sections import TrainSpec
from tune_resnet.training.loop import TrainingRun

TRAIN_IMAGES, HELD_OUT_IMAGES = 50_000, 10_000
PAIRS = 5
CONCURRENT = (1, 2, 4)  # trials on one GPU
EPOCHS_TOGETHER = 4  # that each of them trains
FORWARD_SHARE = 1 / 3  # of a training image's work: what an evaluated image costs
SPEC = TrainSpec(epochs=1000)


def main() -> None:
    arguments = options(__doc__).parse_args()
    if not torch.cuda.is_available():
        sys.exit("error: PyTorch sees no CUDA GPU here")
    with Benchmark("gpu", arguments.out) as benchmark:
        alone_on_it(benchmark)
        between_configurations(benchmark)
        together(benchmark)


def alone_on_it(benchmark: Benchmark) -> None:
    """Whole epochs beside matrix products; the eight epochs of the reference."""
    device = torch.device("cuda")
    run = TrainingRun(SPEC, digits(TRAIN_IMAGES, HELD_OUT_IMAGES), device)
    work = flops_per_image(64) * (TRAIN_IMAGES + FORWARD_SHARE * HELD_OUT_IMAGES)
    run.run_epoch()  # warms up, and records the step
    pairs, seconds = [], []
    for pair in range(PAIRS):
        peak = matmul_flops(device) / 1e12
        epochs = [run.run_epoch().seconds for _ in range(8)]
        ours = 8 * work / sum(epochs) / 1e12
        benchmark.sample("8 epochs", pair=pair, matmul_tflops=peak, ours_tflops=ours, seconds=sum(epochs))
        pairs.append((peak, ours))
        seconds.append(sum(epochs))
    goal = Goal(at_least=0.45)
    benchmark.row(paired("epoch with evaluation, width 64", pairs, peer="bf16 matmul", unit="TFLOP/s", goal=goal))
    benchmark.row(alone("8 epochs of the reference", seconds, unit="s", goal=Goal(at_most=4)))


def between_configurations(benchmark: Benchmark) -> None:
    """From one configuration to the next in one process: the reset, and the first batch on its way."""
    device = torch.device("cuda")
    run = TrainingRun(SPEC, digits(2_000, 400), device)
    run.run_epoch()
    assert run.recording is not None
    graph = run.recording.graph
    values = []
    for seed in range(PAIRS):
        synchronise(device)
        started = time.perf_counter()
        run.reset(replace(SPEC, max_lr=0.001 * (seed + 1), weight_decay=1e-3, grad_clip=1.0, seed=seed))
        synchronise(device)
        values.append(time.perf_counter() - started)
        run.run_epoch()
        benchmark.sample("reset", seed=seed, seconds=values[-1], recorded_again=run.recording.graph is not graph)
    benchmark.row(alone("reset to another configuration", values, unit="s", goal=Goal(at_most=0.15)))


def together(benchmark: Benchmark) -> None:
    """Images per second over all of 1, 2 and 4 trials that share the GPU, as processes."""
    rates: dict[int, list[float]] = {count: [] for count in CONCURRENT}
    for pair in range(PAIRS):
        for count in CONCURRENT:
            rates[count].append(_rate_of(count))
            benchmark.sample(f"{count} at a time", pair=pair, images_per_second=rates[count][-1])
    for count in CONCURRENT[1:]:
        pairs = list(zip(rates[1], rates[count], strict=True))
        name = f"{count} trials at a time, all of their images"
        benchmark.row(paired(name, pairs, peer="one trial", unit="images/s", goal=Goal(at_least=1)))


def _rate_of(count: int) -> float:
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(count)
    spans: SimpleQueue[tuple[float, float]] = context.SimpleQueue()
    trials = [context.Process(target=_train, args=(ready, spans)) for _ in range(count)]
    for trial in trials:
        trial.start()
    times = [spans.get() for _ in trials]
    for trial in trials:
        trial.join()
    seconds = max(end for _, end in times) - min(start for start, _ in times)
    return count * EPOCHS_TOGETHER * TRAIN_IMAGES / seconds


def _train(ready: Barrier, spans: SimpleQueue[tuple[float, float]]) -> None:
    """A trial; puts when it began and ended, once all have warmed up."""
    run = TrainingRun(SPEC, digits(TRAIN_IMAGES, HELD_OUT_IMAGES), "cuda")
    run.run_epoch()
    ready.wait()
    started = time.time()
    for _ in range(EPOCHS_TOGETHER):
        run.run_epoch()
    spans.put((started, time.time()))


if __name__ == "__main__":
    main()
