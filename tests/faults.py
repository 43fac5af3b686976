"""Breaking searches on purpose, and seeing what is left: tools of test_faults.py."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest
import torch

from tune_resnet.data.load import load_dataset
from tune_resnet.data.split import search_split
from tune_resnet.runs.environment import describe_environment
from tune_resnet.runs.load import load_frames
from tune_resnet.runs.tables import ENDED, FINISHED
from tune_resnet.training.loop import TrainingRun

FAULTY_SEARCH = Path(__file__).with_name("faulty_search.py")
LONGEST = 240.0  # seconds of one command

# What two trainings of the same configuration need not have in common; every other value is compared.
TIMES_AND_PROCESSES = {"seconds", "images_per_second", "started_at", "ended_at", "worker"}

TINY = """
[data]
dataset = "digits"
limit_train = 200
flip = false
[model]
width = 4
[train]
"""
SPEC = (
    TINY
    + """\
epochs = {epochs}
batch_size = 45
precision = "fp32"
[search]
num_samples = {samples}
sampler = "{sampler}"
epoch_timeout = {epoch_timeout}
max_retries = {max_retries}
[scheduler]
name = "{scheduler}"
[resources]
device = "cpu"
max_concurrent = {concurrent}
"""
)


def table(path: Path) -> list[dict[str, str]]:
    """A CSV file's complete lines."""
    whole, newline, _ = path.read_text().rpartition("\n")
    return list(csv.DictReader((whole + newline).splitlines()))


def figures_of(rows: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if name not in TIMES_AND_PROCESSES} for row in rows]


Fault = tuple[str, int | str, int, int, int]  # kind, training, epoch, step, times; see faulty_search.py
ENDS = (1, -signal.SIGKILL, *(128 + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)))


@dataclass
class Injected:
    """One fault: what, when, whether the search survived it, and what it cost of the record."""

    kind: str
    moment: str
    survived: bool = False
    rows_lost: int = 0
    rows_changed: int = 0


FAULTS = pytest.StashKey[list[Injected]]()  # of one test run


