"""What a search varies: each hyperparameter's interval, and the unit cube that they span."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tune_resnet.config.validation import Section, SpecError, coerced, shown


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

    def wider_bounds(self) -> tuple[float, float]:
        """Where to move low and high to look beyond them: by a factor of ten, to 1, 2 or 5 times a power of ten; on a
        linear scale by the domain's width, to the first of its digits."""
        if self.log:
            smallest, largest = sys.float_info.min, sys.float_info.max
            return _round_number(max(self.low / 10, smallest)), _round_number(min(self.high * 10, largest))
        width = self.high - self.low
        digits = -math.floor(math.log10(width))
        return round(self.low - width, digits), round(self.high + width, digits)

    def contains(self, other: Domain) -> bool:
        """Whether all of the other domain's values are in this one."""
        return self.low <= other.low and other.high <= self.high


DEFAULT_SPACE = {
    "max_lr": Domain(low=1e-3, high=1e-1),
    "weight_decay": Domain(low=1e-6, high=1e-2),
    "grad_clip": Domain(low=1e-2, high=1.0),
}


def with_bounds(space: Mapping[str, Domain], bounds: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """The tables of a space with other bounds; each scale stays as it is."""
    tables = {name: domain.to_table() for name, domain in space.items()}
    return {**tables, **{name: {**tables.get(name, {}), **table} for name, table in bounds.items()}}


def check_grown(before: Mapping[str, Domain], space: Mapping[str, Domain]) -> None:
    """SpecError where a run's space no longer holds all that its trials were drawn from."""
    for name, domain in before.items():
        if not space[name].contains(domain):
            where = f"{domain.low}:{domain.high}"
            raise SpecError(f"--space {name} must contain {where}: a run's space can only grow, with its trials inside")


Point = dict[str, float]  # a configuration: hyperparameter -> value

# Chosen by experiments/benchmarks/early_stopping/points.py.
POINTS_TO_EVALUATE: tuple[Point, ...] = (
    {"max_lr": 0.0087, "weight_decay": 0.0014, "grad_clip": 0.91},
    {"max_lr": 0.008, "weight_decay": 0.0081, "grad_clip": 0.023},
    {"max_lr": 0.045, "weight_decay": 0.00019, "grad_clip": 0.95},
    {"max_lr": 0.009, "weight_decay": 0.00052, "grad_clip": 0.94},
)


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


def _round_number(value: float) -> float:
    """The nearest of 1, 2 and 5 times a power of ten, on a log scale."""
    power = math.floor(math.log10(value))
    return min((float(f"{digit}e{power}") for digit in (1, 2, 5, 10)), key=lambda near: abs(_log_ratio(near, value)))


def _log_ratio(high: float, low: float) -> float:
    """log(high / low), also where the quotient is too large for a float."""
    return math.log(high / low) if high / low < math.inf else math.log(high) - math.log(low)
