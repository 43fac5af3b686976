"""The list of runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from factories import RESULTS, SPEC, Build

from tune_resnet.runs.tables import FINISHED, INTERRUPTED, STOPPED
from tune_resnet.search import main


def listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    assert main(["runs", str(folder)]) == 0
    return [re.split(r"  +", line.strip()) for line in capsys.readouterr().out.splitlines()]


def test_runs_are_listed_with_their_state_the_last_one_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place, name in enumerate(("old", "whole")):
        build = Build(tmp_path / name)
        build.directory.write_env({"started_at": 1.7e9 + 86400 * place})
        build.trial([0.5, 0.6, 0.7, 0.80], FINISHED)
        build.trial([0.5, 0.6], INTERRUPTED)
    for _ in range(SPEC.search.num_samples - 2):
        build.trial([0.5], STOPPED)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "spec.toml").write_text("no")
    head, *rows = listed(tmp_path, capsys)
    assert " ".join(head).split() == ["run", "state", "trials", "best", "verdict", "started"]
    assert [row[0].split()[0] for row in rows] == ["whole", "old", "broken"]
    text = "\n".join(" ".join(row) for row in rows)
    assert re.search(r"whole interrupted 31/32 80\.00% - 2023-11-1[56]", text)
    assert re.search(r"old interrupted 1/32 80\.00% - 2023-11-1[45]", text)
    assert "broken damaged - - - -" in text


def test_recorded_runs_are_listed_with_their_verdicts(capsys: pytest.CaptureFixture[str]) -> None:
    text = "\n".join(" ".join(row) for row in listed(RESULTS, capsys))
    assert re.search(r"cifar10-jpeg-search +finished 32/32 \d\d\.\d\d% better, \+1\.58", text)
    assert re.search(r"cifar10-jpeg-full +finished 1/1 86\.23% a baseline", text)


def test_an_empty_folder_and_a_wrong_one_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(tmp_path)]) == 0
    assert f"there is no run in {tmp_path}" in capsys.readouterr().out
    assert main(["runs", str(tmp_path / "nowhere")]) == 2
    assert main(["runs", ".", "."]) == 2
    assert main(["runs", "--all"]) == 2
    errors = capsys.readouterr().err
    assert f"error: there is no folder {tmp_path / 'nowhere'}\n" in errors
    assert errors.count("error: runs takes one folder of runs, got") == 2
    with pytest.raises(SystemExit) as caught:
        main(["runs", "--help"])
    assert caught.value.code == 0
    assert "usage: tune-resnet runs [-h] [DIR]" in capsys.readouterr().out
