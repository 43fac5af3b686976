"""What a search varies: each hyperparameter's interval, or the values to choose from."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist
from typing import Any

from tune_resnet.config.validation import Section, SpecError, coerced, differences, shown

_MAX_STEPS = 1_000_000  # more cannot be told apart by the arithmetic of floats, and are as good as none

Value = bool | int | float | str  # of a hyperparameter


@dataclass(frozen=True, kw_only=True, repr=False)
class Domain(Section):
    """The interval a search draws one hyperparameter from: whole numbers where the setting is one."""

    section = "space"
    low: float
    high: float
    log: bool | None = None  # log-uniform; False: uniform; None: as is usual for the hyperparameter
    step: float | None = None  # only low, low + step, ... up to high
    prior: float | None = None  # where good values are expected
    when: str | None = None  # "optimizer=sgd": only where another hyperparameter has that value

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low >= self.high:
            raise SpecError(f"space low must be below high, got {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise SpecError(f"space low must be greater than 0 on a log scale, got {self.low}")
        if self.step is not None:
            self._check_step(self.step)
        if self.prior is not None and not self.holds(self.prior):
            raise SpecError(f"space prior must lie between low and high, got {self.prior} and {self}")

    def _check_step(self, step: float) -> None:
        if self.log:
            raise SpecError("space step goes with a linear scale, log = false")
        steps = (exact(self.high) - exact(self.low)) / exact(step) if step > 0 else Fraction(0)
        if not (steps.denominator == 1 and 1 <= steps <= _MAX_STEPS):
            raise SpecError(
                f"space step must divide the way from low to high into equal parts, {_MAX_STEPS:,} at most, "
                f"got {step} for [{self.low}, {self.high}]"
            )

    def holds(self, value: object) -> bool:
        """Whether a value is one of the domain's."""
        if not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / self.step if self.step else 0
        return abs(steps - round(steps)) < 1e-8

    @property
    def ends(self) -> tuple[Value, ...]:
        """Low and high: where the setting can have both, it can have all between."""
        return self.low, self.high

    def __str__(self) -> str:
        return f"[{self.low}, {self.high}]{f' in steps of {self.step}' if self.step else ''}"

    @property
    def words(self) -> str:
        """As `--space` takes it."""
        return ":".join(written(bound) for bound in (self.low, self.high, self.step) if bound is not None)

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
        if self.step:
            found = self.low + self.step * round((found - self.low) / self.step)
        return min(max(found, self.low), self.high)

    def expected(self, level: float) -> float:
        """The quantile in (0, 1) of what is expected: a normal distribution around the prior, on the domain's scale,
        whose standard deviation is a quarter of the domain, cut off at its ends."""
        assert self.prior is not None
        around = NormalDist(self.share(self.prior), 0.25)
        low, high = around.cdf(0), around.cdf(1)
        return self.value(around.inv_cdf(low + level * (high - low)))

    def wider_bounds(self) -> tuple[float, float]:
        """Where to move low and high to look beyond them: by a factor of ten, to 1, 2 or 5 times a power of ten; on a
        linear scale by the domain's width, to the first of its digits."""
        if self.log:
            smallest, largest = sys.float_info.min, sys.float_info.max
            return _round_number(max(self.low / 10, smallest)), _round_number(min(self.high * 10, largest))
        width = self.high - self.low
        digits = -math.floor(math.log10(width))
        return round(self.low - width, digits), round(self.high + width, digits)

    def contains(self, other: Domain | Choices) -> bool:
        """Whether all of the other domain's values are in this one."""
        if self.step and isinstance(other, Domain) and (not other.step or exact(other.step) % exact(self.step)):
            return False
        return all(map(self.holds, other.ends))


