"""What a search learns from earlier runs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from factories import EPOCHS, MIXED, SPEC, Build
from optuna.trial import TrialState

from tune_resnet.config.default_space import NARROW_SPACE, default_space
from tune_resnet.config.sections import SCHEDULES, ModelSpec
from tune_resnet.config.space import Choices, Domain, Space
from tune_resnet.errors import UserError
from tune_resnet.hpo.study import Study
from tune_resnet.hpo.warm_start import WarmStart, warm_start
from tune_resnet.runs.merge import merge_runs
from tune_resnet.runs.tables import FAILED, FINISHED, STOPPED


@pytest.fixture
def earlier(tmp_path: Path) -> Build:
    build = Build(tmp_path / "earlier")
    build.trial([0.3, 0.4, 0.5, 0.6], FINISHED)
    for number in range(5):
        build.trial([0.3, 0.4, 0.5, 0.6 + number / 100], FINISHED, max_lr=0.01 + number / 100)
    build.trial([0.2, 0.3], STOPPED, max_lr=0.002)
    build.trial([0.2], STOPPED, max_lr=0.09)
    build.trial([0.2], FAILED, error="no")
    build.directory.write_env({"dataset_fingerprint": "these images"})
    return build


def test_trials_of_the_same_task_are_known(earlier: Build) -> None:
    spec = replace(SPEC, train=replace(SPEC.train, seed=7))  # another seed is no other task
    warm = warm_start([earlier.directory.path], spec, "these images")
    states = [TrialState.COMPLETE] * 6 + [TrialState.PRUNED] * 2
    assert [trial.state for trial in warm.trials] == states
    assert warm.configurations == []
    assert warm.trials[5].value == 0.64

    study = Study(spec, warm)
    proposals = [study.propose() for _ in range(3)]
    assert proposals[0] == (0, spec.reference)
    assert [number for number, _ in proposals] == [0, 1, 2]


@pytest.mark.parametrize("change", ["images", "width", "epochs"])
def test_of_another_task_the_best_are_tried_first(earlier: Build, change: str) -> None:
    spec = SPEC
    if change == "width":
        spec = replace(spec, model=ModelSpec(width=spec.model.width + 1))
    if change == "epochs":
        spec = replace(spec, train=replace(spec.train, epochs=EPOCHS + 1))
    warm = warm_start([earlier.directory.path], spec, "others" if change == "images" else "these images")
    assert warm.trials == []
    assert len(warm.configurations) == 3
    assert all(configuration["max_lr"] > 0.01 for configuration in warm.configurations)

    study = Study(spec, warm)
    proposals = [study.propose() for _ in range(5)]
    assert proposals[:4] == list(enumerate([spec.reference, *warm.configurations]))
    assert proposals[4][0] == 4


@pytest.mark.parametrize("fingerprint", ["these images", "others"])
def test_a_resumed_search_knows_what_it_began_with(earlier: Build, tmp_path: Path, fingerprint: str) -> None:
    warm = warm_start([earlier.directory.path], SPEC, fingerprint)
    kept = tmp_path / "warm_start.json"
    kept.write_text(warm.to_json())
    again = WarmStart.read(kept, SPEC)
    assert again.configurations == warm.configurations
    assert [(t.state, t.params, t.value, t.intermediate_values) for t in again.trials] == [
        (t.state, t.params, t.value, t.intermediate_values) for t in warm.trials
    ]
    assert WarmStart.read(tmp_path / "no file", SPEC) == WarmStart()


def test_what_it_began_with_stays_known_in_a_wider_space(earlier: Build, tmp_path: Path) -> None:
    first = replace(SPEC, space={"max_lr": SPEC.space["max_lr"], "grad_clip": SPEC.space["grad_clip"]})
    (tmp_path / "kept.json").write_text(warm_start([earlier.directory.path], first, "others").to_json())
    wider = {**SPEC.space, "max_lr": Domain(low=1e-4, high=1.0)}
    again = WarmStart.read(tmp_path / "kept.json", replace(SPEC, space=wider))
    assert sorted(one["max_lr"] for one in again.configurations) == pytest.approx([0.03, 0.04, 0.05])
    assert {one["weight_decay"] for one in again.configurations} == {SPEC.train.weight_decay}  # not varied then


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"trials": [{}]}', '{"trials": 3}', '{"trials": [], "configurations": [{"max_lr": "a"}]}', "[" * 10**5],
)
def test_a_damaged_memory_of_it_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "warm_start.json").write_text(text)
    with pytest.raises(UserError, match=r"warm_start\.json is damaged"):
        WarmStart.read(tmp_path / "warm_start.json", SPEC)


def test_what_lies_outside_of_the_space_is_left_out(earlier: Build) -> None:
    space = {**SPEC.space, "max_lr": Domain(low=0.009, high=0.035)}
    warm = warm_start([earlier.directory.path], replace(SPEC, space=space), "these images")
    assert [trial.params["max_lr"] for trial in warm.trials] == pytest.approx([0.01, 0.01, 0.02, 0.03])


def test_what_followed_another_hyperparameter_is_known_of_each_trial(tmp_path: Path) -> None:
    """A `linear` schedule ends at a rate of 0, for which there is no divisor, and the momentum at the peak is each
    trial's own momentum."""
    schedules, momenta = Choices(choices=("linear-exponential", "linear")), Domain(low=0.8, high=0.95)
    earlier = Build(tmp_path / "earlier", replace(SPEC, space={"schedule": schedules, "momentum": momenta}))
    earlier.trial([0.3, 0.4, 0.5, 0.6], FINISHED)
    earlier.trial([0.3, 0.4, 0.5, 0.7], FINISHED, momentum=0.85)
    earlier.trial([0.3, 0.4, 0.5, 0.8], FINISHED, schedule="linear")
    earlier.directory.write_env({"dataset_fingerprint": "these images"})
    both = {"momentum": momenta, "momentum_at_peak": momenta}
    warm = warm_start([earlier.directory.path], replace(SPEC, space=both), "these images")
    assert [one.params for one in warm.trials] == [  # the third has another schedule than this search
        {"momentum": 0.9, "momentum_at_peak": 0.9},
        {"momentum": 0.85, "momentum_at_peak": 0.85},
    ]
    divided = replace(SPEC, space={"schedule": schedules, "final_div_factor": Domain(low=10.0, high=1e6, log=True)})
    warm = warm_start([earlier.directory.path], divided, "these images")
    assert [one.params for one in warm.trials] == [{"schedule": "linear-exponential", "final_div_factor": 25}]

    other = Build(tmp_path / "other", replace(SPEC, space=both))
    other.trial([0.3], STOPPED, momentum_at_peak=0.81)
    trials = merge_runs([earlier.load(), other.load()]).trials
    assert trials["momentum_at_peak"].tolist() == [0.9, 0.85, 0.9, 0.81]


