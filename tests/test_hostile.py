"""Files that somebody else has made or damaged: each gives a result or one line that says what is wrong with it.

Never a traceback, a hang, or code that runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import json
import math
import os
import pickle
import shutil
import signal
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from test_analysis import SPEC, Build

from tune_resnet import analysis, predict
from tune_resnet.checkpoint import Checkpoint, continue_training
from tune_resnet.confirm import _conclude, _Confirmation, _recorded
from tune_resnet.data import Split, load_dataset, search_split
from tune_resnet.errors import UserError
from tune_resnet.frames import load_run
from tune_resnet.history import read_history
from tune_resnet.options import parse_options
from tune_resnet.recorder import Recorder
from tune_resnet.records import FAILED, FINISHED, INTERRUPTED, NOT_FINITE, STOPPED, RecordError, RunDirectory
from tune_resnet.scheduler import EarlyStopping
from tune_resnet.searcher import OptunaSearcher
from tune_resnet.spec import DataSpec, ModelSpec, load_spec
from tune_resnet.train import TrainingRun
from tune_resnet.tuning import end_what_was_done
from tune_resnet.verdict import CONFIRM_DTYPES, REFERENCE, WINNER
from tune_resnet.warm_start import WarmStart, warm_start
from tune_resnet.weights import save_model

INTERRUPTED_TRIAL = 9
FINGERPRINT = "ab" * 32


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """A test that waits for ever fails instead."""
    before = signal.signal(signal.SIGALRM, lambda number, frame: pytest.fail("it hangs"))
    signal.alarm(100)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


# --- run directories ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, split: Split) -> Path:
    """A run that has everything: trials in every state, what earlier runs gave, a confirmation, a checkpoint, a model."""
    folder = tmp_path_factory.mktemp("good")
    build = Build(folder / "run", dataclasses.replace(SPEC, model=ModelSpec(width=1)))
    run = build.directory
    build.trial([0.3, 0.4, 0.5, 0.6], FINISHED)
    for number in range(4):
        build.trial([0.3, 0.4, 0.5, 0.6 + number / 50], FINISHED, max_lr=0.01 + number / 100)
    build.trial([0.2, 0.3], STOPPED, max_lr=0.002)
    build.trial([0.2], STOPPED, max_lr=0.09)
    build.trial([0.2], FAILED, error=f"{NOT_FINITE} in epoch 2")
    build.trial([], FAILED, error="its process died")
    assert build.trial([0.3, 0.4], INTERRUPTED, weight_decay=1e-3) == INTERRUPTED_TRIAL
    env = {"dataset_fingerprint": FINGERPRINT, "device_name": "a CPU", "held_out_images": 500, "kind": "search"}
    run.write_env({**env, "wall_seconds": 9.5, "resumed": [{"started_at": 1.5, "command": "again"}]})
    warm = warm_start([run.path], build.recorder.spec, FINGERPRINT)
    warm.configurations = [{"max_lr": 0.05, "weight_decay": 1e-4, "grad_clip": 0.1}]
    warm.write(run.warm_start_json)
    rows = [
        {"seed": seed, "configuration": name, "max_lr": max_lr, "weight_decay": 1e-4, "grad_clip": 0.1, "epochs": 4,
         "test_accuracy": accuracy + seed / 1e6, "test_loss": 0.5, "seconds": 1.5, "worker": "host:1"}
        for seed in (1000, 1001, 1002)
        for name, max_lr, accuracy in ((WINNER, 0.04, 0.7), (REFERENCE, 0.01, 0.6))
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=list(CONFIRM_DTYPES))
    table.to_csv(run.path / "confirm.csv", index=False, lineterminator="\n")
    training = saved_training(split)
    training.run_epoch()
    checkpoint = Checkpoint(run.checkpoint_of(INTERRUPTED_TRIAL))
    checkpoint.save(training.state_dict())
    checkpoint.wait()
    save_model(run.best / "model.safetensors", training.model, split, 1)
    return run.path


def saved_training(split: Split) -> TrainingRun:
    """The training that the run's checkpoint is of."""
    train = dataclasses.replace(SPEC.train, weight_decay=1e-3, precision="fp32", batch_size=50)
    return TrainingRun(train, split, model=ModelSpec(width=1))


@pytest.fixture(scope="module")
def training(split: Split) -> TrainingRun:
    return saved_training(split)


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
        assert str(error)
        assert str(error).isprintable()
        return error


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


