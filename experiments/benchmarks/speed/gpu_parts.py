"""The parts of `gpu_check`, one a process: each writes its figures to its JSON as they come.

python -m experiments.benchmarks.speed.gpu_parts epochs --out DIR
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.benchmarks.speed.between_trials import gaps
from experiments.benchmarks.speed.goals import options
from experiments.benchmarks.speed.gpu_check import AT_FULL_SIZE
from experiments.benchmarks.speed.measures import digits, flops_per_image, matmul_flops, synchronise
from tune_resnet._files import write_whole
from tune_resnet.config.sections import ModelSpec, TrainSpec
from tune_resnet.runs.load import load_frames
from tune_resnet.training.cuda_graph import RECORDED
from tune_resnet.training.device import device_name, ran_out_of_memory
from tune_resnet.training.loop import TrainingRun

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
TRAIN, HELD_OUT, MODEL = (50_000, 10_000, ModelSpec()) if ON_GPU else (200, 50, ModelSpec(width=4))
SPEC = TrainSpec(epochs=1000, batch_size=400 if ON_GPU else 25)
FULL_SIZE = 50_000  # training images, of CIFAR-10
BUDGET = 30  # seconds of the search that has one
# A whole search or reference, or a small one.
SIZE = [] if ON_GPU else ["--limit-train", "300", "--width", "4", "--epochs", "2", "--batch-size", "25"]
SAMPLES = ["--num-samples", "32" if ON_GPU else "2"]
UNKNOWN = "not on record"  # as on a CPU
FOREVER = "10000" if ON_GPU else "1000"  # samples that no budget reaches


class Notes:
    """Figures by what they are, in a file that has all so far."""

    def __init__(self, path: Path) -> None:
        self.path, self.figures = path, dict[str, Any]()

    def __call__(self, what: str, value: float | str) -> None:
        self.figures[what] = value
        print(f"{what}: {value}", flush=True)
        write_whole(self.path, json.dumps(self.figures, indent=2) + "\n")


def product(note: Notes, data: list[str]) -> None:
    note("device", device_name(DEVICE))
    note("torch", torch.__version__)
    note("bf16 product, TFLOP/s", matmul_flops(DEVICE) / 1e12)


def equality(note: Notes, data: list[str]) -> None:
    """One epoch at a rate so small that sums in another order do not spread, recorded and direct."""
    spec = replace(SPEC, max_lr=1e-6, seed=1)
    recorded, direct = (_training(spec, TRAIN // 10) for _ in range(2))
    direct.recording = None
    ours, theirs = recorded.run_epoch(), direct.run_epoch()
    apart = max(abs(ours.train_loss / theirs.train_loss - 1), abs(ours.loss / theirs.loss - 1))
    note("losses apart, relative", apart)
    note("recorded equals direct", float(apart < 1e-3))


def epochs(note: Notes, data: list[str]) -> None:
    """Whole epochs beside the product; steps recorded and not."""
    run = _training(SPEC)
    run.run_epoch()  # warms up, and records the step
    note("step recorded as a CUDA graph", float(run.steps == RECORDED))
    seconds = [run.run_epoch().seconds for _ in range(8)]
    note("8 epochs of the reference", sum(seconds))
    work = flops_per_image(MODEL.width) * (TRAIN + HELD_OUT / 3)  # forward only: a third
    share = 8 * work / sum(seconds) / matmul_flops(DEVICE)
    note("epoch with evaluation, share of the 8192-cubed bf16 product", share)
    if ON_GPU:
        note("memory reserved, GiB", torch.cuda.max_memory_reserved() / 2**30)
    recorded = _training_seconds(run)
    run.recording = None
    run.run_epoch()
    note("gain of the graph, direct over recorded", _training_seconds(run) / recorded)


def baseline(note: Notes, data: list[str]) -> None:
    frames, seconds = _command(["--baseline", *data, *SIZE])
    last = frames.epochs.iloc[-1]
    judged = "test" if last.get("test_accuracy", float("nan")) > 0 else "val"
    accuracy, train_images = float(last[f"{judged}_accuracy"]), frames.env["train_images"]
    note("accuracy of the reference, of 1", accuracy)
    note("images", f"{frames.env['dataset']}, {train_images:,} to train on")
    if train_images == FULL_SIZE:
        note(AT_FULL_SIZE, accuracy)
    note("judged by", "test images" if judged == "test" else "validation images")
    note("steps", frames.env.get("steps", UNKNOWN))
    note("seconds of training", float(frames.epochs["seconds"].sum()))
    note("wall time, s", seconds)


def search(note: Notes, data: list[str]) -> None:
    frames, seconds = _search(data, 1)
    note("search of 32 samples", seconds)
    note("steps", frames.env.get("steps", UNKNOWN))
    if between := gaps(frames):
        note("gap between trials, median", statistics.median(between))


def half(note: Notes, data: list[str]) -> None:
    note("search of 32 samples, half a GPU each", _search(data, 0.5)[1])


def quarter(note: Notes, data: list[str]) -> None:
    note("search of 32 samples, a quarter each", _search(data, 0.25)[1])


def budget(note: Notes, data: list[str]) -> None:
    _, seconds = _command([*data, *SIZE, "--num-samples", FOREVER, "--time-budget", f"{BUDGET}s"])
    note("search with a time budget, over the budget", seconds - BUDGET)


def fp16(note: Notes, data: list[str]) -> None:
    run = _training(replace(SPEC, precision="fp16"), TRAIN // 10)
    losses = [run.run_epoch().train_loss for _ in range(3)]
    note("losses", " ".join(f"{loss:.4f}" for loss in losses))
    note("fp16 trains", float(losses[-1] < losses[0]))
    note("fp16 step recorded as a CUDA graph", float(run.steps == RECORDED))


class Waits(nn.Module):
    """A network that waits for the GPU, which no CUDA graph can record."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.dropout, self.last = nn.Dropout(0.2), nn.Linear(3 * 32 * 32, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        if images.sum().item() == float("inf"):
            raise ValueError("infinite images")
        logits: Tensor = self.last(self.dropout(images.flatten(1)))
        return logits


