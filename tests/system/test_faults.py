"""Searches that are broken on purpose lose nothing, and end as unbroken ones do.

    pytest -m faults        # the whole matrix, about an hour; prints a table of what was injected and what it cost
    pytest -m faults --record-faults FILE.csv     # adds it to a file; again, it goes on with the tests that are missing

A few of its faults are part of every test run.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from factories import NO_PROCESS
from faults import Broken, Fault, Injected, each_trial_is_as_alone, send, table

from tune_resnet.hpo.ranking import winner
from tune_resnet.runs.directory import RunDirectory
from tune_resnet.runs.load import load_frames, own_size
from tune_resnet.runs.tables import FAILED, FINISHED, INTERRUPTED, RUNNING


def assert_like_unbroken(
    broken: Broken, tmp_path: Path, finish: Callable[[Broken], object] = lambda unbroken: unbroken.finish()
) -> None:
    """The same epochs, the same proposals, the same endings as a search that nothing broke."""
    broken.consistent()
    settings = {name: getattr(broken, name) for name in ("samples", "epochs", "sampler", "scheduler")}
    unbroken = Broken(tmp_path / "unbroken", **settings)
    finish(unbroken)
    assert broken.figures() == unbroken.figures()


# --- a few, in every test run ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_search_that_is_killed_interrupted_and_broken_ends_like_an_unbroken_one(
    tmp_path: Path, matrix: list[Injected], on_cluster: Callable[..., int]
) -> None:
    faults: list[Fault] = [("command: SIGKILL", 0, 4, 1, 1), ("command: SIGINT", 0, 5, 1, 1)]
    faults += [("killed", 1, 2, 2, 1), ("raises", 2, 2, 3, 1)]
    search = Broken(tmp_path / "broken", samples=4, epochs=8, sampler="tpe", scheduler="asha", faults=faults)
    code, *_ = search.ended_by_its_fault("SIGKILL of the search")
    assert code == -signal.SIGKILL
    code, *said = search.ended_by_its_fault("SIGINT")
    output = "".join(said)
    assert code == 128 + signal.SIGINT
    assert "Ending: what is being trained is interrupted" in output
    assert "Traceback" not in output
    assert re.search(r"go on       \S+ -m tune_resnet.search --resume", output)
    states = {row["state"] for row in table(search.path / "trials.csv")}
    assert INTERRUPTED in states
    assert RUNNING not in states
    assert "goes on after epoch" in search.finish()
    assert_like_unbroken(search, tmp_path, lambda unbroken: on_cluster(*unbroken.new()))
    matrix += search.injected


@pytest.mark.slow
def test_a_trial_that_fails_again_and_again_fails_and_the_others_go_on(tmp_path: Path, matrix: list[Injected]) -> None:
    faults: list[Fault] = [("killed", 1, 2, 0, 9), ("raises", 2, 1, 0, 9)]
    search = Broken(tmp_path / "broken", samples=4, epochs=3, max_retries=1, faults=faults)
    output = search.finish()
    rows = table(search.path / "trials.csv")
    assert [row["state"] for row in rows] == [FINISHED, FAILED, FAILED, FINISHED]
    assert rows[1]["error"] == "its process died (killed, or out of memory)"
    assert rows[2]["error"] == "RuntimeError: the loop broke"
    assert rows[1]["epochs"] == "1"  # what was done stays on record
    assert output.count("trial 1 is tried again") == output.count("trial 2 is tried again") == 1
    matrix += [Injected(f"trial's process: {kind}, for ever", "epoch", survived=True) for kind, *_ in faults]


# --- the whole matrix ------------------------------------------------------------------------------------------------


def moments(seed: int, count: int, epochs: int) -> list[tuple[int | None, float]]:
    """Random moments: a third while the search starts, the others up to `epochs` epochs and half a second later."""
    draw = random.Random(seed)
    return [
        (None, draw.uniform(0.3, 6)) if number % 3 == 2 else (draw.randint(0, epochs), draw.uniform(0, 0.5))
        for number in range(count)
    ]


@pytest.mark.faults
@pytest.mark.parametrize(("sampler", "scheduler"), [("gp", "asha"), ("tpe", "median")])
def test_searches_killed_at_random_moments(
    sampler: str, scheduler: str, tmp_path: Path, matrix: list[Injected]
) -> None:
    search = Broken(tmp_path / "broken", samples=14, epochs=24, sampler=sampler, scheduler=scheduler)
    for epochs, seconds in moments(1, 12, 6):
        search.break_at("SIGKILL of the search", epochs, seconds, send(signal.SIGKILL))
    search.finish()
    assert_like_unbroken(search, tmp_path)
    search.no_process_is_left()
    matrix += search.injected


@pytest.mark.faults
def test_a_finished_search_is_extended_and_keeps_its_rows(tmp_path: Path) -> None:
    search = Broken(tmp_path / "extended", samples=4, epochs=3, sampler="tpe")
    search.finish()
    rows, epochs = (search.path / "trials.csv").read_text(), (search.path / "epochs.csv").read_text()
    assert "4 of 4 trials ended" in search.finish()
    search.samples = 7
    search.finish("--num-samples", "7")
    assert (search.path / "trials.csv").read_text().startswith(rows)
    assert (search.path / "epochs.csv").read_text().startswith(epochs)
    assert_like_unbroken(search, tmp_path)


@pytest.mark.faults
def test_searches_ended_by_signals_at_random_moments(tmp_path: Path, matrix: list[Injected]) -> None:
    search = Broken(tmp_path / "broken", samples=28, epochs=24, sampler="gp", scheduler="asha")
    for position, (epochs, seconds) in enumerate(moments(2, 12, 6)):
        number = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[position % 3]
        twice = position in (3, 4, 9, 10)

        def end(process: int, number: signal.Signals = number, twice: bool = twice) -> None:
            os.kill(process, number)
            if twice:
                time.sleep(0.3)
                os.kill(process, number)

        code, _ = search.break_at(f"{number.name}{', twice' * twice}", epochs, seconds, end)
        assert code in (128 + number, -number)  # the second may come where Python has no say any more
    search.finish()
    assert_like_unbroken(search, tmp_path)
    matrix += search.injected


# --- inside an epoch ---

IN_PROCESS = ["raises"] * 4 + ["killed"] * 3 + ["out of memory"] * 2 + ["stands still", "hangs"]
ON_COMMAND = [f"command: {name}" for name in ("SIGKILL", "SIGKILL", "SIGINT", "SIGTERM", "SIGHUP")]
STEPS, STEPS_OF_ALL = 4, 5  # an epoch, of a search's 180 images and of all 200


def inside_epochs(
    seed: int, count: int, kinds: Sequence[str], trainings: Sequence[int | str], epochs: int, steps: int
) -> list[Fault]:
    """So many faults at random steps, no two at the same; each kind as often as it stands there."""
    draw = random.Random(seed)
    places = [
        (training, epoch, step) for training in trainings for epoch in range(1, epochs + 1) for step in range(steps)
    ]
    chosen = draw.sample(places, count)
    return [(kinds[number % len(kinds)], *place, 1) for number, place in enumerate(chosen)]


@pytest.mark.faults
@pytest.mark.parametrize("seed", [11, 12, 16])
def test_a_search_broken_inside_epochs(seed: int, tmp_path: Path, matrix: list[Injected]) -> None:
    kinds = [*IN_PROCESS, *ON_COMMAND, "disk full"]
    faults = inside_epochs(seed, 40, kinds, range(8), epochs=6, steps=STEPS)
    search = Broken(
        tmp_path / "broken", samples=8, epochs=6, sampler="tpe", faults=faults, max_retries=99, epoch_timeout=20
    )
    search.go_through()
    assert_like_unbroken(search, tmp_path)
    matrix += search.injected


@pytest.mark.faults
def test_trials_at_once_broken_inside_epochs_each_give_what_they_give_alone(
    tmp_path: Path, matrix: list[Injected]
) -> None:
    faults = inside_epochs(13, 30, [*IN_PROCESS, *ON_COMMAND], range(8), epochs=6, steps=STEPS)
    search = Broken(
        tmp_path / "broken", samples=8, epochs=6, concurrent=2, faults=faults, max_retries=99, epoch_timeout=20
    )
    search.go_through()
    search.consistent()
    each_trial_is_as_alone(search.path)
    matrix += search.injected


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search whose winner is not the reference."""
    search = Broken(tmp_path_factory.mktemp("searched") / "search", samples=8, epochs=6)
    search.finish()
    best = winner(load_frames(search.path))
    assert best is not None
    assert not best["reference"]
    return search.path


