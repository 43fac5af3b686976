"""Real searches on Ray, small ones: what they print, what they leave, how they end."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from factories import ROOT, load_study
from faults import TINY, table
from optuna.trial import TrialState

from tune_resnet.config.toml import load_spec
from tune_resnet.hpo.ranking import winner
from tune_resnet.results.confirmation import confirmation_sentence, confirmations
from tune_resnet.results.paired_test import BETTER
from tune_resnet.runs.load import load_frames
from tune_resnet.runs.tables import EPOCH_DTYPES, FAILED, FINISHED, INTERRUPTED, STOPPED
from tune_resnet.search import main
from tune_resnet.training.saved_model import load_model, read_outcome

SMALL = ["--dataset", "digits", "--limit-train", "200", "--width", "4", "--device", "cpu"]

# At high rates decay makes the weights larger at each step, so that some trials end with a loss that is not finite.
WILD = (
    "points_to_evaluate = [{ max_lr = 50.0 }, { max_lr = 90.0 }]\n"
    + TINY
    + """\
epochs = 3
batch_size = 20
precision = "fp32"
optimizer = "sgd"
weight_decay = 1.0
seed = 2
[space]
max_lr = { low = 1e-3, high = 100.0 }
[search]
num_samples = 8
sampler = "random"
[scheduler]
signal = "train_loss"
grace_epochs = 1
reduction_factor = 2
margin = 0.0
[resources]
device = "cpu"
"""
)


@dataclass(frozen=True)
class Search:
    code: int
    path: Path
    output: str


def told(path: Path) -> list[str]:
    """The states in the Optuna study, by trial."""
    return [trial.state.name for trial in load_study(path / "study.log").trials]


def in_process(
    arguments: list[str],
    runs: Path,
    capsys: pytest.CaptureFixture[str],
    command: Callable[..., int] = lambda *arguments: main(arguments),
) -> Search:
    code = command(*arguments, "--runs-dir", str(runs), "--name", "it")
    assert not ray.is_initialized()
    output = capsys.readouterr()
    assert output.err == ""
    return Search(code, runs / "it", output.out)


def assert_consistent(path: Path) -> None:
    """What holds after every end of a search."""
    trials, epochs = table(path / "trials.csv"), table(path / "epochs.csv")
    assert {row["state"] for row in trials} <= {FINISHED, STOPPED, FAILED, INTERRUPTED}
    count = Counter(row["trial"] for row in epochs)
    last = {row["trial"]: row for row in epochs}
    for row in trials:
        assert int(row["epochs"]) == count[row["trial"]]
        if row["trial"] in last:
            assert row["val_accuracy"] == last[row["trial"]]["val_accuracy"]
    optuna_state = {FINISHED: "COMPLETE", STOPPED: "PRUNED", FAILED: "FAIL", INTERRUPTED: "FAIL"}
    expected = {int(row["trial"]): optuna_state[row["state"]] for row in trials}
    assert dict(enumerate(told(path))) == expected
    state = {int(row["trial"]): row["state"] for row in trials}
    for item in (path / "checkpoints").iterdir():  # a trial cut off in its last epoch may have left its model already
        owners = {".pt": (INTERRUPTED,), ".safetensors": (FINISHED, INTERRUPTED)}[item.suffix]
        assert state[int(item.stem.removeprefix("trial-"))] in owners


@pytest.mark.slow
def test_a_search_leaves_a_whole_run_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = in_process([*SMALL, "--epochs", "4", "--num-samples", "6", "--log", "tensorboard"], tmp_path, capsys)
    path = search.path
    assert search.code == 0
    assert_consistent(path)

    assert sorted(item.name for item in path.iterdir()) == [
        ".lock", "best", "checkpoints", "env.json", "epochs.csv", "ray", "report.html", "spec.toml", "study.log",
        "trials.csv",
    ]  # fmt: skip
    trials, epochs = table(path / "trials.csv"), table(path / "epochs.csv")
    assert len(trials) == 6
    reference = trials[0]
    assert [float(reference[name]) for name in ("max_lr", "weight_decay", "grad_clip")] == [0.01, 1e-4, 0.1]
    assert (reference["trial"], reference["state"], reference["epochs"]) == ("0", FINISHED, "4")
    assert {row["state"] for row in trials} <= {STOPPED, FINISHED}
    assert list(epochs[0]) == list(EPOCH_DTYPES)
    assert all(row["test_accuracy"] == "" and row["test_loss"] == "" for row in epochs)
    assert len({row["worker"] for row in trials}) <= 2  # processes are reused

    spec = load_spec(path / "spec.toml")
    assert (spec.train.epochs, spec.search.num_samples, spec.resources.device) == (4, 6, "cpu")
    assert spec.train.precision == "auto"  # as asked: where this run goes on or is confirmed, another may suit
    env = json.loads((path / "env.json").read_text())
    assert (env["train_images"], env["held_out"], env["held_out_images"]) == (180, "validation", 20)
    assert env["wall_seconds"] > 0
    assert env["precision"] in ("bf16", "fp32")  # chosen here

    frames = load_frames(path)
    best = winner(frames)
    assert best is not None
    assert load_spec(path / "best" / "spec.toml").train.max_lr == best["max_lr"]
    assert load_model(path / "best" / "model.safetensors").classes == tuple("0123456789")
    assert len(list((path / "ray").glob("trial-*/events.out.tfevents.*"))) == 6
    assert list((path / "ray").glob("**/checkpoint_*")) == []

    for text in (
        "6 trials, the first is the reference",
        "judged after epochs 1, 2",
        "24 at most",
        "[6/6]",
        "reference",
    ):
        assert text in search.output
    assert " -m tune_resnet.analysis" in search.output

    assert main([*SMALL, "--runs-dir", str(tmp_path), "--name", "it"]) == 2
    assert "it exists already: choose another --name" in capsys.readouterr().err


@pytest.mark.slow
def test_stopped_failed_and_finished_trials_are_told_apart(
    tmp_path: Path, on_cluster: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wild.toml").write_text(WILD)
    search = in_process(["--experiment", str(tmp_path / "wild.toml")], tmp_path, capsys, on_cluster)
    assert search.code == 0
    assert_consistent(search.path)
    trials = table(search.path / "trials.csv")
    states = Counter(row["state"] for row in trials)
    assert set(states) == {FINISHED, STOPPED, FAILED}
    failed = [row for row in trials if row["state"] == FAILED]
    assert all(row["error"].startswith("the loss was not finite in epoch") for row in failed)
    assert all(row["worker"] for row in trials if row["state"] != FAILED)
    assert "the loss was not finite" in search.output


@pytest.mark.slow
def test_a_dry_run_prints_the_plan_and_leaves_nothing(
    tmp_path: Path, cluster: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*SMALL, "--epochs", "8", "--dry-run", "--max-concurrent", "1", "--runs-dir", str(tmp_path)]
    assert main([*arguments, *cluster]) == 0
    lines = capsys.readouterr().out.splitlines()
    parts = ["data", "images", "classes", "model", "warning", "search", "space", "stopping", "epochs", "device", "time"]
    assert [line.split()[0] for line in lines] == parts
    assert "180 training, 20 validation images" in lines[0]
    assert "batch_size=50,100,200,400 momentum=0.8:0.98" in lines[6]
    assert "asha on train_loss, judged after epochs 1, 2, 3" in lines[7]
    assert "256 at most" in lines[8]
    assert "1 at once, each with 1 CPU" in lines[9]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_time_budget_ends_the_search_with_everything_told(
    tmp_path: Path, on_cluster: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    slow = tmp_path / "slow.toml"  # trial 1 takes a minute, so that there is always one to interrupt
    slow.write_text(
        'points_to_evaluate = [{ "model.width" = 64 }]\n'
        "model.width = 4\nspace.model.width.choices = [4, 64]\nscheduler.name = 'none'\n"
    )
    arguments = [*SMALL, "--experiment", str(slow), "--epochs", "40", "--num-samples", "500", "--time-budget", "10s"]
    search = in_process(arguments, tmp_path, capsys, on_cluster)
    assert_consistent(search.path)
    trials = table(search.path / "trials.csv")
    assert 0 < len(trials) < 500
    assert INTERRUPTED in {row["state"] for row in trials}
    left = 500 - sum(row["state"] != INTERRUPTED for row in trials)
    trained = table(search.path / "epochs.csv")  # nothing, where the machine is that slow
    end = f"ended the search with {left} trials left.\n" if trained else "was over before the first epoch was done"
    assert f"\nThe time budget of 10s {end}" in search.output
    assert search.code == (0 if FINISHED in {row["state"] for row in trials} else 1)


@pytest.mark.parametrize("arguments", [["--device", "cuda"], ["--cpus-per-trial", "1000"]])
@pytest.mark.slow
def test_what_no_machine_here_has_is_refused(
    arguments: list[str], tmp_path: Path, cluster: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    if ray.is_initialized() or ("cuda" in arguments and os.path.exists("/dev/nvidia0")):
        pytest.skip("there is a GPU here")
    assert main([*SMALL, *cluster, *arguments, "--runs-dir", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "device cuda was asked for" in error or "no node has the 1000 CPUs" in error
    assert list(tmp_path.iterdir()) == []


def test_without_data_or_network_there_is_one_line_before_ray_starts(tmp_path: Path) -> None:
    environment = {**os.environ, "https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "tune_resnet.search", "--dataset", "cifar10", "--data-dir", str(tmp_path)],
        capture_output=True, text=True, timeout=60, check=False, env=environment,
    )  # fmt: skip
    assert time.monotonic() - started < 20  # a loaded machine; 5 s is the goal on a free one
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "CIFAR-10 is neither in" in done.stderr
    assert "--dataset digits" in done.stderr
    assert done.stdout == ""


@dataclass
class Running:
    process: subprocess.Popen[Any]
    path: Path

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 300
        while not (self.path / "trials.csv").exists() or not condition():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, "timed out"
            time.sleep(0.05)

    def epochs(self) -> int:
        return len(table(self.path / "epochs.csv"))


@pytest.mark.slow
def test_a_closed_terminal_ends_a_search_in_order_and_is_not_written_to(tmp_path: Path) -> None:
    terminal, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    command = [sys.executable, "-m", "tune_resnet.search", *SMALL, "--epochs", "2000", "--num-samples", "3"]
    process = subprocess.Popen(
        [*command, "--runs-dir", str(tmp_path), "--name", "it"], preexec_fn=lambda: os.login_tty(inside)
    )
    os.close(inside)
    search = Running(process, tmp_path / "it")
    closing = threading.Event()
    reader = threading.Thread(target=read_until, args=(closing, terminal, shown := bytearray()))
    reader.start()
    try:
        search.wait_for(lambda: search.epochs() >= 3)
    finally:
        closing.set()
        reader.join()
        os.close(terminal)  # the system sends SIGHUP to the command
    os.killpg(process.pid, signal.SIGHUP)  # as a shell does to the whole job, Ray's processes included
    assert process.wait(60) == 128 + signal.SIGHUP, bytes(shown)
    assert_consistent(search.path)
    assert {row["state"] for row in table(search.path / "trials.csv")} == {INTERRUPTED}
    assert (search.path / "report.html").exists()
    assert json.loads((search.path / "env.json").read_text())["wall_seconds"] > 0


def read_until(closing: threading.Event, terminal: int, shown: bytearray) -> None:
    while not closing.is_set():
        if select.select([terminal], [], [], 0.05)[0]:
            with suppress(OSError):  # the command has ended
                shown += os.read(terminal, 4096)


@pytest.mark.slow
@pytest.mark.photos
def test_photographs_are_searched_from_their_folder(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dataset", "folder", "--data-dir", str(photos), "--limit-train", "1000", "--width", "4"]
    search = in_process([*arguments, "--epochs", "2", "--num-samples", "2"], tmp_path, capsys)
    assert search.code == 0
    assert_consistent(search.path)


@pytest.mark.slow
def test_the_quickstart_searches_confirms_and_ends_with_what_to_do_next(
    tmp_path: Path, on_cluster: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """As `make quickstart` runs it, but small."""
    (command,) = re.findall(r"-m tune_resnet\.search (.*quickstart.*)", (ROOT / "Makefile").read_text())
    spec = ROOT / "experiments" / "quickstart.toml"
    assert f"tune_resnet.search {command}" in spec.read_text()
    words = [str(ROOT / word) if word.endswith(".toml") else word for word in command.split()]
    small = ["--num-samples", "4", "--epochs", "2", "--width", "2", "--scheduler", "none", "--confirm", "2"]
    found = in_process([*words, *small, "--device", "cpu"], tmp_path, capsys, on_cluster)
    assert found.code == 0
    verdict = max(found.output.find("fresh seeds:"), found.output.find("The reference itself is the winner"))
    assert 0 < verdict < found.output.index("\nrun  ") < found.output.index("\nuse it ")
    assert found.output.count("\nreport  ") == 1
    assert found.output.count(f"\nwatch       {found.path / 'report.html'}, written again ") == 1
    assert "confirm it" not in found.output
    assert "data-reload=" not in (found.path / "report.html").read_text()  # the command that wrote it is at its end
    assert load_frames(found.path).spec.search.sampler == "tpe"


@pytest.mark.slow
def test_another_objective_judges_a_search_to_its_confirmation(
    tmp_path: Path, on_cluster: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """One that takes as many pairs as it needs."""
    settings = ["--objective", "balanced_accuracy", "--class-weights", "balanced", "--signal", "val_accuracy"]
    small = [*SMALL, "--validation-fraction", "0.4", "--epochs", "4", "--batch-size", "10", "--num-samples", "3"]
    small += ["--max-lr", "0.001", "--grad-clip", "0.01"]  # a reference that is easily beaten
    assert on_cluster(*small, *settings, "--confirm", "--runs-dir", tmp_path, "--name", "it") == 0
    frames, column = load_frames(tmp_path / "it"), "val_balanced_accuracy"
    best, output = winner(frames), capsys.readouterr().out
    assert best is not None
    assert best[column] == frames.trials[column].max()
    assert f"reached {best[column]:.2%} validation balanced accuracy" in output
    assert "stopping    asha on val_balanced_accuracy" in output
    study = load_study(frames.path / "study.log").get_trials(states=[TrialState.COMPLETE])
    assert [round(trial.value or 0, 9) for trial in study] == [
        round(value, 9) for value in frames.trials.loc[frames.trials["state"] == FINISHED, column]
    ]
    outcome = read_outcome(frames.path / "best" / "model.safetensors")
    assert outcome is not None
    assert outcome.last.columns("val", "balanced_accuracy")[column] == best[column]
    (found,) = confirmations(frames)
    assert found.pairs.to_numpy().tolist() == [
        [rows.loc[name, "test_balanced_accuracy"] for name in ("winner", "reference")]
        for _, rows in frames.confirm.set_index("configuration").groupby("seed")
    ]
    assert confirmation_sentence(found) in output
    assert "percentage points of balanced accuracy on" in output
    assert "looked at after each pair" in output
    assert found.result is not None
    assert found.result.verdict == BETTER
    assert found.result.n == len(found.pairs)
    assert found.pairs.index.is_monotonic_increasing
