"""A resumed search knows what the unbroken one knew, and proposes what it would have."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from factories import MIXED, leave_model, load_study
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ray.tune.schedulers import TrialScheduler

from tune_resnet._files import write_whole
from tune_resnet.config.default_space import NARROW_SPACE
from tune_resnet.config.sections import SAMPLERS, BudgetSpec, SchedulerSpec, TrainSpec
from tune_resnet.config.space import Choices, Domain
from tune_resnet.config.spec import SearchSpec
from tune_resnet.errors import RecordError
from tune_resnet.execution.searcher import OptunaSearcher
from tune_resnet.execution.tuner import settle_unfinished_trials
from tune_resnet.hpo.study import Study
from tune_resnet.runs.directory import BASELINE, RunDirectory
from tune_resnet.runs.load import load_frames
from tune_resnet.runs.recorder import Recorder
from tune_resnet.runs.resume import History, read_history
from tune_resnet.runs.tables import ENDED, FAILED, INTERRUPTED, ending
from tune_resnet.training.metrics import NOT_FINITE

EPOCHS = 4
ENV = {"dataset_fingerprint": "abc"}


def search_spec(sampler: str = "random", seed: int = 0) -> SearchSpec:
    return SearchSpec(
        train=TrainSpec(epochs=EPOCHS, seed=seed),
        search=BudgetSpec(sampler=sampler),
        scheduler=SchedulerSpec(grace_epochs=2, reduction_factor=2, margin=0.0),
        space=NARROW_SPACE,
    )


def epoch_row(trial: int, epoch: int, max_lr: float) -> dict[str, Any]:
    quality = 0.5 + 0.4 * math.sin(40 * max_lr) + 0.02 * epoch
    return {
        "trial": trial,
        "epoch": epoch,
        "train_loss": 1.2 - quality,
        "val_loss": 1.3 - quality,
        "val_accuracy": quality,
        "test_accuracy": math.nan,
        "seconds": 0.25,
    }


class Search:
    """A search of one trial at a time without Ray and training, recorded as a real one is."""

    def __init__(self, spec: SearchSpec, path: Path) -> None:
        self.spec, self.path = spec, path
        RunDirectory.create(path, spec, ENV)
        self.proposals: list[dict[str, Any]] = []
        self.resume()

    def resume(self) -> None:
        run = RunDirectory(self.path)
        history = read_history(run, self.spec)
        write_whole(run.spec_toml, self.spec.to_toml())
        self.recorder = Recorder(run, self.spec, history.trials, history.epochs)
        history, self.scheduler = settle_unfinished_trials(self.recorder, history)
        self.searcher = OptunaSearcher(Study(self.spec, None, history), EPOCHS, self.recorder.start)

    def widen(self, **domains: Domain | Choices) -> None:
        """Resumed with a wider space."""
        self.spec = replace(self.spec, space={**self.spec.space, **domains})
        self.resume()

    def trial(self, cut_after: int | None = None) -> None:
        """The next trial; `cut_after`: the search is killed after so many epochs of it."""
        config = self.searcher.suggest("it")
        number = config["trial"]
        if number == len(self.proposals):
            self.proposals.append(config)
        assert config == self.proposals[number]
        if config["trial"] % 5 == 3:
            error = f"{NOT_FINITE} in epoch 1"
            failure = {"epoch": 0, "val_accuracy": math.nan, "failure": error}
            self.searcher.on_trial_complete("it", failure)
            self.recorder.end(number, FAILED, error)
            return
        for epoch in range(1, EPOCHS + 1):
            result = epoch_row(number, epoch, config["max_lr"])
            trial = SimpleNamespace(config={"trial": number})
            stop = self.scheduler.on_trial_result(None, trial, result) == TrialScheduler.STOP
            if epoch == EPOCHS:
                leave_model(self.recorder.run, self.recorder.trials[number], self.spec)
            if self.recorder.is_new(number, epoch):
                self.recorder.epoch(number, result)
                self.searcher.learn("it", result)
            if epoch == cut_after:
                return
            if stop or epoch == EPOCHS:
                break
        self.searcher.on_trial_complete("it", result)
        self.recorder.end(number, ending(epoch, EPOCHS, None))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_mixed_space_is_searched_as_if_unbroken_after_kills(sampler: str, tmp_path: Path) -> None:
    spec = search_spec(sampler)
    spec = replace(spec, space=MIXED, train=replace(spec.train, batch_size=90))
    unbroken, cut = Search(spec, tmp_path / "unbroken"), Search(spec, tmp_path / "cut")
    for _ in range(14):
        unbroken.trial()
    for number in range(14):
        if number % 4 == 2:
            cut.trial(cut_after=1)
            cut.resume()
        cut.trial()
    assert cut.proposals == unbroken.proposals
    for config in unbroken.proposals:
        assert all(domain.holds(config[name]) for name, domain in MIXED.items())
        assert config["optimizer"] == "sgd" or config["momentum"] == 0.9
        assert {type(config[name]) for name in ("batch_size", "crop_padding")} == {int}
    assert len({config["momentum"] for config in unbroken.proposals}) > 2
    assert {config["schedule"] for config in unbroken.proposals} == {"linear-exponential", "cosine"}
    recorded = load_frames(tmp_path / "cut").trials[list(MIXED)].to_dict("records")
    assert recorded == [{name: config[name] for name in MIXED} for config in cut.proposals]


def test_a_hyperparameter_that_a_run_begins_to_vary_was_the_references_before(tmp_path: Path) -> None:
    search = Search(search_spec(), tmp_path / "run")
    for _ in range(4):
        search.trial()
    search.widen(label_smoothing=Domain(low=0, high=0.4, log=False), optimizer=Choices(choices=("adam", "sgd")))
    assert load_frames(tmp_path / "run").trials["label_smoothing"].tolist() == [0.0] * 4
    for _ in range(4):
        search.trial()
    smoothed = load_frames(tmp_path / "run").trials["label_smoothing"]
    assert smoothed.tolist()[:4] == [0.0] * 4
    assert (smoothed[5:] > 0).all()  # the fifth is a point that says nothing of it


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for sampler in SAMPLERS:
        search = Search(search_spec(sampler), tmp_path_factory.mktemp(sampler) / "run")
        for _ in range(14):
            search.trial()
        found[sampler] = search.proposals
    return found


@pytest.mark.parametrize("sampler", SAMPLERS)
@settings(deadline=None, max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, EPOCHS), min_size=14, max_size=14))
def test_a_search_cut_off_anywhere_proposes_what_an_unbroken_one_does(
    sampler: str,
    unbroken: dict[str, list[dict[str, Any]]],
    tmp_path_factory: pytest.TempPathFactory,
    cuts: list[int],
) -> None:
    search = Search(search_spec(sampler), tmp_path_factory.mktemp("cut") / "run")
    for cut in cuts:
        if cut:
            search.trial(cut_after=cut)
            search.resume()
        if len(search.proposals) < 14 or search.recorder.trials[13].state not in ENDED:
            search.trial()
    assert search.proposals[:14] == unbroken[sampler][: len(search.proposals)]
    assert len(search.proposals) >= 10


WIDER = {"max_lr": Domain(low=1e-4, high=1.0), "grad_clip": Domain(low=1e-3, high=1.0)}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_in_a_wider_space_all_trials_are_known_and_a_search_cut_off_goes_on_as_an_unbroken_one(
    sampler: str, tmp_path: Path
) -> None:
    searches = [Search(search_spec(sampler), tmp_path / name) for name in ("unbroken", "cut")]
    cuts_of: list[list[int | None]] = [[None] * 4, [None, 1, 3, None]]
    for search, cuts in zip(searches, cuts_of, strict=True):
        for _ in range(8):
            search.trial()
        search.widen(**WIDER)
        assert len(search.searcher.study.optuna_study.trials) == 8
        for cut in cuts:
            if cut:
                search.trial(cut_after=cut)
                search.resume()
            search.trial()
    unbroken, resumed = (search.proposals for search in searches)
    assert unbroken == resumed
    for config in unbroken:
        assert all(domain.low <= config[name] <= domain.high for name, domain in {**NARROW_SPACE, **WIDER}.items())


def test_a_wider_space_is_used_and_its_study_file_is_whole(tmp_path: Path) -> None:
    search = Search(search_spec(), tmp_path / "run")
    for _ in range(6):
        search.trial()
    Study(search.spec, None, read_history(RunDirectory(search.path)), tmp_path / "study.log").close()
    search.widen(**WIDER)
    for _ in range(12):
        search.trial()
    history = read_history(RunDirectory(search.path))
    assert [row.values["max_lr"] for row in history.trials] == [config["max_lr"] for config in search.proposals]
    assert any(not NARROW_SPACE[name].low <= config[name] for config in search.proposals[6:] for name in WIDER)
    Study(search.spec, None, history, tmp_path / "study.log").close()  # in place of the narrow one's
    trials = load_study(tmp_path / "study.log").trials
    assert [trial.params["grad_clip"] for trial in trials] == [config["grad_clip"] for config in search.proposals]
    wider = optuna.distributions.FloatDistribution(1e-4, 1.0, log=True)
    assert all(trial.distributions["max_lr"] == wider for trial in trials)


def test_a_history_is_what_was_recorded(tmp_path: Path) -> None:
    search = Search(search_spec(), tmp_path / "run")
    for _ in range(3):
        search.trial()
    search.trial(cut_after=None)
    search.trial(cut_after=1)
    history = read_history(RunDirectory(tmp_path / "run"))
    assert [row.trial for row in history.trials] == [0, 1, 2, 3, 4]
    assert (history.trials[3].state, history.trials[3].error) == (FAILED, f"{NOT_FINITE} in epoch 1")
    assert history.trials[4].epochs == 1
    assert history.trials[4].val_accuracy == history.epochs[-1]["val_accuracy"]
    assert history.ended == 4
    assert history.env == ENV
    lines = (tmp_path / "run" / "trials.csv").read_text().splitlines(keepends=True)[1:5]
    assert [row.line() for row in history.trials[:4]] == lines  # written back, they are the same to the last digit


def test_a_run_that_cannot_be_continued_is_refused(tmp_path: Path) -> None:
    search = Search(search_spec(), tmp_path / "run")
    search.trial()
    search.trial()
    run = RunDirectory(tmp_path / "run")
    lines = run.trials_csv.read_text().splitlines(keepends=True)
    run.trials_csv.write_text(lines[0] + lines[2])
    with pytest.raises(RecordError, match="lacks trial 0"):
        read_history(run)
    run.trials_csv.write_text("".join(lines))
    run.env_json.unlink()
    with pytest.raises(RecordError, match="does not say which images"):
        read_history(run)
    with pytest.raises(RecordError, match="cannot repair"):
        read_history(RunDirectory(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        (
            "spec.toml",
            "\nseed = 0",
            "\nseed = 1",
            r"trials\.csv line 2: seed is 0, .* this spec\.toml it can only be 1",
        ),
        ("spec.toml", "epochs = 4", "epochs = 5", r"trials\.csv line 2: epochs is 4, .* can only be 5"),
        ("spec.toml", "epochs = 4", "epochs = 3", r"trials\.csv line 2: epochs is 4, .* can only be 0 to 3"),
        ("spec.toml", "low = 0.001", "low = 0.0099", r"trials\.csv line 3: max_lr is .* can only be 0\.0099 to 0\.1"),
        ("trials.csv", "\n0,finished,0.01", "\n0,finished,", r"line 2: max_lr is nan, .* only be 0\.001 to 0\.1"),
        ("trials.csv", "\n0,finished,0.01", "\n0,finished,0.2", r"line 2: max_lr is 0\.2, .* only be 0\.001 to"),
        ("epochs.csv", "\n0,2,", "\n0,0,", r"epochs\.csv line 3: epoch is 0, .* can only be 1 to 4"),
        ("epochs.csv", "\n0,2,", "\n0,5,", r"epochs\.csv line 3: epoch is 5, .* can only be 1 to 4"),
    ],
)
def test_records_that_do_not_belong_to_the_spec_are_refused(
    file: str, old: str, new: str, words: str, tmp_path: Path
) -> None:
    search = Search(search_spec(), tmp_path / "run")
    for _ in range(2):
        search.trial()
    path = tmp_path / "run" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(RecordError, match=words):
        read_history(RunDirectory(tmp_path / "run"))


def test_a_search_s_finished_trial_has_an_accuracy(tmp_path: Path) -> None:
    search = Search(search_spec(), tmp_path / "run")
    search.trial()
    run = RunDirectory(tmp_path / "run")
    run.write_trials([replace(search.recorder.trials[0], val_accuracy=math.nan, test_accuracy=0.5).line()])
    with pytest.raises(RecordError, match=r"trials\.csv line 2: val_accuracy is nan"):
        read_history(run)
    run.write_env({**ENV, "kind": BASELINE})
    assert read_history(run).trials[0].test_accuracy == 0.5


def test_what_ran_when_the_search_was_killed_is_proposed_first(tmp_path: Path) -> None:
    search = Search(search_spec(), tmp_path / "run")
    search.trial()
    for name in "abc":
        search.searcher.suggest(name)
    search.recorder.close()
    history = read_history(RunDirectory(tmp_path / "run"))
    assert [row.state for row in history.trials][1:] == [INTERRUPTED] * 3
    again = Study(search.spec, None, history)
    assert [again.propose()[0] for _ in range(4)] == [1, 2, 3, 4]
    assert isinstance(history, History)
