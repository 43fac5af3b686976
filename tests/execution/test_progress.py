"""What a person watches while a search runs."""

from __future__ import annotations

import io
import itertools
import re
from pathlib import Path

import pytest
from rich.console import Console

from tune_resnet.config.sections import BudgetSpec, TrainSpec
from tune_resnet.config.spec import SearchSpec
from tune_resnet.execution.progress import Progress, TrainingsProgress
from tune_resnet.execution.training_pool import Training
from tune_resnet.hpo.plan import Plan
from tune_resnet.hpo.ranking import winner
from tune_resnet.runs.directory import RunDirectory
from tune_resnet.runs.load import load_frames
from tune_resnet.runs.recorder import Recorder
from tune_resnet.runs.tables import FAILED, FINISHED, STOPPED
from tune_resnet.training.device import resolved

SPEC = resolved(SearchSpec(train=TrainSpec(epochs=4), search=BudgetSpec(num_samples=5)), "cpu", "fp32")


class Expecting(Plan):
    survival = (1, 0.6, 0.4, 0.4)


PLAN = Expecting(
    spec=SPEC, device_name="a device", seconds_per_epoch=10, concurrency=2, train_images=90, held_out_images=10,
    held_out="validation", trials=5,
)  # fmt: skip


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(RunDirectory.create(tmp_path / "run", SPEC), SPEC)


def run_trial(
    recorder: Recorder, trial: int, accuracies: list[float], state: str | None, error: str = "", luck: float = 0
) -> None:
    """`luck`: what its accuracies have more than its losses tell."""
    recorder.start(trial, {"max_lr": 0.01 + trial / 100})
    for epoch, accuracy in enumerate(accuracies, start=1):
        row = {"epoch": epoch, "val_accuracy": accuracy, "val_loss": 1 - accuracy + luck, "seconds": 10.0}
        recorder.epoch(trial, row)
    if state:
        recorder.run.model_of(trial).write_bytes(b"")
        recorder.end(trial, state, error)


def progress(recorder: Recorder, *, terminal: bool) -> Progress:
    return Progress(recorder, PLAN, Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None))


def printed(watching: Progress) -> str:
    assert isinstance(watching.console.file, io.StringIO)
    return watching.console.file.getvalue()


def test_a_trial_may_finish_before_the_reference_has_started(recorder: Recorder) -> None:
    watching = progress(recorder, terminal=False)
    run_trial(recorder, 1, [0.1, 0.2, 0.3, 0.4], FINISHED)
    watching.trial_ended(1)
    beginning = "[1/5] trial 1 finished after 4 of 4 epochs, 40.00%; best trial 1, estimate 40.00%; "
    assert printed(watching).startswith(beginning)
    assert watching.seconds_left() > 0


def test_each_ended_trial_is_one_line(recorder: Recorder) -> None:
    watching = progress(recorder, terminal=False)
    run_trial(recorder, 0, [0.1, 0.2, 0.3, 0.5], FINISHED)
    run_trial(recorder, 1, [0.1], STOPPED)
    run_trial(recorder, 2, [], FAILED, "the loss was not finite in epoch 1")
    for trial in range(3):
        watching.trial_ended(trial)
    lines = printed(watching).splitlines()
    assert len(lines) == 3
    assert "reference finished after 4 of 4 epochs, 50.00%; best the reference, estimate 50.00%; " in lines[0]
    assert "trial 1 stopped after 1 of 4 epochs, 10.00%" in lines[1]
    assert "trial 2 failed after 0 of 4 epochs, - (the loss was not finite in epoch 1)" in lines[2]


def test_a_trial_that_goes_on_says_after_which_epoch(recorder: Recorder) -> None:
    """A checkpoint may lie behind the record, or an epoch ahead of it."""
    watching = progress(recorder, terminal=False)
    run_trial(recorder, 0, [0.1, 0.2, 0.3], None)
    run_trial(recorder, 1, [0.1], None)
    for trial, epoch in ((0, 2), (0, 3), (0, 4), (0, 0), (1, 0)):
        watching.trial_goes_on(trial, epoch)
    assert printed(watching).splitlines() == [
        "reference goes on after epoch 2 of the 3 on record",
        "reference goes on after epoch 3 of the 3 on record",
        "reference goes on after epoch 4, which was saved but is not on record yet",
        "reference starts over: it has 3 epochs on record, but no checkpoint to go on from",
        "trial 1 starts over: it has 1 epoch on record, but no checkpoint to go on from",
    ]


