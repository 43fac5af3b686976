"""README's links lead somewhere, its commands have the flags it names, its file map is complete."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import tomllib
from pathlib import Path

import pytest
from factories import ROOT
from faults import group, recorded, summary

from tune_resnet.config.spec import SearchSpec

PAGES = [path for path in ROOT.rglob("*.md") if not {".venv", ".git", "runs"} & set(path.relative_to(ROOT).parts)]
README = (ROOT / "README.md").read_text()
COMMAND = re.compile(r"python -m (tune_resnet\.\w+)([^\n#`]*(?:\\\n[^\n#`]*)*)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_or_a_heading(page: Path) -> None:
    text = page.read_text()
    anchors = {
        re.sub(r"[^\w -]", "", head).strip().lower().replace(" ", "-") for head in re.findall(r"^#+ (.*)$", text, re.M)
    }
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("http")]
    broken = [
        link
        for link in links
        if not (link[1:] in anchors if link.startswith("#") else (page.parent / link.partition("#")[0]).exists())
    ]
    assert broken == []


def commands() -> list[tuple[str, frozenset[str]]]:
    """Each module that README runs, with the flags it gives it."""
    found = COMMAND.findall(README)
    return [(module, frozenset(re.findall(r"(?<=\s)--[a-z-]+", arguments))) for module, arguments in found]


@pytest.mark.parametrize("module", sorted({module for module, _ in commands()}))
def test_every_command_has_the_flags_that_readme_gives_it(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        importlib.import_module(module).main(["--help"])
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    assert {flag for name, flags in commands() if name == module for flag in flags} <= known


def test_the_specs_that_readme_names_are_there() -> None:
    named = set(re.findall(r"experiments/[\w/]+\.(?:toml|py|md)", README))
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_map_names_every_file_of_every_room() -> None:
    rows = re.findall(r"^\| `(\w+)/` \| (.*) \|$", (ROOT / "tune_resnet" / "README.md").read_text(), re.M)
    named = {room: set(re.findall(r"`(\w+)`", files)) for room, files in rows}
    rooms = {path.parent for path in (ROOT / "tune_resnet").glob("*/__init__.py")}
    assert named == {room.name: {path.stem for path in room.glob("*.py")} - {"__init__"} for room in rooms}


def test_the_table_of_settings_is_complete_and_right() -> None:
    rows = re.findall(r"^\| `(\w+\.\w+)` \| (?:`([^`]*)`)? ?\|", (ROOT / "experiments" / "README.md").read_text(), re.M)
    settings = tomllib.loads(SearchSpec().to_toml())
    expected = {
        f"{table}.{item.name}": settings[table].get(item.name)
        for table in settings
        if table not in ("space", "points_to_evaluate")
        for item in dataclasses.fields(getattr(SearchSpec(), table))
    }
    assert [name for name, _ in rows] == list(expected)
    for name, shown in rows:
        default = expected[name]
        assert shown == ("" if default is None else default) or json.loads(shown) == default, name


def test_the_fault_matrix_is_the_recorded_one() -> None:
    folder = ROOT / "experiments" / "results" / "faults"
    injected = recorded(folder / "faults.csv")
    assert all(fault.survived for fault in injected)
    assert sum(fault.rows_lost + fault.rows_changed for fault in injected) == 0
    assert summary(injected, group) in README
    assert summary(injected) in (folder / "README.md").read_text()
