"""What a search can vary: almost any setting of a training, and the arguments of one's own network.

The settings of `[train]` are known by their names, others with their table's: `max_lr`, `model.width`,
`model.args.hidden`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self, cast, get_args, get_type_hints

from tune_resnet.config.sections import FOLLOWS, DataSpec, ModelSpec, TrainSpec
from tune_resnet.config.space import Choices, Domain, Point, Space, Value
from tune_resnet.config.validation import SpecError, coerced, nearest, shown

ARGUMENT = "model.args."  # what the names of the arguments of one's own network begin with
# varied on a linear scale unless a domain says otherwise
LINEAR = (
    "peak_at", "momentum", "momentum_at_peak", "label_smoothing", "dropout", "crop_padding", "cutout", "ema_decay",
)  # fmt: skip
HYPERPARAMETERS = (
    *(item.name for item in fields(TrainSpec) if item.name not in ("epochs", "seed", "precision")),
    "model.width",
    "data.flip",
)
_SETTINGS = {  # type and limits of each setting of a training, by its name as a hyperparameter
    f"{kind.section}.{item.name}".removeprefix("train."): (hints[item.name], item.metadata)
    for kind, hints in ((kind, get_type_hints(kind)) for kind in (TrainSpec, DataSpec, ModelSpec))
    for item in fields(kind)
}


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """What one training is."""

    data: DataSpec = field(default_factory=DataSpec)
    model: ModelSpec = field(default_factory=ModelSpec)
    train: TrainSpec = field(default_factory=TrainSpec)

    def value(self, name: str) -> Any:
        """The value of a setting by its name as a hyperparameter, where it is not given the one that it stands for;
        None where it has none."""
        if name.startswith(ARGUMENT):
            return self.model.args.get(name.removeprefix(ARGUMENT))
        section, _, own = name.rpartition(".")
        found = getattr(getattr(self, section or "train"), own)
        return self.train.implied.get(name) if found is None else found

    def follows(self, name: str) -> str | None:
        """The setting that this one, as it is not given, takes its value from; None: no other."""
        return FOLLOWS.get(name) if name in FOLLOWS and getattr(self.train, name) is None else None

    def kind(self, name: str) -> type:
        """The type of a hyperparameter's values: bool, int, float or str. That of an argument is its reference's."""
        if name.startswith(ARGUMENT):
            return type(self.value(name))
        hint, _ = _SETTINGS[name]
        return cast(type, next(kind for kind in get_args(hint) or (hint,) if kind is not type(None)))

    def configured(self, values: Mapping[str, Any]) -> Self:
        """The same with these values of settings, named as hyperparameters are. SpecError where one is not possible."""
        parts: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            section, _, own = name.rpartition(".")
            parts.setdefault(section or "train", {})[own] = value
        if arguments := parts.pop("model.args", None):
            parts.setdefault("model", {})["args"] = {**self.model.args, **arguments}
        return replace(self, **{section: replace(getattr(self, section), **part) for section, part in parts.items()})


def limits_of(name: str) -> Mapping[str, Any]:
    """The limits of a hyperparameter, see `setting`; none are known of an argument of one's own network."""
    return _SETTINGS[name][1] if name in _SETTINGS else {}


def checked_domain(name: str, space: Space, reference: Configuration) -> Domain | Choices:
    """The domain with choices of the hyperparameter's type, or a scale; SpecError where it is not possible."""
    domain = space[name]
    if not isinstance(domain, Domain | Choices):
        raise SpecError(f"space.{name} must be a Domain or Choices, got {shown(domain)}")
    if not _is_known(name):
        known = ", ".join((*HYPERPARAMETERS, f"{ARGUMENT}NAME"))
        raise SpecError(f"unknown hyperparameter space.{name}{nearest(name, HYPERPARAMETERS)}; known: {known}")
    if name == "dropout" and reference.model.factory:
        raise SpecError("space.dropout: train.dropout is a setting of ResNet9 only")
    known = reference.value(name)
    setting = name if "." in name else f"train.{name}"
    if known is None:
        raise SpecError(f"{setting} must be given, because the search varies it")
    if isinstance(domain, Domain) and reference.kind(name) not in (int, float):
        raise SpecError(f"space.{name} needs choices: its values are not numbers")
    ends = [_checked_value(name, value, reference) for value in domain.ends]
    if isinstance(domain, Choices):
        domain = replace(domain, choices=tuple(ends))
    else:
        domain = _with_scale(name, domain, reference.kind(name))
    if not domain.holds(known):
        raise SpecError(f"space.{name} = {domain} must contain the reference {setting} = {known}")
    other, value = condition(domain)
    if other is not None and (
        other not in space or space[other].when or not space[other].holds(value) or reference.kind(other) is float
    ):
        raise SpecError(
            f"space.{name}: when must be NAME=VALUE of another hyperparameter of the space, with a choice or a whole "
            f"number, got {domain.when}"
        )
    return domain


