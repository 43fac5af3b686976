"""The settings of a run, by the tables of a TOML file: frozen, checked on creation, and the defaults are the reference.

Every error is a `SpecError` with a one-line message that names the setting.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from tune_resnet.config.validation import Arguments, Section, SpecError, flag_of, setting, shown

DATASETS = ("cifar10", "folder", "digits")
SCHEDULES = ("linear-exponential", "cosine", "linear")
OPTIMIZERS = ("adam", "sgd")
CLASS_WEIGHTS = ("none", "balanced")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
DEVICES = ("auto", "cpu", "cuda")
SAMPLERS = ("tpe", "gp", "random")
PAST_SAMPLERS = ("multifidelity",)
SCHEDULERS = ("asha", "median", "none")
ACCURACY = "accuracy"
OBJECTIVES = {ACCURACY: "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1"}  # and in words
VAL_ACCURACY = "val_accuracy"
SIGNALS = (VAL_ACCURACY, "val_loss", "train_loss")
CIFAR10_FILES = ("cifar-10-batches-py", "cifar-10-python.tar.gz")  # one of them is in a folder that holds CIFAR-10
TUNABLE = ("max_lr", "weight_decay", "grad_clip")
MAX_TRIALS, MAX_EPOCHS, MAX_SEED = 1_000_000, 10_000, 2**32 - 1  # also in a run's tables
MIN_SEEDS = 2  # to confirm with: fewer have no spread


@dataclass(frozen=True, kw_only=True, repr=False)
class DataSpec(Section):
    """Where the images come from and how the training set is divided."""

    section = "data"
    dataset: str = setting(
        None, "default: folder with --data-dir, else cifar10; digits: to try things out", choices=DATASETS
    )
    data_dir: str | None = setting(
        None, "the folder of your images, or a CSV file that lists them; or of CIFAR-10", metavar="DIR"
    )
    image_size: int = setting(32, "height and width of the images, in pixels", ge=32, le=512)
    limit_train: int | None = setting(
        None, "use only so many of the training images, the same share of each class", ge=4
    )
    validation_fraction: float = setting(
        0.1, "share of the training images that judges trials, if there is no val/", gt=0, le=0.9
    )
    split_seed: int = setting(
        0, "seed of that share, of limit_train, and of the test set where it is drawn", ge=0, le=MAX_SEED
    )
    flip: bool = setting(True, "mirror images left to right at random; not for digits or letters")

    def __post_init__(self) -> None:
        if self.dataset is None:
            of_ones_own = self.data_dir is not None and not _holds_cifar10(self.data_dir)
            object.__setattr__(self, "dataset", "folder" if of_ones_own else "cifar10")
        super().__post_init__()


def _holds_cifar10(folder: object) -> bool:
    try:
        return any((Path(str(folder)).expanduser() / name).exists() for name in CIFAR10_FILES)
    except (OSError, RuntimeError, ValueError):  # it is no path: what checks the setting says so
        return False


@dataclass(frozen=True, kw_only=True, repr=False)
class ModelSpec(Section):
    """The network: ResNet9 of some width, or what the user's own code makes, see `training.model.build_network`."""

    section = "model"
    width: int = setting(64, "channels of ResNet9's first convolution", ge=1, le=1024)
    factory: str | None = setting(None, "your own network instead of ResNet9", flag="model", metavar="MODULE:FUNCTION")
    args: Arguments = field(
        default_factory=dict, metadata={"about": "arguments for your own network", "flag": "model-args"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factory is None:
            if self.args:
                raise SpecError("model.args are arguments of a network of your own, which model.factory names")
            return
        module, _, function = self.factory.partition(":")
        if not all(name.isidentifier() for name in (*module.split("."), function)):
            raise SpecError(f"model.factory must look like package.module:function, got {shown(self.factory)}")
        if self.width != ModelSpec.width:
            raise SpecError(f"model.width is a setting of ResNet9 only, so it does not go with {self.factory}")

    def __str__(self) -> str:
        given = ", ".join(f"{name}={value}" for name, value in self.args.items())
        return f"{self.factory}{given and f' ({given})'}" if self.factory else f"ResNet9, width {self.width}"

    @property
    def flag(self) -> list[str]:
        """The arguments that let another command import the user's own network; none for ResNet9."""
        return ["--model", self.factory] if self.factory else []

    def to_table(self) -> dict[str, Any]:
        if self.factory is None:
            return {"width": self.width}
        return {"factory": self.factory, **({"args": self.args} if self.args else {})}


# What a schedule has of its own, and which setting each setting follows that is not given.
FOLLOWS = {"peak_at": "schedule", "final_div_factor": "schedule", "momentum_at_peak": "momentum"}
PEAK_AT = {"linear-exponential": 0.5, "linear": 0.5, "cosine": 0.3}  # share of the steps up to the peak
FINAL_DIV_FACTOR = {"linear-exponential": 25.0, "linear": math.inf, "cosine": 25e4}


@dataclass(frozen=True, kw_only=True, repr=False)
class TrainSpec(Section):
    """One training run. The defaults are the reference configuration."""

    section = "train"
    max_lr: float = setting(1e-2, "the reference's peak learning rate", gt=0, le=100)
    weight_decay: float = setting(1e-4, "the reference's L2 weight decay", ge=0, le=10)
    grad_clip: float = setting(0.1, "the reference's clip: no gradient exceeds +- this", gt=0, le=1e6)
    epochs: int = setting(8, "epochs of a trial that is not stopped early", ge=1, le=MAX_EPOCHS)
    batch_size: int = setting(400, "images per step; few enough for ten steps an epoch or more", ge=1, le=100_000)
    schedule: str = setting("linear-exponential", "shape of the one-cycle; cosine: as in PyTorch", choices=SCHEDULES)
    peak_at: float | None = setting(
        None, "share of the steps before the peak; default: 0.5, cosine 0.3", gt=0, le=0.9999
    )
    div_factor: float = setting(25.0, "the first learning rate is max_lr divided by this", ge=1, le=1e6)
    final_div_factor: float | None = setting(
        None, "the last is max_lr divided by this; default: the shape's own", ge=1, le=1e12
    )
    optimizer: str = setting("adam", "sgd: with Nesterov momentum", choices=OPTIMIZERS)
    momentum: float = setting(0.9, "beta1 of Adam, momentum of SGD", gt=0, le=0.9999)
    momentum_at_peak: float | None = setting(None, "momentum when the rate peaks; default: the same", gt=0, le=0.9999)
    decoupled_decay: bool = setting(False, "weight decay separate from the gradient, as in AdamW")
    label_smoothing: float = setting(0.0, "share of each label that is spread over all classes", ge=0, le=0.9)
    class_weights: str = setting("none", "balanced: each class counts the same in training", choices=CLASS_WEIGHTS)
    dropout: float = setting(0.2, "dropout rate before ResNet9's last layer", ge=0, le=0.95)
    crop_padding: int = setting(4, "how far a random crop may shift an image, in pixels of 32", ge=0, le=16)
    cutout: int = setting(0, "side of the square that is blanked in each training image, in pixels of 32", ge=0, le=31)
    ema_decay: float = setting(
        0.0, "of a moving average of the weights, which is judged and kept; 0: none", ge=0, le=0.9999
    )
    seed: int = setting(0, "seed of weights, order, augmentation, dropout and sampler", ge=0, le=MAX_SEED)
    precision: str = setting("auto", "auto: what suits the device", choices=PRECISIONS)

    @property
    def implied(self) -> dict[str, float]:
        """What settings stand for where they are not given; without a final divisor where the last rate is 0."""
        final = FINAL_DIV_FACTOR[self.schedule]
        known = {"peak_at": PEAK_AT[self.schedule], "momentum_at_peak": self.momentum}
        return known | ({"final_div_factor": final} if math.isfinite(final) else {})


@dataclass(frozen=True, kw_only=True, repr=False)
class BudgetSpec(Section):
    """How much is searched, and who proposes."""

    section = "search"
    num_samples: int = setting(32, "number of trials, the reference included", ge=1, le=MAX_TRIALS)
    sampler: str = setting("tpe", "Optuna's sampler that proposes trials", choices=SAMPLERS, past=PAST_SAMPLERS)
    objective: str = setting(
        ACCURACY, "what decides; all but accuracy count each class the same", choices=tuple(OBJECTIVES)
    )
    time_budget: float | None = setting(None, "end the search after this time: 90s, 30m, 1.5h", seconds=True, gt=0)
    max_retries: int = setting(2, "how often a trial whose process died or raised is tried again", ge=0, le=1000)
    epoch_timeout: float | None = setting(
        None, "a trial that ends no epoch for so long has hung; default: 10m or more", seconds=True, gt=0
    )
    name: str | None = setting(None, "name of the run directory; default: data set and time")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name is not None and (self.name in (".", "..") or "/" in self.name or "\\" in self.name):
            raise SpecError(f"search.name must be the name of one folder where the runs are, got {self.name!r}")

    def column(self, held_out: str) -> str:
        """The column of a run's tables that judges its trainings, on the `val` or `test` images."""
        return f"{held_out}_{self.objective}"

    @property
    def judged_by(self) -> str:
        """The objective for a person."""
        return OBJECTIVES[self.objective]

    @property
    def named(self) -> str:
        """The objective, with a blank before it, where it has to be named; empty where that is the accuracy."""
        return "" if self.objective == ACCURACY else f" {self.judged_by}"

    @property
    def of_what(self) -> str:
        """What follows the word points, ` of macro F1` say; empty likewise."""
        return self.named and f" of{self.named}"


@dataclass(frozen=True, kw_only=True, repr=False)
class SchedulerSpec(Section):
    """Early stopping. The defaults are what experiments/LOG.md (2026-11-23) found to keep the winners."""

    section = "scheduler"
    name: str = setting("asha", "rule that stops trials early", choices=SCHEDULERS, flag="scheduler")
    grace_epochs: int | None = setting(
        None, "first epoch after which trials are judged; default: the last one is 3/8 of all", ge=1
    )
    reduction_factor: float = setting(1.5, "one trial in so many goes on after each rung", gt=1, le=1000)
    signal: str = setting(
        "train_loss",
        "what early stopping compares; train_loss: its mean over the last epochs",
        choices=SIGNALS,
    )
    margin: float = setting(0.01, "trials that miss the cut by no more than this go on; of a loss, a share", ge=0)


@dataclass(frozen=True, kw_only=True, repr=False)
class ResourceSpec(Section):
    """What one trial uses, and how many run at once."""

    section = "resources"
    cpus_per_trial: float = setting(1, "CPUs of each trial, and its threads", gt=0, le=4096)
    gpus_per_trial: float | None = setting(None, "0.5: two trials share a GPU; default: a whole one each", ge=0, le=64)
    max_concurrent: int | None = setting(None, "trials at once; default: as many as fit", ge=1)
    device: str = setting("auto", "auto: a GPU where there is one", choices=DEVICES)

    def __post_init__(self) -> None:
        super().__post_init__()
        gpus = self.gpus_per_trial or 0.0
        if gpus > 1 and gpus % 1:
            raise SpecError(f"resources.gpus_per_trial must be at most 1 or a whole number, got {gpus}")


SECTIONS: dict[str, type[Section]] = {
    "data": DataSpec,
    "model": ModelSpec,
    "train": TrainSpec,
    "search": BudgetSpec,
    "scheduler": SchedulerSpec,
    "resources": ResourceSpec,
}


def flags_of(settings: Mapping[str, object]) -> list[str]:
    """The command line's words for these values of settings, each by its section and name."""
    words = []
    for key, value in settings.items():
        section, _, name = key.partition(".")
        words += [flag_of(item) for item in fields(SECTIONS[section]) if item.name == name] + [str(value)]
    return words


REFERENCE = TrainSpec()  # the configuration that every result is compared with