def assert_command_like_unbroken(
    command: str, searched: Path, tmp_path: Path, faults: list[Fault], matrix: list[Injected]
) -> None:
    """Breaks a command on a copy of the search, or a command of its own, and compares it with an unbroken one."""
    settings: dict[str, Any] = {"samples": 4, "epochs": 6, "command": command, "max_retries": 99, "epoch_timeout": 20}
    broken, unbroken = (
        Broken(tmp_path / name, faults=some, **settings) for name, some in (("broken", faults), ("unbroken", []))
    )
    for one in (broken, unbroken):
        if command != "baseline":
            shutil.copytree(searched, one.path)
        one.go_through()
    assert broken.figures() == unbroken.figures()
    assert not list((broken.written / "checkpoints").glob("*.pt"))
    matrix += broken.injected


@pytest.mark.faults
@pytest.mark.parametrize("command", ["baseline", "finalize"])
def test_a_single_training_broken_inside_epochs(
    command: str, searched: Path, tmp_path: Path, matrix: list[Injected]
) -> None:
    kinds = ["raises", "command: SIGKILL", "out of memory", "disk full", "stands still for a while", *ON_COMMAND]
    faults = inside_epochs(14, 25, kinds, ["single"], epochs=6, steps=STEPS_OF_ALL)
    assert_command_like_unbroken(command, searched, tmp_path, faults, matrix)


