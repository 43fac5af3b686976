"""Frozen groups of settings that check their own types and limits: what `spec` is made of."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import Field, field, fields
from typing import Any, Self, get_args, get_type_hints

from tune_resnet.errors import UserError

Arguments = dict[str, bool | int | float | str]


class SpecError(UserError, ValueError):
    """A setting that is unknown, of the wrong type, or out of range."""


def setting(default: Any, about: str, **more: Any) -> Any:
    """A dataclass field: what it is about, for --help and the table of settings; its limits `ge`, `gt`, `le` (of
    numbers) or `choices` (of strings), and `past` choices, which recorded runs may have; and how the command line has
    it: its `flag`, where that is not its name, its `metavar`, and whether it is `seconds`."""
    return field(default=default, metadata={"about": about, **more})


def flag_of(item: Field[Any]) -> str:
    """What the command line calls a setting."""
    return "--" + str(item.metadata.get("flag", item.name)).replace("_", "-")


_SYNONYMS = {"learning_rate": "max_lr", "lr": "max_lr", "beta1": "momentum"}


def nearest(name: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """`" (did you mean 'x'?)"` for the known name closest to `name`, or an empty string."""
    names = list(known)
    if (other := _SYNONYMS.get(name)) in names:
        return f" (did you mean {other!r}?)"
    close = difflib.get_close_matches(name, names, n=1, cutoff=cutoff)
    return f" (did you mean {close[0]!r}?)" if close else ""


def shown(value: object) -> str:
    """A value as a message shows it, short whatever its size or depth."""
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, int) and not _fits_toml(value):
        return f"a {value.bit_length()}-bit integer"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _fits_toml(value: int) -> bool:
    return -(2**63) <= value < 2**63


def coerced(name: str, value: Any, kind: Any) -> Any:
    """`value` as `kind` (bool, int, float, str, or one of these or None; `Arguments`); SpecError where it is something
    else."""
    if kind == Arguments:
        return _arguments(name, value)
    kinds = get_args(kind) or (kind,)
    if value is None and type(None) in kinds:
        return None
    wanted = next(k for k in kinds if k is not type(None))
    if wanted in (int, float) and isinstance(value, int) and not isinstance(value, bool):
        if not _fits_toml(value):
            raise SpecError(f"{name} must fit in 64 bits, got {shown(value)}")
        value = wanted(value)
    if not isinstance(value, wanted) or (wanted is not bool and isinstance(value, bool)):
        raise SpecError(f"{name} must be {_KIND_NAMES[wanted]}, got {shown(value)}")
    if wanted is float and not math.isfinite(value):
        raise SpecError(f"{name} must be a finite number, got {shown(value)}")
    if wanted is str and any("\ud800" <= c <= "\udfff" for c in value):  # from a path that is not UTF-8
        raise SpecError(f"{name} must be valid Unicode, got {shown(value)}")
    if wanted is str and (not value or "\0" in value):
        raise SpecError(f"{name} must not be empty or hold NUL, got {shown(value)}")
    return value


_KIND_NAMES = {float: "a number", int: "a whole number", str: "a string", bool: "true or false"}


def _arguments(name: str, table: object) -> Arguments:
    if not isinstance(table, Mapping):
        raise SpecError(f"{name} must be a table, got {shown(table)}")
    for key, value in table.items():
        if not (isinstance(key, str) and key.isidentifier()):
            raise SpecError(f"{name} must have names for keys, got {shown(key)}")
        if not isinstance(value, bool | int | float | str):
            raise SpecError(f"{name}.{key} must be a number, a string, true or false, got {shown(value)}")
    return {key: coerced(f"{name}.{key}", value, type(value)) for key, value in table.items()}


def _check_limits(name: str, value: Any, limits: Mapping[str, Any]) -> None:
    if value is None:
        return
    if "choices" in limits and value not in (*limits["choices"], *limits.get("past", ())):
        close = nearest(value.strip().lower(), limits["choices"], cutoff=0.7)  # gpu is not nearly cpu
        raise SpecError(f"{name} must be one of {', '.join(limits['choices'])}; got {shown(value)}{close}")
    for key, holds, words in (
        ("gt", operator.gt, "greater than"),
        ("ge", operator.ge, "at least"),
        ("le", operator.le, "at most"),
    ):
        if key in limits and not holds(value, limits[key]):
            raise SpecError(f"{name} must be {words} {limits[key]}, got {value}")


def differences(instance: Any, **implied: Any) -> str:
    """A dataclass as the call that makes it, without what has its default, or what is `implied` by the rest."""
    defaults = {
        item.name: item.default_factory() if callable(item.default_factory) else item.default
        for item in fields(instance)
    } | implied
    values = {name: getattr(instance, name) for name in defaults}
    given = (f"{name}={value!r}" for name, value in values.items() if value != defaults[name])
    return f"{type(instance).__name__}({', '.join(given)})"


_hints = functools.cache(get_type_hints)  # it compiles them at each call, and each trial has a section of its own


@dataclasses.dataclass(frozen=True, repr=False)
class Section:
    """Checks every field's type and limits when a section is made."""

    section = ""

    def __post_init__(self) -> None:
        kind: Any = type(self)
        hints = _hints(kind)
        for item in fields(self):
            name = f"{self.section}.{item.name}"
            value = coerced(name, getattr(self, item.name), hints[item.name])
            _check_limits(name, value, item.metadata)
            object.__setattr__(self, item.name, value)

    def __repr__(self) -> str:
        return differences(self)

    @classmethod
    def from_table(cls, table: object) -> Self:
        """A section from its TOML table; unknown keys are errors."""
        if not isinstance(table, Mapping):
            raise SpecError(f"{cls.section} must be a table, got {shown(table)}")
        known = [item.name for item in fields(cls)]
        for key in table:
            if key not in known:
                raise SpecError(f"unknown setting {cls.section}.{key}{nearest(key, known)}")
        return cls(**table)

    def to_table(self) -> dict[str, Any]:
        """The TOML table of this section; settings that are None (TOML has no null) are left out."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}
