"""What a search can vary: any setting of `[train]` but its length, its seed and its precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, cast, get_args, get_type_hints

from tune_resnet.config.sections import TrainSpec
from tune_resnet.config.space import Choices, Domain, Point, Space, Value
from tune_resnet.config.validation import SpecError, coerced, nearest

_KINDS = get_type_hints(TrainSpec)
# varied on a linear scale unless a file says otherwise
LINEAR = ("peak_at", "momentum", "momentum_at_peak", "label_smoothing", "dropout", "crop_padding", "cutout")
HYPERPARAMETERS = tuple(item.name for item in fields(TrainSpec) if item.name not in ("epochs", "seed", "precision"))


def kind_of(name: str) -> type:
    """The type of a hyperparameter's values: bool, int, float or str."""
    kinds = get_args(_KINDS[name]) or (_KINDS[name],)
    return cast(type, next(kind for kind in kinds if kind is not type(None)))


def checked_domain(name: str, space: Space, train: TrainSpec) -> Domain | Choices:
    """The domain with choices of the hyperparameter's type; SpecError where it is not possible."""
    domain = space[name]
    if name not in HYPERPARAMETERS:
        known = ", ".join(HYPERPARAMETERS)
        raise SpecError(f"unknown hyperparameter space.{name}{nearest(name, HYPERPARAMETERS)}; known: {known}")
    if isinstance(domain, Domain) and kind_of(name) not in (int, float):
        raise SpecError(f"space.{name} needs choices: its values are no numbers")
    ends = [_checked_value(name, value, train) for value in domain.ends]
    if isinstance(domain, Choices):
        domain = replace(domain, choices=tuple(ends))
    reference = getattr(train, name)
    if reference is None:
        raise SpecError(f"train.{name} must be given, for the search varies it")
    if not domain.holds(reference):
        raise SpecError(f"space.{name} = {domain} must contain the reference train.{name} = {reference}")
    other, value = condition(domain)
    if other is not None and (other not in space or space[other].when or not space[other].holds(value)):
        raise SpecError(
            f"space.{name}: when must be NAME=VALUE of another hyperparameter of the space, got {domain.when}"
        )
    return domain


def _checked_value(name: str, value: Value, train: TrainSpec) -> Value:
    try:
        if kind_of(name) is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        return cast(Value, getattr(TrainSpec(**{**train.to_table(), name: value}), name))
    except SpecError as error:
        raise SpecError(f"space.{name}: {error}") from None


def condition(domain: Domain | Choices) -> tuple[str | None, Value | None]:
    """The hyperparameter on which a domain depends, and the value that it must have; None: on none."""
    if domain.when is None:
        return None, None
    name, _, text = domain.when.partition("=")
    return (name, from_text(name, text)) if name in HYPERPARAMETERS else (name, text)


def from_text(name: str, text: str) -> Value:
    """The value of a hyperparameter that a text stands for; the text itself where it stands for none."""
    kind = kind_of(name)
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        return cast(Value, kind(text))
    except ValueError:
        return text


def checked_point(point: Mapping[str, Any]) -> Point:
    for name in point:
        if name not in HYPERPARAMETERS:
            raise SpecError(f"unknown hyperparameter {name} in points_to_evaluate{nearest(name, HYPERPARAMETERS)}")
    return {name: coerced(f"points_to_evaluate.{name}", value, kind_of(name)) for name, value in point.items()}