def test_the_time_left_starts_as_planned_and_ends_at_zero(recorder: Recorder) -> None:
    watching = progress(recorder, terminal=False)
    assert watching.seconds_left() == pytest.approx(PLAN.seconds(12)) == PLAN.start_seconds + 12 * 10 / 2
    estimates = []
    for trial in range(5):
        run_trial(recorder, trial, [0.1] * 4, FINISHED)
        estimates.append(watching.seconds_left())
    assert all(after <= before + 1e-6 for before, after in itertools.pairwise(estimates))
    assert estimates[-1] == 0


def test_trials_that_went_on_make_the_time_longer_than_trials_that_were_stopped(recorder: Recorder) -> None:
    watching = progress(recorder, terminal=False)
    for trial in range(1, 4):
        run_trial(recorder, trial, [0.1], STOPPED)
    mostly_stopped = watching.seconds_left()
    # Of seven trials at the first rung, the plan's four among them, 2.4 went on, at the second 0.4 of 0.6.
    each = 1 + 2.4 / 7 * (1 + 0.4 / 0.6 * (1 + 1))
    assert mostly_stopped == pytest.approx(2 * each * 10 / 2)
    run_trial(recorder, 4, [0.1, 0.2, 0.3, 0.4], FINISHED)
    run_trial(recorder, 0, [], None)
    assert watching.seconds_left() == pytest.approx(4 * 10)  # the reference is never stopped


def test_the_table_shows_the_best_and_the_running(recorder: Recorder) -> None:
    watching = progress(recorder, terminal=True)
    run_trial(recorder, 0, [0.1, 0.2, 0.3, 0.5], FINISHED)
    run_trial(recorder, 1, [0.1], STOPPED)
    run_trial(recorder, 2, [0.3, 0.4, 0.5, 0.6], FINISHED)
    run_trial(recorder, 3, [0.2], None)
    with watching:
        watching.trial_ended(2)
        watching.live.refresh()
    text = printed(watching)
    rows = [line.split() for line in text.splitlines() if line.startswith(("2 ", "reference", "3 ", "1 "))]
    assert [row[:4] for row in rows[:3]] == [
        ["2", "finished", "4/4", "60.00%"],
        ["reference", "finished", "4/4", "50.00%"],
        ["3", "running", "1/4", "20.00%"],
    ]
    assert [row[4:6] for row in rows[:3]] == [["60.00%", "0.0300"], ["50.00%", "0.0100"], ["-", "2.1e-02"]]
    assert "3 of 5 trials ended; best trial 2, estimate 60.00%, reference 50.00%" in text
    assert re.search(r"10 of about 1\d epochs", text)
    assert "[1/5]" not in text


def test_the_best_of_a_search_that_goes_on_is_the_winner_of_its_tables(recorder: Recorder) -> None:
    """Not the luckiest: the one that `analysis` calls the winner, from the first trial to the last."""
    recorder.run.write_env(PLAN.about())
    watching = progress(recorder, terminal=False)
    ends = [0.50, 0.61, 0.60, 0.55, 0.62]
    for trial, end in enumerate(ends):
        run_trial(recorder, trial, [0.1, 0.2, 0.3, end], FINISHED, luck=0.08 if trial == len(ends) - 1 else 0)
        watching.trial_ended(trial)
        best = winner(load_frames(recorder.run.path))
        assert best is not None
        name = "the reference" if best["reference"] else f"trial {best['trial']}"
        assert f"; best {name}, estimate {best['estimate']:.2%}" in printed(watching).splitlines()[-1]
    assert best is not None
    assert best["val_accuracy"] < max(ends)


def test_trainings_show_how_far_they_are_before_one_has_ended(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=60, color_system=None)
    trainings = [Training(SPEC, tmp_path / f"{number}.pt") for number in range(3)]
    with TrainingsProgress(trainings, PLAN, console, "at most ") as watching:
        watching.live.refresh()
        trainings[0].epochs, trainings[0].trained, trainings[0].seconds = 3, 1, 4.0  # it went on after its second epoch
        watching.live.refresh()
        trainings[0].epochs = 4
        watching.ended.add(0)
        watching.live.refresh()
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "0 of 3 trainings ended; 0s elapsed, at most 1m 04s left" in text
    assert "0 of 12 epochs" in text
    assert "0 of 3 trainings ended; 0s elapsed, at most 18s left" in text
    assert "3 of 12 epochs" in text
    assert "1 of 3 trainings ended; 0s elapsed, at most 16s left" in text


def test_trainings_draw_nothing_where_output_is_no_terminal(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=60)
    with TrainingsProgress([Training(SPEC, tmp_path / "0.pt")], PLAN, console, "about ") as watching:
        assert watching.words_left() == "about 44s left"
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == ""
