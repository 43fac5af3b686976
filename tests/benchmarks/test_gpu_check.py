"""The check of a GPU: a part costs itself only, figures come as they are known, nothing is claimed without a GPU."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from experiments.benchmarks.speed.gpu_check import AT_FULL_SIZE, CHECKS, Part, report, run_part
from experiments.benchmarks.speed.gpu_parts import PARTS, Notes, epochs, equality, fp16, out_of_memory, unrecordable

PART = Part(name="part", limit=1, goals={})


def test_every_part_is_there() -> None:
    assert [part.name for part in CHECKS] == list(PARTS)


@pytest.mark.parametrize(
    ("script", "ended"),
    [("", "done"), ("raise SystemExit(3)", "failed, see part.txt"), ("import time; time.sleep(60)", "stopped")],
)
def test_a_part_ends_in_time_and_what_it_found_before_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, ended: str
) -> None:
    monkeypatch.setattr("experiments.benchmarks.speed.gpu_check._LEAST", 0.0)
    started = time.monotonic()
    found = f"import pathlib; pathlib.Path({str(tmp_path / 'part.json')!r}).write_text('{{\"speed\": 2.0}}'); "
    result = run_part(PART, [sys.executable, "-c", found + script], tmp_path, 3)
    assert result["ended"].startswith(ended)
    assert result["figures"] == {"speed": 2.0}
    assert json.loads((tmp_path / "part.json").read_text()) == result
    assert time.monotonic() - started < 20


def test_no_part_begins_without_time(tmp_path: Path) -> None:
    assert run_part(PART, ["nothing"], tmp_path, 1)["ended"] == "left out: no time"


def test_a_goal_is_met_or_missed_and_without_a_gpu_neither() -> None:
    figures = {"8 epochs of the reference": 3.5, "gain of the graph, direct over recorded": 0.5, "other": 1}
    results = {"epochs": {"ended": "failed, see epochs.txt", "seconds": 1.0, "figures": figures}}
    lines = report(results, measured=True).splitlines()
    assert "| epochs | 8 epochs of the reference | 3.5 s | <= 4: met |" in lines
    assert "| epochs | gain of the graph, direct over recorded | 0.5 | >= 1: missed |" in lines
    assert "| epochs | step recorded as a CUDA graph | failed, see epochs.txt | >= 1: missed |" in lines
    assert "- epochs: other: 1" in lines
    rehearsed = report(results, measured=False)
    assert rehearsed.count("not measured: no GPU") == 4
    assert ": met" not in rehearsed


@pytest.mark.parametrize("part", [equality, epochs, fp16, unrecordable, out_of_memory])
@pytest.mark.filterwarnings("ignore:training without a CUDA graph")
def test_parts_that_train_are_rehearsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: object) -> None:
    monkeypatch.setattr("experiments.benchmarks.speed.gpu_parts.matmul_flops", lambda device: 1e9)
    name = part.__name__  # type: ignore[attr-defined]
    notes = Notes(tmp_path / "notes.json")
    PARTS[name](notes, [])
    wanted = next(check.goals for check in CHECKS if check.name == name)
    assert set(wanted) <= set(json.loads(notes.path.read_text()))


def test_the_reference_is_judged_at_full_size_only() -> None:
    result = {"ended": "done", "seconds": 9.0, "figures": {"images": "digits, 1,438 to train on"}}
    assert f"| baseline | {AT_FULL_SIZE} | done | >= 0.85: not measured |" in report({"baseline": result}, True)
    result["figures"] = {AT_FULL_SIZE: 0.862}
    assert f"| baseline | {AT_FULL_SIZE} | 0.862 | >= 0.85: met |" in report({"baseline": result}, True)
    result |= {"ended": "failed, see baseline.txt", "figures": {}}
    assert "missed |" in report({"baseline": result}, True)
