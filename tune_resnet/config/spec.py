"""What a run is: frozen settings whose defaults are the reference, checked on creation, read from and written to TOML.

A file has one table per section (`[data]`, `[model]`, `[train]`, `[space]`, `[search]`, `[scheduler]`, `[resources]`).
`[train]` states the reference configuration; `[space]` names what a search varies. Every error is a `SpecError` with a
one-line message that names the setting.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

import tomli_w

from tune_resnet.config.space import (
    DEFAULT_SPACE,
    POINTS_TO_EVALUATE,
    Domain,
    Point,
    points_from_list,
    space_from_table,
)
from tune_resnet.config.validation import Section, SpecError, nearest, setting, shown

DATASETS = ("cifar10", "folder", "digits")
SCHEDULES = ("linear-exponential", "cosine")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
DEVICES = ("auto", "cpu", "cuda")
SAMPLERS = ("tpe", "gp", "random")
PAST_SAMPLERS = ("multifidelity",)
SCHEDULERS = ("asha", "median", "none")
SIGNALS = ("val_accuracy", "val_loss", "train_loss")
TUNABLE = ("max_lr", "weight_decay", "grad_clip")
MOST_TRIALS, MOST_EPOCHS, MOST_SEED = 1_000_000, 10_000, 2**32 - 1  # also in a run's tables


@dataclass(frozen=True, kw_only=True)
class DataSpec(Section):
    """Where the images come from and how the training set is divided."""

    section = "data"
    dataset: str = setting("cifar10", choices=DATASETS)
    data_dir: str | None = None  # None: the per-user cache folder (cifar10); folder needs it
    limit_train: int | None = setting(None, ge=4)  # images, a stratified subset before the split; None: all
    validation_fraction: float = setting(0.1, gt=0, le=0.9)  # of the training images
    split_seed: int = setting(0, ge=0, le=MOST_SEED)
    flip: bool = True  # random horizontal flips; switch off where left and right differ, as for digits or text


@dataclass(frozen=True, kw_only=True)
class ModelSpec(Section):
    """The network: ResNet9 of some width, or what the user's own code makes, see `training.model.build_network`."""

    section = "model"
    width: int = setting(64, ge=1, le=1024)  # channels of ResNet9's first convolution
    factory: str | None = None  # package.module:function of the user's own network; None: ResNet9

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factory is None:
            return
        module, _, function = self.factory.partition(":")
        if not all(name.isidentifier() for name in (*module.split("."), function)):
            raise SpecError(f"model.factory must look like package.module:function, got {shown(self.factory)}")
        if self.width != ModelSpec.width:
            raise SpecError(f"model.width is a setting of ResNet9 only, so it does not go with {self.factory}")

    def __str__(self) -> str:
        return self.factory or f"ResNet9, width {self.width}"

    @property
    def flag(self) -> list[str]:
        """The arguments that let another command import the user's own network; none for ResNet9."""
        return ["--model", self.factory] if self.factory else []

    def to_table(self) -> dict[str, Any]:
        return {"factory": self.factory} if self.factory else super().to_table()


@dataclass(frozen=True, kw_only=True)
class TrainSpec(Section):
    """One training run. The defaults are the reference configuration."""

    section = "train"
    max_lr: float = setting(1e-2, gt=0, le=100)  # peak learning rate of the one-cycle schedule
    weight_decay: float = setting(1e-4, ge=0, le=10)  # L2 term added to the gradient by Adam
    grad_clip: float = setting(0.1, gt=0, le=1e6)  # gradients are clipped to [-grad_clip, grad_clip]
    epochs: int = setting(8, ge=1, le=MOST_EPOCHS)
    batch_size: int = setting(400, ge=1, le=100_000)  # images
    schedule: str = setting("linear-exponential", choices=SCHEDULES)
    seed: int = setting(0, ge=0, le=MOST_SEED)  # weights, order, augmentation, dropout; also seeds the sampler
    precision: str = setting("auto", choices=PRECISIONS)


@dataclass(frozen=True, kw_only=True)
class BudgetSpec(Section):
    """How much is searched, and who proposes."""

    section = "search"
    num_samples: int = setting(32, ge=1, le=MOST_TRIALS)  # trials, the reference included
    sampler: str = setting("tpe", choices=SAMPLERS, past=PAST_SAMPLERS)
    time_budget: float | None = setting(None, gt=0)  # seconds; None: no bound
    max_retries: int = setting(2, ge=0, le=1000)  # of a trial whose process died or raised; then it has failed
    epoch_timeout: float | None = setting(None, gt=0)  # seconds: a trial silent for longer hangs; None: see Plan
    name: str | None = None  # the run directory's name; None: dataset and start time

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name is not None and (self.name in (".", "..") or "/" in self.name or "\\" in self.name):
            raise SpecError(f"search.name must be one folder's name (see --runs-dir for its place), got {self.name!r}")


@dataclass(frozen=True, kw_only=True)
class SchedulerSpec(Section):
    """Early stopping. The defaults are what experiments/LOG.md (2026-11-23) found to keep the winners."""

    section = "scheduler"
    name: str = setting("asha", choices=SCHEDULERS)
    grace_epochs: int | None = setting(None, ge=1)  # first epoch at which a trial may be stopped; None: 3/8 of all
    reduction_factor: float = setting(3, gt=1, le=1000)  # asha: one in this many goes on from each rung
    signal: str = setting("train_loss", choices=SIGNALS)  # the epochs.csv column that trials are compared on
    margin: float = setting(0.01, ge=0)  # what is worse than the cut by no more goes on: a share of a loss, or accuracy


