"""What Ray Tune reports, as it is written to the run directory. Whole searches: test_search.py, test_faults.py."""

from __future__ import annotations

import errno
import pickle
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tune_resnet.config.spec import SearchSpec
from tune_resnet.execution.callbacks import RecordEvents, StopRequest
from tune_resnet.runs.directory import RunDirectory
from tune_resnet.runs.load import read_object
from tune_resnet.runs.recorder import Recorder
from tune_resnet.runs.tables import FAILED, RUNNING

SPEC = SearchSpec()


class Watcher:
    """Knows which trials have ended."""

    def __init__(self) -> None:
        self.ended: list[int] = []
        self.again: list[str] = []

    def trial_tried_again(self, trial: int, reason: str) -> None:
        self.again.append(reason)

    def trial_ended(self, trial: int) -> None:
        self.ended.append(trial)


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    recorder = Recorder(RunDirectory.create(tmp_path / "run", SPEC), SPEC)
    recorder.start(0, {"max_lr": 0.02})
    return recorder


def no_study(trial_id: str, result: Mapping[str, Any]) -> None:
    """Learns nothing."""


class RayTrial:
    """Ray's, as far as it is looked at."""

    def __init__(self, **parts: Any) -> None:
        vars(self).update(parts)


def failed_trial(folder: Path, error: BaseException | str) -> Any:
    """As Ray leaves it: an exception of the trial's process as a pickle, one of its own as text."""
    text, pickled = folder / "error.txt", folder / "error.pkl"
    text.write_text(f"Traceback\n{error}\n")
    if not isinstance(error, str):
        pickled.write_bytes(pickle.dumps(error))
    return RayTrial(
        config={"trial": 0, "max_lr": 0.02},
        pickled_error_file=None if isinstance(error, str) else str(pickled),
        error_file=str(text),
        last_result={},
        temporary_state=SimpleNamespace(ray_actor=None),
    )


def test_a_trial_that_ray_could_not_run_is_recorded_with_its_reason(tmp_path: Path, recorder: Recorder) -> None:
    watcher: Any = Watcher()
    trial = failed_trial(tmp_path, "RuntimeError: no memory for the network")
    RecordEvents(recorder, watcher, StopRequest(None), no_study, 60).on_trial_error(0, [trial], trial)
    row = recorder.trials[0]
    assert (row.state, row.values["max_lr"], row.error) == (FAILED, 0.02, "RuntimeError: no memory for the network")
    assert watcher.ended == [0]


@pytest.mark.parametrize("last_time", [False, True])
def test_a_trial_that_fails_for_want_of_disk_ends_the_search_and_is_not_to_blame(
    tmp_path: Path, recorder: Recorder, last_time: bool
) -> None:
    watcher: Any = Watcher()
    end = StopRequest(None)
    events = RecordEvents(recorder, watcher, end, no_study, 60)
    trial = failed_trial(tmp_path, OSError(errno.ENOSPC, "No space left on device"))
    event = events.on_trial_error if last_time else events.on_trial_recover
    event(0, [trial], trial)
    assert end.stop_all()
    assert recorder.trials[0].state == RUNNING  # a resumed search goes on with it
    assert (watcher.ended, watcher.again) == ([], [])


def test_an_epoch_that_cannot_be_written_ends_the_search(tmp_path: Path, recorder: Recorder) -> None:
    watcher: Any = Watcher()
    end = StopRequest(None)
    events = RecordEvents(recorder, watcher, end, no_study, 60)
    recorder.run.epochs_csv.unlink()
    trial = failed_trial(tmp_path, "nothing")
    result = {"epoch": 1, "seconds": 1.0, "val_accuracy": 0.5, "worker": "host:1", "continued": 0}
    events.on_trial_result(0, [trial], trial, result)
    assert end.stop_all()
    assert isinstance(end.error, FileNotFoundError)


def test_how_a_gpu_runs_the_steps_is_told_once_for_each_answer(tmp_path: Path, recorder: Recorder) -> None:
    recorder.run.write_env({"device": "cuda"})
    events = RecordEvents(recorder, Watcher(), StopRequest(None), no_study, 60)  # type: ignore[arg-type]
    result = {"seconds": 1.0, "val_accuracy": 0.5, "worker": "host:1", "continued": 0}
    for trial, epoch, steps in ((0, 1, None), (0, 2, "recorded"), (1, 1, "recorded"), (2, 1, "run directly: it waits")):
        if trial:
            recorder.start(trial, {})
        ray_trial = RayTrial(config={"trial": trial}, trial_id=str(trial))
        said = {"steps": steps} if steps else {}
        events.on_trial_result(0, [], ray_trial, {**result, "epoch": epoch, **said})
    env = read_object(recorder.run.env_json)
    assert env == {"device": "cuda", "steps": "recorded (trial 0); run directly: it waits (trial 2)"}