def test_a_run_without_anything_to_learn_from_is_refused(tmp_path: Path) -> None:
    build = Build(tmp_path / "empty")
    build.trial([math.nan], FAILED, error="no")
    with pytest.raises(UserError, match="empty has no trial in this search's space to start from"):
        warm_start([build.directory.path], SPEC, "")


def test_of_a_run_over_other_choices_the_nearest_are_tried(tmp_path: Path) -> None:
    between: Space = {**NARROW_SPACE, "batch_size": Domain(low=50, high=400), "schedule": Choices(choices=SCHEDULES)}
    earlier = Build(tmp_path / "earlier", replace(SPEC, space=between))
    for batch, accuracy in ((400, 0.5), (169, 0.9), (52, 0.6)):
        earlier.trial([0.1, 0.2, 0.3, accuracy], FINISHED, batch_size=batch, schedule="cosine")
    spec = replace(SPEC, space=default_space(SPEC.train))
    found = warm_start([tmp_path / "earlier"], spec, "other images")
    assert [point["batch_size"] for point in found.configurations] == [200, 50, 400]
    assert {point["schedule"] for point in found.configurations} == {"cosine"}


def test_what_was_not_varied_there_is_tried_once(earlier: Build) -> None:
    """All trials are the same in a space of what none of them varied, and that is the reference."""
    space = {"dropout": Domain(low=0, high=0.5), "ema_decay": Domain(low=0, high=0.99)}
    assert warm_start([earlier.directory.path], replace(SPEC, space=space), "others").configurations == []
    wider = replace(SPEC, space={**space, "max_lr": SPEC.space["max_lr"]})
    twice = warm_start([earlier.directory.path] * 2, wider, "others").configurations
    assert [one["max_lr"] for one in twice] == pytest.approx([0.05, 0.04, 0.03])


def test_no_earlier_run_is_no_warm_start(earlier: Build) -> None:
    assert warm_start([], SPEC, "") == WarmStart()


def test_a_run_of_another_space_counts_where_its_trials_lie_in_this_one(earlier: Build) -> None:
    wider = replace(SPEC, space={**SPEC.space, "dropout": Domain(low=0, high=0.5, log=False)})
    warm = warm_start([earlier.directory.path], wider, "these images")
    assert [trial.params["dropout"] for trial in warm.trials] == [0.2] * 8  # what its own search did not vary
    narrower = replace(SPEC, space={"max_lr": SPEC.space["max_lr"]})
    assert len(warm_start([earlier.directory.path], narrower, "these images").trials) == 8
    other = replace(narrower, train=replace(SPEC.train, weight_decay=1e-3))  # which this search holds fixed
    warm = warm_start([earlier.directory.path], other, "these images")
    assert (len(warm.trials), len(warm.configurations)) == (0, 3)


def test_what_is_kept_for_a_resumed_search_of_a_mixed_space_is_what_there_was(tmp_path: Path) -> None:
    spec = replace(SPEC, train=replace(SPEC.train, batch_size=90), space=MIXED)
    build = Build(tmp_path / "mixed", spec)
    build.trial([0.3, 0.4, 0.5, 0.6], FINISHED)
    build.trial([0.3, 0.4, 0.5, 0.7], FINISHED, optimizer="sgd", momentum=0.95, crop_padding=2, decoupled_decay=True)
    build.directory.write_env({"dataset_fingerprint": "these images"})
    warm = warm_start([build.directory.path], spec, "these images")
    assert ["momentum" in trial.params for trial in warm.trials] == [False, True]
    (tmp_path / "kept.json").write_text(warm.to_json())
    kept = WarmStart.read(tmp_path / "kept.json", spec)
    assert [trial.params for trial in kept.trials] == [trial.params for trial in warm.trials]
    study = Study(spec, kept)
    for number in range(8):
        proposed, values = study.propose()
        assert proposed == number
        assert all(domain.holds(values[name]) for name, domain in MIXED.items())
