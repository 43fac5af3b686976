"""Settings: the reference values, TOML in and out, and every mistake answered with one line that names the setting."""

from __future__ import annotations

import math
import re
import types
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import tomli_w
from factories import searchable
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tune_resnet.config.default_space import NARROW_SPACE, POINTS_TO_EVALUATE, default_space
from tune_resnet.config.sections import TUNABLE, BudgetSpec, DataSpec, ModelSpec, ResourceSpec, SchedulerSpec, TrainSpec
from tune_resnet.config.space import Choices, Domain, Space
from tune_resnet.config.spec import SearchSpec
from tune_resnet.config.toml import load_spec, spec_from_tables
from tune_resnet.config.validation import SpecError

SECTIONS = {s.section: s for s in (DataSpec, ModelSpec, TrainSpec, BudgetSpec, SchedulerSpec, ResourceSpec)}
SETTINGS = {
    f"{section.section}.{item.name}": (item, get_type_hints(section)[item.name])
    for section in SECTIONS.values()
    for item in fields(section)
    if item.name != "args"  # a table of its own
}

many = settings(derandomize=True, deadline=None, max_examples=150)


def tables_with(name: str, value: Any) -> dict[str, Any]:
    section, key = name.split(".")
    return {section: {key: value}}


def message_of(tables: dict[str, Any]) -> str:
    with pytest.raises(SpecError) as caught:
        spec_from_tables(tables)
    return str(caught.value)


def result_of(read: Callable[..., SearchSpec], source: Any) -> SearchSpec | str:
    """The spec, or the message of the SpecError; any other exception is the caller's failure."""
    try:
        return read(source)
    except SpecError as error:
        return str(error)


def is_one_line(message: str) -> bool:
    return message.isprintable() and bool(message.strip())


# --- the reference ---------------------------------------------------------------------------------------------------


def test_the_defaults_are_the_reference() -> None:
    spec = SearchSpec()
    train = spec.train
    assert (train.max_lr, train.weight_decay, train.grad_clip, train.epochs) == (0.01, 1e-4, 0.1, 8)
    assert (train.batch_size, train.schedule, spec.model.width) == (400, "linear-exponential", 64)
    assert spec.reference == {
        "max_lr": 0.01,
        "weight_decay": 1e-4,
        "grad_clip": 0.1,
        "batch_size": 400,
        "momentum": 0.9,
        "crop_padding": 4,
        "schedule": "linear-exponential",
    }


def test_an_empty_file_is_the_default_spec(tmp_path: Path) -> None:
    (tmp_path / "empty.toml").write_bytes(b"")
    assert load_spec(tmp_path / "empty.toml") == SearchSpec() == spec_from_tables({})


def test_the_space_table_lists_all_that_varies() -> None:
    spec = spec_from_tables({"space": {"grad_clip": {"low": 0.01, "high": 10}}})
    assert spec.space == {"grad_clip": Domain(low=0.01, high=10.0, log=True)}
    assert spec.reference == {"grad_clip": 0.1}


def test_without_a_space_table_the_default_space_is_searched() -> None:
    for tables in ({"train": {"epochs": 3}}, {"train": {"epochs": 3}, "space": {}}):
        assert spec_from_tables(tables).space == default_space(TrainSpec())


def test_a_written_spec_spells_out_every_setting_that_has_a_value() -> None:
    text = SearchSpec().to_toml()
    for name, (item, _) in SETTINGS.items():
        assert bool(re.search(rf"^{item.name} = ", text, re.MULTILINE)) or item.default is None, name


# --- round trip ------------------------------------------------------------------------------------------------------

NASTY = (
    "",
    " ",
    "\n",
    "\r",
    "\r\n",
    "a\tb",
    '"',
    "'",
    "'''",
    '"""',
    "\\",
    "\\n",
    "#",
    "[x]",
    "a = 1",
    "é漢🙂",
    "\x00\x7f",
)
strings = st.sampled_from(NASTY) | st.text()
paths = strings.filter(lambda text: text and "\0" not in text)
identifiers = st.from_regex(r"[^\W\d]\w*", fullmatch=True).filter(str.isidentifier)
factories = st.builds("{}:{}".format, st.lists(identifiers, min_size=1, max_size=3).map(".".join), identifiers)
names = paths.filter(lambda text: text not in (".", "..") and not set(text) & {"/", "\\"})


