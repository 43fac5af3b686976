"""What a checkpoint of the full-size reference costs the training, beside the tutorial's `torch.save`.

    python -m experiments.benchmarks.speed.checkpoints --out experiments/results/benchmarks

The cost is worst where epochs take a little more than half of what a crash may lose: each of them is then saved. All
cores train meanwhile, so the writing thread's time counts as lost too. `Benchmark` describes the files.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks.speed.goals import Benchmark, Goal, alone, options, paired
from experiments.benchmarks.speed.measures import digits
from tune_resnet.config.sections import TrainSpec
from tune_resnet.training.checkpoint import MAX_LOST_SECONDS, Checkpoint
from tune_resnet.training.loop import TrainingRun

PAIRS = 7


class Timed(Checkpoint):
    """Knows what its last write cost: seconds of processor time."""

    def _write(self, state: dict[str, Any]) -> None:
        super()._write(state)
        self.writing = time.thread_time()


def main() -> None:
    arguments = options(__doc__).parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    run = TrainingRun(TrainSpec(epochs=1000), digits(400, 100))
    run.run_epoch()
    pairs, shares = [], []
    with Benchmark("checkpoints", arguments.out) as benchmark, tempfile.TemporaryDirectory() as folder:
        checkpoint = Timed(Path(folder) / "ours.pt")
        for pair in range(PAIRS):
            started = time.perf_counter()
            torch.save(run.state_dict(), Path(folder) / f"tutorial-{pair}.pt")
            theirs = time.perf_counter() - started
            started = time.perf_counter()
            checkpoint.offer(run.state_dict, MAX_LOST_SECONDS + 1)
            ours = time.perf_counter() - started
            run.run_epoch()
            checkpoint.wait()
            benchmark.sample("seconds", pair=pair, tutorial=theirs, ours=ours, writing=checkpoint.writing)
            pairs.append((theirs, ours))
            shares.append((ours + checkpoint.writing) / (MAX_LOST_SECONDS / 2))
        goal = Goal(at_least=1)
        name = "training thread's time for a checkpoint, width 64"
        benchmark.row(paired(name, pairs, peer="torch.save", unit="s", goal=goal, inverse=True))
        name = "checkpoints, share of training, at the worst length of an epoch"
        benchmark.row(alone(name, shares, unit="", goal=Goal(at_most=0.02)))


if __name__ == "__main__":
    main()
