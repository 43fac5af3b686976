"""What a search can vary: numbers, whole numbers, choices, conditions; in files, on the command line, in Python."""

from __future__ import annotations

import tomllib
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from factories import MIXED
from hypothesis import given, settings
from hypothesis import strategies as st

from tune_resnet.commands.options import parse_options
from tune_resnet.config.default_space import NARROW_SPACE, default_space
from tune_resnet.config.hyperparameters import HYPERPARAMETERS
from tune_resnet.config.sections import SCHEDULES, TrainSpec
from tune_resnet.config.space import Choices, Domain, Space
from tune_resnet.config.spec import SearchSpec, check_grown
from tune_resnet.config.toml import spec_from_tables
from tune_resnet.config.validation import SpecError
from tune_resnet.hpo.study import Study

SPEC = SearchSpec(train=TrainSpec(batch_size=90), space=MIXED)
REFERENCE: dict[str, Any] = {
    "max_lr": 0.01, "batch_size": 90, "crop_padding": 4, "schedule": "linear-exponential", "decoupled_decay": False,
    "optimizer": "adam", "momentum": 0.9, "model.width": 64, "data.flip": True,
}  # fmt: skip


def test_a_mixed_space_is_the_same_in_python_and_in_a_file() -> None:
    assert spec_from_tables(tomllib.loads(SPEC.to_toml())) == SPEC
    assert SPEC.reference == REFERENCE
    assert SPEC.hyperparameters == ("max_lr", "weight_decay", "grad_clip", *list(MIXED)[1:])


def test_a_file_needs_to_say_only_what_is_not_usual() -> None:
    space = spec_from_tables(
        tomllib.loads(
            """
            [space]
            max_lr = { low = 1e-3, high = 0.1 }
            dropout = { low = 0, high = 0.5 }
            batch_size = { choices = [100, 400] }
            """
        )
    ).space
    assert space == {
        "max_lr": Domain(low=1e-3, high=0.1, log=True),
        "dropout": Domain(low=0, high=0.5, log=False),
        "batch_size": Choices(choices=(100, 400)),
    }


OWN = """
points_to_evaluate = [{ model.args.depth = 3, max_lr = 0.02 }]
[model]
factory = "nets:small"
args = { hidden = 128, depth = 2, slope = 0.1, norm = "batch", bias = true }
[space]
data.flip = { choices = [true, false] }
[space.model.args]
hidden = { low = 64, high = 256 }
depth = { low = 1, high = 4, log = false }
slope = { low = 0, high = 0.5 }
norm = { choices = ["batch", "group"] }
bias = { choices = [true, false], when = "model.args.norm=group" }
"""


def test_arguments_of_ones_own_network_are_hyperparameters() -> None:
    spec = spec_from_tables(tomllib.loads(OWN))
    assert spec.space == {
        "data.flip": Choices(choices=(True, False)),
        "model.args.hidden": Domain(low=64, high=256, log=True),
        "model.args.depth": Domain(low=1, high=4, log=False),
        "model.args.slope": Domain(low=0, high=0.5, log=False),  # there is no logarithm of 0
        "model.args.norm": Choices(choices=("batch", "group")),
        "model.args.bias": Choices(choices=(True, False), when="model.args.norm=group"),
    }
    assert spec_from_tables(tomllib.loads(spec.to_toml())) == spec
    assert list(spec.kinds.values())[-6:] == [bool, int, int, float, str, bool]
    assert spec.points_to_evaluate == ({"model.args.depth": 3, "max_lr": 0.02},)
    assert "model.args.bias" not in spec.varied(spec.reference)
    other = spec.configured({"model.args.hidden": 64, "data.flip": False, "max_lr": 0.03})
    assert other.model.args == {**spec.model.args, "hidden": 64}
    assert (other.data.flip, other.train.max_lr, other.model.factory) == (False, 0.03, "nets:small")


