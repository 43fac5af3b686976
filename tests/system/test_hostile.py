"""Files that somebody else has made or damaged: each gives a result or one line that says what is wrong with it.

Never a traceback, a hang, or code that runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import math
import os
import pickle
import shutil
import signal
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from factories import NO_PROCESS, SPEC, Build
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from tune_resnet import analysis, predict, report
from tune_resnet.commands.confirm import _conclude
from tune_resnet.commands.options import parse_options
from tune_resnet.commands.pairs import Pairs
from tune_resnet.config.default_space import NARROW_SPACE
from tune_resnet.config.sections import BudgetSpec, DataSpec, ModelSpec
from tune_resnet.config.space import Choices, Domain, Space
from tune_resnet.data.image_file import read_image
from tune_resnet.data.load import load_dataset
from tune_resnet.data.split import search_split
from tune_resnet.data.types import DataError, ImageSet, Split
from tune_resnet.errors import UserError
from tune_resnet.execution.tuner import settle_unfinished_trials
from tune_resnet.hpo.models import keep_winner
from tune_resnet.hpo.ranking import winner
from tune_resnet.hpo.study import Study
from tune_resnet.hpo.warm_start import WarmStart, warm_start
from tune_resnet.runs.directory import RunDirectory
from tune_resnet.runs.load import load_frames
from tune_resnet.runs.recorder import Recorder
from tune_resnet.runs.resume import read_history
from tune_resnet.runs.tables import (
    CONFIRM_DTYPES,
    FAILED,
    FINISHED,
    INTERRUPTED,
    REFERENCE,
    STOPPED,
    WINNER,
)
from tune_resnet.training.checkpoint import Checkpoint, continue_training
from tune_resnet.training.loop import TrainingRun
from tune_resnet.training.metrics import NOT_FINITE, NonFiniteLoss
from tune_resnet.training.saved_model import Outcome, save_model

INTERRUPTED_TRIAL = 1
FINGERPRINT = "ab" * 32


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """A test that waits for ever fails instead."""
    before = signal.signal(signal.SIGALRM, lambda number, frame: pytest.fail("it hangs"))
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


# --- run directories -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, split: Split) -> Path:
    """A run with so few finished trials that nothing is estimated from them, which takes time."""
    return make_run(tmp_path_factory.mktemp("good") / "run", split, "random", ends=(0.64, 0.7))


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory, split: Split) -> Path:
    """A run with enough of them, whose space has numbers, whole numbers, steps, choices and a condition."""
    path = tmp_path_factory.mktemp("rich") / "run"
    return make_run(path, split, "tpe", ends=(0.64, 0.7, 0.66, 0.5), space={**NARROW_SPACE, **VARIED}, values=VALUES_OF)


VARIED: Space = {
    "batch_size": Choices(choices=(50, 400)),
    "crop_padding": Domain(low=0, high=8),
    "dropout": Domain(low=0, high=0.5, step=0.1),
    "decoupled_decay": Choices(choices=(False, True)),
    "optimizer": Choices(choices=("adam", "sgd")),
    "momentum": Domain(low=0.8, high=0.99, when="optimizer=sgd"),
}
VALUES_OF: tuple[dict[str, Any], ...] = (
    {"optimizer": "sgd", "momentum": 0.95, "dropout": 0.3},
    {"batch_size": 50, "crop_padding": 8},
    {"decoupled_decay": True, "crop_padding": 0},
    {},
)


def make_run(
    path: Path,
    split: Split,
    sampler: str,
    ends: Sequence[float],
    space: Space = NARROW_SPACE,
    values: Sequence[dict[str, Any]] = ({}, {}),
) -> Path:
    """A run that has everything: trials in each state, what earlier runs gave, a confirmation, checkpoint and model.
    `values`: what the trials with these `ends` have, beside their peak rates."""
    spec = dataclasses.replace(SPEC, model=ModelSpec(width=1), search=BudgetSpec(sampler=sampler), space=space)
    build = Build(path, spec)
    run = build.directory
    build.trial([0.3, 0.4, 0.5, 0.6], FINISHED)
    assert build.trial([0.3, 0.4], INTERRUPTED, weight_decay=1e-3) == INTERRUPTED_TRIAL
    build.trial([0.2, 0.3], STOPPED, max_lr=0.002)
    build.trial([0.2], STOPPED, max_lr=0.09)
    build.trial([0.2], FAILED, error=f"{NOT_FINITE} in epoch 2")
    build.trial([], FAILED, error="its process died")
    for number, (end, other) in enumerate(zip(ends, values, strict=True)):
        build.trial([0.3, 0.4, 0.5, end], FINISHED, max_lr=0.01 * (number + 2), **other)
    env = {"dataset_fingerprint": FINGERPRINT, "device_name": "a CPU", "held_out_images": 500, "kind": "search"}
    run.write_env({**env, "wall_seconds": 9.5, "resumed": [{"started_at": 1.5, "command": "again"}]})
    warm = warm_start([run.path], build.recorder.spec, FINGERPRINT)
    warm.configurations = [{"max_lr": 0.05, "weight_decay": 1e-4, "grad_clip": 0.1}]
    run.warm_start_json.write_text(warm.to_json())
    rows = [
        {"seed": seed, "configuration": name, "max_lr": max_lr, "weight_decay": 1e-4, "grad_clip": 0.1, "epochs": 4,
         "test_accuracy": accuracy + seed / 1e6, "test_loss": 0.5, "seconds": 1.5, "worker": "host:1",
         "width": 1, "train_images": 0, "of_epochs": 4}
        for seed in (1000, 1001, 1002)
        for name, max_lr, accuracy in ((WINNER, 0.03, 0.7), (REFERENCE, 0.01, 0.6))
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=list(CONFIRM_DTYPES))
    table.to_csv(run.path / "confirm.csv", index=False, lineterminator="\n")
    training = saved_training(split)
    training.run_epoch()
    checkpoint = Checkpoint(run.checkpoint_of(INTERRUPTED_TRIAL))
    checkpoint.save(training.state_dict())
    checkpoint.wait()
    best = winner(load_frames(run.path))
    assert best is not None
    training.run_epoch()
    assert training.last is not None
    outcome = Outcome(
        trial=best["trial"],
        train=dataclasses.replace(training.spec, **{name: best[name] for name in spec.hyperparameters}),
        last=training.last,
    )
    save_model(run.model_of(best["trial"]), training.model, split, ModelSpec(width=1), outcome)
    keep_winner(load_frames(run.path))
    return run.path


def saved_training(split: Split) -> TrainingRun:
    """The training that the run's checkpoint is of."""
    train = dataclasses.replace(SPEC.train, weight_decay=1e-3, precision="fp32", batch_size=50)
    return TrainingRun(train, split, model=ModelSpec(width=1))