def unrecordable(note: Notes, data: list[str]) -> None:
    factory = ModelSpec(factory="experiments.benchmarks.speed.gpu_parts:Waits")
    run = TrainingRun(SPEC, digits(TRAIN // 10, HELD_OUT // 10), DEVICE, factory)
    losses = [run.run_epoch().train_loss for _ in range(3)]
    note("steps", run.steps or UNKNOWN)
    note("a step that waits is trained directly", float(run.steps != RECORDED and losses[-1] < losses[0]))


def out_of_memory(note: Notes, data: list[str]) -> None:
    """Batches that are too large for a tenth of the memory, then some that are not."""
    if ON_GPU:
        torch.cuda.set_per_process_memory_fraction(0.1)
        try:
            TrainingRun(replace(SPEC, batch_size=14_000), digits(TRAIN, HELD_OUT), DEVICE, MODEL).run_epoch()
            note("ran out of memory", "no")
        except RuntimeError as error:
            note("ran out of memory", str(error).partition(".")[0] if ran_out_of_memory(error) else f"no: {error}")
    run = _training(SPEC, TRAIN // 10)
    losses = [run.run_epoch().train_loss for _ in range(3)]
    note("training goes on after running out of memory", float(losses[-1] < losses[0]))


def _training(spec: TrainSpec, images: int = TRAIN) -> TrainingRun:
    return TrainingRun(spec, digits(images, HELD_OUT), DEVICE, MODEL)


def _training_seconds(run: TrainingRun) -> float:
    """Seconds of an epoch, the faster of two, without evaluation."""
    run.judge_each = False
    found = []
    for _ in range(2):
        synchronise(DEVICE)
        started = time.perf_counter()
        run.run_epoch()
        found.append(time.perf_counter() - started)
    return min(found)


def _search(data: list[str], share: float) -> tuple[Any, float]:
    return _command([*data, *SIZE, *SAMPLES, *(["--gpus-per-trial", f"{share:g}"] if ON_GPU else [])])


def _command(options: list[str]) -> tuple[Any, float]:
    """A whole command: its run and the seconds of wall time."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        command = [sys.executable, "-m", "tune_resnet.search", *options, "--device", DEVICE.type]
        subprocess.run([*command, "--runs-dir", folder, "--name", "run"], check=True)
        return load_frames(Path(folder) / "run"), time.perf_counter() - started


PARTS: dict[str, Callable[[Notes, list[str]], None]] = {
    part.__name__: part
    for part in (
        product, equality, epochs, baseline, search, budget, fp16, unrecordable, out_of_memory, half, quarter,
    )
}  # fmt: skip


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--data-dir", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder = ["--dataset", "folder", "--data-dir", str(arguments.data_dir)]
    data = folder if arguments.data_dir else ["--dataset", "digits"]
    PARTS[arguments.part](Notes(arguments.out / f"{arguments.part}.json"), data)


if __name__ == "__main__":
    main()