def test_they_are_given_on_the_command_line_too() -> None:
    words = "--model nets:small --model-args hidden=128 norm=batch bias=true slope=1e-2"
    space = "--space model.width=1:8 model.args.hidden=64:256 model.args.norm=batch,group model.args.bias=true,false"
    spec = parse_options([*words.split(), *space.replace("model.width=1:8 ", "").split()]).spec
    assert spec.model.args == {"hidden": 128, "norm": "batch", "bias": True, "slope": 0.01}
    assert spec.space["model.args.hidden"] == Domain(low=64, high=256, log=True)
    assert spec.space["model.args.norm"] == Choices(choices=("batch", "group"))
    assert spec.space["model.args.bias"] == Choices(choices=(True, False))
    with pytest.raises(SpecError, match=r"space\.model\.width: model\.width is a setting of ResNet9 only"):
        parse_options([*words.split(), *space.split()])


def test_a_resumed_run_keeps_the_arguments_of_its_network(tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text(OWN)
    assert parse_options(["--resume", str(tmp_path), "--model", "nets:small"]).spec.model.args["hidden"] == 128


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("hidden = { low = 200, high = 256 }", "space.model.args.hidden = [200.0, 256.0] must contain the reference"),
        ("hidden = { low = 1.5, high = 256 }", "space.model.args.hidden: model.args.hidden must be a whole number"),
        ("norm = { low = 1, high = 2 }", "space.model.args.norm needs choices: its values are not numbers"),
        ("norm = { choices = ['batch', 3] }", "space.model.args.norm: model.args.norm must be a string, got 3"),
        ("width = { low = 1, high = 2 }", "model.args.width must be given, because the search varies it"),
        (
            "depth = { low = 1, high = 4 }\n[space.dropout]\nlow = 0\nhigh = 0.5",
            "space.dropout: train.dropout is a setting",
        ),
    ],
)
def test_a_domain_of_an_argument_that_cannot_be_is_one_line(changes: str, message: str) -> None:
    text = OWN[: OWN.index("hidden = { low")] + changes
    with pytest.raises(SpecError) as caught:
        spec_from_tables(tomllib.loads(text))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"args": {"a": 1}}, "model.args are arguments of a network of your own, which model.factory names"),
        ({"factory": "a:b", "args": 3}, "model.args must be a table, got 3"),
        ({"factory": "a:b", "args": {"a b": 3}}, "model.args must have names for keys, got 'a b'"),
        ({"factory": "a:b", "args": {"a": [3]}}, "model.args.a must be a number, a string, true or false, got a list"),
        ({"factory": "a:b", "args": {"a": 10**30}}, "model.args.a must fit in 64 bits"),
    ],
)
def test_arguments_that_cannot_be_are_one_line(model: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec_from_tables({"model": model})
    assert str(caught.value).startswith(message)


def test_the_command_line_adds_to_the_space_and_changes_bounds() -> None:
    words = (
        "max_lr=1e-3:1 batch_size=100,200,400 dropout=0:0.5 schedule=cosine,linear-exponential "
        "decoupled_decay=true,false"
    )
    assert parse_options(["--space", *words.split()]).spec.space == {
        **default_space(TrainSpec()),
        "max_lr": Domain(low=1e-3, high=1, log=True),
        "batch_size": Choices(choices=(100, 200, 400)),
        "dropout": Domain(low=0, high=0.5, log=False),
        "schedule": Choices(choices=("cosine", "linear-exponential")),
        "decoupled_decay": Choices(choices=(True, False)),
    }


def test_the_default_space_has_the_reference_in_it_and_leaves_alone_what_has_settings_of_its_own() -> None:
    assert SearchSpec().space == {
        **NARROW_SPACE,
        "batch_size": Choices(choices=(50, 100, 200, 400)),
        "momentum": Domain(low=0.8, high=0.98, log=False),
        "crop_padding": Domain(low=0, high=4, log=False),
        "schedule": Choices(choices=SCHEDULES),
    }
    moved = TrainSpec(max_lr=0.5, weight_decay=0, batch_size=20, momentum=0.99, crop_padding=6, peak_at=0.4)
    assert SearchSpec(train=moved).space == {
        "max_lr": Domain(low=1e-3, high=0.5, log=True),
        "grad_clip": NARROW_SPACE["grad_clip"],
        "batch_size": Choices(choices=(10, 20)),
        "momentum": Domain(low=0.8, high=0.99, log=False),
        "crop_padding": Domain(low=0, high=6, log=False),
    }
    few = SearchSpec(train=TrainSpec(batch_size=8, momentum_at_peak=0.85, crop_padding=0, final_div_factor=100))
    assert few.space == NARROW_SPACE


@pytest.mark.parametrize("space", [SearchSpec().space, {"max_lr": Domain(low=1 / 300, high=0.1, log=True)}, MIXED])
def test_a_space_in_words_is_what_the_command_line_takes(space: Space) -> None:
    said = [f"{name}={domain.words}" for name, domain in space.items()]
    others = [f"{name}=fixed" for name in SearchSpec().space if name not in space]
    found = parse_options(["--batch-size", "90" if space is MIXED else "400", "--space", *said, *others]).spec.space
    plain = {name: replace(domain, when=None) for name, domain in space.items()}  # a condition needs a file
    assert found == SearchSpec(space=plain, train=TrainSpec(batch_size=90 if space is MIXED else 400)).space


def test_the_command_line_takes_from_the_space(tmp_path: Path) -> None:
    seven = list(SearchSpec().space)
    assert list(parse_options(["--space", "batch_size=fixed", "momentum=fixed"]).spec.space) == [
        name for name in seven if name not in ("batch_size", "momentum")
    ]
    assert parse_options(["--batch-size", "64", "--space", "max_lr=1e-3:1"]).spec.space == {
        **default_space(TrainSpec(batch_size=64)),
        "max_lr": Domain(low=1e-3, high=1, log=True),
    }
    (tmp_path / "a.toml").write_text("[train]\nbatch_size = 64\n")
    words = ["--experiment", str(tmp_path / "a.toml"), "--batch-size", "32", "--space", "schedule=fixed"]
    assert parse_options(words).spec.space["batch_size"] == Choices(choices=(8, 16, 32))
    with pytest.raises(SpecError, match="--space leaves nothing to vary"):
        parse_options(["--space", *(f"{name}=fixed" for name in seven)])
    with pytest.raises(SpecError, match="dropout is not varied, so it need not be fixed; the space is max_lr, weight"):
        parse_options(["--space", "dropout=fixed"])
    with pytest.raises(SpecError, match="argument --space: 'depth=fixed' is not NAME=LOW:HIGH"):
        parse_options(["--space", "depth=fixed"])


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"epochs": {"low": 1, "high": 9}}, "unknown hyperparameter space.epochs"),
    ({"schedule": {"low": 1, "high": 9}}, "space.schedule needs choices: its values are not numbers"),
    ({"schedule": {"choices": ["cosine", "triangle"]}}, "space.schedule: train.schedule must be one of"),
    ({"batch_size": {"choices": [100, 200]}}, "space.batch_size = [100, 200] must contain the reference"),
    ({"batch_size": {"choices": [400]}}, "space.batch_size: space choices must be two different values or more"),
    ({"batch_size": {"choices": [400, 400]}}, "space.batch_size: space choices must be two different values"),
    ({"batch_size": {"choices": "400"}}, "space.batch_size: choices must be a list of numbers, strings or booleans"),
    ({"grad_clip": {"low": 0.01, "high": 1, "prior": 2}}, "space.grad_clip: space prior must lie between low and high"),
    ({"batch_size": {"choices": [400, 0]}}, "space.batch_size: train.batch_size must be at least 1, got 0"),
    ({"batch_size": {"choices": [400, 1.5]}}, "space.batch_size: train.batch_size must be a whole number, got 1.5"),
    ({"batch_size": {"choices": [1, 400], "log": True}}, "space.batch_size: log does not go with choices"),
    ({"crop_padding": {"low": 0.5, "high": 8}}, "space.crop_padding: train.crop_padding must be a whole number"),
    ({"width": {"low": 8, "high": 64}}, "unknown hyperparameter space.width (did you mean 'model.width'?)"),
    ({"model": {"width": {"low": 8, "high": 32}}}, "space.model.width = [8.0, 32.0] must contain the reference"),
    ({"data": {"flip": {"low": 8, "high": 32}}}, "space.data.flip needs choices: its values are not numbers"),
    ({"data": {"dataset": {"choices": ["a", "b"]}}}, "unknown hyperparameter space.data.dataset"),
    ({"peak_at": {"low": 0.6, "high": 0.9}}, "space.peak_at = [0.6, 0.9] must contain the reference train.peak_at ="),
    ({"batch_size": {"low": 100, "high": 850, "step": 100}}, "space.batch_size: space step must divide the way from"),
    ({"dropout": {"low": 0, "high": 0.4, "step": 0}}, "space.dropout: space step must divide the way from low to high"),
    ({"dropout": {"low": 0, "high": 0.4, "step": 1e-30}}, "space.dropout: space step must divide the way from low to"),
    ({"dropout": {"low": 0.1, "high": 0.4, "step": 0.1, "log": True}}, "space.dropout: space step goes with a linear"),
    ({"crop_padding": {"low": 0, "high": 8, "step": 0.5}}, "space.crop_padding: step must be a whole number, got 0.5"),
    ({"batch_size": {"low": 150, "high": 550, "step": 100}}, "space.batch_size = [150.0, 550.0] in steps"),
    ({"max_lr": 3}, "space.max_lr: it needs a table with low and high, or choices, got 3"),
    (
        {"max_lr": {"low": 1e-3, "high": 0.1}, "momentum": {"low": 0.8, "high": 0.99, "when": "max_lr=0.05"}},
        "space.momentum: when must be NAME=VALUE of another hyperparameter of the space, with a choice or",
    ),
    ({"weight_decay": {"low": 0, "high": 1}}, "space.weight_decay: space low must be greater than 0 on a log"),
    ({"momentum": {"low": 0.8, "high": 0.99, "when": "optimizer=sgd"}}, "space.momentum: when must be NAME=VALUE"),
    (
        {"optimizer": {"choices": ["adam", "sgd"]}, "momentum": {"low": 0.8, "high": 0.99, "when": "optimizer=lion"}},
        "space.momentum: when must be NAME=VALUE of another hyperparameter of the space, with a choice or a whole "
        "number, got optimizer=lion",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("space", "message"), WRONG)