@pytest.fixture(scope="module")
def training(split: Split) -> TrainingRun:
    torch.set_num_threads(1)
    return saved_training(split)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "it.png"
    Image.new("RGB", (40, 30), "red").save(path)
    return path


def answer(read: Callable[[], object]) -> object:
    """What a reader gives, or its complaint: a UserError of one line, and nothing else."""
    try:
        return read()
    except UserError as error:
        complaint = error
    assert str(complaint)
    assert str(complaint).isprintable()
    return complaint


def quiet(main: Callable[[list[str]], int], *arguments: object) -> tuple[int, str]:
    """A command's exit code and what it wrote to stderr."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as errors:
        code = main([str(argument) for argument in arguments])
    out.getvalue().encode()  # a terminal could show it
    assert code in (0, 2)
    assert errors.getvalue().count("\n") == (1 if code else 0)
    return code, errors.getvalue()


def analyse(path: Path) -> None:
    quiet(analysis.main, path, "--fidelity")


def report_on(path: Path) -> None:
    quiet(report.main, path)


def resume(path: Path, study: bool = False) -> None:
    """What --resume does with a run directory before the first trial starts; `study`: with the file that follows it."""
    options = parse_options(["--resume", str(path)])
    run = RunDirectory(path)
    with run.lock():
        history = read_history(run)
        assert type(history.env.get("wall_seconds", 0.0) + 1.5) is float
        run.write_env({**history.env, "resumed": [*history.env.get("resumed", []), {"started_at": 1.5}]})
        recorder = Recorder(run, options.spec, history.trials, history.epochs)
        history, _ = settle_unfinished_trials(recorder, history)
        warm = WarmStart.read(run.warm_start_json, options.spec)
        followed = Study(options.spec, warm, history, run.study_log if study else None)
        for _ in range(2):  # one that had not ended, then a new one
            number, params = followed.propose()
            assert 0 <= number <= len(history.trials) + 1
            assert all(domain.holds(params[key]) for key, domain in options.spec.space.items())
            if number >= followed.recorded:
                recorder.start(number, params)
        recorder.close()


def learn(path: Path, fingerprint: str = FINGERPRINT) -> None:
    """What --warm-start does."""
    spec = dataclasses.replace(parse_options(["--resume", str(path)]).spec, space=NARROW_SPACE)
    Study(spec, warm_start([path], spec, fingerprint)).propose()


def confirm(path: Path) -> None:
    """What --confirm does once all is trained."""
    spec = parse_options(["--resume", str(path)]).spec
    seeds, best = (1000, 1001, 1002), spec.configured({"max_lr": 0.03})
    none = ImageSet(np.zeros((0, 3, 32, 32), dtype=np.uint8), np.zeros(0, dtype=np.int64))
    data = Split(none, none, (), np.zeros(3), np.ones(3))
    compared = Pairs(run=RunDirectory(path), spec=spec, trial=7, winner=best, seeds=seeds, sequential=False, data=data)
    _conclude(compared, {}, Console(file=io.StringIO()))


def use_model(path: Path, photo: Path, *form: str) -> None:
    quiet(predict.main, path, photo, *form)


def go_on(path: Path, training: TrainingRun) -> bool:
    """What the interrupted trial does first; one that does go on can be trained."""
    training.reset(training.spec)
    found = continue_training(training, Checkpoint(RunDirectory(path).checkpoint_of(INTERRUPTED_TRIAL)))
    assert training.epochs_done == found
    if found:
        with contextlib.suppress(NonFiniteLoss):
            training.run_epoch()
    return found


def test_a_good_run_is_read_by_all(good: Path, training: TrainingRun, photo: Path, tmp_path: Path) -> None:
    run = RunDirectory(Path(shutil.copytree(good, tmp_path / "run")))
    assert quiet(analysis.main, run.path) == (0, "")
    assert quiet(predict.main, run.path, photo) == (0, "")
    assert go_on(run.path, training)
    for read in (learn, partial(learn, fingerprint="others"), confirm, partial(resume, study=True)):
        read(run.path)


TABLES = ("trials.csv", "epochs.csv", "confirm.csv")
DOCUMENTS = ("env.json", "warm_start.json")
TEXTS = (*TABLES, *DOCUMENTS, "spec.toml")
CHECKPOINT = f"checkpoints/trial-{INTERRUPTED_TRIAL:05d}.pt"
MODEL = "best/model.safetensors"
CELLS = st.sampled_from(
    ["", "nan", "inf", "-inf", "-1", "0", "1", "2", "4", "5", "9", "0.5", "0.05", "1e308", "-1e308", "1e-320",
     "1000001", "99999", "4294967296", "9223372036854775807", "9" * 30, "9" * 5000, "x", "\x00", "ü", "💥", "٣", "1_0",
     '"', '"a\nb"', "\r", "\x1b[31m", "running", "finished", "interrupted", "failed", "stopped", "winner", "x" * 10_000]
)  # fmt: skip
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from(
        [None, True, -1, 0, 0.5, 2, 1e308, math.nan, math.inf, -math.inf, 10**400, "", "x", "nan", "0.01", "\ud800",
         "\x1b[31m", "RUNNING", "WAITING", "FAIL", "PRUNED", "COMPLETE"]
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["max_lr", "1", "early"]), inner),
    max_leaves=3,
)  # fmt: skip
FEW = settings(derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def other_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Some bytes cut out, replaced or put in, anywhere or among the first, where formats keep their heads."""
    start = draw(st.integers(0, len(content)) | st.integers(0, min(100, len(content))))
    end = draw(st.one_of(st.just(start), st.integers(start, min(start + 30, len(content))), st.just(len(content))))
    return (
        content[:start]
        + draw(st.sampled_from([b"", b"\x00", b"\n", b"\xff" * 8]) | st.binary(max_size=9))
        + content[end:]
    )


