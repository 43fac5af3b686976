"""What a search varies: each hyperparameter's interval, and the unit cube that they span."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tune_resnet.settings import Section, SpecError, coerced, shown


@dataclass(frozen=True, kw_only=True)
class Domain(Section):
    """The interval a search draws one hyperparameter from."""

    section = "space"
    low: float
    high: float
    log: bool = True  # log-uniform; false: uniform

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low >= self.high:
            raise SpecError(f"space low must be below high, got {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise SpecError(f"space low must be greater than 0 on a log scale, got {self.low}")

    def share(self, value: float) -> float:
        """Where a value lies between low (0) and high (1), on the domain's scale."""
        if self.log:
            return _log_ratio(value, self.low) / _log_ratio(self.high, self.low)
        return (value - self.low) / (self.high - self.low)

    def value(self, share: float) -> float:
        """What lies at a share in [0, 1], on the domain's scale; never outside the domain."""
        if self.log:
            found = math.exp(math.log(self.low) + share * _log_ratio(self.high, self.low))
        else:
            found = self.low + share * (self.high - self.low)
        return min(max(found, self.low), self.high)


DEFAULT_SPACE = {
    "max_lr": Domain(low=1e-3, high=1e-1),
    "weight_decay": Domain(low=1e-6, high=1e-2),
    "grad_clip": Domain(low=1e-2, high=1.0),
}


Point = dict[str, float]  # a configuration: hyperparameter -> value

POINTS_TO_EVALUATE: tuple[Point, ...] = ({"max_lr": 0.0083, "weight_decay": 0.001, "grad_clip": 0.86},)


def points_from_list(points: Any) -> tuple[Point, ...]:
    """The configurations in `points_to_evaluate`; SpecError where it is not a list of tables of numbers."""
    if not isinstance(points, list) or not all(isinstance(point, Mapping) for point in points):
        raise SpecError(f"points_to_evaluate must be a list of tables, got {shown(points)}")
    return tuple(
        {name: coerced(f"points_to_evaluate.{name}", value, float) for name, value in point.items()} for point in points
    )


def space_from_table(table: Any) -> dict[str, Domain]:
    """The domains in a `[space]` table; SpecError where one of them is wrong."""
    if not isinstance(table, Mapping):
        raise SpecError(f"space must be a table, got {shown(table)}")
    space = {}
    for name, domain in table.items():
        try:
            space[name] = Domain.from_table(domain)
        except TypeError:
            raise SpecError(f"space.{name} needs both low and high") from None
        except SpecError as error:
            raise SpecError(f"space.{name}: {error}") from None
    return space


def _log_ratio(high: float, low: float) -> float:
    """log(high / low), also where the quotient is too large for a float."""
    return math.log(high / low) if high / low < math.inf else math.log(high) - math.log(low)
