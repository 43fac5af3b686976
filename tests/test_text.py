"""What is printed for a person to use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tune_resnet.text import to_run


def test_a_command_names_the_python_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "python").symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert to_run("search", "--resume", "runs/a") == "bin/python -m tune_resnet.search --resume runs/a"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert to_run("analysis") == f"{folder}/python -m tune_resnet.analysis"
    monkeypatch.setenv("PATH", str(folder))
    assert to_run("analysis") == "python -m tune_resnet.analysis"


def test_a_command_survives_the_shell() -> None:
    words = ["a b", "--name=$HOME", "'", "…", "*"]
    shown = to_run("predict", *words)
    done = subprocess.run(["sh", "-c", f"printf '%s\\n' {shown}"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == ["-m", "tune_resnet.predict", *words]