def _with_scale(name: str, domain: Domain, kind: type) -> Domain:
    """The domain with its scale, where it does not say which: of an argument, whose meaning is not known, the
    logarithmic one where that is possible."""
    if kind is int and domain.step and not domain.step.is_integer():
        raise SpecError(f"space.{name}: step must be a whole number, got {domain.step}")
    if domain.log is not None:
        return domain
    log = name not in LINEAR and not domain.step and not (name.startswith(ARGUMENT) and domain.low <= 0)
    try:
        return replace(domain, log=log)
    except SpecError as error:
        raise SpecError(f"space.{name}: {error}") from None


def _is_known(name: str) -> bool:
    return name in HYPERPARAMETERS or name.startswith(ARGUMENT)


def _checked_value(name: str, value: Value, reference: Configuration) -> Value:
    try:
        kind = reference.kind(name)
        if kind is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        if name.startswith(ARGUMENT):
            value = coerced(name, value, kind)
        return cast(Value, reference.configured({name: value}).value(name))
    except SpecError as error:
        raise SpecError(f"space.{name}: {error}") from None


def condition(domain: Domain | Choices) -> tuple[str | None, Value | None]:
    """The hyperparameter on which a domain depends, and the value that it must have; None: on none."""
    if domain.when is None:
        return None, None
    name, _, text = domain.when.partition("=")
    return name, from_text(name, text)


def from_text(name: str, text: str) -> Value:
    """The value of a hyperparameter that a text stands for; the text itself where it stands for none."""
    if name.startswith(ARGUMENT):
        return argument_from_text(text)
    if name not in HYPERPARAMETERS:
        return text
    kind = Configuration().kind(name)
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        return cast(Value, kind(text))
    except ValueError:
        return text


def argument_from_text(text: str) -> Value:
    """The number or truth value that a text is in TOML, else the text itself."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float) else text


def checked_point(point: Mapping[str, Any], reference: Configuration) -> Point:
    """A point of `points_to_evaluate` with values of the right types; SpecError where they cannot be. A number may also
    be a text such as "x0.5": half of the reference's."""
    for name in point:
        if not _is_known(name):
            raise SpecError(f"unknown hyperparameter {name} in points_to_evaluate{nearest(name, HYPERPARAMETERS)}")
        needed = name.startswith(ARGUMENT) or _factor(name, point[name], reference)
        if needed and reference.value(name) is None:
            raise SpecError(f"{name} must be given, because points_to_evaluate name it")
    return {
        name: value if _factor(name, value, reference) else coerced(f"points_to_evaluate.{name}", value, kind)
        for name, value in point.items()
        for kind in [reference.kind(name)]
    }


def in_numbers(point: Point, reference: Configuration) -> Point:
    """A checked point with the numbers that its multiples of the reference are."""
    found = dict(point)
    for name, value in point.items():
        if factor := _factor(name, value, reference):
            number = factor * cast(float, reference.value(name))
            found[name] = round(number) if reference.kind(name) is int else number
    return found


def _factor(name: str, value: object, reference: Configuration) -> float | None:
    """How many times the reference's a point's value is; None or 0 where it is a value of its own."""
    can_be = isinstance(value, str) and reference.kind(name) in (int, float)
    match = re.fullmatch(r"x(\d{1,9}(?:\.\d*)?|\.\d+)", str(value)) if can_be else None
    return float(match[1]) if match else None
