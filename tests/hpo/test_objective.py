"""Runs that are judged by another objective than the accuracy: everything goes by that, and says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from factories import SPEC, Build, Page, load_study, plain
from optuna.trial import TrialState

from tune_resnet.analysis import main, merge_runs
from tune_resnet.commands.pairs import Pairs
from tune_resnet.config.sections import BudgetSpec
from tune_resnet.config.spec import SearchSpec
from tune_resnet.execution.scheduler import EarlyStopping
from tune_resnet.hpo.study import Study
from tune_resnet.hpo.warm_start import warm_start
from tune_resnet.results.comparison import compare_to_reference
from tune_resnet.results.confirmation import confirmations
from tune_resnet.results.page import write_report
from tune_resnet.results.runs_list import runs_table
from tune_resnet.results.sentences import comparison_sentence
from tune_resnet.results.side_by_side import leader
from tune_resnet.results.verdict import verdict
from tune_resnet.runs.directory import FINAL
from tune_resnet.runs.load import RunFrames
from tune_resnet.runs.recorder import Recorder
from tune_resnet.runs.resume import read_history
from tune_resnet.runs.tables import CONFIRM_DTYPES, EPOCH_DTYPES, FINISHED, RUNNING, STOPPED, confirm_dtypes

BALANCED = replace(SPEC, search=BudgetSpec(objective="balanced_accuracy"))
BY_ACCURACY, BY_BALANCE = 1, 2  # the trials that are best


def filled(build: Build) -> Build:
    """Losses tell what accuracies do. A run that is judged by accuracy has no scores."""
    scored = build.recorder.spec.search.objective != "accuracy"

    def trial(accuracy: float, score: float, state: str = FINISHED, **params: Any) -> None:
        accuracies, scores = [0.4, 0.5, 0.6, accuracy], [0.3, score, 0.4, score]
        epochs = 1 if state == STOPPED else 4
        build.trial(accuracies[:epochs], state, scores=scores[:epochs] if scored else (), **params)

    build.directory.write_env({"kind": "search", "dataset_fingerprint": "these", "held_out_images": 500})
    trial(0.80, 0.70)
    trial(0.95, 0.60, max_lr=0.02)
    trial(0.85, 0.80, max_lr=0.03)
    trial(0.84, 0.75, max_lr=0.04)
    trial(0.90, 0.72, max_lr=0.05)
    trial(0, 0, STOPPED, max_lr=0.06)
    return build


@pytest.fixture
def balanced(tmp_path: Path) -> Build:
    return filled(Build(tmp_path / "balanced", BALANCED))


@pytest.fixture
def usual(tmp_path: Path) -> Build:
    return filled(Build(tmp_path / "usual"))


def test_the_objective_chooses_the_winner(balanced: Build, usual: Build) -> None:
    assert compare_to_reference(usual.load()).winner == BY_ACCURACY
    found = compare_to_reference(balanced.load())
    assert (found.winner, found.winner_accuracy, found.reference_accuracy) == (BY_BALANCE, 0.80, 0.70)
    assert found.gain == found.estimated_gain == pytest.approx(10)  # the loss, which counts images, has no say
    assert found.standard_error is None  # a binomial one is of the accuracy


def test_only_another_objective_has_columns(balanced: Build, usual: Build) -> None:
    own = ["val_balanced_accuracy", "test_balanced_accuracy"]
    for table in ("trials", "epochs"):
        columns, others = list(getattr(balanced.load(), table)), list(getattr(usual.load(), table))
        assert [name for name in columns if name not in own] == others
        assert set(own) <= set(columns)
    trials = balanced.load().trials
    assert trials["val_accuracy"].tolist() == [0.80, 0.95, 0.85, 0.84, 0.90, 0.4]
    assert trials["val_balanced_accuracy"].tolist() == [0.70, 0.60, 0.80, 0.75, 0.72, 0.3]
    assert trials["best_epoch"].tolist() == [2, 2, 2, 2, 2, 1]
    merged = merge_runs([usual.load(), balanced.load()])
    assert merged.epochs.groupby("run")["val_balanced_accuracy"].count().to_dict() == {"balanced": 21, "usual": 0}
    assert list(merge_runs([usual.load()]).epochs) == ["run", *EPOCH_DTYPES]


def test_every_view_names_it(balanced: Build, capsys: pytest.CaptureFixture[str]) -> None:
    frames, words = balanced.load(), "80.00% validation balanced accuracy"
    assert "val_balanced_acc" in plain(frames).splitlines()[0]
    assert plain(frames).splitlines()[1].split()[:4] == ["2", "*", "finished", "4/4"]
    assert comparison_sentence(frames).startswith(f"Trial 2 reached {words}, the reference 70.00%: +10.00 percentage")
    assert verdict(frames).headline == "Not confirmed yet: +10.00 points of balanced accuracy as measured"
    page = Page(write_report([frames.path]))
    assert f"Trial 2: {words}" in page.text
    assert "gain in points of balanced accuracy" in page.text
    assert "estimated" not in page.text
    assert "Balanced accuracy over max_lr" in (frames.path / "report.html").read_text()
    assert "shown: balanced accuracylosstraining loss" in "".join(page.text.split("\n"))
    titles = {figure["layout"]["yaxis"].get("title", {}).get("text") for figure in page.figures.values()}
    assert {"balanced accuracy"} <= titles
    assert "accuracy" not in titles
    assert main([str(frames.path), "--fidelity"]) == 0
    assert "Early stopping on val_balanced_accuracy" in capsys.readouterr().out
    best = list(runs_table(frames.path.parent).columns[3].cells)
    assert best == ["80.00% balanced accuracy"]


def test_runs_with_other_objectives_are_not_compared(balanced: Build, usual: Build, tmp_path: Path) -> None:
    third = filled(Build(tmp_path / "third"))
    runs = [balanced.load(), usual.load(), third.load()]
    best = leader(runs)
    assert best is not None
    assert best.run.name in ("usual", "third")  # of two; the highest is in one of them, too
    page = Page(write_report([run.path for run in runs], tmp_path / "page.html")).text
    assert "validation balanced accuracy" in page
    assert "The score of the winner so far" in page


def test_a_search_goes_on_by_it(balanced: Build) -> None:
    balanced.trial([0.9, 0.9], RUNNING, scores=[0.1, 0.2], max_lr=0.07)
    history = read_history(balanced.directory)
    study = Study(BALANCED, None, history, balanced.directory.study_log)
    assert [trial.value for trial in study.optuna_study.trials[:5]] == [0.70, 0.60, 0.80, 0.75, 0.72]
    assert study.optuna_study.best_trial.number == BY_BALANCE
    assert load_study(balanced.directory.study_log).trials[6].intermediate_values == {1: 0.1, 2: 0.2}
    again = Recorder(balanced.directory, BALANCED, history.trials, history.epochs)
    assert again.trials[BY_BALANCE].line() == balanced.recorder.trials[BY_BALANCE].line()
    rule = EarlyStopping(BALANCED, lambda trial, epoch: True, history.epochs).rule
    assert rule.values[1][6] == 0.1  # type: ignore[attr-defined]


def test_a_warm_start_takes_trials_that_have_the_score(balanced: Build, usual: Build) -> None:
    for spec, known in ((BALANCED, 0.80), (SPEC, 0.85)):
        warm = warm_start([balanced.directory.path], spec, "these")
        assert [trial.value for trial in warm.trials if trial.state == TrialState.COMPLETE][2] == known
    warm = warm_start([usual.directory.path], BALANCED, "these")
    assert warm.trials == []
    assert warm.configurations[0]["max_lr"] == 0.02  # the best by what judged there


def confirmed(frames: RunFrames, spec: SearchSpec) -> RunFrames:
    """A confirmation in which trial 2 has the worse accuracy and the better balanced accuracy."""
    columns = confirm_dtypes(frames.spec.kinds, frames.spec.search.objective)
    rows = []
    for seed in range(1000, 1004):
        for name, rate, accuracy, score in (("winner", 0.03, 0.7, 0.8), ("reference", 0.01, 0.8, 0.7 + seed / 1e6)):
            outcome = {"seed": seed, **spec.values, "max_lr": rate, "epochs": 4, "test_accuracy": accuracy}
            outcome |= {"test_balanced_accuracy": score, "test_loss": 0.5, "worker": "host:1", "error": ""}
            size = {"width": 64, "train_images": 0, "of_epochs": 4}
            compared: Any = type("Compared", (), {"spec": spec, "size": size, "sequential": False})
            rows.append(Pairs.row(compared, name, outcome, 1.0))
    pd.DataFrame(rows, columns=list(columns)).to_csv(frames.path / "confirm.csv", index=False)
    return frames


def test_a_confirmation_is_judged_by_it(balanced: Build) -> None:
    frames = confirmed(balanced.load(), BALANCED)
    assert [name for name in confirm_dtypes() if name not in CONFIRM_DTYPES] == []
    found = confirmations(balanced.load())[0]
    assert found.of_winner
    assert found.pairs["winner"].tolist() == [0.8] * 4
    assert verdict(balanced.load()).headline.startswith("Proven: +9.90 points of balanced accuracy, 95% interval")
    page = write_report([frames.path])
    better = "is better than the reference: +9.90 percentage points of balanced accuracy on the test images"
    assert better in Page(page).text
    assert "Test balanced accuracy of trial 2 and the reference, pair by pair" in page.read_text()


def test_a_final_model_has_both_and_the_interval_is_of_the_accuracy(tmp_path: Path) -> None:
    build = Build(tmp_path / "final", BALANCED)
    build.directory.write_env({"kind": FINAL, "held_out": "test", "held_out_images": 200})
    build.trial([0.1, 0.2, 0.3, 0.9], FINISHED, on="test", scores=[0.1, 0.2, 0.3, 0.75])
    assert comparison_sentence(build.load()) == (
        "The reference, trained again at width 64 for 4 epochs, reached 75.00% test balanced accuracy and classified "
        "90.00% of the 200 test images correctly (95% interval from the choice of images 85.06% to 93.43%)."
    )
