"""Which models a run keeps, which is the winner's, and what happens to a trial that was cut off in its last epoch."""

from __future__ import annotations

import io
import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import SPEC, Build, leave_model
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from tune_resnet.commands.baseline import plan_single, train_single
from tune_resnet.config.default_space import NARROW_SPACE
from tune_resnet.config.sections import BudgetSpec, DataSpec, ModelSpec, ResourceSpec, TrainSpec
from tune_resnet.config.spec import SearchSpec
from tune_resnet.config.toml import load_spec
from tune_resnet.data.split import final_split
from tune_resnet.data.types import Dataset, Split
from tune_resnet.errors import RecordError
from tune_resnet.execution.trainable import TrialTrainable
from tune_resnet.execution.tuner import settle_unfinished_trials
from tune_resnet.hpo.models import KEPT, chosen_model, drop_outrun_models, keep_winner, trial_to_finalize
from tune_resnet.hpo.ranking import final_run, winner
from tune_resnet.runs.directory import FINAL, SEARCH, RunDirectory
from tune_resnet.runs.load import load_frames
from tune_resnet.runs.recorder import Recorder
from tune_resnet.runs.resume import read_history
from tune_resnet.runs.tables import FINISHED, RUNNING, STOPPED
from tune_resnet.search import main
from tune_resnet.training.device import resolved
from tune_resnet.training.saved_model import ModelFileError, read_outcome


def finish(build: Build, accuracy: float, **params: Any) -> int:
    """A finished trial with its model."""
    number = build.trial([0.1, 0.1, 0.1, accuracy], FINISHED, **params)
    leave_model(build.directory, build.recorder.trials[number], SPEC, accuracy=accuracy)
    return number


@pytest.fixture
def build(tmp_path: Path) -> Build:
    return Build(tmp_path / "run")


def trial_in_best(build: Build) -> int | None:
    outcome = read_outcome(build.directory.best / "model.safetensors")
    return outcome.trial if outcome else None


@pytest.mark.parametrize(
    ("accuracies", "best"),
    [([0.5], 0), ([0.5, 0.6], 1), ([0.6, 0.5], 0), ([0.5, 0.5], 0), ([0.2, 0.7, 0.6, 0.3, 0.5, 0.69], None)],
)
def test_best_follows_the_winner(build: Build, accuracies: list[float], best: int | None) -> None:
    for number, accuracy in enumerate(accuracies):
        finish(build, accuracy, max_lr=0.01 + 0.01 * number)
        frames = build.load()
        keep_winner(frames)
        found = winner(frames)
        assert found is not None
        assert trial_in_best(build) == found["trial"]
        spec = load_spec(build.directory.best / "spec.toml")
        assert (spec.train.max_lr, spec.search.name) == (found["max_lr"], None)
        assert chosen_model(build.directory.path).path == build.directory.best / "model.safetensors"
        assert chosen_model(build.directory.path).whose == f"trial {found['trial']}, the winner"
    assert best is None or trial_in_best(build) == best


def test_a_command_uses_the_winners_model_even_before_it_is_in_best(build: Build) -> None:
    first = finish(build, 0.5)
    keep_winner(build.load())
    second = finish(build, 0.9, max_lr=0.03)  # the search goes on, or is killed here
    assert trial_in_best(build) == first
    chosen = chosen_model(build.directory.path)
    assert (chosen.path, chosen.whose) == (build.directory.model_of(second), f"trial {second}, the winner")


