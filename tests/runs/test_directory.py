"""The run directory: whole files or none, complete lines, exact numbers, and the life of every trial."""

from __future__ import annotations

import csv
import json
import math
import resource
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from factories import NO_PROCESS
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tune_resnet._files import replacing, write_whole
from tune_resnet.config.default_space import NARROW_SPACE
from tune_resnet.config.sections import BudgetSpec, TrainSpec
from tune_resnet.config.spec import SearchSpec
from tune_resnet.config.toml import load_spec
from tune_resnet.errors import RecordError
from tune_resnet.runs import environment
from tune_resnet.runs.directory import RunDirectory
from tune_resnet.runs.find import find_run
from tune_resnet.runs.recorder import Recorder
from tune_resnet.runs.tables import (
    EPOCH_DTYPES,
    FAILED,
    FINISHED,
    INTERRUPTED,
    RUNNING,
    STOPPED,
    TRIAL_DTYPES,
    TrialRow,
    ending,
)

SPEC = SearchSpec(train=TrainSpec(seed=7, epochs=3), search=BudgetSpec(name="a, b\n"), space=NARROW_SPACE)

many = settings(derandomize=True, deadline=None, max_examples=100)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def files_below(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@contextmanager
def disk_full_at(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes: a write that crosses it is cut short, the next one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "runs" / "one", SPEC)


@pytest.fixture
def recorder(run: RunDirectory) -> Recorder:
    return Recorder(run, SPEC)


@pytest.fixture(scope="module")
def shared_run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return RunDirectory.create(tmp_path_factory.mktemp("runs") / "shared", SPEC)


# --- making a run directory ------------------------------------------------------------------------------------------


def test_a_new_run_directory_holds_its_spec_and_two_empty_tables(run: RunDirectory) -> None:
    assert load_spec(run.spec_toml) == SPEC
    assert run.epochs_csv.read_text() == ",".join(EPOCH_DTYPES) + "\n"
    assert run.trials_csv.read_text() == ",".join(TRIAL_DTYPES) + "\n"
    assert set(files_below(run.path)) == {"spec.toml", "epochs.csv", "trials.csv"}


def test_a_run_directory_made_by_a_relative_path_stays_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunDirectory.create(Path("here"), SPEC)
    monkeypatch.chdir("/")
    run.write_env({"cores": 2})
    assert json.loads((tmp_path / "here" / "env.json").read_text()) == {"cores": 2}


def test_an_existing_directory_is_refused_and_left_as_it_is(run: RunDirectory) -> None:
    before = files_below(run.path)
    with pytest.raises(RecordError, match="exists already"):
        RunDirectory.create(run.path, SearchSpec())
    assert files_below(run.path) == before


def test_a_run_directory_is_whole_from_its_first_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def rename(self: Path, target: Path) -> Path:
        seen.append(sorted(item.name for item in tmp_path.iterdir() if not item.name.startswith(".")))
        return Path(shutil.move(self, target))

    monkeypatch.setattr(Path, "rename", rename)
    run = RunDirectory.create(tmp_path / "one", SPEC, {"cores": 2}, "{}")
    assert seen == [[]]
    assert set(files_below(run.path)) == {"spec.toml", "epochs.csv", "trials.csv", "env.json", "warm_start.json"}
    assert [item.name for item in tmp_path.iterdir()] == ["one"]


def test_a_copy_within_another_repository_names_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the package is installed into a virtual environment in a checkout of something else."""
    for command in (["init", "-q"], ["-c", "user.name=a", "-c", "user.email=a", "commit", "-qm", "a", "--allow-empty"]):
        subprocess.run(["git", "-C", tmp_path, *command], check=True)
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "environment.py"))
    assert environment.describe_environment()["git_commit"] is None


def test_the_environment_is_written_as_it_is_spelt(run: RunDirectory) -> None:
    run.write_env({"command": "--data-dir été", "file": "\udce9"})
    assert "été" in run.env_json.read_text()
    assert json.loads(run.env_json.read_text()) == {"command": "--data-dir été", "file": "\udce9"}


def test_a_run_has_one_writer_at_a_time(run: RunDirectory) -> None:
    with run.lock(), pytest.raises(RecordError, match="another command is at work"), RunDirectory(run.path).lock():
        pass
    with RunDirectory(run.path).lock():
        pass


def test_who_writes_to_a_copy_that_went_through_git_finds_a_place_for_checkpoints(run: RunDirectory) -> None:
    run.checkpoints.rmdir()
    with run.lock():
        assert run.checkpoints.is_dir()


def test_a_run_is_in_use_while_a_command_holds_its_lock(run: RunDirectory) -> None:
    assert not run.in_use()
    with RunDirectory(run.path).lock():
        assert run.in_use()
    assert not run.in_use()
    assert not RunDirectory(run.path / "nowhere").in_use()


def test_readers_that_look_keep_no_command_from_its_work(run: RunDirectory) -> None:
    """The looking is far denser here than any reader's."""
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            run.in_use()

    readers = [threading.Thread(target=look) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(50):
            with run.lock():
                assert run.in_use()
    finally:
        over.set()
        for reader in readers:
            reader.join()


def test_what_a_crash_left_half_written_is_removed(run: RunDirectory) -> None:
    run.append_epoch({"trial": 0, "epoch": 1})
    whole = files_below(run.path)
    with run.epochs_csv.open("a") as file:
        file.write("0,2,0.0")
    (run.path / f".trials.csv.{NO_PROCESS}.tmp").write_text("half")
    (run.checkpoints / ".trial-00000.pt.77.tmp").write_text("half")
    (run.path / ".best.tmp").mkdir()
    run.repair()
    assert files_below(run.path) == whole
    assert not (run.path / ".best.tmp").exists()
    run.repair()
    assert files_below(run.path) == whole


def test_what_another_command_is_writing_is_left_alone(run: RunDirectory) -> None:
    """A page that is written meanwhile, by a command without the lock or by the command itself."""
    with replacing(run.path / "report.html") as file:
        file.write(b"a page")
        run.repair()
    assert (run.path / "report.html").read_bytes() == b"a page"


@pytest.mark.parametrize(("below", "reason"), [("", "exists already"), ("x", "Not a dir"), ("x/y", "Not a dir")])
def test_a_path_at_or_below_a_regular_file_is_refused_in_one_line(tmp_path: Path, below: str, reason: str) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(RecordError, match=reason) as caught:
        RunDirectory.create(tmp_path / "file" / below, SPEC)
    assert "\n" not in str(caught.value)
    assert files_below(tmp_path) == {"file": b"kept"}


# --- writing ---------------------------------------------------------------------------------------------------------


# --- finding one -----------------------------------------------------------------------------------------------------


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder whose runs/ holds three runs: `second` was started last, `third` does not say when."""
    monkeypatch.chdir(tmp_path)
    for name, env in (("second", {"started_at": 9.5}), ("first", {"started_at": 3}), ("third", {"started_at": "x"})):
        RunDirectory.create(Path("runs", name), SPEC, env)
    Path("runs", ".hidden").mkdir()
    return tmp_path


def test_a_run_is_found_by_its_path_its_name_or_as_the_latest(started: Path) -> None:
    assert find_run(Path("runs/first")) == find_run("first") == Path("runs/first")
    assert find_run(started / "runs" / "first") == started / "runs" / "first"
    assert find_run("latest") == Path("runs/second")
    assert find_run("latest", started / "runs") == started / "runs" / "second"


def test_a_folder_that_is_no_run_does_not_hide_the_run_of_its_name(started: Path) -> None:
    Path("first").mkdir()
    assert find_run("first") == Path("runs/first")
    Path("mine").mkdir()
    assert find_run("mine") == Path("mine")  # what it lacks is for its reader to say


def test_a_run_that_says_nothing_of_its_start_is_the_latest_only_where_it_is_alone(started: Path) -> None:
    for content in ("", "[]", "{}", '{"started_at": NaN}', '{"started_at": 1e30}', "[" * 100_000):
        Path("runs/third/env.json").write_text(content)
        assert find_run("latest") == Path("runs/second")
    for name in ("first", "second"):
        shutil.rmtree(Path("runs", name))
    assert find_run("latest") == Path("runs/third")


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("secnod", "there is no run secnod, nor runs/secnod (did you mean 'second'?)"),
        ("runs/secnod", "there is no run runs/secnod (did you mean 'second'?)"),
        ("lates", "there is no run lates, nor runs/lates (did you mean 'latest'?)"),
        ("xyz", "there is no run xyz, nor runs/xyz"),
        ("/secnod", "there is no run /secnod (did you mean 'second'?)"),
        ("a\nb", "there is no run a\\nb, nor runs/a\\nb"),
        ("\0", "there is no run \\x00, nor runs/\\x00"),
    ],
)
def test_of_an_unknown_run_the_nearest_name_is_told(started: Path, named: str, message: str) -> None:
    with pytest.raises(RecordError) as caught:
        find_run(named)
    assert str(caught.value) == message


def test_without_runs_there_is_no_latest(tmp_path: Path) -> None:
    with pytest.raises(RecordError) as caught:
        find_run("latest", tmp_path / "runs")
    assert str(caught.value) == f"there is no latest run: {tmp_path}/runs holds none"


# --- whole files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "short\n", "é漢\r\n", "long\n" * 100_000], ids=len)
def test_a_file_written_whole_has_the_new_content_and_no_file_beside_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.csv"
    for content in ("old", text):
        write_whole(path, content)
    assert files_below(tmp_path) == {"a.csv": text.encode()}


def test_a_full_disk_leaves_the_old_content_and_no_file_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write_whole(path, "old")
    with disk_full_at(10), pytest.raises(OSError, match="File too large"):
        write_whole(path, "new content")
    assert files_below(tmp_path) == {"a.csv": b"old"}


def test_a_target_that_cannot_be_replaced_leaves_no_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "a.csv", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


floats = st.floats(allow_nan=False)


@many
@given(row=st.fixed_dictionaries(dict.fromkeys(EPOCH_DTYPES, floats)))
def test_every_number_of_an_epoch_is_read_back_exactly(row: dict[str, float], shared_run: RunDirectory) -> None:
    shared_run.append_epoch(row)
    assert shared_run.epochs_csv.read_bytes().endswith(b"\n")
    read = rows_of(shared_run.epochs_csv)[-1]
    assert {column: float(cell).hex() for column, cell in read.items()} == {c: row[c].hex() for c in EPOCH_DTYPES}


@pytest.mark.parametrize("missing", [{}, {"val_loss": None}, {"val_loss": math.nan}], ids=str)
def test_a_number_that_is_not_there_is_an_empty_cell(run: RunDirectory, missing: dict[str, Any]) -> None:
    run.append_epoch({"trial": 0, "epoch": 1, "lr": 0.0, **missing})
    assert run.epochs_csv.read_text().splitlines()[1:] == ["0,1,0.0,,,,,,,,"]


def test_epochs_are_complete_lines_in_the_order_of_writing(run: RunDirectory) -> None:
    for epoch in range(1, 6):
        run.append_epoch({"trial": 3, "epoch": epoch})
    assert [(row["trial"], row["epoch"]) for row in rows_of(run.epochs_csv)] == [("3", str(n)) for n in range(1, 6)]
    assert run.epochs_csv.read_text().count("\n") == 6


def test_an_epoch_that_does_not_fit_on_the_disk_leaves_no_half_line(run: RunDirectory) -> None:
    run.append_epoch({"trial": 0, "epoch": 1})
    before = run.epochs_csv.read_bytes()
    for room in (0, 1, 8):
        with disk_full_at(len(before) + room), pytest.raises(OSError, match=r"."):
            run.append_epoch({"trial": 0, "epoch": 2, "lr": 0.01})
        assert run.epochs_csv.read_bytes() == before


@many
@given(numbers=st.lists(floats, min_size=5, max_size=5))
def test_every_number_of_a_trial_is_read_back_exactly(numbers: list[float], shared_run: RunDirectory) -> None:
    names = ("max_lr", "weight_decay", "grad_clip", "val_accuracy", "seconds")
    row = TrialRow.from_cells(ROW.cells() | dict(zip(names, numbers, strict=True)), list(ROW.values))
    shared_run.write_trials([row.line()])
    (read,) = rows_of(shared_run.trials_csv)
    assert [float(read[name]).hex() for name in names] == [number.hex() for number in numbers]


ROW = TrialRow(trial=0, state=FAILED, values={"max_lr": 0.01, "weight_decay": 1e-4, "grad_clip": 0.1}, seed=0)


@many
@given(error=st.text(st.characters()))
@example(error='RuntimeError: a, b\n  File "x.py", line 1\r\n\n\t"quoted", \'too\'\x00')
@example(error="a\rb\x1c\u2028c")
@example(error="cannot open 'caf\udce9.png'")
def test_an_error_is_one_cell_of_one_record_whatever_it_holds(error: str, shared_run: RunDirectory) -> None:
    recorder = Recorder(shared_run, SPEC)
    recorder.start(0, {})
    recorder.start(1, {})
    recorder.end(0, FAILED, error)
    first, second = rows_of(shared_run.trials_csv)
    assert first["error"] == " ".join(error.split()).encode(errors="backslashreplace").decode()
    assert (first["trial"], second["trial"], second["error"]) == ("0", "1", "")


# --- the life of a trial ---------------------------------------------------------------------------------------------


def run_epochs(recorder: Recorder, trial: int, accuracies: list[float], held_out: str = "val") -> None:
    for epoch, accuracy in enumerate(accuracies, start=1):
        if not recorder.is_new(trial, epoch):
            continue
        metrics = {"epoch": epoch, "lr": 0.01, f"{held_out}_loss": 1.0, f"{held_out}_accuracy": accuracy}
        recorder.epoch(trial, {**metrics, "seconds": 0.5 * epoch}, worker="host:1")


def finish(recorder: Recorder, trial: int, accuracy: float, held_out: str = "val", **params: float) -> None:
    """A whole trial, with the file of its model."""
    recorder.start(trial, params)
    run_epochs(recorder, trial, [0.1, 0.9, accuracy], held_out)
    recorder.run.model_of(trial).write_text(f"model {trial}")
    recorder.end(trial, FINISHED)


def trials_on_disk(recorder: Recorder) -> list[dict[str, str]]:
    return rows_of(recorder.run.trials_csv)


@pytest.mark.parametrize(
    ("epochs_done", "failure", "state"),
    [(8, None, FINISHED), (9, None, FINISHED), (7, None, STOPPED), (0, None, STOPPED), (8, "nan", FAILED)],
)
def test_how_a_trial_ended(epochs_done: int, failure: str | None, state: str) -> None:
    assert ending(epochs_done, 8, failure) == state


def test_a_started_trial_runs_the_reference_but_for_what_is_given(recorder: Recorder) -> None:
    recorder.start(0, {})
    recorder.start(1, {"max_lr": 0.05})
    first, second = trials_on_disk(recorder)
    assert (first["state"], first["max_lr"], first["weight_decay"], first["seed"]) == (RUNNING, "0.01", "0.0001", "7")
    assert {name for name in TRIAL_DTYPES if first[name] != second[name]} == {"trial", "max_lr", "started_at"}
    assert (first["epochs"], first["val_accuracy"], first["ended_at"], first["error"]) == ("0", "", "", "")


def test_a_trial_counts_its_epochs_and_seconds_and_remembers_its_best_epoch(recorder: Recorder) -> None:
    recorder.start(4, {})
    run_epochs(recorder, 4, [0.3, 0.6, 0.6, 0.4])
    recorder.end(4, STOPPED)
    (row,) = trials_on_disk(recorder)
    assert (row["epochs"], row["best_epoch"], row["val_accuracy"]) == ("4", "2", "0.4")
    assert (row["seconds"], row["worker"], row["test_accuracy"]) == ("5.0", "host:1", "")
    assert [epoch["val_accuracy"] for epoch in rows_of(recorder.run.epochs_csv)] == ["0.3", "0.6", "0.6", "0.4"]


def test_an_epoch_is_on_disk_before_the_trial_ends(recorder: Recorder) -> None:
    recorder.start(0, {})
    run_epochs(recorder, 0, [0.3])
    (epoch,) = rows_of(recorder.run.epochs_csv)
    assert (epoch["trial"], epoch["epoch"], epoch["seconds"]) == ("0", "1", "0.5")
    assert float(epoch["ended_at"]) >= recorder.trials[0].started_at


@pytest.mark.parametrize(("state", "error"), [(STOPPED, ""), (FAILED, "out of memory"), (INTERRUPTED, "")])
def test_a_trial_ends_with_its_state_and_error_and_no_model(recorder: Recorder, state: str, error: str) -> None:
    recorder.start(0, {})
    run_epochs(recorder, 0, [0.99])
    recorder.end(0, state, error)
    (row,) = trials_on_disk(recorder)
    assert (row["state"], row["error"]) == (state, error)
    assert float(row["ended_at"]) >= float(row["started_at"])
    assert not recorder.run.best.exists()


def test_closing_interrupts_what_runs_and_touches_nothing_else(recorder: Recorder) -> None:
    finish(recorder, 0, 0.5)
    for trial, state in ((1, STOPPED), (2, FAILED), (3, RUNNING), (4, RUNNING)):
        recorder.start(trial, {})
        if state != RUNNING:
            recorder.end(trial, state)
    run_epochs(recorder, 4, [0.2])
    before = trials_on_disk(recorder)
    files = files_below(recorder.run.path)
    recorder.close()
    after = trials_on_disk(recorder)
    assert [row["state"] for row in after] == [FINISHED, STOPPED, FAILED, INTERRUPTED, INTERRUPTED]
    assert all(row["ended_at"] for row in after)
    assert after[:3] == before[:3]
    assert {**files_below(recorder.run.path), "trials.csv": b""} == {**files, "trials.csv": b""}


def test_an_epoch_that_is_trained_again_stays_as_it_was_recorded(recorder: Recorder) -> None:
    recorder.start(0, {})
    run_epochs(recorder, 0, [0.3, 0.6])
    before = recorder.run.epochs_csv.read_text()
    run_epochs(recorder, 0, [0.4, 0.7, 0.5])
    assert recorder.run.epochs_csv.read_text().startswith(before)
    assert [row["val_accuracy"] for row in rows_of(recorder.run.epochs_csv)] == ["0.3", "0.6", "0.5"]
    row = recorder.trials[0]
    assert (row.epochs, row.best_epoch, row.seconds) == (3, 2, 3.0)


def test_a_trial_that_goes_on_runs_again_and_keeps_what_it_had(recorder: Recorder) -> None:
    recorder.start(0, {"max_lr": 0.03})
    run_epochs(recorder, 0, [0.3, 0.6])
    recorder.close()
    before = recorder.trials[0]
    assert before.state == INTERRUPTED
    again = Recorder(recorder.run, SPEC, [before], [{"trial": 0, "val_accuracy": at} for at in (0.3, 0.6)])
    again.go_on(0)
    (row,) = trials_on_disk(again)
    assert (row["state"], row["ended_at"], row["max_lr"], row["epochs"]) == (RUNNING, "", "0.03", "2")
    run_epochs(again, 0, [0.3, 0.6, 0.5])
    assert (again.trials[0].epochs, again.trials[0].best_epoch) == (3, 2)


def test_closing_removes_what_a_killed_process_was_writing(recorder: Recorder) -> None:
    recorder.start(0, {})
    (recorder.run.checkpoints / ".trial-00000.pt.77.tmp").write_bytes(b"half")
    recorder.close()
    assert list(recorder.run.checkpoints.iterdir()) == []


def test_closing_twice_changes_nothing(recorder: Recorder) -> None:
    recorder.start(0, {})
    recorder.close()
    once = files_below(recorder.run.path)
    recorder.close()
    assert files_below(recorder.run.path) == once


# --- what trials leave -----------------------------------------------------------------------------------------------


def test_the_model_of_a_trial_that_failed_before_it_reported_is_deleted(recorder: Recorder) -> None:
    for trial in (0, 1):
        recorder.start(trial, {})
        recorder.run.model_of(trial).write_bytes(b"weights")
    recorder.end(0, FAILED, "its process died")
    recorder.close()
    assert [row.state for row in recorder.trials.values()] == [FAILED, INTERRUPTED]
    assert list(recorder.run.checkpoints.iterdir()) == [recorder.run.model_of(1)]  # it goes on when resumed


def test_models_of_finished_trials_stay_since_any_of_them_may_still_win(recorder: Recorder) -> None:
    for trial in range(3):
        finish(recorder, trial, 0.5)
    recorder.start(3, {})
    recorder.run.model_of(3).write_bytes(b"weights")
    recorder.end(3, STOPPED)
    assert sorted(recorder.run.checkpoints.iterdir()) == [recorder.run.model_of(trial) for trial in range(3)]


def test_checkpoints_are_kept_of_running_and_interrupted_trials_only(recorder: Recorder) -> None:
    def kept() -> list[str]:
        return sorted(path.name for path in recorder.run.checkpoints.iterdir())

    for trial in range(4):
        recorder.start(trial, {})
        recorder.run.checkpoint_of(trial).write_bytes(b"state")
    recorder.end(0, STOPPED)
    recorder.end(1, FAILED, "its process died")
    assert kept() == ["trial-00002.pt", "trial-00003.pt"]
    recorder.run.checkpoint_of(0).write_bytes(b"written after the end")
    recorder.end(2, STOPPED)
    recorder.close()
    assert kept() == ["trial-00003.pt"]