@dataclass
class Broken:
    """One search that is ended and resumed again and again."""

    folder: Path
    samples: int = 6
    epochs: int = 12
    sampler: str = "random"
    scheduler: str = "none"
    concurrent: int = 1
    epoch_timeout: float = 60.0
    max_retries: int = 2
    environment: Mapping[str, str] = field(default_factory=dict)  # of the command
    faults: Sequence[Fault] = ()
    command: str = "search"  # or baseline, or confirm or finalize of the search in `folder`
    injected: list[Injected] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / "it"
        self.sessions = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # of Ray; a socket's path must be short
        (self.folder / "spec.toml").write_text(SPEC.format(**vars(self)))
        self.faults_json.write_text(json.dumps(self.faults))

    @property
    def faults_json(self) -> Path:
        return self.folder / "faults.json"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """The search begins, or where it has begun goes on."""
        return self.run(*self.what(), *arguments)

    def what(self) -> list[str]:
        if self.command == "confirm":
            return ["--confirm", "3", "--resume", str(self.path)]
        if self.command == "finalize":
            return ["--finalize", str(self.path)]
        return ["--resume", str(self.path)] if self.path.exists() else self.new()

    def new(self) -> list[str]:
        new = ["--experiment", str(self.folder / "spec.toml"), "--runs-dir", str(self.folder), "--name", "it"]
        return [*new, "--baseline"] if self.command == "baseline" else new

    def run(self, *arguments: str, program: Sequence[str] = (str(FAULTY_SEARCH),)) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *program, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "RAY_TMPDIR": str(self.sessions), "FAULTS": str(self.faults_json), **self.environment},
        )

    def epochs_done(self) -> int:
        file = self.path / "epochs.csv"
        return len(table(file)) if file.exists() else 0

    def break_at(self, kind: str, epochs: int | None, seconds: float, fault: Callable[[int], None]) -> tuple[int, str]:
        """Starts, waits for so many epochs more (None: not even for the first) and seconds, and calls `fault` with the
        process id. Exit code and output of the command; the run's record must be as it was or longer."""
        before = self.record()
        # The command itself, as what breaks here imports a lot before the command begins.
        process = self.run(*self.what(), program=("-m", "tune_resnet.search")) if epochs is None else self.start()
        wanted = -1 if epochs is None else self.epochs_done() + epochs
        deadline = time.monotonic() + LONGEST
        while process.poll() is None and self.epochs_done() < wanted:
            assert time.monotonic() < deadline, "timed out"
            time.sleep(0.01)
        time.sleep(seconds)
        early = process.poll() is not None
        at_fault = self.record()
        if not early:
            fault(process.pid)
        output, errors = process.communicate(timeout=LONGEST)
        when = f"{seconds:.1f} s after its start" if epochs is None else f"{epochs} epochs and {seconds:.2f} s later"
        assert not early, f"{kind}, {when}: the search had ended before\n{output}\n{errors}"
        self.note(kind, when, at_fault if at_fault.epochs else before)
        return process.returncode, output + errors

    def note(self, kind: str, moment: str, before: Record) -> None:
        lost, changed = before.compared_with(self.record())
        self.injected.append(Injected(kind, moment, rows_lost=lost, rows_changed=changed))

    def finish(self, *arguments: str) -> str:
        """Lets it go on to its end, which all faults so far have survived then. The output."""
        before, sessions = self.record(), set(self.sessions.iterdir())
        process = self.start(*arguments)
        output, errors = process.communicate(timeout=LONGEST)
        assert (process.returncode, errors) == (0, ""), output + errors
        assert set(self.sessions.iterdir()) <= sessions, "a session of Ray is left"
        lost, changed = before.compared_with(self.record())
        for fault in self.injected:
            fault.survived = True
            fault.rows_lost += lost
            fault.rows_changed += changed
        return output

    def ended_by_its_fault(self, kind: str) -> tuple[int, str, str]:
        """Starts it, and lets the next of its faults end the command. Exit code, output and errors."""
        before, process = self.record(), self.start()
        output, errors = process.communicate(timeout=LONGEST)
        self.note(kind, "inside an epoch", before)
        return process.returncode, output, errors

    def go_through(self) -> None:
        """Starts it as often as its faults end it, until it ends by itself."""
        for _ in range(len(self.faults) + 1):
            code, output, errors = self.ended_by_its_fault("all together")
            assert "Traceback" not in output + errors, output + errors
            if code == 0:
                break
            assert code in ENDS, output + errors
            assert errors.count("\n") == (code == 1), output + errors
        assert code == 0, output + errors
        lost, changed = (sum(getattr(one, name) for one in self.injected) for name in ("rows_lost", "rows_changed"))
        assert (lost, changed) == (0, 0)
        self.injected = [
            Injected(
                f"{self.command}, inside an epoch: {kind}", f"{training}, epoch {epoch}, step {step}", survived=True
            )
            for kind, training, epoch, step, times in self.faults
            for _ in range(self.happened(kind, training, epoch, step, times))
        ]

    def happened(self, kind: str, training: int | str, epoch: int, step: int, times: int) -> int:
        """How often a fault has happened: faulty_search.py counts."""
        count = self.folder / f"{kind}-{training}-{epoch}-{step}"
        return min(times, len(count.read_text())) if count.exists() else 0

    def no_process_is_left(self) -> None:
        """Ray ends its processes; one of them notices only after a minute that the search was killed."""
        deadline = time.monotonic() + 100
        while left := [path.parent.name for path in Path("/proc").glob("[0-9]*/environ") if self._is_ours(path)]:
            assert time.monotonic() < deadline, f"processes are left: {left}"
            time.sleep(0.1)

    def _is_ours(self, environ: Path) -> bool:
        try:
            return f"RAY_TMPDIR={self.sessions}".encode() in environ.read_bytes()
        except OSError:  # it has just ended
            return False

    @property
    def written(self) -> Path:
        """The run directory that the command writes to."""
        return self.path / "final" if self.command == "finalize" else self.path

    def record(self) -> Record:
        if self.command == "confirm":
            file = self.path / "confirm.csv"
            rows = table(file) if file.exists() else []
            return Record([], {f"{row['configuration']} {row['seed']}": row for row in rows})
        if not self.written.exists():
            return Record([], {})
        ended = {row["trial"]: row for row in table(self.written / "trials.csv") if row["state"] in ENDED}
        return Record([tuple(row.values()) for row in table(self.written / "epochs.csv")], ended)

    def figures(self) -> list[list[dict[str, str]]]:
        """Every value in the tables that a fault must not change, sorted."""
        if self.command == "confirm":
            return [figures_of(table(self.path / "confirm.csv"))]
        epochs = sorted(table(self.written / "epochs.csv"), key=lambda row: (int(row["trial"]), int(row["epoch"])))
        return [figures_of(epochs), figures_of(table(self.written / "trials.csv"))]

    def consistent(self) -> None:
        """What holds after the end of every search, however it came there."""
        trials, epochs = table(self.path / "trials.csv"), table(self.path / "epochs.csv")
        seen = [(row["trial"], row["epoch"]) for row in epochs]
        assert len(seen) == len(set(seen)), "an epoch is recorded twice"
        assert [row["trial"] for row in trials] == [str(number) for number in range(self.samples)]
        for row in trials:
            assert row["state"] in ENDED
            own = [epoch for epoch in epochs if epoch["trial"] == row["trial"]]
            assert [int(epoch["epoch"]) for epoch in own] == list(range(1, int(row["epochs"]) + 1))
            assert not own or row["val_accuracy"] == own[-1]["val_accuracy"]
        if any(row["state"] == FINISHED for row in trials):
            assert (self.path / "best" / "model.safetensors").exists()
        finished = {f"trial-{int(row['trial']):05d}.safetensors" for row in trials if row["state"] == FINISHED}
        assert {path.name for path in (self.path / "checkpoints").iterdir()} <= finished
        assert list(self.path.glob("**/.*.tmp")) == []