def test_without_a_test_set_the_final_training_takes_every_image(build: Build, digits: Dataset) -> None:
    torch.set_num_threads(1)
    spec = replace(SPEC, train=replace(SPEC.train, epochs=2, batch_size=60), model=ModelSpec(width=2))
    spec = replace(spec, data=replace(spec.data, limit_train=200), resources=replace(spec.resources, device="cpu"))
    dataset = replace(digits, test=None)
    data = final_split(dataset, spec.data)
    plan = plan_single(spec, data, 3, "test")
    assert (plan.train_images, plan.held_out_images) == (200, 0)
    final = RunDirectory.create(build.directory.final, plan.spec, {"kind": FINAL, "trial": 3, "held_out_images": 0})
    train_single(plan, data, final, Console(file=io.StringIO()))
    frames = load_frames(final.path)
    keep_winner(frames)
    assert frames.trials[["trial", "state", "epochs"]].to_numpy().tolist() == [[3, FINISHED, 2]]
    assert frames.epochs["train_loss"].notna().all()
    assert chosen_model(build.directory.path).whose == "trial 3, trained again by --finalize"
    outcome = read_outcome(final.best / "model.safetensors")
    assert outcome is not None
    assert outcome.last.epoch == 2


def test_a_winner_without_its_model_is_said_and_best_is_nobody_elses(build: Build) -> None:
    finish(build, 0.5)
    keep_winner(build.load())
    second = finish(build, 0.9, max_lr=0.03)
    build.directory.model_of(second).unlink()
    keep_winner(build.load())
    assert not build.directory.best.exists()
    before = read_outcome(build.directory.path / "best-before" / "model.safetensors")
    assert before is not None
    assert before.trial == 0
    with pytest.raises(ModelFileError, match=f"trial {second}, the winner, has not been kept; .* --finalize"):
        chosen_model(build.directory.path)


def test_without_a_finished_trial_there_is_no_model(build: Build) -> None:
    build.trial([0.5], STOPPED)
    keep_winner(build.load())
    with pytest.raises(ModelFileError, match="no trial has finished yet"):
        chosen_model(build.directory.path)


def test_models_of_trials_that_are_far_behind_are_deleted(build: Build) -> None:
    for number in range(2 * KEPT + 1):
        finish(build, 0.3 + 0.02 * (number % 7), max_lr=0.01 + 0.001 * number)
        drop_outrun_models(build.directory)
        assert len(list(build.directory.checkpoints.iterdir())) <= 2 * KEPT
    assert len(list(build.directory.checkpoints.iterdir())) == KEPT
    keep_winner(build.load())
    found = winner(build.load())
    assert found is not None
    assert trial_in_best(build) == found["trial"]


def test_a_model_whose_trial_is_not_on_record_as_finished_yet_stays(build: Build) -> None:
    waiting = build.trial([0.1, 0.1, 0.1], RUNNING)  # its last result is on its way
    leave_model(build.directory, build.recorder.trials[waiting], SPEC)
    for number in range(2 * KEPT + 1):
        finish(build, 0.5, max_lr=0.01 + 0.001 * number)
        drop_outrun_models(build.directory)
    assert build.directory.model_of(waiting).exists()


