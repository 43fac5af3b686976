"""Where the best trials lie at a bound of the space, what is said of it, and the command that goes on."""

from __future__ import annotations

import io
import shlex
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from factories import SEARCH, SPEC, Build, Page, plain, searchable
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from tune_resnet.analysis import main
from tune_resnet.commands.options import parse_options
from tune_resnet.commands.summary import conclude
from tune_resnet.config.default_space import NARROW_SPACE
from tune_resnet.config.sections import BudgetSpec, ModelSpec
from tune_resnet.config.space import Choices, Domain, Space
from tune_resnet.hpo import ranking
from tune_resnet.results.edges import LOWER, UPPER, Edge, best_quarter, edge_sentences, edges, widening_commands
from tune_resnet.results.page import write_report
from tune_resnet.runs.directory import BASELINE
from tune_resnet.runs.load import load_frames
from tune_resnet.runs.tables import FINISHED, RUNNING

LOW_CLIP = NARROW_SPACE["grad_clip"].value(0.03)
HIGH_LR = NARROW_SPACE["max_lr"].value(0.96)


def found(build: Build) -> list[tuple[str, str, bool]]:
    return [(edge.name, edge.side, edge.winner) for edge in edges(build.load())]


def finish(build: Build, accuracy: float, **params: Any) -> None:
    build.trial([0.3, 0.4, 0.5, accuracy], FINISHED, **params)


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """A search whose winner, of two trials, has the least gradient clip but a little."""
    build = Build(tmp_path / "run")
    finish(build, 0.6)
    finish(build, 0.8, grad_clip=LOW_CLIP)
    return build


# --- the rule --------------------------------------------------------------------------------------------------------


def test_the_winner_may_lie_at_a_bound(build: Build) -> None:
    assert found(build) == [("grad_clip", LOWER, True)]
    finish(build, 0.9, max_lr=HIGH_LR)
    assert found(build) == [("max_lr", UPPER, True)]


def test_so_may_a_reference_that_has_won(tmp_path: Path) -> None:
    space = {"max_lr": Domain(low=0.001, high=0.01)}
    build = Build(tmp_path / "run", replace(SPEC, space=space))
    finish(build, 0.8)
    finish(build, 0.7, max_lr=0.005)
    assert found(build) == [("max_lr", UPPER, True)]