def values_of(name: str, *, toml: bool = False) -> st.SearchStrategy[Any]:
    """Every value that a setting may take; with `toml`, without None, which a file cannot say."""
    item, hint = SETTINGS[name]
    kinds = hint.__args__ if isinstance(hint, types.UnionType) else (hint,)
    limits = item.metadata
    low, high = limits.get("ge", limits.get("gt")), limits.get("le")
    if "choices" in limits:
        return st.sampled_from(limits["choices"])
    if bool in kinds:
        return st.booleans()
    if str in kinds:
        values: st.SearchStrategy[Any] = {"search.name": names, "model.factory": factories}.get(name, paths)
    elif int in kinds:
        values = st.integers(low, high if high is not None else 2**63 - 1)
    else:
        values = st.floats(low, high, exclude_min="gt" in limits, allow_nan=False, allow_infinity=False)
        if name == "resources.gpus_per_trial":
            values = values.map(lambda gpus: float(round(gpus)) if gpus > 1 else gpus)
    return values | st.none() if types.NoneType in kinds and not toml else values


def sections(cls: Any) -> st.SearchStrategy[Any]:
    if cls is ModelSpec:
        arguments = st.dictionaries(identifiers, st.booleans() | st.integers(-9, 9) | st.floats(-1e9, 1e9) | paths)
        own = st.builds(cls, factory=factories, args=arguments)
        return st.builds(cls, width=values_of("model.width")) | own
    return st.builds(cls, **{item.name: values_of(f"{cls.section}.{item.name}") for item in fields(cls)})


@many
@given(sections(TrainSpec))
def test_any_reference_has_a_default_space(train: TrainSpec) -> None:
    spec = SearchSpec(train=train)
    assert spec.space == default_space(train)
    assert SearchSpec(train=train, space={}) == spec
    assert "space" not in repr(spec)


@st.composite
def domains(draw: st.DrawFn, name: str, reference: float) -> Domain:
    """A domain, log or linear, within the setting's limits, that contains the reference."""
    limits = SETTINGS[f"train.{name}"][0].metadata
    log = draw(st.booleans()) and reference > 0
    low = draw(st.floats(0, reference, exclude_min="gt" in limits or log) | st.just(reference))
    high = draw(st.floats(reference, limits["le"], exclude_min=low == reference))
    return Domain(low=low, high=high, log=log)


@st.composite
def specs(draw: st.DrawFn) -> SearchSpec:
    parts = {name: draw(sections(cls)) for name, cls in SECTIONS.items()}
    if parts["data"].dataset == "folder" and parts["data"].data_dir is None:
        parts["data"] = replace(parts["data"], data_dir=draw(paths))
    varied = draw(st.lists(st.sampled_from(TUNABLE), min_size=1, unique=True))
    train = replace(parts["train"], **{name: min(getattr(parts["train"], name), 9.0) for name in TUNABLE})
    space = {name: draw(domains(name, getattr(train, name))) for name in varied}
    return SearchSpec(**{**parts, "train": train}, space=space)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spec") / "spec.toml"


@settings(many, max_examples=60)
@given(spec=specs())
def test_a_spec_written_to_toml_and_read_back_is_the_same(spec: SearchSpec, scratch: Path) -> None:
    scratch.write_bytes(spec.to_toml().encode())
    again = load_spec(scratch)
    assert again == spec
    assert list(again.space) == list(spec.space)  # the order too: samplers draw in it
    assert again.to_toml() == spec.to_toml()


# --- mistakes --------------------------------------------------------------------------------------------------------