@st.composite
def other_lines(draw: st.DrawFn, content: bytes) -> bytes:
    """A line dropped, doubled, or two swapped."""
    lines = content.splitlines(keepends=True)
    first, second = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    change = draw(st.sampled_from(["drop", "double", "swap"]))
    if change == "swap":
        lines[first], lines[second] = lines[second], lines[first]
    else:
        lines[first : first + 1] = [] if change == "drop" else [lines[first]] * 2
    return b"".join(lines)


@st.composite
def other_cells(draw: st.DrawFn, content: bytes) -> bytes:
    """One to three cells of a table replaced; of one line or of all."""
    rows = [line.split(",") for line in content.decode().splitlines()]
    for _ in range(draw(st.integers(1, 3))):
        column, cell = draw(st.integers(0, len(rows[0]) - 1)), draw(CELLS)
        chosen = draw(st.integers(1, len(rows) - 1).map(lambda row: [row]) | st.just(range(1, len(rows))))
        for row in chosen:
            rows[row][column] = cell
    return "".join(",".join(row) + "\n" for row in rows).encode()


@st.composite
def other_settings(draw: st.DrawFn, content: bytes) -> bytes:
    """One setting of a spec replaced."""
    lines = content.decode().splitlines()
    number = draw(st.sampled_from([number for number, line in enumerate(lines) if " = " in line]))
    value = draw(st.sampled_from(["nan", "inf", "-1", "0", "1", "2", "3", "9", "0.02", "1e-300", "5e-324", "1e300",
                                  "1000000", "10000", '"x"', '"none"', '"median"', '"random"', '"tpe"', "[]", "{}",
                                  "true", '"\\u0000"', "1979-05-27"]))  # fmt: skip
    lines[number] = f"{lines[number].partition(' = ')[0]} = {value}"
    return "\n".join(lines).encode()


