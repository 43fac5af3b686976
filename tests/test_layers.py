"""Who may import whom, read from the source: every import counts, those inside functions too."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import tune_resnet

# highest first: a module imports only from lines below its own
LAYERS = (
    ("export",),
    ("predict", "search", "api"),
    ("command",),
    ("confirm",),  # a command starts it, and imports it only then
    ("tuning", "baseline", "conclusion", "loggers"),
    ("report",),
    ("charts",),
    ("chart_data",),
    ("events",),
    ("progress", "analysis"),
    ("plan", "drawing", "pairs"),
    ("outlook", "verdict", "edges"),
    ("searcher",),
    ("history",),
    ("warm_start", "models"),
    ("findings", "fidelity"),
    ("trainable", "pool", "options", "frames"),
    ("checkpoint",),
    ("recorder", "train", "weights", "study_file", "reading", "paired", "scheduler"),
    ("estimate", "stopping"),
    ("augment", "metrics", "adam"),
    ("records", "data", "model", "schedule", "device", "environment", "cuda_graph"),
    ("folder", "spec", "cluster"),
    ("image_tree",),
    ("space", "images"),
    ("settings",),
    ("errors", "files", "interrupts"),
    ("text",),
)
MAY_IMPORT = {
    "ray": {"cluster", "trainable", "searcher", "scheduler", "events", "tuning", "plan", "pool", "loggers"},
    "optuna": {"searcher", "study_file", "warm_start", "findings"},
}
# not while they are imported themselves; inside a function is fine
HEAVY = {"torch", "torchvision", "ray", "pandas", "optuna", "plotly"}
NOT_AT_IMPORT = {
    "settings": {"torch", "torchvision"},
    "space": {"torch", "torchvision"},
    "spec": {"torch", "torchvision"},
    "records": {"torch", "torchvision"},
    "folder": {"torch", "torchvision"},
    "data": {"torch", "torchvision"},
    "options": HEAVY,
    "search": HEAVY,
    "command": HEAVY,
    "cluster": HEAVY,
    "searcher": {"scipy", "sklearn"},
}

PACKAGE = Path(tune_resnet.__file__).parent
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")
HEIGHT = {module: -line for line, modules in enumerate(LAYERS) for module in modules}


class Import(NamedTuple):
    name: str  # dotted, of a module or of something in one
    at_import: bool  # happens when the module is imported: not inside a function, not for type checkers only


def imports_of(source: str) -> set[Import]:
    found: set[Import] = set()

    def visit(node: ast.AST, at_import: bool) -> None:
        if isinstance(node, ast.Import):
            found.update(Import(alias.name, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = ["tune_resnet"] * bool(node.level) + [node.module] * bool(node.module)
            found.update(Import(".".join([*parts, alias.name]), at_import) for alias in node.names)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for child in node.body:
                visit(child, False)
            rest: list[ast.AST] = list(node.orelse)
        else:
            rest = list(ast.iter_child_nodes(node))
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in rest:
            visit(child, at_import and not inside)

    visit(ast.parse(source), True)
    return found


def imports_of_module(module: str) -> set[Import]:
    return imports_of((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))


def own_modules(imports: set[Import]) -> set[str]:
    """The modules of this package among them."""
    return {item.name.split(".")[1] for item in imports if item.name.startswith("tune_resnet.")}


@pytest.mark.parametrize(
    ("source", "name", "at_import"),
    [
        ("import ray", "ray", True),
        ("import ray.tune as t, torch", "torch", True),
        ("from ray.tune import Tuner", "ray.tune.Tuner", True),
        ("from tune_resnet import train", "tune_resnet.train", True),
        ("from tune_resnet.train import evaluate", "tune_resnet.train.evaluate", True),
        ("from . import train", "tune_resnet.train", True),
        ("from .train import evaluate", "tune_resnet.train.evaluate", True),
        ("class A:\n    import ray", "ray", True),
        ("try:\n    import ray\nexcept ImportError:\n    pass", "ray", True),
        ("def f():\n    if True:\n        import ray", "ray", False),
        ("class A:\n    async def f(self):\n        import ray", "ray", False),
        ("if TYPE_CHECKING:\n    import ray", "ray", False),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    import ray", "ray", True),
    ],
)
def test_every_form_of_import_is_seen(source: str, name: str, at_import: bool) -> None:
    assert Import(name, at_import) in imports_of(source)


def test_every_module_has_its_place_in_the_layers() -> None:
    assert [module for module in MODULES if module not in HEIGHT] == []


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_lower_layers(module: str) -> None:
    wrong = {other for other in own_modules(imports_of_module(module)) if HEIGHT[other] >= HEIGHT[module]}
    assert wrong == set(), f"{module} must not import {', '.join(sorted(wrong))}"


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_framework_is_imported_only_where_it_belongs(package: str) -> None:
    users = {m for m in MODULES if package in {item.name.split(".")[0] for item in imports_of_module(m)}}
    assert users <= MAY_IMPORT[package]


@pytest.mark.parametrize("module", [module for module in NOT_AT_IMPORT if module in MODULES])
def test_a_light_module_loads_nothing_heavy(module: str) -> None:
    loaded = {item.name.split(".")[0] for item in imports_of_module(module) if item.at_import}
    assert loaded & NOT_AT_IMPORT[module] == set()


HELP = f"""
import runpy, sys
sys.argv = ["search", "--help"]
try:
    runpy.run_module("tune_resnet.search", run_name="__main__")
except SystemExit as end:
    print("exit", end.code, "loaded", *sorted({HEAVY} & set(sys.modules)))
"""


@pytest.mark.skipif("search" not in MODULES, reason="tune_resnet/search.py does not exist yet")
def test_help_loads_no_framework() -> None:
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] in ("exit 0 loaded", "exit None loaded")


PREPARE = """
import sys
from tune_resnet.data import load_dataset, search_split
from tune_resnet.options import parse_options
from tune_resnet.command import Command, _prepare

options = parse_options(["--dataset", "digits", "--limit-train", "200", "--width", "4", "--device", "cpu"])
dataset = load_dataset(options.spec.data)
_prepare(Command(options, None, 0.0, None, None), dataset, search_split(dataset, options.spec.data))
print("loaded", *sorted({"ray", "torch", "optuna", "scipy", "sklearn", "torchvision"} & set(sys.modules)))
"""


def test_what_runs_beside_the_start_of_ray_loads_neither_ray_nor_what_a_search_may_not_need() -> None:
    done = subprocess.run([sys.executable, "-c", PREPARE], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "loaded optuna torch"