TINY = 5e-324
SEED = 2**32 - 1
# for every numeric setting: the least and greatest value that is allowed, and values just outside
LIMITS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "data.image_size": ((32, 512), (31, 0, -32, 513)),
    "data.limit_train": ((4, 2**63 - 1), (3, 0, -1, 2**63)),
    "data.validation_fraction": ((TINY, 0.9), (0, -0.0, 0.9000001, 1)),
    "data.split_seed": ((0, SEED), (-1, SEED + 1)),
    "model.width": ((1, 1024), (0, 1025)),
    "train.max_lr": ((TINY, 100), (0, -0.01, 100.1)),
    "train.weight_decay": ((0, 10), (-TINY, -1, 10.1)),
    "train.grad_clip": ((TINY, 1e6), (0, -0.1, 1000001)),
    "train.epochs": ((1, 10_000), (0, -8, 10_001)),
    "train.batch_size": ((1, 100_000), (0, 100_001)),
    "train.peak_at": ((TINY, 0.9999), (0, 1, 1.5)),
    "train.div_factor": ((1, 1e6), (0.9, 1e7)),
    "train.final_div_factor": ((1, 1e12), (0.9, 1e13)),
    "train.momentum": ((TINY, 0.9999), (0, 1)),
    "train.momentum_at_peak": ((TINY, 0.9999), (0, 1)),
    "train.label_smoothing": ((0, 0.9), (-0.1, 1)),
    "train.dropout": ((0, 0.95), (-0.1, 1)),
    "train.crop_padding": ((0, 16), (-1, 17)),
    "train.cutout": ((0, 31), (-1, 32)),
    "train.ema_decay": ((0, 0.9999), (-0.1, 1)),
    "train.seed": ((0, SEED), (-1, SEED + 1)),
    "search.num_samples": ((1, 1_000_000), (0, 1_000_001)),
    "search.time_budget": ((TINY, 1e308), (0, -60)),
    "search.max_retries": ((0, 1000), (-1, 1001)),
    "search.epoch_timeout": ((TINY, 1e308), (0, -60)),
    "scheduler.grace_epochs": ((1, 2**63 - 1), (0,)),
    "scheduler.reduction_factor": ((1.0000001, 1000), (1, 0, 1000.1)),
    "scheduler.margin": ((0, 1e308), (-0.01,)),
    "resources.cpus_per_trial": ((TINY, 4096), (0, -1, 4097)),
    "resources.gpus_per_trial": ((0, 64), (-0.5, 65)),
    "resources.max_concurrent": ((1, 2**63 - 1), (0, -1)),
}
CHOICES = [name for name, (item, _) in SETTINGS.items() if "choices" in item.metadata]
NUMBERS = list(LIMITS)
WHOLE = [name for name in NUMBERS if "int" in str(SETTINGS[name][1])]
STRINGS = [name for name, (_, hint) in SETTINGS.items() if "str" in str(hint)]
FLAGS = [name for name, (_, hint) in SETTINGS.items() if "bool" in str(hint)]
# `train` defaults must stay inside the space when one of the three is moved to the end of its range
NARROW = {"space": {"grad_clip": {"low": TINY, "high": 1e6}, "max_lr": {"low": TINY, "high": 100}}}


def test_every_numeric_setting_is_in_the_table_of_limits() -> None:
    assert set(SETTINGS) == {*NUMBERS, *STRINGS, *FLAGS}


@pytest.mark.parametrize("name", NUMBERS)
def test_the_ends_of_a_range_are_allowed(name: str) -> None:
    section, key = name.split(".")
    for value in LIMITS[name][0]:
        spec = spec_from_tables({**tables_with(name, value), **NARROW})
        assert getattr(getattr(spec, section), key) == value


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in NUMBERS for value in LIMITS[name][1]])
def test_a_value_out_of_range_is_an_error_that_names_the_setting_and_the_value(name: str, value: float) -> None:
    message = message_of(tables_with(name, value))
    assert message.startswith(f"{name} must ")
    assert f"got {value}" in message or value == 2**63
    assert is_one_line(message)


def wrong_types() -> list[tuple[str, Any]]:
    containers: list[Any] = [[], [1], {}, {"low": 1}]
    not_numbers = [True, "8", "", None, *containers]
    return [
        *((name, value) for name in NUMBERS for value in not_numbers if value is not None or not is_optional(name)),
        *((name, value) for name in NUMBERS for value in (math.nan, math.inf, -math.inf, 10**400, -(10**400))),
        *((name, 8.0) for name in WHOLE),
        *((name, value) for name in STRINGS for value in (True, 3, 0.5, 10**5000, *containers)),
        *((name, value) for name in FLAGS for value in (0, 1, "true", 0.0, None, *containers)),
    ]


