"""The winner of a search: not simply the highest of many noisy figures."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_analysis import SPEC, Build

from tune_resnet.analysis import best_trials, compare_to_reference, comparison_sentence, estimates, ranked_table, winner
from tune_resnet.records import FAILED, FINISHED, STOPPED
from tune_resnet.space import DEFAULT_SPACE, Domain

LUCKY = 5


@pytest.fixture
def lucky(tmp_path: Path) -> Build:
    """Accuracy falls with the distance from a peak rate of 0.03; far from it, one had luck in the last epoch."""
    build = Build(tmp_path / "run")
    for max_lr in (0.01, *np.geomspace(0.001, 0.1, 12)):
        end = 0.7 - 0.1 * math.log10(max_lr / 0.03) ** 2
        luck = 0.07 if len(build.recorder.trials) == LUCKY else 0
        build.trial([end - 0.3, end - 0.2, end - 0.1, end + luck], FINISHED, max_lr=max_lr)
    build.trial([0.4], STOPPED, max_lr=0.05)
    build.trial([0.2], FAILED, max_lr=0.1, error="no")
    return build


def test_luck_alone_does_not_win(lucky: Build) -> None:
    frames = lucky.load()
    found, best = winner(frames), best_trials(frames, 1).iloc[0]
    assert found is not None
    assert best["trial"] == LUCKY
    assert found["max_lr"] == pytest.approx(0.03, rel=0.3)
    comparison = compare_to_reference(frames)
    assert comparison.winner == found["trial"]
    assert comparison.gain == pytest.approx(100 * (found["val_accuracy"] - frames.trials["val_accuracy"][0]))
    assert 0 < comparison.estimated_gain < 5
    assert f"Trial {found['trial']} reached {found['val_accuracy']:.2%}" in comparison_sentence(frames)


def test_the_sentence_gives_the_smoothed_gain(lucky: Build) -> None:
    gain = compare_to_reference(lucky.load()).estimated_gain
    assert f"luck: smoothed over all trials the gain is about {gain:+.2f} points. Fresh" in comparison_sentence(
        lucky.load()
    )


def test_only_finished_trials_have_an_estimate(lucky: Build) -> None:
    frames = lucky.load()
    found = estimates(frames)
    assert found.notna().tolist() == [True] * 13 + [False] * 2
    usual = [number for number in range(13) if number != LUCKY]
    assert found[usual].to_numpy() == pytest.approx(frames.trials["val_accuracy"][usual].to_numpy(), abs=0.06)
    assert found[LUCKY] < frames.trials["val_accuracy"][LUCKY] - 0.02
    assert ranked_table(frames, 3).columns[4].header == "estimate"


def test_a_baseline_is_as_measured(tmp_path: Path) -> None:
    build = Build(tmp_path / "run")
    build.trial([0.1, 0.2, 0.3, 0.4], FINISHED, on="test")
    assert estimates(build.load()).tolist() == [0.4]


def test_trials_outside_of_the_space_are_as_measured(lucky: Build) -> None:
    frames = lucky.load()
    space = {**DEFAULT_SPACE, "max_lr": Domain(low=0.005, high=0.1)}
    found = estimates(replace(frames, spec=replace(SPEC, space=space)))
    assert found[1] == frames.trials["val_accuracy"][1]
    assert found[8] != frames.trials["val_accuracy"][8]
    nothing = replace(SPEC, space={"max_lr": Domain(low=0.0001, high=0.01)}, train=replace(SPEC.train, max_lr=0.0002))
    assert estimates(replace(frames, spec=nothing)).notna().sum() == 13


def test_without_a_finished_trial_there_is_no_winner(tmp_path: Path) -> None:
    build = Build(tmp_path / "run")
    assert winner(build.load()) is None
    build.trial([0.5], STOPPED)
    assert winner(build.load()) is None
    build.trial([0.5, 0.5, 0.5, math.nan], FINISHED)
    assert winner(build.load()) is None
