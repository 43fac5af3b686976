"""The peer: how Ray Tune's PyTorch tutorial trains, with this project's network, schedule and hyperparameters.

torchvision transforms on one image after another, a DataLoader with worker processes, fp32, contiguous tensors, and
nothing else for speed.

    python -m experiments.benchmarks.speed.tutorial runs/NAME/spec.toml --seed 1

trains a spec's reference on all of its training images, as `--baseline` does, but in this way and with PyTorch's own
OneCycleLR: is what we train the same?
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from tune_resnet.config.sections import TrainSpec
from tune_resnet.config.toml import load_spec
from tune_resnet.data.load import load_dataset
from tune_resnet.data.split import baseline_split
from tune_resnet.data.types import ImageSet, Split
from tune_resnet.training.model import ResNet9
from tune_resnet.training.schedule import rate_at

Batches = Iterable[tuple[Tensor, Tensor]]


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images as torchvision's CIFAR10 keeps them: one array, of which each becomes a PIL image when asked for."""

    def __init__(self, images: ImageSet, transform: transforms.Compose) -> None:
        self.pixels = np.ascontiguousarray(images.images.transpose(0, 2, 3, 1))
        self.labels = images.labels
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), int(self.labels[index])


def loaders(data: Split, batch_size: int, *, flip: bool, workers: int) -> tuple[Batches, Batches]:
    """Training and held-out batches."""
    normal = [transforms.ToTensor(), transforms.Normalize(data.mean / 255, data.std / 255)]
    mirror = [transforms.RandomHorizontalFlip()] if flip else []
    crop = transforms.RandomCrop(data.train.size, padding=data.train.size // 8, padding_mode="reflect")
    train = Pictures(data.train, transforms.Compose([crop, *mirror, *normal]))
    held_out = Pictures(data.held_out, transforms.Compose(normal))
    return (
        DataLoader(train, batch_size, shuffle=True, num_workers=workers),
        DataLoader(held_out, batch_size, num_workers=workers),
    )


@dataclass
class TutorialRun:
    """One configuration. `workers`: processes that load images, by default as many as cores."""

    spec: TrainSpec
    data: Split
    width: int
    flip: bool
    workers: int = os.cpu_count() or 1

    def __post_init__(self) -> None:
        torch.manual_seed(self.spec.seed)
        self.train_batches, self.held_out_batches = loaders(
            self.data, self.spec.batch_size, flip=self.flip, workers=self.workers
        )
        self.model = ResNet9(len(self.data.classes), self.width)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=self.spec.max_lr, weight_decay=self.spec.weight_decay
        )
        shape, steps = TrainSpec(max_lr=1.0), self.steps
        self.scheduler: LRScheduler = LambdaLR(self.optimizer, lambda step: rate_at(shape, min(step, steps - 1), steps))

    @property
    def steps(self) -> int:
        """Of the optimizer, in all epochs."""
        return self.spec.epochs * -(-len(self.data.train) // self.spec.batch_size)

    def train_epoch(self) -> float:
        """The mean training loss."""
        self.model.train()
        total = 0.0
        for images, labels in self.train_batches:
            self.optimizer.zero_grad()
            loss = functional.cross_entropy(self.model(images), labels)
            loss.backward()
            nn.utils.clip_grad_value_(self.model.parameters(), self.spec.grad_clip)
            self.optimizer.step()
            self.scheduler.step()
            total += loss.item() * len(labels)
        return total / len(self.data.train)

    @torch.no_grad()
    def accuracy(self) -> float:
        """On the held-out images, in [0, 1]."""
        self.model.eval()
        right = sum(int((self.model(images).argmax(1) == labels).sum()) for images, labels in self.held_out_batches)
        return right / len(self.data.held_out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", type=Path, help="the file with the spec")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    spec = load_spec(options.spec)
    data = baseline_split(load_dataset(spec.data), spec.data)
    run = TutorialRun(replace(spec.train, seed=options.seed), data, spec.model.width, flip=spec.data.flip)
    run.scheduler = OneCycleLR(run.optimizer, spec.train.max_lr, total_steps=run.steps)
    for epoch in range(spec.train.epochs):
        print(f"epoch {epoch + 1}: training loss {run.train_epoch():.4f}", flush=True)
    print(f"accuracy {run.accuracy():.4f} on {len(data.held_out):,} images")


if __name__ == "__main__":
    main()