def is_optional(name: str) -> bool:
    return "None" in str(SETTINGS[name][1])


@pytest.mark.parametrize(("name", "value"), wrong_types(), ids=lambda value: str(type(value).__name__))
def test_a_value_of_the_wrong_type_is_an_error_that_names_the_setting(name: str, value: Any) -> None:
    message = message_of(tables_with(name, value))
    assert message.startswith(f"{name} must ")
    assert is_one_line(message)
    assert len(message) < 200


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_that_is_nearly_right_is_answered_with_the_right_one(name: str) -> None:
    right = SETTINGS[name][0].metadata["choices"][-1]
    message = message_of(tables_with(name, right.upper()[0] + right[1:] + "\n"))
    assert message.startswith(f"{name} must be one of ")
    assert f"did you mean {right!r}?" in message
    assert is_one_line(message)


@pytest.mark.parametrize(
    ("tables", "named", "meant"),
    [
        ({"trian": {}}, "[trian]", "train"),
        ({"Space": {}}, "[Space]", "space"),
        ({"resource": {}}, "[resource]", "resources"),
        ({"search": {"epochs": 8}}, "search.epochs", "train.epochs"),
        ({"train": {"num_samples": 8}}, "train.num_samples", "search.num_samples"),
        ({"epochs": 8}, "[epochs]", "train.epochs"),
        ({"train": {"epoch": 8}}, "train.epoch", "epochs"),
        ({"train": {"learning_rate": 0.1, "max_lr": 0.1}}, "train.learning_rate", "max_lr"),
        ({"data": {"validation-fraction": 0.1}}, "data.validation-fraction", "validation_fraction"),
        ({"search": {"sample\nr": 1}}, "search.sample\\nr", "sampler"),
        ({"space": {"maxlr": {"low": 1e-3, "high": 1e-1}}}, "space.maxlr", "max_lr"),
        ({"space": {"temperature": {"low": 0.5, "high": 0.9}}}, "space.temperature", None),
        ({"space": {"epochs": {"low": 1, "high": 9}}}, "space.epochs", None),
        ({"space": {"max_lr": {"low": 1e-3, "hihg": 1e-1}}}, "space.max_lr", "high"),
        ({"zzz": 1}, "[zzz]", None),
        ({"": 1}, "[]", None),
        ({"a\nb\x00\u2028": 1}, "[a\\nb\\x00\\u2028]", None),
    ],
)
def test_an_unknown_name_is_an_error_with_the_nearest_known_name(
    tables: dict[str, Any], named: str, meant: str | None
) -> None:
    message = message_of(tables)
    assert named in message
    assert is_one_line(message)
    assert ("did you mean" in message) == (meant is not None)
    assert meant is None or f"did you mean {meant!r}?" in message


@pytest.mark.parametrize("section", [*SECTIONS, "space"])
@pytest.mark.parametrize("value", [1, "x", True, [], [{}], None], ids=str)
def test_a_section_that_is_no_table_is_an_error(section: str, value: Any) -> None:
    assert message_of({section: value}).startswith(f"{section} must be a table")