@dataclass(frozen=True, kw_only=True, repr=False)
class Choices:
    """The values a search chooses one hyperparameter from."""

    choices: tuple[Value, ...]
    when: str | None = None  # as of a `Domain`

    def __post_init__(self) -> None:
        given = self.choices
        if not isinstance(given, list | tuple) or not all(isinstance(one, bool | int | float | str) for one in given):
            raise SpecError(f"choices must be a list of numbers, strings or booleans, got {shown(given)}")
        object.__setattr__(self, "choices", tuple(given))
        object.__setattr__(self, "when", coerced("space.when", self.when, str | None))
        if len(given) < 2 or len(set(given)) < len(given):
            raise SpecError(f"space choices must be two different values or more, got {shown(list(self.choices))}")

    def __repr__(self) -> str:
        return differences(self)

    def holds(self, value: object) -> bool:
        """Whether a value is one of the domain's."""
        return value in self.choices

    @property
    def ends(self) -> tuple[Value, ...]:
        """All of them: the setting must be able to have each."""
        return self.choices

    def nearest(self, value: Value) -> Value:
        """The choice next to a number; what is no number, or has no number to choose from, stays as it is."""
        numbers = [one for one in self.choices if type(one) in (int, float)]
        if not (numbers and type(value) in (int, float)):
            return value
        return min(numbers, key=lambda one: abs(float(one) - float(value)))

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self.choices))}]"

    @property
    def words(self) -> str:
        """As `--space` takes them."""
        return ",".join(str(value).lower() if isinstance(value, bool) else str(value) for value in self.choices)

    def contains(self, other: Domain | Choices) -> bool:
        """Whether all of the other domain's values are in this one."""
        return isinstance(other, Choices) and set(other.choices) <= set(self.choices)

    def to_table(self) -> dict[str, Any]:
        """Its TOML table."""
        return {"choices": list(self.choices), **({"when": self.when} if self.when else {})}


Space = Mapping[str, Domain | Choices]

_KEPT = ("log", "step", "prior", "when")  # of a domain that is given other bounds


def with_bounds(space: Space, bounds: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The tables of a space with other bounds or choices; each scale and condition stays as it is. What has an empty
    table is not varied."""
    tables = {name: domain.to_table() for name, domain in space.items()}
    for name, table in bounds.items():
        if not table:
            if tables.pop(name, None) is None:
                raise SpecError(f"{name} is not varied, so it need not be fixed; the space is {', '.join(space)}")
            continue
        kept = ("when",) if "choices" in table else ("prior", "when") if "step" in table else _KEPT
        old = {key: value for key, value in tables.get(name, {}).items() if key in kept}
        tables[name] = {**old, **table}
    return tables


Point = dict[str, Any]  # a configuration: hyperparameter -> value, or in points to evaluate "x2", twice the reference's


def domain_from_table(table: object) -> Domain | Choices:
    """The domain in its table. SpecError where it is wrong."""
    if not isinstance(table, Mapping):
        raise SpecError(f"it needs a table with low and high, or choices, got {shown(table)}")
    if "choices" not in table:
        try:
            return Domain.from_table(table)
        except TypeError:
            raise SpecError("it needs both low and high, or choices") from None
    for key in table:
        if key not in ("choices", "when"):
            raise SpecError(f"{key} does not go with choices")
    return Choices(choices=table["choices"], when=table.get("when"))


def written(number: float) -> str:
    """A number as short as it can be written without another value."""
    return f"{number:g}" if float(f"{number:g}") == number else repr(number)


def exact(number: float) -> Fraction:
    """A number as it is written, in decimals."""
    return Fraction(str(number))


def _round_number(value: float) -> float:
    """The nearest of 1, 2 and 5 times a power of ten, on a log scale."""
    power = math.floor(math.log10(value))
    return min((float(f"{digit}e{power}") for digit in (1, 2, 5, 10)), key=lambda near: abs(_log_ratio(near, value)))


def _log_ratio(high: float, low: float) -> float:
    """log(high / low), also where the quotient is too large for a float."""
    return math.log(high / low) if high / low < math.inf else math.log(high) - math.log(low)
