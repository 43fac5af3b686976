"""A spec from its TOML file, and what a command line changes of it.

A file has one table per section (`[data]`, `[model]`, `[train]`, `[space]`, `[search]`, `[scheduler]`, `[resources]`).
`[train]` states the reference configuration; `[space]` names what a search varies. Every error is a `SpecError` with a
one-line message that names the setting.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from tune_resnet.config.sections import SECTIONS
from tune_resnet.config.space import Point, Space, domain_from_table, with_bounds
from tune_resnet.config.spec import SearchSpec
from tune_resnet.config.validation import SpecError, nearest, shown


def spec_from_tables(tables: Mapping[str, Any]) -> SearchSpec:
    """A spec from TOML tables. A `[space]` table lists all that varies; without one the default space is searched."""
    parts: dict[str, Any] = {}
    for name, table in tables.items():
        if name == "space":
            parts[name] = _space(table)
        elif name == "points_to_evaluate":
            parts[name] = _points(table)
        elif name in SECTIONS:
            _refuse_misplaced(name, table)
            parts[name] = SECTIONS[name].from_table(table)
        else:
            known = [*SECTIONS, "space", "points_to_evaluate"]
            raise SpecError(f"unknown section [{name}]{_at_home(name) or nearest(name, known)}")
    return SearchSpec(**parts)


def _space(table: object) -> Space:
    """The domains in a `[space]` table; SpecError where one of them is wrong."""
    if not isinstance(table, Mapping):
        raise SpecError(f"space must be a table, got {shown(table)}")
    space = {}
    for name, domain in _flat(table).items():
        try:
            space[name] = domain_from_table(domain)
        except SpecError as error:
            raise SpecError(f"space.{name}: {error}") from None
    return space


def _points(points: object) -> tuple[Point, ...]:
    """The configurations in `points_to_evaluate`; SpecError where it is not a list of tables."""
    if not isinstance(points, list) or not all(isinstance(point, Mapping) for point in points):
        raise SpecError(f"points_to_evaluate must be a list of tables, got {shown(points)}")
    return tuple(_flat(point) for point in points)


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by the names of hyperparameters: in TOML, `model.width` is a table in a table."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        within = name in ("data", "model", "model.args") and isinstance(value, Mapping)
        found |= _flat(value, f"{name}.") if within else {name: value}
    return found


def _refuse_misplaced(section: str, table: object) -> None:
    """SpecError where a section's table holds a setting of another section."""
    for name in table if isinstance(table, Mapping) else ():
        if name not in _settings(section) and (home := _at_home(name)):
            raise SpecError(f"unknown setting {section}.{name}{home}")


def _at_home(name: str) -> str:
    """`" (did you mean 'section.name'?)"` for a setting's name, or an empty string."""
    found = [section for section in SECTIONS if name in _settings(section)]
    return f" (did you mean '{found[0]}.{name}'?)" if found else ""


def _settings(section: str) -> set[str]:
    return {item.name for item in fields(SECTIONS[section])}


def _load_tables(path: Path) -> dict[str, Any]:
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


def load_spec(path: Path | str) -> SearchSpec:
    """The spec in a TOML file; SpecError where it cannot be read, or a setting is wrong."""
    tables = _load_tables(Path(path))
    try:
        return spec_from_tables(tables)
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None


def spec_with_settings(
    file: Path | None, settings: dict[str, Any], space: dict[str, dict[str, Any]], *, resumed: bool
) -> SearchSpec:
    """The spec in a TOML file, or the default one, with what flags say laid over it: settings by `section.name`, and
    tables of the space. `resumed`: it is an existing run's. SpecError, naming the file where that is wrong."""
    tables: dict[str, Any] = {}
    if file:
        tables = _load_tables(file)
        folder = {key: value for key, value in settings.items() if key == "data.data_dir"}
        try:
            spec = spec_from_tables(_laid_over(tables, folder))  # a folder spec may leave the folder to the flag
        except SpecError as error:
            raise SpecError(f"{file}: {error}") from None
        _check_factory(spec.model.factory, settings.get("model.factory"), file, resumed)
        if settings.get("model.factory", spec.model.factory) != spec.model.factory:
            tables = {**tables, "model": {}}  # the file's network is another
        before, device = spec.resources.device, settings.get("resources.device")
        if device not in (None, before) and (before, device) != ("auto", "cuda"):
            settings = {"resources.gpus_per_trial": None, **settings}  # the file's share is of the device it has
    if space:
        # A file's own space; else that of the reference that the flags make.
        own = (spec if tables.get("space") else spec_from_tables(_laid_over(tables, settings))).space
        tables = {**tables, "space": with_bounds(own, space)}
        if not tables["space"]:
            raise SpecError("--space leaves nothing to vary")
    return spec_from_tables(_laid_over(tables, settings))


def _check_factory(named: str | None, given: str | None, file: Path, resumed: bool) -> None:
    """A file may be a stranger's: the code that it names is imported only where --model names it, too."""
    if named is not None and given is None:
        raise SpecError(f"{file} uses a network of your own: --model {named} allows it to be imported and run")
    if resumed and named != given:
        raise SpecError(f"{file} uses {named or 'ResNet9'}: --model {given} does not go with it")


def _laid_over(tables: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Tables with each `section.name` of the settings in its section."""
    for key, value in settings.items():
        section, name = key.split(".")
        table = tables.get(section, {})
        if isinstance(table, dict):  # else it is an error that the spec explains
            tables = {**tables, section: {**table, name: value}}
    return tables