@dataclass(frozen=True, kw_only=True)
class ResourceSpec(Section):
    """What one trial uses, and how many run at once."""

    section = "resources"
    cpus_per_trial: float = setting(1, gt=0, le=4096)  # also the trial's number of threads
    gpus_per_trial: float | None = setting(None, ge=0, le=64)  # None: one where the device is cuda, else none
    max_concurrent: int | None = setting(None, ge=1)  # None: as many as fit
    device: str = setting("auto", choices=DEVICES)


@dataclass(frozen=True, kw_only=True)
class SearchSpec:
    """Every setting of a search or a baseline run, one attribute per TOML table."""

    data: DataSpec = field(default_factory=DataSpec)
    model: ModelSpec = field(default_factory=ModelSpec)
    train: TrainSpec = field(default_factory=TrainSpec)
    space: dict[str, Domain] = field(default_factory=lambda: dict(DEFAULT_SPACE))
    search: BudgetSpec = field(default_factory=BudgetSpec)
    scheduler: SchedulerSpec = field(default_factory=SchedulerSpec)
    resources: ResourceSpec = field(default_factory=ResourceSpec)
    points_to_evaluate: tuple[Point, ...] = POINTS_TO_EVALUATE  # tried after the reference, before the sampler proposes

    def __post_init__(self) -> None:
        for name in {name for point in self.points_to_evaluate for name in point} - set(TUNABLE):
            raise SpecError(f"unknown hyperparameter {name} in points_to_evaluate{nearest(name, TUNABLE)}")
        for name, domain in self.space.items():
            _check_domain(name, domain, self.train)
        if not self.space:
            raise SpecError(f"space must vary at least one of {', '.join(TUNABLE)}")
        if self.data.dataset == "folder" and self.data.data_dir is None:
            raise SpecError("data.dataset = 'folder' needs data.data_dir (--data-dir), the folder that holds train/")

    @property
    def reference(self) -> dict[str, float]:
        """The reference's value of each hyperparameter that the search varies."""
        return {name: getattr(self.train, name) for name in self.space}

    @property
    def first_points(self) -> list[Point]:
        """What a search tries first: the reference, then those `points_to_evaluate` that lie in the space, each once.
        What a point does not name has the reference's value."""
        found = [self.reference]
        for point in self.points_to_evaluate:
            whole = {**self.reference, **{name: point[name] for name in self.space if name in point}}
            inside = all(domain.low <= whole[name] <= domain.high for name, domain in self.space.items())
            if inside and whole not in found:
                found.append(whole)
        return found

    def to_toml(self) -> str:
        """The whole spec as TOML, defaults spelled out."""
        tables: dict[str, Any] = {name: getattr(self, name).to_table() for name in _SECTIONS}
        tables["space"] = {name: domain.to_table() for name, domain in self.space.items()}
        tables["points_to_evaluate"] = list(self.points_to_evaluate)
        return tomli_w.dumps({item.name: tables[item.name] for item in fields(self)})


_SECTIONS: dict[str, type[Section]] = {
    "data": DataSpec,
    "model": ModelSpec,
    "train": TrainSpec,
    "search": BudgetSpec,
    "scheduler": SchedulerSpec,
    "resources": ResourceSpec,
}


def _check_domain(name: str, domain: Domain, train: TrainSpec) -> None:
    if name not in TUNABLE:
        raise SpecError(f"unknown hyperparameter space.{name}{nearest(name, TUNABLE)}; known: {', '.join(TUNABLE)}")
    for bound in (domain.low, domain.high):
        try:
            TrainSpec(**{**train.to_table(), name: bound})
        except SpecError as error:
            raise SpecError(f"space.{name}: {error}") from None
    if not domain.low <= getattr(train, name) <= domain.high:
        raise SpecError(
            f"space.{name} = [{domain.low}, {domain.high}] must contain the reference "
            f"train.{name} = {getattr(train, name)}"
        )


def spec_from_tables(tables: Mapping[str, Any]) -> SearchSpec:
    """A spec from TOML tables. A `[space]` table lists all that varies; without one the default space is searched."""
    parts: dict[str, Any] = {}
    for name, table in tables.items():
        if name == "space":
            parts[name] = space_from_table(table)
        elif name == "points_to_evaluate":
            parts[name] = points_from_list(table)
        elif name in _SECTIONS:
            _refuse_misplaced(name, table)
            parts[name] = _SECTIONS[name].from_table(table)
        else:
            known = [*_SECTIONS, "space", "points_to_evaluate"]
            raise SpecError(f"unknown section [{name}]{_at_home(name) or nearest(name, known)}")
    return SearchSpec(**parts)


def _refuse_misplaced(section: str, table: Any) -> None:
    """SpecError where a section's table holds a setting of another section."""
    for name in table if isinstance(table, Mapping) else ():
        if name not in get_type_hints(_SECTIONS[section]) and (home := _at_home(name)):
            raise SpecError(f"unknown setting {section}.{name}{home}")


def _at_home(name: str) -> str:
    """`" (did you mean 'section.name'?)"` for a setting's name, or an empty string."""
    found = [section for section, kind in _SECTIONS.items() if name in get_type_hints(kind)]
    return f" (did you mean '{found[0]}.{name}'?)" if found else ""


def load_tables(path: Path) -> dict[str, Any]:
    """The TOML tables in a file; SpecError where it cannot be read or is not TOML."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise SpecError(f"cannot read {path}: {reason}") from None
    try:
        return tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, or int() refusing more than 4300 digits
        raise SpecError(f"{path} is not valid TOML: {error}") from None
    except RecursionError:
        raise SpecError(f"{path} is nested too deeply") from None


def load_spec(path: Path) -> SearchSpec:
    """The spec in a TOML file."""
    tables = load_tables(path)
    try:
        return spec_from_tables(tables)
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None


LEAST_SEEDS = 2  # to confirm with: fewer have no spread
