"""What a run ends with."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from pathlib import Path

import pytest
from factories import SPEC, Build
from rich.console import Console

from tune_resnet.commands.summary import TimeBudget, conclude
from tune_resnet.config.sections import BudgetSpec, DataSpec
from tune_resnet.data.types import Dataset
from tune_resnet.execution.callbacks import StopRequest
from tune_resnet.runs.tables import FINISHED, INTERRUPTED
from tune_resnet.search import main


@pytest.fixture
def run(tmp_path: Path) -> Build:
    """A search with one trial finished and one interrupted after 2 of 4 epochs."""
    build = Build(tmp_path / "run")
    build.trial([0.5, 0.6, 0.7, 0.80], FINISHED)
    build.trial([0.5, 0.6], INTERRUPTED)
    return build


def concluded(build: Build, budget: TimeBudget | None) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=1000)
    code = conclude(build.directory, console, time.time(), budget)
    assert isinstance(console.file, io.StringIO)
    return code, console.file.getvalue()


def test_a_time_budget_that_ended_the_search_is_said(run: Build) -> None:
    budget = TimeBudget(seconds=1800, seconds_per_epoch=12, epochs_before=0)
    code, printed = concluded(run, budget)
    assert code == 0
    assert f"\nThe time budget of 30m 00s ended the search with {SPEC.search.num_samples - 1} trials left.\n" in printed


def test_without_one_nothing_is_said_of_it(run: Build) -> None:
    assert "budget" not in concluded(run, None)[1]


def test_a_time_budget_in_which_nothing_was_trained_is_too_short(run: Build) -> None:
    """Whatever was found before: a loop that resumes the search as long as it ends well must end."""
    code, printed = concluded(run, TimeBudget(seconds=5, seconds_per_epoch=12.3, epochs_before=6))
    assert code == 1
    assert (
        "\nThe time budget of 5s was over before the first epoch was done (about 12s, after some seconds to start): "
        "nothing was trained. Give a longer --time-budget.\n"
    ) in printed


def test_a_search_knows_whether_its_time_is_over() -> None:
    assert not StopRequest(None).over
    assert not StopRequest(100).over
    assert StopRequest(1e-9).over
    assert StopRequest(1e-9).stop_all()


def offered(build: Build, **env: object) -> set[str]:
    """The first words of the commands that are named at the end."""
    build.directory.write_env({"kind": "search", **env})
    _, printed = concluded(build, None)
    return {word for word in ("confirm it", "finalize it", "use it", "go on") if f"\n{word}" in printed}


def test_only_what_can_be_done_and_has_not_been_is_offered(run: Build) -> None:
    assert offered(run) == {"finalize it", "use it", "go on"}  # the reference has won
    run.trial([0.5, 0.6, 0.7, 0.9], FINISHED, max_lr=0.03)
    assert offered(run) == {"confirm it", "finalize it", "use it", "go on"}
    assert offered(run, test_set=False) == {"finalize it", "use it", "go on"}
    lines = ["seed,configuration,max_lr,weight_decay,grad_clip,epochs,test_accuracy,test_loss,seconds,worker,error"]
    lines += [
        f"{seed},{name},{max_lr},0.0001,0.1,4,{accuracy + seed / 1e6},0.5,1.5,host:1,"
        for seed in (1000, 1001)
        for name, max_lr, accuracy in (("reference", 0.01, 0.6), ("winner", 0.03, 0.7))
    ]
    run.directory.confirm_csv.write_text("\n".join(lines) + "\n")
    assert offered(run) == {"finalize it", "use it", "go on"}
    run.trial([0.5, 0.6, 0.7, 0.99], FINISHED, max_lr=0.05)  # another winner is not confirmed yet
    assert offered(run) == {"confirm it", "finalize it", "use it", "go on"}
    sentence = "Trial 2 (no longer the winner)"
    assert sentence in concluded(run, None)[1]


def test_a_dry_run_of_a_search_that_is_complete_writes_nothing(
    tmp_path: Path, digits: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = replace(SPEC, data=DataSpec(dataset="digits"), search=BudgetSpec(num_samples=1))
    build = Build(tmp_path / "run", spec)
    build.trial([0.5, 0.6, 0.7, 0.80], FINISHED)
    path = build.directory.path
    build.directory.write_env({"kind": "search", "dataset_fingerprint": digits.fingerprint})
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    assert main(["--resume", str(path), "--dry-run"]) == 0
    assert capsys.readouterr().out == "1 of 1 trial ended. To add more, give a larger --num-samples.\n"
    (path / ".lock").unlink()
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
