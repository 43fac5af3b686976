"""What one more trial on a node costs in memory, beside what its tensors need.

    python -m experiments.benchmarks.speed.memory --out experiments/results/benchmarks

Two trials at once, of the reference at full size, on one copy of 50,000 images in Ray's object store.
`Benchmark` describes the files.
"""

from __future__ import annotations

from pathlib import Path

import ray
import torch
from torch import Tensor

from experiments.benchmarks.speed.goals import Benchmark, Goal, options, paired
from experiments.benchmarks.speed.measures import digits
from tune_resnet.config.sections import TrainSpec
from tune_resnet.data.types import Split
from tune_resnet.execution.cluster import ray_cluster
from tune_resnet.training.images import DeviceImages
from tune_resnet.training.loop import TrainingRun

PAIRS = 3  # of trials that run at once
IMAGES = 50_000
TRAINED_ON = 1_200  # images: three batches, enough for every buffer to be there


class Trial:
    """A process that trains as a trial does."""

    def __init__(self, data: Split) -> None:
        torch.set_num_threads(1)
        self.empty = unique_bytes()
        self.run = TrainingRun(TrainSpec(), data)

    def train(self) -> dict[str, float]:
        """An epoch on a part of the images; the bytes that only this process uses, before and after."""
        images = self.run.train_images
        self.run.train_images = DeviceImages(images.images[:TRAINED_ON], images.labels[:TRAINED_ON])
        self.run.run_epoch()
        return {"empty": self.empty, "ours": unique_bytes(), **self.needed()}

    def needed(self) -> dict[str, float]:
        """Bytes of weights and their gradients, optimizer state, and activations kept for the backward pass."""
        weights = sum(tensor.numel() * tensor.element_size() for tensor in self.run.model.parameters())
        optimizer = sum(
            tensor.numel() * tensor.element_size()
            for tensors in self.run.optimizer.state.values()
            for tensor in tensors
        )
        return {"weights": 2.0 * weights, "optimizer": optimizer, "activations": self._activations()}

    def _activations(self) -> float:
        kept: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        batch = self.run.train_images.images[: self.run.spec.batch_size]
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = self.run._logits(batch, self.run.model).sum()  # its graph keeps every one of them until here
        for parameter in self.run.model.parameters():
            kept.pop(parameter.untyped_storage().data_ptr(), None)
        del loss
        return float(sum(kept.values()))


def unique_bytes() -> float:
    """Memory that only this process uses (USS)."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024.0 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def main() -> None:
    arguments = options(__doc__).parse_args()
    pairs = []
    with Benchmark("memory", arguments.out) as benchmark, ray_cluster(None):
        actor, data = ray.remote(num_cpus=1)(Trial), ray.put(digits(IMAGES, 1_000))
        for pair in range(PAIRS):
            trials = [actor.remote(data) for _ in range(2)]
            for bytes_used in ray.get([trial.train.remote() for trial in trials]):
                benchmark.sample("one trial, MB", pair=pair, **{name: used / 1e6 for name, used in bytes_used.items()})
                needed = sum(bytes_used[name] for name in ("weights", "optimizer", "activations"))
                pairs.append((needed / 1e6, bytes_used["ours"] / 1e6))
            for trial in trials:
                ray.kill(trial)
        name = "unique memory of one trial of two, width 64"
        goal = Goal(at_most=1.4)
        benchmark.row(paired(name, pairs, peer="weights, gradients, optimizer, activations", unit="MB", goal=goal))


if __name__ == "__main__":
    main()