@dataclass(frozen=True)
class Record:
    """What may never be lost or changed: the epochs' lines, in order, and the rows of ended trials."""

    epochs: list[tuple[str, ...]]
    ended: dict[str, dict[str, str]]

    def compared_with(self, later: Record) -> tuple[int, int]:
        """How many rows a later record has lost, and how many changed."""
        lost = max(0, len(self.epochs) - len(later.epochs)) + len(self.ended.keys() - later.ended.keys())
        changed = sum(one != other for one, other in zip(self.epochs, later.epochs, strict=False))
        changed += sum(later.ended[trial] != row for trial, row in self.ended.items() if trial in later.ended)
        return lost, changed


def recorded_tests(file: Path) -> set[str]:
    """The tests whose faults are in a record already."""
    return {row["test"] for row in table(file)} if file.exists() else set()


def add_to_record(file: Path, test: str, injected: Sequence[Injected]) -> None:
    """Adds a test's faults to a record, a CSV file, with the commit that they were injected into."""
    commit = describe_environment()["git_commit"]
    rows = [{"test": test, "commit": commit, **asdict(one)} for one in injected]
    new = not file.exists()
    with file.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)


def each_trial_is_as_alone(path: Path) -> None:
    """Each trial of a search, trained alone from its recorded configuration, gives its rows to the bit."""
    frames = load_frames(path)
    data = search_split(load_dataset(frames.spec.data), frames.spec.data)
    torch.set_num_threads(1)
    for row in frames.trials.to_dict("records"):
        spec = frames.config(row["trial"])
        alone = TrainingRun(spec.train, data, model=spec.model, flip=spec.data.flip)
        for epoch in frames.epochs[frames.epochs["trial"] == row["trial"]].to_dict("records"):
            metrics = alone.run_epoch().columns("val")
            for name in ("epoch", "lr", "train_loss", "val_loss", "val_accuracy"):
                assert metrics[name] == epoch[name], (row["trial"], epoch["epoch"], name)


def send(number: signal.Signals) -> Callable[[int], None]:
    return lambda process: os.kill(process, number)


COLUMNS = ("fault", "injected", "survived", "rows lost", "rows changed")


def summary(injected: Sequence[Injected], kind_of: Callable[[str], str] = str) -> str:
    """The fault matrix as a Markdown table, one row for each kind."""
    kinds = list(dict.fromkeys(kind_of(fault.kind) for fault in injected))
    rows: list[tuple[object, ...]] = [COLUMNS, ("---",) * len(COLUMNS)]
    for kind in [*kinds, "all"]:
        some = [fault for fault in injected if kind in ("all", kind_of(fault.kind))]
        counts = (sum(getattr(one, name) for one in some) for name in ("survived", "rows_lost", "rows_changed"))
        rows.append((kind, len(some), *counts))
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def group(kind: str) -> str:
    """What several kinds of fault have in common."""
    where, colon, _ = kind.partition(": ")
    return where if colon else "signals, nodes, files and disks"


def recorded(file: Path) -> list[Injected]:
    """The faults in a record."""
    return [
        Injected(row["kind"], row["moment"], row["survived"] == "True", int(row["rows_lost"]), int(row["rows_changed"]))
        for row in table(file)
    ]


if __name__ == "__main__":  # the tables of tests/README.md and of the record's own page
    for kind_of in (group, str):
        print(summary(recorded(Path(sys.argv[1])), kind_of), end="\n\n")