LR = {"low": 1e-3, "high": 1e-1}


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"max_lr": 1}, "space.max_lr: it needs a table with low and high, or choices, got 1"),
        ({"max_lr": {}}, "space.max_lr: it needs both low and high, or choices"),
        ({"max_lr": {"low": 1e-3}}, "space.max_lr: it needs both low and high, or choices"),
        ({"max_lr": {**LR, "log": 1}}, "space.max_lr: space.log must be true or false, got 1"),
        ({"max_lr": {**LR, "low": "0"}}, "space.max_lr: space.low must be a number, got '0'"),
        ({"max_lr": {**LR, "high": math.inf}}, "space.max_lr: space.high must be a finite number, got inf"),
        ({"max_lr": {**LR, "high": 10**400}}, "space.max_lr: space.high must fit in 64 bits"),
        ({"max_lr": {"low": 0.01, "high": 0.01}}, "space.max_lr: space low must be below high, got 0.01 and 0.01"),
        ({"max_lr": {"low": 0.1, "high": 0.001}}, "space.max_lr: space low must be below high, got 0.1 and 0.001"),
        ({"weight_decay": {"low": 0, "high": 1}}, "space.weight_decay: space low must be greater than 0 on a log"),
        ({"max_lr": {"low": 0, "high": 1, "log": False}}, "space.max_lr: train.max_lr must be greater than 0, got 0"),
        ({"max_lr": {"low": 1e-3, "high": 101}}, "space.max_lr: train.max_lr must be at most 100, got 101"),
        ({"max_lr": {"low": 0.1, "high": 1}}, "must contain the reference train.max_lr = 0.01"),
        ({"max_lr": {"low": 1e-6, "high": 0.0099}}, "space.max_lr = [1e-06, 0.0099] must contain the reference"),
    ],
)
def test_a_space_that_cannot_be_searched_is_an_error_that_says_why(space: dict[str, Any], words: str) -> None:
    message = message_of({"space": space})
    assert words in message
    assert is_one_line(message)


def test_a_reference_outside_of_the_space_is_an_error() -> None:
    message = message_of({"train": {"max_lr": 0.1000001}, "space": {"max_lr": LR}})
    assert message == "space.max_lr = [0.001, 0.1] must contain the reference train.max_lr = 0.1000001"


def test_a_weight_decay_of_zero_can_be_searched_on_a_linear_scale() -> None:
    spec = spec_from_tables({"space": {"weight_decay": {"low": 0, "high": 1, "log": False}}})
    assert spec.space["weight_decay"] == Domain(low=0, high=1, log=False)


def test_a_folder_data_set_needs_its_folder() -> None:
    assert "data.data_dir" in message_of({"data": {"dataset": "folder"}})
    assert spec_from_tables({"data": {"dataset": "folder", "data_dir": "photos"}}).data.data_dir == "photos"


def test_a_path_that_is_not_unicode_is_an_error_since_toml_cannot_hold_it() -> None:
    assert message_of({"data": {"data_dir": "caf\udce9"}}) == "data.data_dir must be valid Unicode, got 'caf\\udce9'"


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_a_path_that_no_system_takes_is_an_error(path: str) -> None:
    assert message_of({"data": {"data_dir": path}}) == f"data.data_dir must not be empty or hold NUL, got {path!r}"


@pytest.mark.parametrize("name", ["a/b", "..", ".", "a\\b", "/"])
def test_a_runs_name_is_one_folders_name(name: str) -> None:
    assert "search.name must be the name of one folder" in message_of({"search": {"name": name}})


def test_a_byte_order_mark_is_no_part_of_a_spec(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("\ufeff[model]\nwidth = 8\n", encoding="utf-8")
    assert load_spec(path).model.width == 8


# --- whatever a file may hold ----------------------------------------------------------------------------------------

KNOWN_KEYS = sorted({*SECTIONS, "space", *TUNABLE, "low", "high", "log", *(n.split(".")[1] for n in SETTINGS)})
keys = st.sampled_from(KNOWN_KEYS) | st.text()
scalars = st.one_of(
    st.booleans(),
    st.integers() | st.integers(-(10**30), 10**30) | st.just(10**400),
    st.floats(),
    strings | st.sampled_from(sorted({c for name in CHOICES for c in SETTINGS[name][0].metadata["choices"]})),
    st.datetimes(),
    st.dates(),
    st.times(),
)
toml_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8
)
wild_domains = st.fixed_dictionaries({"low": scalars, "high": scalars}, optional={"log": scalars})


