"""What is printed for a person to use."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from tune_resnet._text import as_json, busy, counted, say, to_install, to_run


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


def said(text: str, *, terminal: bool, whole: bool = False) -> list[str]:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=20, color_system=None)
    say(console, text, whole=whole)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_sentence_is_broken_between_words_on_a_terminal_only() -> None:
    sentence = "Trial 7 reached more than the reference.\n\nOnce more."
    assert said(sentence, terminal=True) == ["Trial 7 reached more", "than the reference.", "", "Once more."]
    assert said(sentence, terminal=False) == sentence.split("\n")


def test_what_stands_in_a_column_stays_there() -> None:
    assert said("data  a few images of digits", terminal=True) == ["data  a few images", "      of digits"]
    assert said("      a look after each pair", terminal=True) == ["      a look after", "      each pair"]


def test_what_is_to_be_copied_is_never_broken() -> None:
    path = "/a/path/longer/than/the/terminal"
    assert said(f"wrote {path}", terminal=True) == ["wrote", path]
    command = f"go on  python -m tune_resnet.search --resume {path}"
    assert said(f"{command}\n{command}", terminal=True, whole=True) == [command, command]


def test_what_is_counted_has_its_plural() -> None:
    assert [counted(number, "epoch") for number in (0, 1, 1200)] == ["0 epochs", "1 epoch", "1,200 epochs"]


def test_json_keeps_letters_and_escapes_what_is_no_text() -> None:
    values = {"é": "a\udce9", "n": [1, None]}  # the second as in the name of a file that is not UTF-8
    text = as_json(values)
    assert "é" in text
    assert text.encode()
    assert json.loads(text) == values


class Notebook:
    """Stands for Jupyter: while any output widget is open, it takes what is displayed, and is removed when closed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shown: list[Any] = []
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace())
        monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=self.shown.append))
        monkeypatch.setitem(sys.modules, "ipywidgets", SimpleNamespace(Output=self.refuse))

    def refuse(self) -> None:
        raise AssertionError("an output widget takes with it what a cell prints meanwhile")


def test_a_notebook_keeps_what_is_printed_after_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = Notebook(monkeypatch)
    console = Console(force_jupyter=True)
    with busy(console, "starting"):
        say(console, "within")
    say(console, "the plan")
    assert [output.text.rstrip() for output in notebook.shown] == ["within", "the plan"]


def test_a_terminal_shows_what_goes_on_as_long_as_it_does() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=40)
    with busy(console, "starting"):
        pass
    assert isinstance(console.file, io.StringIO)
    assert "starting" in console.file.getvalue()
