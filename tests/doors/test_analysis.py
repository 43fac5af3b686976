"""Runs read back: built by the recorder itself, in every state, in progress, damaged, large."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from factories import EPOCHS, PLAIN, SPEC, Build, plain
from hypothesis import given, settings
from hypothesis import strategies as st

from tune_resnet.analysis import main
from tune_resnet.config.default_space import NARROW_SPACE
from tune_resnet.config.sections import ModelSpec, SchedulerSpec, TrainSpec
from tune_resnet.config.space import Choices, Domain
from tune_resnet.config.toml import spec_from_tables
from tune_resnet.errors import RecordError
from tune_resnet.hpo.ranking import best_trials, ranked_trials
from tune_resnet.hpo.stopping import rung_epochs
from tune_resnet.results import importance as importance_module
from tune_resnet.results.comparison import compare_to_reference
from tune_resnet.results.early_stopping import rung_table
from tune_resnet.results.importance import importance, importance_intervals
from tune_resnet.results.sentences import comparison_sentence
from tune_resnet.runs.directory import RunDirectory
from tune_resnet.runs.load import accuracy_column, load_frames
from tune_resnet.runs.merge import merge_runs
from tune_resnet.runs.tables import (
    EPOCH_DTYPES,
    FAILED,
    FINISHED,
    INTERRUPTED,
    RUNNING,
    STATES,
    STOPPED,
    TRIAL_DTYPES,
    TrialRow,
)

many = settings(derandomize=True, deadline=None, max_examples=60)


@pytest.fixture
def build(tmp_path: Path) -> Build:
    return Build(tmp_path / "run")


@pytest.fixture
def mixed(build: Build) -> Build:
    """Every state there is; the ranking is 2, 0, 1, 6, 4, 3, 5, 7, 8."""
    build.trial([0.5, 0.6, 0.7, 0.80], FINISHED)
    build.trial([0.4, 0.6, 0.7, 0.75], FINISHED, max_lr=0.02)
    build.trial([0.6, 0.8, 0.95, 0.9], FINISHED, max_lr=0.0123)
    build.trial([0.3], STOPPED, weight_decay=1e-3)
    build.trial([0.45, 0.5], STOPPED, weight_decay=1e-5)
    build.trial([0.35, 0.4, 0.99], INTERRUPTED)
    build.trial([0.55, 0.65], RUNNING, grad_clip=0.5)
    build.trial([0.2, 0.3], FAILED, error="the loss is\nnot finite")
    build.trial([], FAILED, error="[red]no[/red] \x1b[31mspace")
    return build


# --- reading ---------------------------------------------------------------------------------------------------------


def test_the_tables_have_the_documented_columns_and_dtypes(mixed: Build, tmp_path: Path) -> None:
    empty = Build(tmp_path / "empty").load()
    for frames in (mixed.load(), empty):
        assert frames.trials.dtypes.astype(str).to_dict() == TRIAL_DTYPES
        assert frames.epochs.dtypes.astype(str).to_dict() == EPOCH_DTYPES
    assert len(empty.trials) == len(empty.epochs) == 0


def test_a_run_reads_back_as_recorded(mixed: Build) -> None:
    mixed.directory.write_env({"device_name": "a chip", "held_out_images": 500})
    frames = mixed.load()
    ended = [row for row in mixed.recorder.trials.values() if row.state != RUNNING]
    rows: Any = frames.trials[frames.trials["state"] != RUNNING].to_dict("records")
    read = [TrialRow.from_cells(row, list(SPEC.space)) for row in rows]
    assert repr(read) == repr(ended)  # by repr, for NaN equals NaN there
    assert (frames.name, frames.path, frames.spec) == ("run", mixed.directory.path, SPEC)
    assert frames.env == {"device_name": "a chip", "held_out_images": 500}
    assert frames.epochs.groupby("trial").size().to_dict() == {0: 4, 1: 4, 2: 4, 3: 1, 4: 2, 5: 3, 6: 2, 7: 2}
    assert frames.trials.set_index("trial").loc[7, "error"] == "the loss is not finite"


def test_the_configuration_of_a_trial_can_be_had_whole(mixed: Build) -> None:
    frames = mixed.load()
    assert frames.config(2).train == dataclasses.replace(SPEC.train, max_lr=0.0123)
    assert spec_from_tables(tomllib.loads(frames.config(2).to_toml())) == frames.config(2)
    with pytest.raises(KeyError):
        frames.config(99)


def test_a_running_trial_is_known_from_its_epochs(build: Build) -> None:
    build.trial([0.5, 0.7, 0.6], RUNNING)
    build.trial([], RUNNING)  # rewrites trials.csv, then falls behind
    build.recorder.epoch(1, {"epoch": 1, "seconds": 2.0, "val_accuracy": 0.4})
    trials = build.load().trials.set_index("trial")
    columns = ["epochs", "val_accuracy", "best_epoch", "seconds"]
    assert trials[columns].to_numpy().tolist() == [[3, 0.6, 2, 1.5], [1, 0.4, 1, 2.0]]
    assert trials["val_accuracy"].dtype == "float64"
    assert trials["best_epoch"].dtype == "int64"


def test_of_an_epoch_recorded_twice_the_later_row_counts(build: Build) -> None:
    build.trial([0.5, 0.6], RUNNING)
    build.directory.append_epoch({"trial": 0, "epoch": 2, "seconds": 7.0, "val_accuracy": 0.65})
    frames = build.load()
    assert frames.epochs[["epoch", "val_accuracy"]].to_numpy().tolist() == [[1, 0.5], [2, 0.65]]
    assert frames.trials.loc[0, "seconds"] == 7.5


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_an_unfinished_last_line_of_epochs_is_left_out(mixed: Build, cut: int) -> None:
    whole = mixed.load().epochs
    content = mixed.directory.epochs_csv.read_bytes()
    mixed.directory.epochs_csv.write_bytes(content[:-cut])
    assert len(mixed.load().epochs) == len(whole) - 1


def test_half_a_character_at_the_end_of_epochs_is_left_out(mixed: Build) -> None:
    whole = mixed.load().epochs
    with mixed.directory.epochs_csv.open("ab") as file:
        file.write("7,ü".encode()[:-1])
    pd.testing.assert_frame_equal(mixed.load().epochs, whole)


def test_epochs_of_a_trial_that_began_while_reading_are_left_out(build: Build) -> None:
    build.trial([0.5], RUNNING)
    build.directory.append_epoch({"trial": 1, "epoch": 1, "val_accuracy": 0.1})
    assert build.load().epochs["trial"].tolist() == [0]


Damage = Callable[[RunDirectory], object]


def change(name: str, old: str, new: str) -> Damage:
    def apply(run: RunDirectory) -> None:
        path = run.path / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return apply


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: run.spec_toml.unlink(), "not a run directory"),
        (lambda run: run.epochs_csv.unlink(), "cannot read .*epochs.csv"),
        (lambda run: run.trials_csv.unlink(), "cannot read .*trials.csv"),
        (lambda run: run.epochs_csv.write_bytes(b""), "epochs.csv line 1: the columns"),
        (lambda run: run.trials_csv.write_bytes(b"trial,state"), "trials.csv line 1: the line has no end"),
        (lambda run: run.trials_csv.write_bytes(run.trials_csv.read_bytes()[:-2]), "trials.csv line 10: the line has"),
        (lambda run: run.env_json.write_text("{"), "env.json is not valid JSON"),
        (lambda run: run.env_json.write_text("[" * 100_000), "env.json is not valid JSON"),
        (lambda run: run.env_json.write_text("[1]"), "env.json must hold a JSON object"),
        (lambda run: run.env_json.mkdir(), "cannot read .*env.json"),
        (lambda run: run.spec_toml.write_text("[train]\nmax_rl = 1"), "spec.toml: unknown setting train.max_rl"),
        (change("epochs.csv", "lr,train_loss", "train_loss,lr"), "epochs.csv line 1: the columns"),
        (change("epochs.csv", "\n0,2,", "\n0,2,,"), "epochs.csv line 3: 12 values for 11 columns"),
        (change("epochs.csv", "\n0,2,", "\n\n0,2,"), "epochs.csv line 3: 0 values"),
        (change("epochs.csv", "\n0,2,0.1", "\n0,2,O.1"), "epochs.csv line 3: lr is 'O.1', not a number"),
        (change("epochs.csv", "\n0,2,", "\n0,,"), "epochs.csv line 3: epoch is '', not a number"),
        (change("epochs.csv", "\n0,2,", f"\n{2**63},2,"), "epochs.csv line 3: trial is"),
        (change("epochs.csv", "\n0,2,", f"\n{'9' * 5000},2,"), "epochs.csv line 3: trial is"),
        (change("epochs.csv", "\n0,2,0.1", "\n0,2,-0.1"), "epochs.csv line 3: lr is '-0.1', not between 0 and"),
        (change("epochs.csv", "\n0,2,0.1", "\n0,2,inf"), "epochs.csv line 3: lr is 'inf', not between 0 and"),
        (change("epochs.csv", "\n0,2,", "\n0,10001,"), "epochs.csv line 3: epoch is '10001', not between 0 and 10000"),
        (
            change("trials.csv", "\n1,finished", "\n1000000,finished"),
            "line 3: trial is '1000000', not between 0 and 99",
        ),
        (
            lambda run: run.write_env({"wall_seconds": "9"}),
            "env.json: wall_seconds must be a number of seconds, is '9'",
        ),
        (lambda run: run.write_env({"wall_seconds": -1}), "env.json: wall_seconds must be a number of seconds, is -1"),
        (lambda run: run.write_env({"resumed": 1}), "env.json: resumed must be a list, is 1"),
        (lambda run: run.write_env({"dataset_fingerprint": 1}), "env.json: dataset_fingerprint must be a string, is 1"),
        (lambda run: run.env_json.write_text('{"a":' + "[" * 400 + "]" * 400 + "}"), "env.json is nested too deeply"),
        (change("trials.csv", "\n1,finished", "\n1,done"), "trials.csv line 3: unknown state 'done'"),
        (change("trials.csv", "\n1,finished", "\n0,finished"), "trials.csv line 3: trial 0 a second time"),
        (change("trials.csv", "\n1,finished", '\n1,"finished"x'), "trials.csv line 3: "),
    ],
)
def test_damage_is_told_in_one_line(mixed: Build, damage: Damage, words: str) -> None:
    damage(mixed.directory)
    with pytest.raises(RecordError, match=words) as caught:
        mixed.load()
    assert "\n" not in str(caught.value)


def test_bytes_that_are_not_text_are_told_with_their_line(mixed: Build) -> None:
    path = mixed.directory.trials_csv
    path.write_bytes(path.read_bytes().replace(b"\n1,finished", b"\n1,fin\xffished"))
    with pytest.raises(RecordError, match=r"trials\.csv line 3: not UTF-8"):
        mixed.load()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "there is no run"),
        ("a\nb", "there is no run"),
        ("x" * 5000, "there is no run"),
        ("run/spec.toml", "is not a run directory"),
    ],
)
def test_a_path_that_is_no_run_is_told_in_one_line(mixed: Build, name: str, message: str) -> None:
    with pytest.raises(RecordError, match=message) as caught:
        load_frames(mixed.directory.path.parent / name)
    assert str(caught.value).isprintable()


floats = st.floats(0, 1e30)


@many
@given(values=st.lists(st.tuples(floats, st.floats(0, 1), floats), min_size=1, max_size=5), error=st.text(max_size=30))
def test_every_float_and_every_error_text_survives_the_files(
    tmp_path_factory: pytest.TempPathFactory, values: list[tuple[float, float, float]], error: str
) -> None:
    build = Build(tmp_path_factory.mktemp("runs") / "run")
    build.recorder.start(0, {})
    for epoch, (loss, accuracy, seconds) in enumerate(values, start=1):
        metrics = {"epoch": epoch, "train_loss": loss, "val_accuracy": accuracy, "seconds": seconds}
        build.recorder.epoch(0, metrics)
    build.recorder.end(0, FAILED, error)
    frames = build.load()
    assert list(frames.epochs[["train_loss", "val_accuracy", "seconds"]].itertuples(index=False, name=None)) == values
    surrogate = re.compile("[\ud800-\udfff]")
    assert surrogate.search(error) or frames.trials.loc[0, "error"] == " ".join(error.split())


def test_an_error_longer_than_the_csv_module_expects_is_read(build: Build) -> None:
    build.trial([], FAILED, error="x" * 200_000)
    assert len(build.load().trials["error"][0]) == 200_000


@pytest.mark.parametrize("error", ["NA", "nan", "null", 'say "a, b"', "1"])
def test_an_error_that_looks_like_something_else_stays_text(build: Build, error: str) -> None:
    build.trial([], FAILED, error=error)
    assert build.load().trials.loc[0, "error"] == error


# --- ranking ---------------------------------------------------------------------------------------------------------


def test_ranking_and_reference(mixed: Build) -> None:
    ranked = ranked_trials(mixed.load())
    assert ranked["trial"].tolist() == [2, 0, 1, 6, 4, 3, 5, 7, 8]
    assert ranked.loc[ranked["reference"], "trial"].tolist() == [0]
    assert ranked["reference"].dtype == bool
    assert best_trials(mixed.load(), 2)["trial"].tolist() == [2, 0]
    assert best_trials(mixed.load())["trial"].tolist() == [2, 0, 1]


shares = st.sampled_from([math.nan, 0.0, 0.5, 0.5, 0.75, 1.0]) | st.floats(0, 1)


@many
@given(
    rows=st.lists(st.tuples(st.sampled_from(STATES), st.integers(0, EPOCHS), shares), max_size=12), n=st.integers(0, 5)
)
def test_ranking_invariants(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int, float]], n: int
) -> None:
    directory = RunDirectory.create(tmp_path_factory.mktemp("runs") / "run", SPEC)
    directory.write_trials(
        [
            TrialRow(trial=trial, state=state, values=dict.fromkeys(SPEC.reference, 0.1), seed=0, epochs=epochs,
                     val_accuracy=accuracy).line()
            for trial, (state, epochs, accuracy) in enumerate(rows)
        ]
    )  # fmt: skip
    frames = load_frames(directory.path)
    ranked, best = ranked_trials(frames), best_trials(frames, n)
    assert sorted(ranked["trial"]) == list(range(len(rows)))
    assert ranked["state"].map(STATES.index).is_monotonic_increasing
    for state, group in ranked.groupby("state"):
        if state != FINISHED:
            assert group["epochs"].is_monotonic_decreasing
    finished = ranked.loc[ranked["state"] == FINISHED, "estimate"]
    assert finished.dropna().is_monotonic_decreasing
    assert not finished.isna().any() or finished.isna().is_monotonic_increasing
    assert best["trial"].tolist() == ranked.loc[finished.dropna().index, "trial"].tolist()[:n]
    assert ranked.loc[ranked["winner"], "trial"].tolist() == ranked.loc[finished.dropna().index, "trial"].tolist()[:1]


def test_the_table_shows_every_state_and_marks_the_reference(mixed: Build) -> None:
    lines = plain(mixed.load()).splitlines()
    assert " ".join(lines[0].split()) == "trial state epochs val_acc estimate max_lr weight_decay grad_clip error"
    assert " ".join(lines[1].split()) == "2 * finished 4/4 90.00% 90.00% 0.0123 1.0e-04 0.100"
    assert " ".join(lines[2].split()) == "reference finished 4/4 80.00% 80.00% 0.0100 1.0e-04 0.100"
    assert " ".join(lines[4].split()) == "6 running 2/4 65.00% - 0.0100 1.0e-04 0.500"
    assert lines[9].split()[-2:] == [r"[red]no[/red]", r"\x1b[31mspace"]
    assert lines[10].rstrip() == "* the winner: the finished trial with the highest estimate"
    assert len(lines) == 11


def test_the_reference_is_shown_below_the_top(mixed: Build) -> None:
    lines = plain(mixed.load(), top=1).splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["2", "reference"]
    assert lines[4].strip() == "2 of 9 trials"


def test_the_table_fits_a_terminal_of_80_columns(build: Build) -> None:
    for _ in range(3):
        build.trial([0.5] * EPOCHS, FINISHED)
    build.trial([0.5], STOPPED)
    lines = plain(build.load(), width=80).splitlines()
    assert len(lines) == 6
    assert "1.0e-04" in lines[1]


# --- the reference ---------------------------------------------------------------------------------------------------


def test_the_gain_over_the_reference(mixed: Build) -> None:
    mixed.directory.write_env({"held_out_images": 500})
    found = compare_to_reference(mixed.load())
    assert (found.finished, found.judged_on, found.images) == (3, "validation", 500)
    assert (found.winner, found.winner_accuracy, found.reference_accuracy) == (2, 0.9, 0.8)
    assert found.gain == pytest.approx(10)
    # two binomial shares, each from 500 images
    assert found.standard_error == pytest.approx(100 * math.sqrt((0.9 * 0.1 + 0.8 * 0.2) / 500), rel=0.02)
    sentence = comparison_sentence(mixed.load())
    assert "90.00% validation accuracy, the reference 80.00%: +10.00 percentage points on the same 500" in sentence
    assert sentence.endswith("The best of 3 finished trials is probably a lucky one: expect a smaller gain.")


@pytest.mark.parametrize("images", [None, "many", 0, -1, 2.5, True])
def test_without_a_number_of_images_no_standard_error_is_given(mixed: Build, images: object) -> None:
    mixed.directory.write_env({"held_out_images": images})
    assert compare_to_reference(mixed.load()).standard_error is None
    assert "standard error" not in comparison_sentence(mixed.load())


def test_perfect_scores_have_a_standard_error(build: Build) -> None:
    for _ in range(2):
        build.trial([1.0] * EPOCHS, FINISHED)
    build.directory.write_env({"held_out_images": 100})
    error = compare_to_reference(build.load()).standard_error
    assert error is not None
    assert error > 1


GOOD = [0.5] * EPOCHS


@pytest.mark.parametrize(
    ("reference", "other", "words"),
    [
        ((GOOD, RUNNING), (GOOD, RUNNING), "No trial has finished yet"),
        (
            (GOOD[:1], RUNNING),
            (GOOD, FINISHED),
            "Trial 1 is the best so far .* The reference is still running",
        ),
        ((GOOD[:1], FAILED), (GOOD, FINISHED), r"The reference did not finish \(failed\)"),
        ((GOOD[:1], INTERRUPTED), (GOOD, FINISHED), r"The reference did not finish \(interrupted\)"),
        (([0.5] * 3 + [math.nan], FINISHED), (GOOD, FINISHED), "The reference has no accuracy"),
        ((GOOD, FINISHED), (GOOD[:1], FAILED), "The reference reached 50.00% validation accuracy. No other"),
        (
            (GOOD, FINISHED),
            (GOOD, FINISHED),
            "The reference itself is the winner .* the other finished trial is not",
        ),
    ],
)
def test_the_sentence_is_honest_when_there_is_no_gain(
    build: Build, reference: tuple[list[float], str], other: tuple[list[float], str], words: str
) -> None:
    build.trial(*reference)
    build.trial(*other)
    assert re.search(words, comparison_sentence(build.load()))


def test_a_reference_that_has_not_started(build: Build) -> None:
    build.trial(GOOD, FINISHED)
    build.directory.write_trials([dataclasses.replace(build.recorder.trials[0], trial=3).line()])
    found = compare_to_reference(build.load())
    assert (found.winner, found.reference_state, found.gain) == (3, None, None)
    assert "The reference has not started" in comparison_sentence(build.load())


def test_a_baseline_is_judged_on_the_test_set(build: Build) -> None:
    build.trial([0.5, 0.6, 0.9, 0.8], FINISHED, on="test")
    frames = build.load()
    assert accuracy_column(frames) == "test_accuracy"
    assert frames.trials["best_epoch"].tolist() == [3]
    assert best_trials(frames)["test_accuracy"].tolist() == [0.8]
    assert comparison_sentence(frames) == "The reference reached 80.00% test accuracy. No other trial has finished."
    build.directory.write_env({"kind": "baseline", "held_out_images": 500})
    assert comparison_sentence(build.load()) == (
        "The reference classified 80.00% of the 500 test images correctly "
        "(95% interval from the choice of images 76.27% to 83.27%)."
    )
    assert "test_acc" in plain(frames)
    assert "80.00%" in plain(frames)
    assert "winner" in plain(frames)
    assert "winner" not in plain(build.load())  # one training has nothing to win against


@pytest.mark.parametrize(
    ("on", "state", "words"),
    [
        (
            "test",
            FINISHED,
            "The reference, trained again at width 64 for 4 epochs on 20,000 images, classified 80.00% of the 500 test",
        ),
        ("test", FAILED, "The training has not finished."),
    ],
)
def test_a_final_training_says_what_it_was_trained_on(build: Build, on: str, state: str, words: str) -> None:
    build.trial([0.5, 0.6, 0.9, 0.8], state, on=on)
    build.directory.write_env({"kind": "final", "trial": 0, "held_out_images": 500, "train_images": 20_000})
    assert comparison_sentence(build.load()).startswith(words)


def test_a_final_training_that_nothing_can_judge_has_finished_all_the_same(build: Build) -> None:
    build.trial([math.nan] * EPOCHS, FINISHED, on="test")
    build.directory.write_env({"kind": "final", "trial": 0, "held_out_images": 0})
    assert comparison_sentence(build.load()) == (
        "The reference was trained again at width 64 for 4 epochs. There are no test images to judge it on."
    )


def test_a_baseline_in_progress_is_judged_on_the_test_set(build: Build) -> None:
    build.trial([], RUNNING)
    assert accuracy_column(build.load()) == "val_accuracy"  # what a search has; nothing is known yet
    build.recorder.epoch(0, {"epoch": 1, "seconds": 1.0, "test_accuracy": 0.3})
    frames = build.load()
    assert accuracy_column(frames) == "test_accuracy"
    assert frames.trials[["epochs", "best_epoch", "test_accuracy"]].iloc[0].tolist() == [1, 1, 0.3]


# --- rungs -----------------------------------------------------------------------------------------------------------


def test_rungs_of_a_search(mixed: Build) -> None:
    rungs = rung_table(mixed.load()).set_index("epoch")
    assert rungs.index.tolist() == [1, 2]
    assert rungs["reached"].tolist() == [8, 7]
    assert rungs["stopped"].tolist() == [1, 1]
    assert rungs["went_on"].tolist() == [7, 4]  # at 2: trial 6 is still running, trial 7 failed
    assert rungs["weakest_went_on"].tolist() == [0.2, 0.4]
    assert rungs["strongest_stopped"].tolist() == [0.3, 0.5]
    assert rungs["rank_agreement"].tolist() == pytest.approx([1.0, math.sqrt(3) / 2])


def test_the_reference_does_not_count_as_the_weakest_that_went_on(build: Build) -> None:
    build.trial([0.1, 0.2, 0.3, 0.4], FINISHED)
    build.trial([0.4, 0.5], RUNNING)
    build.trial([0.3], STOPPED)
    first = rung_table(build.load()).iloc[0]
    assert (first["weakest_went_on"], first["strongest_stopped"]) == (0.4, 0.3)


def test_for_a_loss_lower_is_better(tmp_path: Path) -> None:
    build = Build(tmp_path / "run", dataclasses.replace(SPEC, scheduler=dataclasses.replace(PLAIN, signal="val_loss")))
    for top in (0.5, 0.6, 0.7):
        build.trial([top, top, top, top], FINISHED)
    build.trial([0.4], STOPPED)
    build.trial([0.3], STOPPED)
    first = rung_table(build.load()).iloc[0]
    assert (first["weakest_went_on"], first["strongest_stopped"]) == (pytest.approx(0.4), pytest.approx(0.6))
    assert first["rank_agreement"] == pytest.approx(1)


def test_rank_agreement_needs_three_finished_trials_that_differ(build: Build) -> None:
    for top in (0.5, 0.6):
        build.trial([top] * EPOCHS, FINISHED)
    assert rung_table(build.load())["rank_agreement"].isna().all()
    build.trial([0.7] * EPOCHS, FINISHED)
    assert rung_table(build.load())["rank_agreement"].tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize("name", ["median", "none"])
def test_other_schedulers_have_no_rungs(tmp_path: Path, name: str) -> None:
    build = Build(tmp_path / "run", dataclasses.replace(SPEC, scheduler=dataclasses.replace(PLAIN, name=name)))
    build.trial(GOOD, FINISHED)
    assert rung_table(build.load()).empty


def test_rungs_before_any_trial(build: Build) -> None:
    rungs = rung_table(build.load())
    assert rungs["reached"].tolist() == [0, 0]
    assert rungs["weakest_went_on"].isna().all()


@many
@given(grace=st.integers(1, 20), factor=st.floats(1.01, 10), epochs=st.integers(1, 400))
def test_rung_epochs_are_the_rounded_powers(grace: int, factor: float, epochs: int) -> None:
    powers = itertools.takewhile(lambda exact: round(exact) < epochs, (grace * factor**k for k in itertools.count()))
    expected = sorted(set(map(round, powers)))
    assert list(rung_epochs(SchedulerSpec(grace_epochs=grace, reduction_factor=factor), epochs)) == expected


def test_rung_epochs_end_for_a_factor_next_to_one() -> None:
    scheduler = SchedulerSpec(grace_epochs=1, reduction_factor=math.nextafter(1, 2))
    assert rung_epochs(scheduler, 10_000) == tuple(range(1, 10_000))


# --- importance ------------------------------------------------------------------------------------------------------


def test_the_hyperparameter_that_decides_is_the_most_important(
    build: Build, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(16):
        build.trial(
            [0.2 + number / 20] * EPOCHS, FINISHED, max_lr=0.001 * 1.3**number, grad_clip=0.1 + 0.3 * (number % 3)
        )
    build.trial([0.1], STOPPED)
    found = importance(build.load())
    assert found.index[0] == "max_lr"
    assert found.sum() == pytest.approx(1)
    shares = importance_intervals(build.load())
    assert (shares["low"] <= shares["share"]).all()
    assert (shares["share"] <= shares["high"]).all()
    assert set(found.index) == set(SPEC.space)
    pd.testing.assert_series_equal(found, importance(build.load()))
    first = shares.iloc[0]
    capsys.readouterr()
    main([str(build.directory.path)])
    assert f"max_lr {first['share']:.2f} {first['low']:.2f} to {first['high']:.2f}" in " ".join(
        capsys.readouterr().out.split()
    )
    monkeypatch.setattr(importance_module, "MAX_RESAMPLED", 15)
    assert importance_intervals(build.load())["low"].isna().all()
    main([str(build.directory.path)])
    assert "no intervals for more than" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("accuracies", "rates"),
    [
        ([number / 20 for number in range(14)], [0.01 + number / 200 for number in range(14)]),  # too few
        ([0.5] * 20, [0.01 + number / 300 for number in range(20)]),  # equal accuracies
        ([number / 20 for number in range(20)], [0.01] * 20),  # equal hyperparameters
        ([], []),
    ],
)
def test_importance_is_empty_where_nothing_can_be_said(
    build: Build, accuracies: list[float], rates: list[float]
) -> None:
    for accuracy, rate in zip(accuracies, rates, strict=True):
        build.trial([accuracy] * EPOCHS, FINISHED, max_lr=rate)
    assert importance(build.load()).empty


def test_importance_leaves_out_what_an_edited_space_no_longer_contains(build: Build) -> None:
    for number in range(20):
        build.trial([0.05 * number] * EPOCHS, FINISHED, max_lr=0.01 + 0.002 * number)
    frames = build.load()

    def within(high: float) -> dict[Any, float]:
        spec = dataclasses.replace(SPEC, space={"max_lr": Domain(low=1e-3, high=high)})
        return importance(dataclasses.replace(frames, spec=spec)).to_dict()

    assert within(0.039) == {"max_lr": 1}
    assert within(0.035) == {}  # 13 are left


# --- several runs, export, command line ------------------------------------------------------------------------------


def two_runs(tmp_path: Path, names: tuple[str, str] = ("one", "two")) -> list[Path]:
    paths = [tmp_path / name for name in names]
    for path, accuracy in zip(paths, (0.5, 0.6), strict=True):
        build = Build(path)
        build.trial([accuracy] * EPOCHS, FINISHED)
        build.trial([accuracy / 2], STOPPED, max_lr=0.05)
    return paths


def test_merged_runs_are_told_apart(tmp_path: Path) -> None:
    merged = merge_runs([load_frames(path) for path in two_runs(tmp_path)])
    assert list(merged.trials) == ["run", *TRIAL_DTYPES]
    assert merged.trials[["run", "trial"]].to_numpy().tolist() == [["one", 0], ["one", 1], ["two", 0], ["two", 1]]
    assert merged.epochs.groupby("run").size().to_dict() == {"one": 5, "two": 5}
    assert merged.trials.dtypes.astype(str).to_dict() == {"run": "str", **TRIAL_DTYPES}
    assert merged.epochs.dtypes.astype(str).to_dict() == {"run": "str", **EPOCH_DTYPES}


def test_runs_of_one_name_go_by_their_paths(tmp_path: Path) -> None:
    paths = two_runs(tmp_path, ("a/run", "b/run"))
    assert merge_runs([load_frames(path) for path in paths]).trials["run"].unique().tolist() == list(map(str, paths))


def test_the_command_line_prints_a_run(mixed: Build, capsys: pytest.CaptureFixture[str]) -> None:
    mixed.directory.write_env({"device_name": "a chip", "held_out_images": 500})
    with mixed.directory.lock():
        assert main([str(mixed.directory.path)]) == 0
    output = capsys.readouterr().out
    assert output.startswith(
        "run: digits on a chip, 9 trials (3 finished, 1 running, 2 stopped, 1 interrupted, 2 failed), still running, "
        "last epoch "
    )
    for words in ("90.00%", "+10.00 percentage points", "Early stopping on val_accuracy", "rank_agreement"):
        assert words in output
    assert "…" not in output  # rich's mark of a cut cell
    assert "Runs side by side" not in output
    assert "Importance" not in output


def test_a_run_whose_command_was_killed_is_not_running(mixed: Build, capsys: pytest.CaptureFixture[str]) -> None:
    assert not mixed.load().active
    assert main([str(mixed.directory.path)]) == 0
    assert ", not running (it ended without saying so; --resume goes on)\n" in capsys.readouterr().out
    with mixed.directory.lock():
        assert mixed.load().active


def test_a_command_that_has_no_trial_yet_is_running(build: Build, capsys: pytest.CaptureFixture[str]) -> None:
    with build.directory.lock():
        assert main([str(build.directory.path)]) == 0
    assert capsys.readouterr().out.startswith("run: digits on auto, 0 trials, still running\n")


def test_the_command_line_prints_several_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(path) for path in two_runs(tmp_path)]
    assert main([*paths, paths[0] + "/.", "--top", "1"]) == 0
    output = capsys.readouterr().out
    side_by_side = [line.split() for line in output[output.index("Runs side by side") :].splitlines()[2:4]]
    assert [(row[0], row[1], row[4]) for row in side_by_side] == [("one", "2", "50.00%"), ("two", "2", "60.00%")]
    assert "1 of 2 trials" in output


def test_the_command_line_prints_a_run_without_trials(build: Build, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(build.directory.path), str(build.directory.path)]) == 0
    output = capsys.readouterr().out
    assert output.startswith("run: digits on auto, 0 trials, not running")
    assert "No trial has finished yet" in output


def test_exports_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = two_runs(tmp_path)
    merged = merge_runs([load_frames(path) for path in paths])
    out = tmp_path / "new" / "out"
    for _ in range(2):  # the second time over the first's files
        assert main([*map(str, paths), "--csv", str(out), "--parquet", str(out)]) == 0
    assert sorted(os.listdir(out)) == ["epochs.csv", "epochs.parquet", "trials.csv", "trials.parquet"]
    pd.testing.assert_frame_equal(pd.read_parquet(out / "trials.parquet"), merged.trials)
    pd.testing.assert_frame_equal(pd.read_parquet(out / "epochs.parquet"), merged.epochs)
    epochs = pd.read_csv(out / "epochs.csv")
    pd.testing.assert_frame_equal(epochs, merged.epochs, check_dtype=False)
    assert f"wrote {out}/trials.csv" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--csv", "--parquet"])
def test_an_export_never_replaces_a_runs_own_files(mixed: Build, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = mixed.directory.trials_csv.read_bytes()
    assert main([str(mixed.directory.path), flag, str(mixed.directory.path)]) == 2
    assert mixed.directory.trials_csv.read_bytes() == before
    assert "is a run directory" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--csv", "--parquet"])
@pytest.mark.parametrize("where", ["file", "file/below", "x" * 5000, "taken"])
def test_an_export_that_cannot_be_written_is_told_in_one_line(
    mixed: Build, tmp_path: Path, flag: str, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for name in ("trials.csv", "trials.parquet"):
        (tmp_path / "taken" / name).mkdir(parents=True)
    assert main([str(mixed.directory.path), flag, str(tmp_path / where)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"error: cannot write .*\n", captured.err)
    assert sorted(os.listdir(tmp_path / "taken")) == ["trials.csv", "trials.parquet"]


@pytest.mark.parametrize("arguments", [[], ["run", "--top", "0"], ["run", "--top", "x"], ["run", "--cs", "d"]])
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_choices_in_brackets_are_shown_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ModelSpec(factory="own:network", args={"layer": "[relu]"})
    space: dict[str, Domain | Choices] = {**NARROW_SPACE, "model.args.layer": Choices(choices=("[relu]", "[gelu]"))}
    build = Build(tmp_path / "run", dataclasses.replace(SPEC, model=model, space=space))
    build.trial([0.5] * EPOCHS, FINISHED)
    assert main([str(build.directory.path)]) == 0
    assert "[relu]" in capsys.readouterr().out


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "tune_resnet.analysis", *map(str, arguments)]


def test_an_error_is_one_line_on_stderr_and_exit_code_2(tmp_path: Path) -> None:
    done = subprocess.run(command(tmp_path), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: .* is not a run directory.*\n", done.stderr)


def test_a_reader_that_leaves_early_is_no_error(mixed: Build) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            command(mixed.directory.path), stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    finally:
        os.close(writing)
    assert done.stderr == ""


def test_ten_thousand_trials_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = dataclasses.replace(SPEC, train=TrainSpec(epochs=8))
    directory = RunDirectory.create(tmp_path / "run", spec)
    rows, lines = [], []
    for trial in range(10_000):
        epochs = 8 if trial % 4 == 0 else 1 + trial % 3
        accuracy = (trial * 7919 % 10_007) / 10_007
        rows.append(
            TrialRow(
                trial=trial,
                state=FINISHED if epochs == 8 else STOPPED,
                values={"max_lr": 1e-3 + accuracy * 0.09, "weight_decay": 1e-5 + 1e-7 * trial, "grad_clip": 0.1},
                seed=0,
                epochs=epochs,
                val_accuracy=accuracy,
            )
        )
        lines += [f"{trial},{epoch},0.01,1.1,1.2,{accuracy},,,0.5,1000.0,1.0\n" for epoch in range(1, epochs + 1)]
    directory.write_trials(row.line() for row in rows)
    with directory.epochs_csv.open("a") as file:
        file.writelines(lines)
    assert main([str(directory.path)]) == 0
    assert "of 10,000 trials" in capsys.readouterr().out