def test_a_domain_that_cannot_be_is_one_line(space: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec_from_tables({"space": space})
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"max_lr": (1e-3, 1e-1)}, "space.max_lr must be a Domain or Choices, got (0.001, 0.1)"),
        (7, "space must be a mapping of hyperparameters to domains, got 7"),
    ],
)
def test_what_is_no_space_in_python_is_one_line(space: Any, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        SearchSpec(space=space)
    assert str(caught.value) == message


@pytest.mark.parametrize("settings", [{"choices": (400, [1])}, {"choices": 5}, {"choices": (1, 2), "when": 3}])
def test_what_are_no_choices_in_python_is_one_line(settings: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"^(choices must be a list of numbers|space\.when must be a string)"):
        Choices(**settings)


def test_the_scale_is_the_same_in_python_as_in_a_file() -> None:
    space = SearchSpec(space={"max_lr": Domain(low=1e-3, high=0.1), "dropout": Domain(low=0.1, high=0.5)}).space
    assert space == {
        "max_lr": Domain(low=1e-3, high=0.1, log=True),
        "dropout": Domain(low=0.1, high=0.5, log=False),
    }


def test_a_domain_may_have_steps() -> None:
    given = parse_options(["--space", "batch_size=100:800:100", "dropout=0:0.5:0.1"]).spec
    batches, shares = given.space["batch_size"], given.space["dropout"]
    assert batches == Domain(low=100, high=800, step=100, log=False)
    assert spec_from_tables(tomllib.loads(given.to_toml())) == given
    assert [value for value in range(900) if batches.holds(value)] == [100, 200, 300, 400, 500, 600, 700, 800]
    assert shares.holds(0.1 + 0.1 + 0.1)
    assert isinstance(shares, Domain)
    assert {round(shares.value(share / 50), 9) for share in range(51)} == {0, 0.1, 0.2, 0.3, 0.4, 0.5}
    study = Study(replace(given, points_to_evaluate=()))
    proposed = [study.propose()[1] for _ in range(12)]
    assert all(batches.holds(one["batch_size"]) and shares.holds(one["dropout"]) for one in proposed)
    assert len({one["batch_size"] for one in proposed}) > 3


def test_what_a_schedule_has_of_its_own_is_the_reference() -> None:
    names = "peak_at=0.1:0.9", "momentum_at_peak=0.8:0.95", "final_div_factor=10:1e6"
    reference = parse_options(["--space", *names]).spec.reference
    assert [reference[name.partition("=")[0]] for name in names] == [0.5, 0.9, 25]
    reference = parse_options(["--schedule", "cosine", "--space", *names]).spec.reference
    assert [reference[name.partition("=")[0]] for name in names] == [0.3, 0.9, 25e4]
    with pytest.raises(SpecError, match=r"train\.final_div_factor must be given, because the search varies it"):
        parse_options(["--schedule", "linear", "--space", *names])


def test_what_is_under_a_condition_is_varied_only_where_it_holds() -> None:
    assert "momentum" not in SPEC.varied(REFERENCE)
    assert SPEC.varied({**REFERENCE, "optimizer": "sgd"}) == list(MIXED)
    points = replace(SPEC, points_to_evaluate=({"momentum": 0.95}, {"momentum": 0.95, "optimizer": "sgd"})).first_points
    assert points == [REFERENCE, {**REFERENCE, "optimizer": "sgd", "momentum": 0.95}]  # the first says nothing new


def grow(before: Space, space: Space) -> None:
    check_grown(replace(SPEC, space=before), replace(SPEC, space=space))


def test_choices_grow_as_intervals_do() -> None:
    more = {**MIXED, "batch_size": Choices(choices=(45, 90, 180, 360))}
    grow(MIXED, more)
    grow(MIXED, {**MIXED, "dropout": Domain(low=0, high=0.5, log=False)})
    steps = {"batch_size": Domain(low=90, high=890, step=80)}
    for domain in (replace(steps["batch_size"], high=970), Domain(low=10, high=890, step=40), Domain(low=9, high=900)):
        grow(steps, {"batch_size": domain})
    for domain in (replace(steps["batch_size"], step=160), replace(steps["batch_size"], step=50)):
        with pytest.raises(SpecError, match="a run's space can only grow"):
            grow(steps, {"batch_size": domain})
    with pytest.raises(SpecError, match="--space batch_size must contain 45,90,180,360: a run's space can only grow"):
        grow(more, MIXED)


@pytest.mark.parametrize(
    ("name", "varied"), [("peak_at", "schedule"), ("final_div_factor", "schedule"), ("momentum_at_peak", "momentum")]
)
def test_what_followed_another_hyperparameter_cannot_be_varied_later(name: str, varied: str) -> None:
    schedule, momentum = Choices(choices=("linear-exponential", "cosine")), Domain(low=0.8, high=0.95)
    before: dict[str, Space] = {"schedule": {"schedule": schedule}, "momentum": {"momentum": momentum}}
    new = {name: Domain(low=1.0, high=30.0) if name == "final_div_factor" else Domain(low=0.2, high=0.95)}
    for other, space in before.items():
        with nullcontext() if other != varied else pytest.raises(SpecError, match=f"{name} is too late for this run"):
            grow(space, {**space, **new})
    given = replace(SPEC, train=SPEC.configured({name: 0.9 if name != "final_div_factor" else 9.0}).train)
    check_grown(replace(given, space=before[varied]), replace(given, space={**before[varied], **new}))  # all had that


values = st.one_of(st.booleans(), st.integers(-5, 500), st.floats(-1, 2), st.sampled_from(["sgd", "cosine", "", "x y"]))
tables = st.one_of(
    st.fixed_dictionaries(
        {"low": values, "high": values}, optional={"log": values, "step": values, "when": st.text(max_size=20)}
    ),
    st.fixed_dictionaries({"choices": st.lists(values, max_size=4)}, optional={"when": st.text(max_size=20)}),
    values,
)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(space=st.dictionaries(st.sampled_from(HYPERPARAMETERS), tables, max_size=3))
def test_any_table_is_a_space_that_holds_the_reference_or_a_one_line_error(space: dict[str, Any]) -> None:
    try:
        spec = spec_from_tables({"space": space})
    except SpecError as error:
        message = str(error)
        spec = SearchSpec()
    else:
        message = ""
    assert "\n" not in message
    assert spec_from_tables(tomllib.loads(spec.to_toml())) == spec
    for name, value in spec.reference.items():
        assert spec.space[name].holds(value)
        assert type(value) is spec.kind(name)
