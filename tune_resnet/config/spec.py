"""What a run is: every setting, and what a search varies; written to TOML, and read back by `toml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import tomli_w

from tune_resnet.config.default_space import POINTS_TO_EVALUATE, default_space
from tune_resnet.config.hyperparameters import (
    Configuration,
    checked_domain,
    checked_point,
    condition,
    in_numbers,
)
from tune_resnet.config.sections import SECTIONS, TUNABLE, VAL_ACCURACY, BudgetSpec, ResourceSpec, SchedulerSpec
from tune_resnet.config.space import Point, Space, Value
from tune_resnet.config.validation import SpecError, differences, shown


@dataclass(frozen=True, kw_only=True, repr=False)
class SearchSpec(Configuration):
    """Every setting of a search or a baseline run, one attribute per TOML table."""

    space: Space = field(default_factory=dict)  # nothing in it: the default space of the reference
    search: BudgetSpec = field(default_factory=BudgetSpec)
    scheduler: SchedulerSpec = field(default_factory=SchedulerSpec)
    resources: ResourceSpec = field(default_factory=ResourceSpec)
    points_to_evaluate: tuple[Point, ...] = POINTS_TO_EVALUATE  # tried after the reference, before the sampler proposes

    def __post_init__(self) -> None:
        if not isinstance(self.space, Mapping):
            raise SpecError(f"space must be a mapping of hyperparameters to domains, got {shown(self.space)}")
        if not self.space:
            object.__setattr__(self, "space", default_space(self.train))
        reference = Configuration(data=self.data, model=self.model, train=self.train)
        space = {name: checked_domain(name, self.space, reference) for name in self.space}
        object.__setattr__(self, "space", space)
        points = tuple(checked_point(point, reference) for point in self.points_to_evaluate)
        object.__setattr__(self, "points_to_evaluate", points)
        if self.data.dataset == "folder" and self.data.data_dir is None:
            raise SpecError("data.dataset = 'folder' needs data.data_dir, the folder of your images")

    def __repr__(self) -> str:
        return differences(self, space=default_space(self.train))

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        """Those that a run's tables have columns for: the reference's three, and what else the search varies."""
        return tuple(dict.fromkeys((*TUNABLE, *self.space)))

    @property
    def signal(self) -> str:
        """The column of epochs.csv that early stopping judges by: of the validation accuracy, the objective's."""
        return self.search.column("val") if self.scheduler.signal == VAL_ACCURACY else self.scheduler.signal

    @property
    def reference(self) -> Point:
        """The reference's value of each hyperparameter that the search varies."""
        return {name: self.value(name) for name in self.space}

    @property
    def values(self) -> Point:
        """Its value of each hyperparameter that a run's tables have columns for."""
        return {name: self.value(name) for name in self.hyperparameters}

    @property
    def kinds(self) -> dict[str, type]:
        """The type of each of those values."""
        return {name: self.kind(name) for name in self.hyperparameters}

    def varied(self, values: Mapping[str, Value]) -> list[str]:
        """The hyperparameters that a search varies where the others have these values: those whose condition holds."""
        found = []
        for name, domain in self.space.items():
            other, value = condition(domain)
            if other is None or (values.get(other, self.value(other)) == value):
                found.append(name)
        return found

    @property
    def space_in_order(self) -> list[str]:
        """What is varied, each after the one that it depends on."""
        return sorted(self.space, key=lambda name: self.space[name].when is not None)

    @property
    def first_points(self) -> list[Point]:
        """What a search tries first: the reference, then its `points_to_evaluate`, each configuration once.

        What a point does not name, has outside of the space, or has under a condition that it does not meet, is the
        reference's.
        """
        found = [self.reference]
        for point in self.points_to_evaluate:
            values = in_numbers(point, self)
            inside = {
                name: values[name] for name in self.space if name in values and self.space[name].holds(values[name])
            }
            named = {**self.reference, **inside}
            whole = {**self.reference, **{name: named[name] for name in self.varied(named)}}
            if whole not in found:
                found.append(whole)
        return found

    def to_toml(self) -> str:
        """The whole spec as TOML, defaults spelled out."""
        tables: dict[str, Any] = {name: getattr(self, name).to_table() for name in SECTIONS}
        tables["space"] = {name: domain.to_table() for name, domain in self.space.items()}
        tables["points_to_evaluate"] = list(self.points_to_evaluate)
        return tomli_w.dumps({item.name: tables[item.name] for item in fields(self)})


def check_grown(before: SearchSpec, spec: SearchSpec) -> None:
    """SpecError where a run's space no longer holds all that its trials were drawn from, or they had no one value of
    what is new in it."""
    space = spec.space
    for name, domain in before.space.items():
        if name not in space or not space[name].contains(domain) or space[name].when != domain.when:
            raise SpecError(
                f"--space {name} must contain {domain.words}: a run's space can only grow, with its trials inside"
            )
    for name in space.keys() - before.space.keys():
        if before.follows(name) in before.space:
            raise SpecError(
                f"--space {name} is too late for this run: in its trials it followed {before.follows(name)}, which "
                "they vary; begin a new search with --warm-start"
            )