def resume(path: Path) -> None:
    """What --resume does with a run directory before the first trial starts."""
    options = parse_options(["--resume", str(path)])
    run = RunDirectory(path)
    with run.lock():
        history = read_history(run)
        assert type(history.env.get("wall_seconds", 0.0) + 1.5) is float
        run.write_env({**history.env, "resumed": [*history.env.get("resumed", []), {"started_at": 1.5}]})
        recorder = Recorder(run, options.spec, history.trials, history.epochs)
        scheduler = EarlyStopping(options.spec, history.epochs)
        end_what_was_done(recorder, scheduler)
        history = dataclasses.replace(history, trials=[recorder.trials[number] for number in sorted(recorder.trials)])
        warm = WarmStart.read(run.warm_start_json, options.spec)
        searcher = OptunaSearcher(options.spec, None, warm, history, recorder.start)
        for name in "ab":  # one that had not ended, then a new one
            config = searcher.suggest(name)
            assert 0 <= config["trial"] <= len(history.trials) + 1
            assert all(domain.low <= config[key] <= domain.high for key, domain in options.spec.space.items())
        recorder.close()


def learn(path: Path, fingerprint: str = FINGERPRINT) -> None:
    """What --warm-start does."""
    OptunaSearcher(SPEC, None, warm_start([path], SPEC, fingerprint)).suggest("a")


def confirm(path: Path) -> None:
    """What --confirm does once all is trained."""
    spec = load_spec(path / "spec.toml")
    seeds, best = (1000, 1001, 1002), dataclasses.replace(spec.train, max_lr=0.04)
    confirmation = _Confirmation(path=path, spec=spec, trial=4, winner=best, seeds=seeds, images=100)
    rows = pd.DataFrame(_recorded(confirmation), columns=list(CONFIRM_DTYPES))
    _conclude(confirmation, rows, {}, Console(file=io.StringIO()))


def read_all(path: Path, training: TrainingRun, photo: Path) -> None:
    """Every reader of a run directory."""
    for read in (analyse, learn, partial(learn, fingerprint="others"), confirm, resume):
        answer(partial(read, path))
    for form in ([], ["--csv"]):
        quiet(predict.main, path, photo, *form)
    continue_training(training, Checkpoint(RunDirectory(path).checkpoint_of(INTERRUPTED_TRIAL)))


def test_a_good_run_is_read_by_all(good: Path, training: TrainingRun, photo: Path, tmp_path: Path) -> None:
    run = RunDirectory(Path(shutil.copytree(good, tmp_path / "run")))
    assert quiet(analysis.main, run.path) == (0, "")
    assert quiet(predict.main, run.path, photo) == (0, "")
    for read in (learn, partial(learn, fingerprint="others"), confirm, resume):
        read(run.path)
    assert continue_training(training, Checkpoint(run.checkpoint_of(INTERRUPTED_TRIAL)))


TABLES = ("trials.csv", "epochs.csv", "confirm.csv")
DOCUMENTS = ("env.json", "warm_start.json")
TEXTS = (*TABLES, *DOCUMENTS, "spec.toml")
CHECKPOINT = f"checkpoints/trial-{INTERRUPTED_TRIAL:05d}.pt"
MODEL = "best/model.safetensors"
CELLS = st.sampled_from(
    ["", "nan", "inf", "-inf", "-1", "0", "1", "2", "4", "5", "9", "0.5", "0.05", "1e308", "-1e308", "1e-320", "1000001",
     "99999", "4294967296", "9223372036854775807", "9" * 30, "9" * 5000, "x", "\x00", "ü", "💥", "٣", "1_0", " 1 ",
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
FEW = {"derandomize": True, "deadline": None, "suppress_health_check": list(HealthCheck), "database": None}


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


def other_content(name: str, content: bytes) -> st.SearchStrategy[bytes]:
    own = {"spec.toml": other_settings, **dict.fromkeys(TABLES, other_cells), **dict.fromkeys(DOCUMENTS, other_json)}
    kinds = [other_bytes(content)]
    if name in own:
        kinds = [own[name](content)] * 4 + [other_lines(content)] * (name != "spec.toml") + kinds
    return st.one_of(kinds)


READERS: dict[str, tuple[Callable[[Path], object], ...]] = {
    "spec.toml": (analyse, learn, confirm, resume),
    "env.json": (analyse, learn, resume),
    "trials.csv": (analyse, learn, partial(learn, fingerprint="others"), resume),
    "epochs.csv": (analyse, learn, partial(learn, fingerprint="others"), resume),
    "warm_start.json": (resume,),
    "confirm.csv": (confirm,),
}


@pytest.mark.parametrize("name", TEXTS)
@settings(max_examples=int(os.environ.get("N", "100")), **FEW)
@given(data=st.data())
def test_any_text_of_a_run_is_read_or_refused(
    name: str, good: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    run = tmp_path_factory.mktemp("fuzz") / "run"
    content = data.draw(other_content(name, (good / name).read_bytes()))
    for read in READERS[name]:
        shutil.copytree(good, run)
        (run / name).write_bytes(content)
        answer(partial(read, run))
        shutil.rmtree(run)
