"""What Ray Tune reports, as it is written to the run directory. Whole searches: test_search.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tune_resnet.recorder import Recorder
from tune_resnet.records import FAILED, RunDirectory
from tune_resnet.spec import SearchSpec
from tune_resnet.tuning import RecordEvents


class Watcher:
    """Knows which trials have ended."""

    def __init__(self) -> None:
        self.ended: list[int] = []

    def trial_ended(self, trial: int) -> None:
        self.ended.append(trial)


def test_a_trial_whose_process_fails_before_it_starts_is_recorded_with_its_reason(tmp_path: Path) -> None:
    recorder = Recorder(RunDirectory.create(tmp_path / "run", SearchSpec()), SearchSpec())
    watcher: Any = Watcher()
    reason = tmp_path / "error.txt"
    reason.write_text("Traceback\nRuntimeError: no memory for the network\n")
    trial = SimpleNamespace(
        config={"trial": 0, "max_lr": 0.02}, pickled_error_file=None, error_file=str(reason), last_result={}
    )
    RecordEvents(recorder, watcher, epochs=8).on_trial_error(0, [trial], trial)
    row = recorder.trials[0]
    assert (row.state, row.max_lr, row.error) == (FAILED, 0.02, "RuntimeError: no memory for the network")
    assert watcher.ended == [0]
