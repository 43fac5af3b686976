"""Every page: links lead somewhere, commands exist and have the flags that are named, tables are what they are of."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from factories import RESULTS, ROOT
from faults import group, recorded, summary

from experiments.benchmarks.speed.goals import read_rows, table
from tune_resnet.config.sections import SECTIONS
from tune_resnet.results.paired_test import analyse_pairs

PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in sorted(ROOT.rglob("*.md"))
    if not {".venv", ".git", ".pytest_cache", "runs"} & set(path.relative_to(ROOT).parts)
}
FINDING = PAGES["experiments/FINDING.md"]
COMMAND = re.compile(r"python -m ((?:tune_resnet|experiments)\.[a-z_.]*[a-z])\b((?:\\\n|[^\n#`])*)")
WRAPPED = re.compile(r"(`python(?:[^`\n]|\n(?!\n))*?)\n(?=[^`]*`)")  # a command of a paragraph, over two lines
MAKE = re.compile(r"(?:^    |`)make (\w+)", re.M)
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAX_LINES = 100  # of README


def anchors(page: str) -> set[str]:
    """What a link to a heading of a page ends in, as GitHub makes it."""
    heads = re.findall(r"^#+ (.*)$", page, re.M)
    return {re.sub(r"[^\w -]", "", head).strip().lower().replace(" ", "-") for head in heads}


def leads_somewhere(link: str, page: Path) -> bool:
    name, _, anchor = link.partition("#")
    target = (page.parent / name).resolve() if name else page
    return target.exists() and (not anchor or anchor in anchors(target.read_text()))


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_or_a_heading(page: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", PAGES[page])
    assert [one for one in links if not one.startswith("http") and not leads_somewhere(one, ROOT / page)] == []


@pytest.mark.parametrize("page", PAGES)
def test_the_files_that_a_page_names_are_there(page: str) -> None:
    named = re.findall(r"(?<![\w/.])(?:experiments|tests|tune_resnet)/[\w./-]+\.(?:toml|py|md|yaml)\b", PAGES[page])
    assert [name for name in named if not (ROOT / name).exists()] == []


def flags_by_module() -> dict[str, set[str]]:
    """Each module that a page runs, with all flags that it is given."""
    found: dict[str, set[str]] = {}
    for module, arguments in COMMAND.findall(WRAPPED.sub(r"\1 ", "\n".join(PAGES.values()))):
        found.setdefault(module, set()).update(re.findall(r"(?<=\s)--[a-z-]+", arguments))
    return found


@pytest.mark.parametrize(("module", "flags"), flags_by_module().items(), ids=flags_by_module())
def test_every_command_has_the_flags_that_pages_give_it(
    module: str, flags: set[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert importlib.util.find_spec(module)
    if module.endswith(".picture"):
        pytest.importorskip("matplotlib")
    command = importlib.import_module(module)
    if hasattr(command, "main"):
        monkeypatch.setattr(sys, "argv", [module, "--help"])
        with pytest.raises(SystemExit):
            command.main()
    assert flags <= set(re.findall(r"--[a-z-]+", capsys.readouterr().out))


def test_what_pages_have_made_is_in_the_makefile() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    named = set(MAKE.findall("\n".join(PAGES.values())))
    assert {"quickstart", "test", "bench"} <= named <= set(targets)


def test_the_extras_that_pages_install_are_there() -> None:
    found = re.findall(r"'\.\[([\w,]+)\]'", "\n".join(PAGES.values()))
    named = {extra for extras in found for extra in extras.split(",")}
    assert {"dashboard", "log", "onnx", "picture"} <= named <= set(PYPROJECT["project"]["optional-dependencies"])


def test_the_installed_command_is_the_one_that_pages_name() -> None:
    module, _, function = PYPROJECT["project"]["scripts"]["tune-resnet"].partition(":")
    assert "`tune-resnet` is short for `python -m tune_resnet.search`" in PAGES["experiments/USING.md"]
    assert (module, function) == ("tune_resnet.search", "process")


def test_readme_is_short() -> None:
    assert len(PAGES["README.md"].splitlines()) <= MAX_LINES


def test_the_maps_name_every_room_and_every_file_of_it() -> None:
    rows = re.findall(r"^\| `(\w+)/` \| (.*) \|$", PAGES["tune_resnet/README.md"], re.M)
    named = {room: set(re.findall(r"`(\w+)`", files)) for room, files in rows}
    rooms = {path.parent for path in (ROOT / "tune_resnet").glob("*/__init__.py")}
    assert named == {room.name: {path.stem for path in room.glob("*.py")} - {"__init__"} for room in rooms}
    assert set(re.findall(r"^    tune_resnet/(\w+)/ ", PAGES["README.md"], re.M)) == set(named)


def lines_of_settings() -> list[str]:
    """A line for each setting of a spec, in the words of its field."""
    lines = []
    for section, kind in SECTIONS.items():
        for item in fields(kind):
            about: dict[str, Any] = dict(item.metadata)
            flag = about.get("flag", item.name).replace("_", "-")
            default = "" if item.default in (None, MISSING) else f"`{str(item.default).lower()}`"
            choices = ", ".join(f"`{choice}`" for choice in about.get("choices", ()))
            what = f"{choices}; {about['about']}" if choices else about["about"]
            lines.append(f"| `{section}.{item.name}` | `--{flag}` | {default} | {what} |")
    return lines


def test_the_table_of_settings_has_what_the_fields_say() -> None:
    assert re.findall(r"^\| `\w+\.\w+` .*$", PAGES["experiments/README.md"], re.M) == lines_of_settings()


def test_the_fault_matrix_is_the_recorded_one() -> None:
    injected = recorded(RESULTS / "faults" / "faults.csv")
    assert all(fault.survived for fault in injected)
    assert sum(fault.rows_lost + fault.rows_changed for fault in injected) == 0
    assert summary(injected, group) in PAGES["tests/README.md"]
    assert summary(injected) in PAGES["experiments/results/faults/README.md"]


def test_the_differences_by_fresh_seed_are_the_recorded_ones() -> None:
    seeds = {}
    for regime in ("gtsrb", "digits", "wide-gtsrb", "wide-digits"):
        folder = RESULTS / "searches" / regime
        seeds[regime] = pd.read_csv(folder / "seeds.csv", index_col="fresh_seed")
        by_search = pd.read_csv(folder / "pairs.csv", index_col="seed")
        np.testing.assert_allclose(seeds[regime].mean(), by_search[list(seeds[regime])].mean(), atol=1e-3)
    seeds["all"] = pd.concat(seeds.values()).groupby("fresh_seed").mean()
    for regime, accuracies in seeds.items():
        cells = []
        for other in ("tpe", "ray", "reference"):
            differences = (accuracies["ours"] - accuracies[other]).tolist()
            found = analyse_pairs(differences)
            interval = rf"\**\[{found.low:.2f}, {found.high:.2f}\]\**"
            cells.append(rf"{', '.join(f'{one:.2f}' for one in differences)}(?: {interval})?")
        assert re.search(rf"^\| [^|]* \| {' [|] '.join(cells)} \|$", FINDING, re.M), regime


@pytest.mark.parametrize("regime", ["gtsrb-tracks", "cifar10-5000"])
def test_the_searches_counted_in_whole_trials_are_the_recorded_ones(regime: str) -> None:
    folder = RESULTS / "searches-whole-trials" / regime
    pairs, seeds = pd.read_csv(folder / "pairs.csv", index_col=0), pd.read_csv(folder / "seeds.csv", index_col=0)
    named = ["ours", "tpe", "ray", "reference"]
    assert f"| mean of eight searches | {' | '.join(f'{pairs[name].mean():.2f}%' for name in named)} |" in FINDING
    for over, rows in (("three seeds", seeds), ("eight searches", pairs)):
        found = [analyse_pairs((rows["ours"] - rows[name]).tolist()) for name in named[1:]]
        cells = " | ".join(f"{one.mean:+.2f} [{one.low:.2f}, {one.high:.2f}]" for one in found)
        assert f"| interval over the {over} | | {cells} |" in FINDING.replace("**", "")


def test_the_table_of_benchmarks_is_the_recorded_one() -> None:
    rows = read_rows(RESULTS / "benchmarks")
    page = PAGES["experiments/benchmarks/README.md"]
    assert table(rows) in page
    met = sum(row.met for row in rows)
    assert f"{met} of these {len(rows)} bounds are met" in page
    assert f"Of {len(rows)} bounds on speed and memory, {len(rows) - met} are missed" in PAGES["README.md"]


def test_the_table_of_markers_is_complete() -> None:
    named = re.findall(r"^\| `(\w+)` \|", PAGES["tests/README.md"], re.M)
    markers = PYPROJECT["tool"]["pytest"]["ini_options"]["markers"]
    assert sorted(named) == sorted(marker.partition(":")[0] for marker in markers)


def test_the_example_of_reading_a_run_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    lines = PAGES["experiments/USING.md"].splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith("    from tune_resnet.analysis import"))
    exec("\n".join(line[4:] for line in lines[begin : lines.index("", begin)]), {})
    assert "finished" in capsys.readouterr().out


def test_hooks_and_workflow_run_what_a_change_must_pass() -> None:
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    tools = [hook["entry"].removeprefix(".venv/bin/") for hook in local["hooks"]]
    assert (local["repo"], tools) == ("local", ["ruff format", "ruff check", "mypy", "lint-imports"])
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert [step["run"] for step in workflow["jobs"]["test"]["steps"] if "run" in step] == [".ci/run"]
