"""What is imported when: a wrong command line, --help and the start of Ray must not wait for what they do not need."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "ray", "pandas", "optuna", "plotly", "scipy.stats", "sklearn")


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("tune_resnet", ""),
        ("tune_resnet.search", ""),
        ("tune_resnet.commands.run", ""),
        ("tune_resnet.execution.cluster", ""),
        ("tune_resnet.runs.tables", ""),
        ("tune_resnet.data.load", ""),
        ("tune_resnet.data.split", ""),
        ("tune_resnet.training.loop", "torch"),
        ("tune_resnet.execution.searcher", "torch ray pandas optuna"),
        ("tune_resnet.results.tables", "pandas"),
        ("tune_resnet.results.page", "pandas plotly"),
    ],
)
def test_a_module_loads_nothing_heavy_that_it_does_not_need(module: str, allowed: str) -> None:
    code = f"import sys, {module}; print(*(set({HEAVY}) & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert set(done.stdout.split()) <= set(allowed.split())


HELP = f"""
import runpy, sys
sys.argv = ["search", "--help"]
try:
    runpy.run_module("tune_resnet.search", run_name="__main__")
except SystemExit as end:
    print("exit", end.code, "loaded", *sorted(set({HEAVY}) & set(sys.modules)))
"""


def test_help_loads_no_framework() -> None:
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] in ("exit 0 loaded", "exit None loaded")


PREPARE = """
import sys
from tune_resnet.commands.options import parse_options
from tune_resnet.commands.job import Job
from tune_resnet.commands.search import prepare
from tune_resnet.data.load import load_dataset
from tune_resnet.data.split import search_split

options = parse_options(["--dataset", "digits", "--limit-train", "200", "--width", "4", "--device", "cpu"])
dataset = load_dataset(options.spec.data)
prepare(Job(options, options.spec, None, 0.0, "search", None), dataset, search_split(dataset, options.spec.data))
print("loaded", *sorted({"ray", "torch", "optuna", "scipy", "sklearn", "torchvision"} & set(sys.modules)))
"""


def test_what_runs_beside_the_start_of_ray_loads_neither_ray_nor_what_a_search_may_not_need() -> None:
    done = subprocess.run([sys.executable, "-c", PREPARE], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "loaded optuna torch"
