"""The winner of a search: not simply the highest of many noisy figures."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import Build

from tune_resnet.config.sections import BudgetSpec
from tune_resnet.config.space import Choices, Domain
from tune_resnet.hpo.ranking import best_trials, estimates, winner
from tune_resnet.results import sentences
from tune_resnet.results.comparison import (
    EQUAL,
    LOST,
    NOTHING,
    REFERENCE_ALONE,
    REFERENCE_WINS,
    UNKNOWN,
    WON,
    Comparison,
    compare_to_reference,
)
from tune_resnet.results.sentences import comparison_sentence
from tune_resnet.results.tables import ranked_table
from tune_resnet.runs.tables import FAILED, FINISHED, STOPPED

LUCKY = 7


@pytest.fixture
def lucky(tmp_path: Path) -> Build:
    """Accuracy falls with the distance from a peak rate of 0.03; far from it, one had luck with its images, not
    in its loss."""
    build = Build(tmp_path / "run")
    build.directory.write_env({"held_out_images": 100})
    for max_lr in (0.01, *np.geomspace(0.001, 0.1, 12)):
        end = 0.7 - 0.1 * math.log10(max_lr / 0.03) ** 2
        luck = 0.02 if len(build.recorder.trials) == LUCKY else 0
        build.trial([end - 0.3, end - 0.2, end - 0.1, end + luck], FINISHED, max_lr=max_lr, luck=luck)
    build.trial([0.4], STOPPED, max_lr=0.05)
    build.trial([0.2], FAILED, max_lr=0.1, error="no")
    return build


def test_luck_alone_does_not_win(lucky: Build) -> None:
    frames = lucky.load()
    found, best = winner(frames), best_trials(frames, 1).iloc[0]
    assert found is not None
    assert frames.trials["val_accuracy"].idxmax() == LUCKY
    assert best["trial"] == found["trial"] != LUCKY
    assert found["max_lr"] == pytest.approx(0.03, rel=0.3)
    comparison = compare_to_reference(frames)
    assert comparison.winner == found["trial"]
    assert comparison.gain == pytest.approx(100 * (found["val_accuracy"] - frames.trials["val_accuracy"][0]))
    assert comparison.estimated_gain is not None
    assert 0 < comparison.estimated_gain < 5
    assert f"Trial {found['trial']} reached {found['val_accuracy']:.2%}" in comparison_sentence(frames)


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("label_smoothing", Domain(low=0, high=0.3, log=False)),
        ("class_weights", Choices(choices=("none", "balanced"))),
    ],
)
def test_the_loss_has_no_say_where_the_search_varies_what_is_minimised(
    lucky: Build, name: str, domain: Domain | Choices
) -> None:
    """Such a setting changes the validation loss of equally good networks."""
    frames = lucky.load()
    frames = replace(frames, spec=replace(frames.spec, space={**frames.spec.space, name: domain}))
    found = winner(frames)
    assert found is not None
    assert found["trial"] == LUCKY
    assert found["estimate"] == found["val_accuracy"]


def test_the_sentence_gives_the_estimated_gain(lucky: Build) -> None:
    gain = compare_to_reference(lucky.load()).estimated_gain
    assert f"By accuracy and loss together, the gain is about {gain:+.2f} points." in comparison_sentence(lucky.load())


def compared(**known: Any) -> Comparison:
    images = {"judged_on": "validation", "images": 2000, "standard_error": 1.25}
    nothing = dict.fromkeys(field.name for field in fields(Comparison))
    return Comparison(**{**nothing, **images, "search": BudgetSpec(), "finished": 9, **known})


MEASURED = {"winner": 7, "winner_accuracy": 0.76, "reference_state": FINISHED, "reference_accuracy": 0.75}
NOISE = "on the same 2,000 images (one seed each; standard error from the choice of images about 1.25 points or less)."


@pytest.mark.parametrize(
    ("found", "case", "sentence"),
    [
        (
            compared(finished=0),
            NOTHING,
            "No trial has finished yet, so there is nothing to compare with the reference.",
        ),
        (
            compared(winner=7, winner_accuracy=0.76, reference_state=STOPPED),
            UNKNOWN,
            "Trial 7 is the best so far with 76.00% validation accuracy. The reference did not finish (stopped), so "
            "the gain is not known.",
        ),
        (
            compared(**MEASURED | {"winner": 0}, finished=1, gain=0.0, estimated_gain=0.0),
            REFERENCE_ALONE,
            "The reference reached 76.00% validation accuracy. No other trial has finished.",
        ),
        (
            compared(**MEASURED | {"winner": 0}, gain=0.0, estimated_gain=0.0),
            REFERENCE_WINS,
            "The reference itself is the winner with 76.00% validation accuracy: none of the 8 other finished trials "
            "is expected to beat it.",
        ),
        (
            compared(**MEASURED, gain=1.0, estimated_gain=0.4),
            WON,
            f"Trial 7 reached 76.00% validation accuracy, the reference 75.00%: +1.00 percentage points {NOISE} By "
            "accuracy and loss together, the gain is about +0.40 points. The best of 9 finished trials is probably a "
            "lucky one: expect a smaller gain.",
        ),
        (
            compared(**MEASURED, gain=1.0, estimated_gain=1.0),
            WON,
            f"Trial 7 reached 76.00% validation accuracy, the reference 75.00%: +1.00 percentage points {NOISE} The "
            "best of 9 finished trials is probably a lucky one: expect a smaller gain.",
        ),
        (
            compared(**MEASURED | {"reference_accuracy": 0.76}, gain=0.0, estimated_gain=0.4),
            EQUAL,
            f"Trial 7 and the reference both reached 76.00% validation accuracy {NOISE} It is the winner because, "
            "by accuracy and loss together, it is expected to be better by about 0.40 points.",
        ),
        (
            compared(**MEASURED | {"reference_accuracy": 0.77}, gain=-1.0, estimated_gain=0.4),
            LOST,
            f"Trial 7 reached 76.00% validation accuracy, the reference 77.00%: -1.00 percentage points {NOISE} It is "
            "the winner because, by accuracy and loss together, it is expected to be better by about 0.40 points.",
        ),
    ],
)
def test_each_case_has_its_sentence(
    found: Comparison, case: str, sentence: str, lucky: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found.case == case
    monkeypatch.setattr(sentences, "compare_to_reference", lambda frames: found)
    assert comparison_sentence(lucky.load()) == sentence


def test_only_finished_trials_have_an_estimate(lucky: Build) -> None:
    frames = lucky.load()
    found = estimates(frames)
    assert found.notna().tolist() == [True] * 13 + [False] * 2
    usual = [number for number in range(13) if number != LUCKY]
    assert found[usual].to_numpy() == pytest.approx(frames.trials["val_accuracy"][usual].to_numpy(), abs=0.06)
    assert found[LUCKY] < frames.trials["val_accuracy"][LUCKY] - 0.005
    assert ranked_table(frames, 3).columns[4].header == "estimate"


def test_a_baseline_is_as_measured(tmp_path: Path) -> None:
    build = Build(tmp_path / "run")
    build.trial([0.1, 0.2, 0.3, 0.4], FINISHED, on="test")
    assert estimates(build.load()).tolist() == [0.4]


def test_without_a_finished_trial_there_is_no_winner(tmp_path: Path) -> None:
    build = Build(tmp_path / "run")
    assert winner(build.load()) is None
    build.trial([0.5], STOPPED)
    assert winner(build.load()) is None
    build.trial([0.5, 0.5, 0.5, math.nan], FINISHED)
    assert winner(build.load()) is None