@pytest.mark.faults
def test_a_confirmation_broken_inside_epochs(searched: Path, tmp_path: Path, matrix: list[Injected]) -> None:
    best = winner(load_frames(searched))
    assert best is not None
    run, frames = RunDirectory(searched), load_frames(searched)
    size, seeds = own_size(frames.spec, frames.env), (1000, 1001, 1002)
    trainings = [run.confirmation_of(trial, seed, size).stem for trial in (0, best["trial"]) for seed in seeds]
    kinds = [*IN_PROCESS, *ON_COMMAND, "disk full"]
    faults = inside_epochs(15, 50, kinds, trainings, epochs=6, steps=STEPS_OF_ALL)
    assert_command_like_unbroken("confirm", searched, tmp_path, faults, matrix)


# --- files and disks ---


def latest_checkpoint(run: Path) -> Path | None:
    return max((run / "checkpoints").glob("*.pt"), default=None)


def cut_a_line(run: Path) -> None:
    content = (run / "epochs.csv").read_bytes()
    with (run / "epochs.csv").open("ab") as file:
        file.write(content.splitlines()[-1][:17])


def damage_checkpoint(run: Path, content: bytes | None) -> None:
    path = latest_checkpoint(run)
    if path is None:
        return
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content or path.read_bytes()[:1000])


def leave_temporary_files(run: Path) -> None:
    (run / f".trials.csv.{NO_PROCESS}.tmp").write_text("half")
    (run / "checkpoints" / ".trial-00001.pt.1.tmp").write_bytes(b"half")
    (run / ".best.tmp").mkdir()
    (run / ".best.tmp" / "model.safetensors").write_bytes(b"half")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "half a line in epochs.csv": cut_a_line,
    "checkpoint cut short": lambda run: damage_checkpoint(run, b""),
    "checkpoint overwritten": lambda run: damage_checkpoint(run, b"nonsense" * 99),
    "checkpoint gone": lambda run: damage_checkpoint(run, None),
    "study.log gone": lambda run: (run / "study.log").unlink(missing_ok=True),
    "study.log overwritten": lambda run: (run / "study.log").write_bytes(b"nonsense" * 99),
    "temporary files left": leave_temporary_files,
    "Ray's folder gone": lambda run: shutil.rmtree(run / "ray", ignore_errors=True),
}


@pytest.mark.faults
def test_what_is_damaged_between_two_sessions(tmp_path: Path, matrix: list[Injected]) -> None:
    search = Broken(tmp_path / "broken", samples=10, epochs=24, sampler="tpe", scheduler="asha")
    draw = random.Random(3)
    for name, damage in [*DAMAGES.items(), *DAMAGES.items()]:
        epochs = draw.randint(2, 8)
        search.break_at("SIGKILL of the search", epochs, 0.0, send(signal.SIGKILL))
        before = search.record()
        damage(search.path)
        search.note(name, f"after {epochs} epochs", before)
    search.finish()
    assert_like_unbroken(search, tmp_path)
    matrix += search.injected