@pytest.mark.parametrize(
    ("finished", "there", "at_bound"),
    [(16, 3, True), (16, 2, False), (12, 2, True), (12, 1, False), (7, 6, False)],
)
def test_so_may_most_of_the_best_quarter_of_enough_trials(
    finished: int, there: int, at_bound: bool, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`there` of the best, the winner not among them, lie at the upper bound of max_lr."""
    monkeypatch.setattr(ranking, "estimates", lambda frames: frames.trials.set_index("trial")["val_accuracy"])
    for place in range(finished - 2):  # two are there, and lose
        finish(build, 0.99 - place / 100, max_lr=HIGH_LR if 1 <= place <= there else 0.01)
    assert found(build) == [("max_lr", UPPER, False)] * at_bound


def test_the_best_quarter_is_two_at_least() -> None:
    frames = load_frames(SEARCH.with_name("cifar10-jpeg-search-usual"))  # 7 trials have finished
    assert best_quarter(frames, 8).empty
    assert len(best_quarter(frames, 7)) == 2


def test_nothing_is_said_of_what_is_no_search_or_goes_on(build: Build, tmp_path: Path) -> None:
    build.trial([0.5], RUNNING)
    assert found(build)  # it was killed
    with build.directory.lock():
        assert found(build) == []
    build.directory.write_env({"kind": BASELINE})
    assert found(build) == []
    assert found(Build(tmp_path / "no trial")) == []


@pytest.mark.parametrize(
    ("name", "low", "high", "value", "wider"),
    [
        ("max_lr", 1e-3, 0.011, 0.0109, 0.1),
        ("max_lr", 1e-3, 20.0, 19.0, 100.0),  # the most there is
        ("max_lr", 1e-3, 100.0, 99.0, None),
        ("grad_clip", 0.0123, 1.0, 0.0123, 1e-3),
        ("grad_clip", 3e-3, 1.0, 3e-3, 2e-4),
        ("weight_decay", 1e-5, 1e-2, 1e-5, 1e-6),
        ("weight_decay", 1e-6, 1e-2, 1e-6, None),  # as good as 0
    ],
)
def test_a_bound_moves_tenfold_as_far_as_there_is_something(
    name: str, low: float, high: float, value: float, wider: float | None, tmp_path: Path
) -> None:
    space = {**NARROW_SPACE, name: Domain(low=low, high=high, log=True)}
    build = Build(tmp_path / "run", replace(SPEC, space=space))
    finish(build, 0.6)
    finish(build, 0.8, **{name: value})
    assert [edge.wider for edge in edges(build.load())] == [wider] * (wider is not None)


def test_a_bound_on_a_linear_scale_moves_by_the_width(tmp_path: Path) -> None:
    space = {"weight_decay": Domain(low=5e-5, high=1.51e-4, log=False), "max_lr": Domain(low=1e-3, high=0.1, log=False)}
    build = Build(tmp_path / "run", replace(SPEC, space=space))
    finish(build, 0.6)
    finish(build, 0.8, weight_decay=5e-5, max_lr=0.099)
    moved = {(edge.name, edge.side): edge.wider for edge in edges(build.load())}
    assert moved == {("weight_decay", LOWER): 0.0, ("max_lr", UPPER): 0.2}


@pytest.mark.parametrize(
    ("name", "domain", "value", "space"),
    [
        ("div_factor", Domain(low=2, high=100), 2, "div_factor=1:100"),
        ("div_factor", Domain(low=1, high=100), 1, None),
        ("model.width", Domain(low=8, high=64), 64, "model.width=8:500"),
        ("model.width", Domain(low=8, high=64), 8, "model.width=1:64"),
        ("crop_padding", Domain(low=0, high=8), 8, None),  # one trial in nine is there by chance
        ("crop_padding", Domain(low=0, high=10), 10, "crop_padding=0:16"),
        ("batch_size", Domain(low=100, high=1000, step=100), 100, None),
        ("batch_size", Domain(low=100, high=1000, step=100), 1000, "batch_size=100:1900"),
        ("batch_size", Domain(low=250, high=700, step=50), 250, "batch_size=50:700"),
        ("momentum", Domain(low=0.8, high=0.95, step=0.01), 0.8, "momentum=0.7:0.95"),
        ("dropout", Domain(low=0, high=0.45, step=0.05), 0.45, "dropout=0:0.9"),
    ],
)
def test_a_bound_of_any_hyperparameter_moves_to_where_it_can_be(
    name: str, domain: Domain, value: float, space: str | None, tmp_path: Path
) -> None:
    build = Build(tmp_path / "run", replace(SPEC, model=ModelSpec(width=16), space={name: domain}))
    finish(build, 0.6)
    finish(build, 0.8, **{name: value})
    commands = widening_commands(build.load())
    assert [command for command in commands if f"--space {space} --num-samples" in command] == commands
    assert len(commands) == (space is not None)
    for command in commands:
        assert parse_options(shlex.split(command)[3:]).spec.space[name].contains(domain)


def test_what_a_condition_leaves_out_lies_at_no_bound(tmp_path: Path) -> None:
    space: Space = {
        "optimizer": Choices(choices=("adam", "sgd")),
        "momentum": Domain(low=0.9, high=0.99, when="optimizer=sgd"),
    }
    build = Build(tmp_path / "run", replace(SPEC, space=space))
    finish(build, 0.8)
    assert found(build) == []
    finish(build, 0.9, optimizer="sgd", momentum=0.901)
    assert found(build) == [("momentum", LOWER, True)]


@settings(derandomize=True, deadline=None, max_examples=200)
@given(domain=searchable())
@example(domain=Domain(low=5e-324, high=1e6, log=True))
@example(domain=Domain(low=0.1, high=0.1 + 1e-16, log=False))
def test_wider_bounds_are_round_and_hold_the_domain(domain: Domain) -> None:
    low, high = domain.wider_bounds()
    if domain.log:
        assert low > 0
        for moved, exact in ((low, domain.low / 10), (high, domain.high * 10)):
            if exact > sys.float_info.min:
                assert 1 / 1.6 < moved / exact < 1.6
                assert f"{moved:e}".partition("e")[0].rstrip("0.") in ("1", "2", "5")
    else:
        assert low < domain.low < domain.high < high


# --- what is said ----------------------------------------------------------------------------------------------------

SENTENCE = "The winner is at the lower bound of grad_clip (0.01): better ones may lie beyond, in a wider space."


def test_the_sentence_says_who_lies_where() -> None:
    edge = Edge(name="grad_clip", side=LOWER, bound=0.01, wider=1e-3, winner=True)
    rate = replace(edge, name="max_lr", side=UPPER, bound=0.1)
    quarter = replace(rate, name="weight_decay", winner=False)
    assert edge_sentences([]) == []
    assert edge_sentences([edge]) == [SENTENCE]
    assert edge_sentences([edge, rate, quarter]) == [
        "The winner is at the lower bound of grad_clip (0.01) and the upper bound of max_lr (0.1), most of the best "
        "quarter of the trials are at the upper bound of weight_decay (0.1): better ones may lie beyond, in a wider "
        "space."
    ]
    assert edge_sentences([quarter])[0].startswith("Most of the best quarter of the trials are at the upper bound of")


def test_everything_says_so_and_gives_the_same_command(
    build: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"-m tune_resnet.search --resume {build.directory.path} --space grad_clip=0.001:1 --num-samples 48\n"
    printed = io.StringIO()
    conclude(build.directory, Console(file=printed, width=1000), time.time())
    assert main([str(build.directory.path)]) == 0
    page = Page(write_report([build.directory.path]))
    other = Build(tmp_path / "other").directory.path
    both = Page(write_report([build.directory.path, other], tmp_path / "both.html"))
    for text in (printed.getvalue(), capsys.readouterr().out, page.text, both.text):
        assert SENTENCE in text
        assert command in f"{text}\n"
    assert "at a bound of the space: grad_clip " in plain(build.load())


def test_a_search_whose_best_lie_inside_offers_no_wider_space(build: Build) -> None:
    finish(build, 0.9, max_lr=0.02)
    assert widening_commands(build.load()) == []
    assert "bound" not in plain(build.load())


@settings(derandomize=True, deadline=None, max_examples=10)
@given(
    domain=st.builds(Domain, low=st.floats(1e-9, 0.01), high=st.floats(0.011, 90)),
    side=st.sampled_from([0.0, 1.0]),
    trials=st.integers(2, 1000),
)
def test_the_command_is_one_that_search_takes(domain: Domain, side: float, trials: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        train = replace(SPEC.train, max_lr=domain.value(0.5))
        spec = replace(SPEC, train=train, space={"max_lr": domain}, search=BudgetSpec(num_samples=trials))
        build = Build(Path(folder) / "a run", spec)
        finish(build, 0.5)
        finish(build, 0.8, max_lr=domain.value(side))
        (command,) = widening_commands(build.load())
        resumed = parse_options(shlex.split(command)[3:])
        assert resumed.resume == build.directory.path
        assert resumed.spec.space["max_lr"].contains(domain)
        assert resumed.spec.space["max_lr"] != domain
        assert 1.5 * trials <= resumed.spec.search.num_samples < 1.5 * trials + 1


def test_the_command_names_a_network_of_ones_own(build: Build) -> None:
    frames = build.load()
    own = replace(frames, spec=replace(frames.spec, model=ModelSpec(factory="nets:small")))
    assert widening_commands(own)[0].endswith(" --num-samples 48 --model nets:small")
