"""The gaps that the benchmarks of start and of trials' ends report, from rows of a run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from experiments.benchmarks.speed.between_trials import epoch_gaps, gaps
from experiments.benchmarks.speed.start import first_epoch_began

EPOCHS = pd.DataFrame(
    {
        "trial": [0, 0, 1, 1, 2],
        "epoch": [1, 2, 1, 2, 1],
        "seconds": [2.0, 2.0, 1.0, 1.0, 3.0],
        "ended_at": [102.0, 104.5, 101.0, 102.25, 107.75],  # trial 2 begins at 104.75, on the worker of trial 0
    }
)
TRIALS = pd.DataFrame({"trial": [0, 1, 2], "worker": ["host:1", "host:2", "host:1"]})


def test_a_gap_lies_between_two_trials_of_one_worker() -> None:
    assert gaps(SimpleNamespace(epochs=EPOCHS, trials=TRIALS)) == [0.25]  # type: ignore[arg-type]


def test_gaps_between_epochs_stay_within_a_trial() -> None:
    assert list(epoch_gaps(SimpleNamespace(epochs=EPOCHS, trials=TRIALS))) == [0.5, 0.25]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "began"),
    [
        ("trial,epoch,seconds,ended_at\n", None),
        ("trial,epoch,seconds,ended_at\n1,1,2.5,100.0\n0,1,2.0,101.0\n", 97.5),
    ],
)
def test_the_first_epoch_began_its_seconds_before_its_row(tmp_path: Path, text: str, began: float | None) -> None:
    path = tmp_path / "epochs.csv"
    assert first_epoch_began(path) is None
    path.write_text(text)
    assert first_epoch_began(path) == began