@st.composite
def other_json(draw: st.DrawFn, content: bytes) -> bytes:
    """One value of a document replaced, at any depth."""
    document = json.loads(content)
    place, key = document, draw(st.sampled_from(sorted(document)))
    while isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
        place = place[key]
        key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
    place[key] = draw(VALUES)
    deep = draw(st.sampled_from([0] * 20 + [50, 400, 900, 100_000]))
    return json.dumps(document).replace("9.5", "[" * deep + "9.5" + "]" * deep).encode()


Reader = Callable[[Path], object]


@pytest.fixture(scope="module")
def readers(training: TrainingRun, photo: Path) -> dict[str, list[Reader]]:
    """Who reads the contents of which file."""
    tables: list[Reader] = [analyse, report_on, learn, partial(learn, fingerprint="others"), resume]
    return {
        "spec.toml": [*tables, confirm],
        "env.json": tables,
        "trials.csv": tables,
        "epochs.csv": tables,
        "warm_start.json": [resume],
        "confirm.csv": [confirm],
        CHECKPOINT: [partial(go_on, training=training)],
        MODEL: [lambda path: use_model(path, photo), lambda path: use_model(path, photo, "--csv")],
    }


def read_with(source: Path, change: Callable[[Path], object], readers: Sequence[Reader], folder: Path) -> None:
    """The answers of the readers to a run after a change, each with a copy of its own."""
    for read in readers:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            run = Path(shutil.copytree(source, Path(place) / "run"))
            change(run)
            answer(partial(read, run))


