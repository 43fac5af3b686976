"""What is printed for a person to use."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tune_resnet.text import to_install, to_run


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


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The running Python is bin/python of the working folder, an environment made from base/, which has no pip."""
    for name in ("bin/python", "bin/python3", "base/bin/python3"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path / "base"))
    monkeypatch.setenv("PATH", str(tmp_path / "base" / "bin"))
    monkeypatch.chdir(tmp_path)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else find(name))
    return tmp_path


def test_without_a_pip_of_its_own_another_python_installs_for_this_one(bare: Path) -> None:
    assert to_install("onnx", "a>=3") == "python3 -m pip --python bin/python install onnx 'a>=3'"


def test_where_the_environment_is_active_its_base_installs(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(bare / "bin"))  # python3 is this environment's, which has no pip
    assert to_install("onnx") == "base/bin/python3 -m pip --python bin/python install onnx"


def test_with_a_pip_of_its_own_a_python_installs_for_itself(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert to_install("onnx") == "bin/python -m pip install onnx"