def wild_section(cls: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Known keys of one section, each with a proper value more often than not."""
    proper = {
        item.name: values_of(f"{cls.section}.{item.name}", toml=True) for item in fields(cls) if item.name != "args"
    }
    return st.fixed_dictionaries({}, optional={key: value | value | toml_values for key, value in proper.items()})


wild_tables = st.dictionaries(keys, toml_values, max_size=4) | st.fixed_dictionaries(
    {},
    optional={
        **{name: wild_section(cls) for name, cls in SECTIONS.items()},
        "space": st.dictionaries(st.sampled_from(TUNABLE) | keys, wild_domains | toml_values, max_size=3),
    },
)


@many
@given(tables=wild_tables)
def test_any_tables_give_a_spec_or_a_one_line_error(tables: dict[str, Any]) -> None:
    spec = result_of(spec_from_tables, tables)
    assert is_one_line(spec) if isinstance(spec, str) else spec_from_tables(tables) == spec


@st.composite
def nearly_toml(draw: st.DrawFn) -> bytes:
    """A file that was a spec until some of its bytes were replaced."""
    text = draw(specs()).to_toml().encode()
    start = draw(st.integers(0, len(text)))
    return text[:start] + draw(st.binary(max_size=8)) + text[start + draw(st.integers(0, 20)) :]


wild_files = st.one_of(
    st.binary(),
    st.text(alphabet="[]{}\"'=.,#\\\n\r\t 01eE+-_xaβ\x00").map(str.encode),
    nearly_toml(),
    wild_tables.map(lambda tables: tomli_w.dumps(tables).encode()),
)


@many
@given(content=wild_files)
@example(content=b"a = " + b"[" * 100_000)
@example(content=b"a = " + b"{a=" * 50_000)
@example(content=b"[train]\nseed = 1" + b"0" * 5000)
@example(content=b"[train]\nschedule = 0x" + b"f" * 5000)
@example(content=b"[train]\nmax_lr" + b".a" * 5000 + b" = 1")
@example(content=b"[train]\nmax_lr = " + b"[" * 200 + b"]" * 200)
@example(content=b'["a\\nb"]\n')
@example(content=b"\xff\xfe\x00")
@example(content=b"\xef\xbb\xbf[train]\n")
def test_any_file_gives_a_spec_or_a_one_line_error_that_names_the_file(content: bytes, scratch: Path) -> None:
    scratch.write_bytes(content)
    spec = result_of(load_spec, scratch)
    if isinstance(spec, str):
        assert is_one_line(spec)
        assert spec.count(str(scratch)) == 1
    else:
        assert load_spec(scratch) == spec


def test_a_file_that_cannot_be_read_is_an_error_that_says_why(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.toml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(SpecError, match=re.escape(f"cannot read {path}: {reason}")):
            load_spec(path)


def test_a_path_with_a_line_break_does_not_break_the_message(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(tmp_path / "a\nb.toml")
    assert is_one_line(str(caught.value))


# --- a domain's scale ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "value", "share"),
    [
        (Domain(low=1e-3, high=1e-1, log=True), 1e-2, 0.5),
        (Domain(low=1e-6, high=1e-2, log=True), 1e-5, 0.25),
        (Domain(low=0, high=4, log=False), 1, 0.25),
        (Domain(low=-1, high=3, log=False), 0, 0.25),
    ],
)
def test_a_share_is_a_place_on_the_domains_scale(domain: Domain, value: float, share: float) -> None:
    assert domain.share(value) == pytest.approx(share)
    assert domain.value(share) == pytest.approx(value, abs=1e-12)


@many
@given(domain=searchable(), share=st.floats(0, 1))
@example(domain=Domain(low=1e-3, high=1e-1, log=True), share=1.0)
@example(domain=Domain(low=0, high=0.3, log=False), share=1.0)
def test_shares_and_values_are_each_others_inverse_and_stay_inside(domain: Domain, share: float) -> None:
    value = domain.value(share)
    assert domain.low <= value <= domain.high
    assert domain.share(value) == pytest.approx(share, abs=1e-9)
    assert domain.value(domain.share(value)) == pytest.approx(value, rel=1e-9, abs=1e-15 * domain.high)


@many
@given(domain=searchable(), shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_greater_share_is_no_smaller_value(domain: Domain, shares: tuple[float, float]) -> None:
    assert domain.value(min(shares)) <= domain.value(max(shares))


@many
@given(domain=searchable())
def test_the_ends_of_a_domain_are_the_shares_0_and_1(domain: Domain) -> None:
    assert (domain.share(domain.low), domain.share(domain.high)) == (0, 1)
    assert (domain.value(0), domain.value(1)) == pytest.approx((domain.low, domain.high), rel=1e-9)


@pytest.mark.parametrize(
    "domain",
    [
        Domain(low=TINY, high=1e6, log=True),
        Domain(low=1e-310, high=100, log=True),
        Domain(low=1e-2, high=math.nextafter(1e-2, 1), log=True),
        Domain(low=0.1, high=math.nextafter(0.1, 1), log=False),
    ],
)
def test_very_wide_and_very_narrow_domains_have_finite_shares_within_0_and_1(domain: Domain) -> None:
    for value in (domain.low, domain.value(0.3), domain.high):
        assert domain.low <= value <= domain.high
        assert 0 <= domain.share(value) <= 1
    assert (domain.share(domain.low), domain.share(domain.high)) == (0, 1)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (3, "points_to_evaluate must be a list of tables, got 3"),
        ([3], "points_to_evaluate must be a list of tables, got a list"),
        ({"max_lr": 1}, "points_to_evaluate must be a list of tables, got a table"),
        ([{"max_lr": "a"}], "points_to_evaluate.max_lr must be a number, got 'a'"),
        ([{"max_lr": "x0"}], "points_to_evaluate.max_lr must be a number, got 'x0'"),
        ([{"batch_size": "x1e3"}], "points_to_evaluate.batch_size must be a whole number, got 'x1e3'"),
        ([{"schedule": 2}], "points_to_evaluate.schedule must be a string, got 2"),
        ([{"max_lrr": 1}], "unknown hyperparameter max_lrr in points_to_evaluate (did you mean 'max_lr'?)"),
    ],
)
def test_points_to_evaluate_that_are_none_are_refused(points: Any, message: str) -> None:
    assert message_of({"points_to_evaluate": points}) == message


def test_a_multiple_of_what_the_reference_does_not_have_is_refused() -> None:
    tables = {"points_to_evaluate": [{"final_div_factor": "x2"}], "train": {"schedule": "linear"}}
    assert message_of(tables) == "final_div_factor must be given, because points_to_evaluate name it"


def test_points_to_evaluate_come_back_from_toml(tmp_path: Path) -> None:
    file = tmp_path / "spec.toml"
    for points in ((), ({"max_lr": 0.02}, {"grad_clip": 1.0, "max_lr": "x0.5"})):
        file.write_text(SearchSpec(points_to_evaluate=points).to_toml())
        assert load_spec(file).points_to_evaluate == points


def test_the_default_points_are_those_chosen_on_all_tables_and_the_first_of_them_are_for_wider_spaces() -> None:
    assert len(SearchSpec(space=NARROW_SPACE).first_points) == len(POINTS_TO_EVALUATE) - 1
    wider: Space = {**NARROW_SPACE, "schedule": Choices(choices=("linear-exponential", "linear"))}
    reference, *points = SearchSpec(space=wider).first_points
    assert points[0] == {**reference, "schedule": "linear"}
    assert [point["schedule"] for point in points] == ["linear"] * (len(POINTS_TO_EVALUATE) - 1)


@pytest.mark.parametrize("batch_size", [400, 101, 20])
def test_a_point_may_be_a_multiple_of_the_reference(batch_size: int) -> None:
    space = {"batch_size": Domain(low=5, high=400), "max_lr": Domain(low=1e-3, high=1e-1)}
    spec = SearchSpec(space=space, train=TrainSpec(batch_size=batch_size), points_to_evaluate=({"batch_size": "x.5"},))
    assert spec.first_points[1] == {"batch_size": round(batch_size / 2), "max_lr": 0.01}
    doubled = replace(
        spec,
        train=TrainSpec(batch_size=2 * batch_size, max_lr=0.02),
        space={**space, "batch_size": Domain(low=5, high=800)},
    )
    assert doubled.first_points[1] == {"batch_size": batch_size, "max_lr": 0.02}


def test_a_sampler_of_the_past_can_be_read_but_not_chosen_by_name() -> None:
    assert spec_from_tables({"search": {"sampler": "multifidelity"}}).search.sampler == "multifidelity"
    assert message_of({"search": {"sampler": "multi"}}) == "search.sampler must be one of tpe, gp, random; got 'multi'"