@pytest.mark.faults
def test_what_happens_in_the_trials_processes(tmp_path: Path, matrix: list[Injected]) -> None:
    kinds = ["killed", "raises", "killed", "out of memory", "killed", "raises", "hangs", "stands still", "killed"]
    faults: list[Fault] = [
        (kind, trial, 2 + trial % 5, 0, 2 if kind == "killed" else 1) for trial, kind in enumerate(kinds)
    ]
    search = Broken(tmp_path / "broken", samples=9, epochs=8, epoch_timeout=30, faults=faults)
    output = search.finish()
    assert output.count("it hung: no epoch for 30s") == 2
    assert_like_unbroken(search, tmp_path)
    for kind, _, epoch, _, times in faults:
        matrix += [Injected(f"trial's process: {kind}", f"epoch {epoch}", survived=True)] * times


@pytest.mark.faults
def test_processes_that_ray_ends_when_memory_runs_out(tmp_path: Path, matrix: list[Injected]) -> None:
    # Ray takes the memory for full, and looks every 25 s.
    low = {"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "25000"}
    search = Broken(tmp_path / "broken", samples=4, epochs=150, environment=low)
    output = search.finish()
    ended = output.count("is tried again (Ray ended its process, as memory ran out)")
    assert ended >= 1
    assert_like_unbroken(search, tmp_path)
    matrix += [Injected("trial's process: memory of the machine full", "25 s", survived=True)] * ended


@pytest.mark.faults
def test_a_full_disk_ends_the_search_which_then_goes_on(tmp_path: Path, matrix: list[Injected]) -> None:
    search = Broken(
        tmp_path / "broken", samples=3, epochs=6, faults=[("disk full", 0, 4, 0, 1), ("disk full", 2, 2, 0, 1)]
    )
    for _ in search.faults:
        before, process = search.record(), search.start()
        output, errors = process.communicate(timeout=240)
        assert process.returncode == 1, output + errors
        assert "No space left on device" in errors
        assert errors.count("\n") == 1
        assert "--resume" in errors
        search.note("trial's process: disk full", "epoch", before)
    search.finish()
    assert_like_unbroken(search, tmp_path)
    matrix += search.injected


@contextmanager
def small_disk(path: Path, megabytes: int) -> Iterator[None]:
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system takes the right to mount one")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.faults
def test_a_disk_that_fills_up_and_is_made_free(tmp_path: Path, matrix: list[Injected]) -> None:
    folder = tmp_path / "small"
    with small_disk(folder, 16):
        search = Broken(folder, samples=8, epochs=30)
        for epochs in (5, 40, 3):
            before, process = search.record(), search.start()
            deadline = time.monotonic() + 120
            wanted = search.epochs_done() + epochs
            while search.epochs_done() < wanted and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            fill(folder / "ballast")
            output, errors = process.communicate(timeout=240)
            assert process.returncode == 1, output + errors
            assert "No space left on device" in errors
            assert "Traceback" not in errors
            (folder / "ballast").unlink()
            search.note("disk full", f"{epochs} epochs later", before)
        search.finish()
        assert_like_unbroken(search, tmp_path)
        matrix += search.injected


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(b"0" * 4096):
                pass
        except OSError:
            return


@pytest.mark.faults
def test_a_run_directory_that_vanishes(tmp_path: Path, matrix: list[Injected]) -> None:
    search = Broken(tmp_path / "broken", samples=20, epochs=50)
    process = search.start()
    while search.epochs_done() < 5:
        assert process.poll() is None
        time.sleep(0.01)
    search.path.rename(tmp_path / "elsewhere")
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 1, output + errors
    assert "No such file or directory" in errors
    assert "Traceback" not in errors
    shutil.rmtree(search.path, ignore_errors=True)  # Ray's folder
    (tmp_path / "elsewhere").rename(search.path)
    search.samples = 3
    search.note("run directory gone", "5 epochs", search.record())
    (search.path / "spec.toml").write_text((search.path / "spec.toml").read_text().replace("= 20", "= 3"))
    search.finish()
    search.consistent()
    matrix += search.injected


@pytest.mark.faults
def test_two_searches_with_one_name_and_a_study_that_cannot_be_written(tmp_path: Path, matrix: list[Injected]) -> None:
    search = Broken(tmp_path / "broken", samples=6, epochs=40)

    def second(process: int) -> None:
        for arguments, reason in ((search.new(), "exists already"), (["--resume", str(search.path)], "at work")):
            other = search.run(*arguments)
            output, errors = other.communicate(timeout=60)
            assert (other.returncode, output, errors.count("\n")) == (2, "", 1)
            assert reason in errors
        os.kill(process, signal.SIGINT)

    search.break_at("a second search of the same name", 3, 0.0, second)

    def fill_up(process: int) -> None:
        (search.path / "study.log.lock").symlink_to("study.log")  # what a dashboard that was killed leaves
        (search.path / "study.log").unlink()
        (search.path / "study.log").symlink_to("/dev/full")
        epochs = search.epochs_done() + 5
        while search.epochs_done() < epochs:
            time.sleep(0.01)
        os.kill(process, signal.SIGINT)

    _, output = search.break_at("study.log cannot be written", 3, 0.0, fill_up)
    assert "study.log no longer follows the search" in output
    search.finish()
    assert_like_unbroken(search, tmp_path)
    matrix += search.injected


@pytest.mark.faults
def test_two_trials_at_once_killed_at_random_moments(tmp_path: Path, matrix: list[Injected]) -> None:
    faults: list[Fault] = [("killed", 3, 4, 0, 1), ("killed", 5, 2, 0, 9), ("raises", 6, 3, 0, 2)]
    search = Broken(tmp_path / "broken", samples=12, epochs=20, concurrent=2, scheduler="asha", faults=faults)
    for epochs, seconds in moments(4, 6, 8):
        search.break_at("SIGKILL of the search, two at once", epochs, seconds, send(signal.SIGKILL))
    search.finish()
    search.consistent()
    each_trial_is_as_alone(search.path)
    states = [row["state"] for row in table(search.path / "trials.csv")]
    assert states[5] == FAILED
    assert states.count(FAILED) == 1
    assert RUNNING not in states
    matrix += search.injected


@pytest.mark.faults
def test_a_baseline_that_is_killed_ends_like_an_unbroken_one(tmp_path: Path, matrix: list[Injected]) -> None:
    def baseline(folder: Path) -> Broken:
        search = Broken(folder, samples=1, epochs=40)
        search.new = lambda: [*Broken.new(search), "--baseline"]  # type: ignore[method-assign]
        return search

    broken, unbroken = baseline(tmp_path / "broken"), baseline(tmp_path / "unbroken")
    for epochs, number in ((4, signal.SIGKILL), (9, signal.SIGKILL), (2, signal.SIGINT)):
        broken.break_at(f"{number.name} of a baseline", epochs, 0.0, send(number))
    broken.finish()
    unbroken.finish()
    assert broken.figures() == unbroken.figures()
    assert json.loads((broken.path / "env.json").read_text())["kind"] == "baseline"
    matrix += broken.injected


@pytest.mark.faults
def test_a_hundred_trials_in_one_process_take_no_more_memory_than_twenty(tmp_path: Path) -> None:
    search = Broken(tmp_path / "it", samples=100, epochs=2)
    process = search.start()
    taken: list[int] = []  # private bytes of the trials' process, after each trial from the 20th on
    while process.poll() is None:
        rows = table(search.path / "trials.csv") if (search.path / "trials.csv").exists() else []
        ended = [row for row in rows if row["state"] == FINISHED]
        if len(ended) >= 20:
            with suppress(OSError):  # it ends before the search does
                resident, shared = Path(f"/proc/{worker_of(ended)}/statm").read_text().split()[1:3]
                taken.append(int(resident) - int(shared))
        time.sleep(0.05)
    output, errors = process.communicate()
    assert (process.returncode, errors) == (0, ""), output + errors
    assert len({row["worker"] for row in table(search.path / "trials.csv")}) == 1
    assert len(taken) > 20
    fifth = len(taken) // 5
    assert statistics.median(taken[-fifth:]) <= 1.05 * statistics.median(taken[:fifth])
    search.no_process_is_left()
    search.consistent()


def worker_of(rows: list[dict[str, str]]) -> str:
    """The process id of the trials' process."""
    return rows[-1]["worker"].rpartition(":")[2]