def put(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda run: (run / name).write_bytes(content)


@st.composite
def other_state(draw: st.DrawFn, content: bytes) -> bytes:
    """A checkpoint with one of its values replaced, at any depth, by a plain one or a tensor."""
    state = torch.load(io.BytesIO(content), weights_only=True)
    place, key = state, draw(st.sampled_from(sorted(state)))
    while isinstance(place[key], dict | list) and place[key] and draw(st.integers(0, 5)):
        place = place[key]
        key = draw(st.sampled_from(sorted(place, key=str) if isinstance(place, dict) else range(len(place))))
    tensors = st.sampled_from([(), (1,), (2,), (0,), (3, 3)]).map(torch.ones)
    place[key] = draw(VALUES | tensors | tensors.map(torch.Tensor.long))
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


@st.composite
def other_model(draw: st.DrawFn, content: bytes) -> bytes:
    """A model whose header has one value replaced, of a tensor or of what is told about it."""
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    about = json.loads(header["__metadata__"]["tune_resnet"])
    key = draw(st.sampled_from(sorted(about)))
    wild = VALUES | st.sampled_from(
        [[0] * 3, [[1]] * 3, [1e30] * 3, ["\ud800"] * 10, [["\x1b"]] * 10, 1024, 2**31, 2**62]
    )
    if draw(st.booleans()):
        about[key] = draw(wild)
    else:
        tensor = header[draw(st.sampled_from(sorted(set(header) - {"__metadata__"})))]
        tensor[draw(st.sampled_from(sorted(tensor)))] = draw(
            wild | st.sampled_from(["I32", "F64", "BF16", "BOOL", [4]])
        )
    deep = draw(st.sampled_from([0] * 9 + [900, 100_000]))
    told = json.dumps(about)
    header["__metadata__"]["tune_resnet"] = told[:-1] + ', "deep": ' + "[" * deep + "]" * deep + "}" if deep else told
    changed = json.dumps(header).encode()
    return struct.pack("<Q", len(changed)) + changed + content[8 + length :]


def other_content(name: str, content: bytes) -> st.SearchStrategy[bytes]:
    """A file changed as its format suggests, more often than not, or anyhow."""
    kinds = [other_bytes(content)]
    if name not in (CHECKPOINT, MODEL):
        kinds += [other_lines(content)]
    own = {"spec.toml": other_settings, CHECKPOINT: other_state, MODEL: other_model}
    own |= {**dict.fromkeys(TABLES, other_cells), **dict.fromkeys(DOCUMENTS, other_json)}
    return st.one_of(*kinds, *[own[name](content)] * 4)


# Cases of each file; one takes 50 to 500 ms.
CASES = {
    "spec.toml": 30,
    "env.json": 30,
    "trials.csv": 40,
    "epochs.csv": 40,
    "warm_start.json": 40,
    "confirm.csv": 40,
    CHECKPOINT: 60,
    MODEL: 80,
}


@pytest.mark.parametrize("name", CASES)
def test_any_file_of_a_run_is_read_or_refused(
    name: str, good: Path, readers: dict[str, list[Reader]], scratch: Path
) -> None:
    @settings(FEW, max_examples=CASES[name])
    @given(st.sampled_from(readers[name]), other_content(name, (good / name).read_bytes()))
    def check(read: Reader, content: bytes) -> None:
        read_with(good, put(name, content), [read], scratch)

    check()


@pytest.mark.parametrize("name", ["trials.csv", "epochs.csv"])
def test_any_table_with_trials_enough_to_learn_from_is_read_or_refused(
    name: str, rich: Path, readers: dict[str, list[Reader]], scratch: Path
) -> None:
    @settings(FEW, max_examples=15)
    @given(st.sampled_from(readers[name]), other_cells((rich / name).read_bytes()))
    def check(read: Reader, content: bytes) -> None:
        read_with(rich, put(name, content), [read], scratch)

    check()


def in_place(entry: str, name: str = "") -> Callable[[Path], object]:
    """Replaces a file or folder, or what has the name in that folder, by something else."""

    def replace(place: Path) -> None:
        path = place / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        entries: dict[str, Callable[[], object]] = {
            "nothing": lambda: None,
            "file": lambda: path.write_bytes(b"x"),
            "empty": path.touch,
            "folder": lambda: (path / "in" / "it").mkdir(parents=True),
            "pipe": lambda: os.mkfifo(path),
            "loop": lambda: path.symlink_to(path),
            "dangling": lambda: path.symlink_to("nowhere"),
            "endless": lambda: path.symlink_to("/dev/zero"),
            "upwards": lambda: path.symlink_to(".."),
        }
        entries[entry]()

    return replace


ENTRIES = ("nothing", "file", "empty", "folder", "pipe", "loop", "dangling", "endless", "upwards")


@pytest.mark.parametrize("entry", ENTRIES)
def test_anything_may_be_in_the_place_of_a_file_or_folder(
    entry: str, good: Path, readers: dict[str, list[Reader]], tmp_path: Path
) -> None:
    everyone = {**readers, "best": readers[MODEL] + [resume], "checkpoints": [*readers[CHECKPOINT], resume]}
    everyone |= {".lock": [analyse, resume], "ray": [resume]}
    for name, read in everyone.items():
        read_with(good, in_place(entry, name), read, tmp_path)


@pytest.mark.parametrize("name", [".lock", *TEXTS, "study.log", "checkpoints", "best", "ray", "elsewhere"])
def test_nothing_outside_of_a_run_is_written(name: str, good: Path, tmp_path: Path) -> None:
    run, outside = Path(shutil.copytree(good, tmp_path / "run")), tmp_path / "outside"
    (run / name).rename(outside) if (run / name).exists() else outside.mkdir()
    if outside.is_dir():
        for file in (f".bashrc.{NO_PROCESS}.tmp", "trial-00000.pt"):
            (outside / file).write_text("mine")
    else:
        outside.write_bytes(outside.read_bytes() + b" ")
    before = tree_of(outside)
    (run / name).symlink_to(outside)
    answer(partial(resume, run, study=True))
    assert tree_of(outside) == before


def tree_of(path: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in (path, *path.rglob("*")) if file.is_file()}


class Bomb:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.makedirs, (str(self.mark), 0o777, True)


def bombs(mark: Path) -> dict[str, bytes]:
    """Pickles of each form there is, and the same as what torch.save makes."""
    forms = {str(protocol): pickle.dumps(Bomb(mark), protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)}
    for name, new in (("torch", True), ("old torch", False)):
        buffer = io.BytesIO()
        torch.save({"spec": Bomb(mark)}, buffer, _use_new_zipfile_serialization=new)
        forms[name] = buffer.getvalue()
    return forms


def test_a_bomb_goes_off_where_it_is_unpickled(tmp_path: Path) -> None:
    for form, content in bombs(tmp_path / "mark").items():
        if "torch" in form:
            torch.load(io.BytesIO(content), weights_only=False)
        else:
            pickle.loads(content)
        (tmp_path / "mark").rmdir()


def test_no_file_of_a_run_is_unpickled(good: Path, readers: dict[str, list[Reader]], tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    everyone: list[Reader] = [*dict.fromkeys(itertools.chain(*readers.values())), partial(resume, study=True)]
    files = {str(path.relative_to(good)) for path in good.rglob("*") if path.is_file()}
    assert {*readers} <= files
    # Nobody reads one of these after another that it refuses.
    apart = {*TEXTS, MODEL, "best/spec.toml"}
    together = {*files, "study.log", "confirm.json", "checkpoints/trial-00004.pt", "best/model.pt"} - apart
    for names in (together, *([name] for name in apart)):

        def put_bombs(run: Path, names: Iterable[str] = names) -> None:
            for name in names:
                put(name, bombs(mark)["2"])(run)

        read_with(good, put_bombs, everyone, tmp_path)
        assert not mark.exists(), names
    for form, content in bombs(mark).items():
        read_with(good, put(CHECKPOINT, content), readers[CHECKPOINT], tmp_path)
        assert not mark.exists(), form


# --- data folders ----------------------------------------------------------------------------------------------------


def picture(form: str, size: tuple[int, int] = (40, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, form)
    return buffer.getvalue()


def claiming(width: int, height: int) -> bytes:
    """A PNG whose header says that it is so large."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\x00" * 1000)
    chunks = [struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) for body in (head, data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


PICTURES = {form: picture(form) for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "TGA")}
SIZES = st.sampled_from([(0, 0), (1, 1), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (1, 10**6), (20_000, 20_000)])
contents = st.one_of(
    st.sampled_from(sorted(PICTURES)).map(PICTURES.get),
    st.sampled_from(sorted(PICTURES)).flatmap(lambda form: other_bytes(PICTURES[form])),
    SIZES.map(lambda size: claiming(*size)),
    st.sampled_from([(1, 1), (1, 3000), (3000, 1)]).map(lambda size: picture("PNG", size)),
    st.binary(max_size=40),
    st.sampled_from([b"", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n"]),
)
names = st.sampled_from(
    ["0.png", "1.PNG", "ü💥.jpg", "a\nb.png", "\x1b[31m.png", ".hidden.png", "x" * 251 + ".png", "none", "t.txt",
     "e.eps", "\udcff.png", "p.pdf", "b.gif", " .tif", "-.webp", "n.h5"]
)  # fmt: skip
classes = st.sampled_from(["cat", "dog", "ü💥", "a\nb", "\udcff", ".hidden", "-", "x" * 255])
parts = st.sampled_from(["train", "train", "train", "test"])
changes = st.lists(
    st.tuples(parts, classes, names, contents) | st.tuples(parts, classes, st.none() | names, st.sampled_from(ENTRIES)),
    min_size=1,
    max_size=4,
)


@settings(FEW, max_examples=200)
@given(changes=changes, with_test=st.booleans())
@pytest.mark.filterwarnings("ignore")  # what Pillow says of odd files
def test_any_folder_is_a_data_set_or_an_error(
    changes: list[tuple[str, str, str | None, bytes | str]], with_test: bool, scratch: Path
) -> None:
    root = scratch / "tree"
    for part in ("train", "test")[: 1 + with_test]:
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for number in range(2):
                (root / part / name / f"{number}.png").write_bytes(PICTURES["PNG"])
    for part, name, file, change in changes:
        path = root / part / name if file is None else root / part / name / file
        with contextlib.suppress(OSError):  # a change before may stand in the way
            path.parent.mkdir(parents=True, exist_ok=True)
            in_place(change)(path) if isinstance(change, str) else path.write_bytes(change)
    spec = DataSpec(dataset="folder", data_dir=str(root))
    with contextlib.redirect_stderr(io.StringIO()):
        found = answer(lambda: search_split(load_dataset(spec), spec))
    assert isinstance(found, UserError) or found.train.images.dtype == np.uint8  # type: ignore[attr-defined]
    shutil.rmtree(root)


def test_an_image_is_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *arguments, **keywords: pytest.fail("a program is started"))
    Image.new("RGB", (40, 30), "red").save(tmp_path / "it.png", "EPS")
    with pytest.raises(DataError, match="not a known image format"):
        read_image(tmp_path / "it.png")