@settings(derandomize=True, deadline=None, max_examples=30)
@given(params=st.fixed_dictionaries({n: st.floats(d.low, d.high) for n, d in NARROW_SPACE.items()}))
@example(params={name: domain.low for name, domain in NARROW_SPACE.items()})
@example(params={name: domain.high for name, domain in NARROW_SPACE.items()})
def test_the_spec_beside_the_best_model_retrains_it(params: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        build = Build(Path(folder) / "run", replace(SPEC, search=BudgetSpec(name="it")))
        finish(build, 0.5, **params)
        keep_winner(build.load())
        train = replace(SPEC.train, **params)
        assert load_spec(build.directory.best / "spec.toml") == replace(SPEC, train=train)


def test_what_is_finalized_is_the_winner_or_the_trial_that_is_named(build: Build) -> None:
    with pytest.raises(Exception, match="has no winner to finalize"):
        trial_to_finalize(build.load(), None)
    finish(build, 0.5)
    second = finish(build, 0.9, max_lr=0.03)
    assert trial_to_finalize(build.load(), None)["trial"] == second
    assert trial_to_finalize(build.load(), 0)["max_lr"] == SPEC.train.max_lr
    with pytest.raises(Exception, match="has no trial 9: they are 0 to 1"):
        trial_to_finalize(build.load(), 9)
    assert final_run(build.load()) is None


# --- cut off in the last epoch ---------------------------------------------------------------------------------------


def resumed(build: Build) -> Recorder:
    """What a resumed search begins with."""
    build.directory.write_env({"dataset_fingerprint": "abc"})
    history = read_history(build.directory)
    recorder = Recorder(build.directory, SPEC, history.trials, history.epochs)
    settle_unfinished_trials(recorder, history)
    return recorder


def test_a_trial_cut_off_after_its_last_epoch_has_finished(build: Build) -> None:
    number = build.trial([0.1, 0.2, 0.3], RUNNING)
    leave_model(build.directory, build.recorder.trials[number], SPEC, accuracy=0.4, loss=0.25)
    build.recorder.close()  # the result of the last epoch was never heard of
    row = resumed(build).trials[number]
    assert (row.state, row.epochs, row.val_accuracy) == (FINISHED, 4, 0.4)
    assert build.load().epochs["ended_at"].tolist()[-1] == build.directory.model_of(number).stat().st_mtime
    assert build.load().epochs["val_loss"].tolist()[-1] == 0.25


@pytest.mark.parametrize("why", ["no model", "too few epochs", "another configuration", "damaged"])
def test_a_trial_goes_on_where_its_last_epoch_is_not_there(build: Build, why: str) -> None:
    number = build.trial([0.1, 0.2, 0.3][: 2 if why == "too few epochs" else 3], RUNNING)
    row = build.recorder.trials[number]
    if why != "no model":
        leave_model(
            build.directory,
            replace(row, values=row.values | {"max_lr": 0.07}) if why == "another configuration" else row,
            SPEC,
        )
    if why == "damaged":
        build.directory.model_of(number).write_bytes(b"weights")
    build.recorder.close()
    assert resumed(build).trials[number].state == RUNNING


class Local(TrialTrainable):
    """A trial in this process, as Ray calls it."""

    def setup(self, config: dict[str, Any]) -> None:  # type: ignore[override]
        spec = SearchSpec(model=ModelSpec(width=2), train=TrainSpec(epochs=3, batch_size=60))
        arguments = dict(config)
        super().setup(
            {"trial": arguments["trial"], **spec.reference},
            spec=resolved(spec, "cpu", "fp32"),
            data=arguments["data"],
            run_path=arguments["path"],
        )


def test_a_trial_that_is_stopped_before_its_last_result_was_heard_leaves_that_behind(
    split: Split, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    run = RunDirectory.create(tmp_path / "run", SPEC)
    trial = Local(config={"trial": 0, "data": split, "path": run.path})
    results = [trial.step() for _ in range(3)]
    trial.cleanup()
    outcome = read_outcome(run.model_of(0))
    assert outcome is not None
    assert outcome.last.columns("val")["val_loss"] == results[-1]["val_loss"]
    assert results[-1]["done"]


def test_a_final_run_is_read_as_what_it_is(build: Build, tmp_path: Path) -> None:
    finish(build, 0.5)
    number = finish(build, 0.9, max_lr=0.03)
    train = replace(SPEC.train, max_lr=0.03)
    env = {"kind": FINAL, "trial": number, "dataset_fingerprint": "abc", "held_out_images": 100}
    final = RunDirectory.create(build.directory.final, replace(SPEC, train=train), env)
    recorder = Recorder(final, replace(SPEC, train=train))
    recorder.start(number, {})
    assert final_run(build.load()) is None  # not yet
    for epoch in range(1, 5):
        metrics = {"epoch": epoch, "lr": 0.1, "train_loss": 0.5, "seconds": 0.5, "images_per_second": 9.0}
        recorder.epoch(number, metrics | {"test_accuracy": 0.2 * epoch, "test_loss": 0.5})
    leave_model(final, recorder.trials[number], SPEC, accuracy=0.8)
    recorder.end(number, FINISHED)
    keep_winner(load_frames(final.path))
    assert final_run(build.load()) is not None
    for path in (build.directory.path, final.path):
        assert chosen_model(path).whose == f"trial {number}, trained again by --finalize"
    assert "winner" not in chosen_model(final.path).whose
    later = finish(build, 0.95, max_lr=0.04)
    assert chosen_model(build.directory.path).whose.endswith(f"--finalize (the winner is trial {later})")
    assert [row.trial for row in read_history(final).trials] == [number]
    assert not math.isnan(load_frames(final.path).trials["test_accuracy"].item())
    with pytest.raises(RecordError):
        read_history(RunDirectory(tmp_path / "nothing"))


# --- final trainings of several trials -------------------------------------------------------------------------------


@pytest.fixture
def searched(tmp_path: Path, digits: Dataset) -> Build:
    """A search of three trials, of the smallest networks and images; the last one has won."""
    spec = replace(
        SPEC,
        data=DataSpec(dataset="digits", limit_train=40),
        model=ModelSpec(width=1),
        train=TrainSpec(epochs=1, batch_size=20, precision="fp32"),
        resources=ResourceSpec(device="cpu"),
    )
    build = Build(tmp_path / "run", spec)
    for number in range(3):
        build.trial([0.3 + 0.1 * number], FINISHED, max_lr=0.01 + 0.01 * number)
    build.directory.write_env({"dataset_fingerprint": digits.fingerprint, "held_out_images": 20, "kind": SEARCH})
    return build


def test_a_final_training_makes_room_for_that_of_another_trial_only_when_it_begins(
    searched: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    path, final = searched.directory.path, searched.directory.final
    finalize = ["--finalize", str(path), "--trial"]
    assert main([*finalize, "1"]) == 0
    assert "Trial 1, trained again at width 1 for 1 epoch on 40 images," in (path / "report.html").read_text()
    assert main([*finalize, "2", "--dry-run"]) == 0
    assert load_frames(final).env["trial"] == 1
    with RunDirectory(final).lock():  # it is being trained
        assert main([*finalize, "2"]) == 2
    assert "another command is at work in" in capsys.readouterr().err
    assert load_frames(final).env["trial"] == 1
    assert main([*finalize, "2"]) == 0
    assert load_frames(final).env["trial"] == 2
    assert load_frames(path / "final-trial-1").env["trial"] == 1


def test_a_final_training_may_be_of_another_size_than_its_search(
    searched: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    path, final = searched.directory.path, searched.directory.final
    assert main(["--finalize", str(path)]) == 0
    larger = ["--finalize", str(path), "--width", "2", "--limit-train", "60", "--epochs", "2"]
    assert main(larger) == 0
    assert "the final training from before is now in" in capsys.readouterr().out
    frames = load_frames(final)
    assert (frames.spec.model.width, frames.env["train_images"], len(frames.epochs)) == (2, 60, 2)
    assert main(larger) == 0  # it is there
    assert main(["--finalize", str(path)]) == 0
    widths = {one.name: load_frames(one).spec.model.width for one in path.glob("final*")}
    assert widths == {"final": 1, "final-trial-2": 1, "final-trial-2-2": 2}
    assert main(["--finalize", str(path), "--batch-size", "10"]) == 2


def test_a_final_training_is_no_search_to_confirm(searched: Build, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--finalize", str(searched.directory.path)]) == 0
    assert main(["--confirm", "2", "--resume", str(searched.directory.final)]) == 2
    assert "--confirm needs the winner of a search: final is a single training" in capsys.readouterr().err


def test_a_final_training_whose_trial_is_another_is_refused(build: Build) -> None:
    build.recorder.start(3, {})
    build.directory.write_env({"kind": FINAL, "trial": 2, "dataset_fingerprint": "abc"})
    with pytest.raises(RecordError, match="lacks trial 2"):
        read_history(build.directory)
