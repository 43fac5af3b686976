"""A search from Python, as README shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from factories import ROOT

import tune_resnet
from tune_resnet import REFERENCE, Search
from tune_resnet.errors import UserError

README = ROOT / "README.md"


@pytest.mark.slow
def test_readmes_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = README.read_text().splitlines()
    begin = lines.index("    from tune_resnet import REFERENCE, Search, load_run")
    example = [line[4:] for line in lines[begin : lines.index("", begin)]]
    assert len(example) == 5
    names: dict[str, Any] = {}
    exec("\n".join(example), names)
    assert names["run"].path.name == "from-python"
    assert len(names["load_run"](names["run"].path).trials) == 4  # extended
    output = capsys.readouterr()
    assert "max_lr" in output.out
    assert output.err == ""


def test_settings_are_the_commands_flags(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("[search]\nnum_samples = 7\n")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    options = Search(file, width=8, dry_run=True, baseline=False, warm_start=["a", "b"], runs_dir=tmp_path).options
    assert (options.spec.search.num_samples, options.spec.model.width) == (7, 8)
    assert (options.dry_run, options.baseline, options.runs_dir) == (True, False, tmp_path)
    assert options.warm_start == [tmp_path / "a", tmp_path / "b"]


def test_what_is_wrong_is_an_exception_with_the_commands_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown argument '--num-sample'"):
        Search(num_sample=3)
    with pytest.raises(UserError, match="does not exist"):
        Search(dataset="folder", data_dir=tmp_path / "nothing").run()


def test_the_reference_is_the_specs_default() -> None:
    assert (REFERENCE.max_lr, REFERENCE.weight_decay, REFERENCE.grad_clip, REFERENCE.epochs) == (0.01, 1e-4, 0.1, 8)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tune_resnet.nothing  # noqa: B018
