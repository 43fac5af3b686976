"""A search from Python, as README shows it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from factories import ROOT

import tune_resnet
from tune_resnet import REFERENCE, BudgetSpec, DataSpec, ModelSpec, Search, SearchSpec
from tune_resnet.commands.options import parse_options
from tune_resnet.config.validation import SpecError
from tune_resnet.errors import UserError
from tune_resnet.runs.directory import RunDirectory

README = ROOT / "README.md"


@pytest.mark.slow
def test_readmes_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = README.read_text().splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith("    from tune_resnet import"))
    example = [line[4:] for line in lines[begin : lines.index("", begin)]]
    names: dict[str, Any] = {}
    exec("\n".join(example), names)
    assert names["run"].path.name == "from-python"
    assert len(names["run"].trials) == 3
    output = capsys.readouterr()
    assert "max_lr" in output.out
    assert output.err == ""


def test_a_search_is_what_the_command_line_makes_of_the_same(tmp_path: Path) -> None:
    for name in ("a", "b"):
        RunDirectory.create(tmp_path / name, SearchSpec())
    words = f"--num-samples 7 --width 8 --dry-run --confirm 3 --warm-start a b --runs-dir {tmp_path}"
    spec = SearchSpec(model=ModelSpec(width=8), search=BudgetSpec(num_samples=7))
    search = Search(spec, dry_run=True, confirm=3, warm_start=["a", "b"], runs_dir=tmp_path)
    assert replace(parse_options(words.split()), command=None) == search
    assert search.warm_start == [tmp_path / "a", tmp_path / "b"]


def test_a_run_that_goes_on_brings_its_spec(tmp_path: Path) -> None:
    own = SearchSpec(search=BudgetSpec(num_samples=7))
    RunDirectory.create(tmp_path / "it", own)
    assert Search(resume="it", runs_dir=tmp_path).spec == own
    more = replace(own, search=BudgetSpec(num_samples=9))
    assert Search(more, resume=tmp_path / "it").spec == more
    with pytest.raises(SpecError, match=r"model.width is 64 in .*it, and cannot become 8"):
        Search(replace(own, model=ModelSpec(width=8)), resume=tmp_path / "it")


def test_a_network_of_one_s_own_is_imported_only_with_consent(tmp_path: Path) -> None:
    own = SearchSpec(model=ModelSpec(factory="nets:small"))
    RunDirectory.create(tmp_path / "it", own)
    with pytest.raises(SpecError, match="uses a network of your own: give its spec"):
        Search(resume=tmp_path / "it")
    assert Search(own, resume=tmp_path / "it").spec == own


def test_what_is_wrong_is_an_exception_with_the_commands_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--confirm needs the winner of a search"):
        Search(baseline=True, confirm=True)
    with pytest.raises(UserError, match="--log must be one of tensorboard, mlflow, wandb; got 'neptune'"):
        Search(log=["neptune"])
    with pytest.raises(UserError, match="does not exist"):
        Search(SearchSpec(data=DataSpec(dataset="folder", data_dir=str(tmp_path / "nothing")))).run()


def test_the_reference_is_the_specs_default() -> None:
    assert (REFERENCE.max_lr, REFERENCE.weight_decay, REFERENCE.grad_clip, REFERENCE.epochs) == (0.01, 1e-4, 0.1, 8)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tune_resnet.nothing  # noqa: B018
