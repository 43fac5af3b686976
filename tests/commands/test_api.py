"""A search from Python, as README shows it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from factories import ROOT, SEARCH, Build
from rich.console import Console

import tune_resnet
from tune_resnet import REFERENCE, BudgetSpec, DataSpec, Domain, ModelSpec, Search, SearchSpec, load_run, load_spec
from tune_resnet.commands.job import Job
from tune_resnet.commands.options import parse_options
from tune_resnet.config.validation import SpecError
from tune_resnet.data.digits import load_digits
from tune_resnet.data.load import load_dataset
from tune_resnet.errors import UserError
from tune_resnet.runs.directory import BASELINE, FINAL, RunDirectory
from tune_resnet.runs.directory import SEARCH as SEARCH_KIND
from tune_resnet.runs.resume import History
from tune_resnet.runs.tables import FINISHED, STOPPED

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
    with ThreadPoolExecutor(1) as threads:  # as in a server; Python gives signals to the main thread alone
        threads.submit(exec, "\n".join(example), names).result()
    assert not ray.is_initialized()
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


def test_arguments_may_be_of_related_types(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "it", SearchSpec())
    search = Search(runs_dir=str(tmp_path), warm_start="it", log="tensorboard", confirm=np.int64(5))  # type: ignore[arg-type]
    assert search == Search(runs_dir=tmp_path, warm_start=["it"], log=["tensorboard"], confirm=5)
    assert search.pairs == 5


def test_what_can_be_imported_is_listed() -> None:
    assert {"Search", "load_run"} <= set(dir(tune_resnet)) == set(tune_resnet.__all__)


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


@pytest.mark.parametrize("factory", [None, "nets:small"])
@pytest.mark.parametrize("asked", ["search", "baseline", "warm_start", "resume", "finalize", "trial", "larger"])
def test_the_command_on_record_has_the_same_done(asked: str, factory: str | None, tmp_path: Path) -> None:
    spec = SearchSpec(model=ModelSpec(factory=factory), search=BudgetSpec(name="it"))
    for name in ("it", "earlier"):
        RunDirectory.create(tmp_path / name, spec)
    of_run, history = RunDirectory(tmp_path / "it"), None
    if asked == "resume":
        search, history = Search(spec, resume=of_run.path), History()
    elif asked in ("finalize", "trial", "larger"):
        if asked == "larger":
            spec = replace(spec, data=replace(spec.data, limit_train=900), train=replace(spec.train, epochs=9))
        search = Search(spec, finalize=of_run.path, trial=3 if asked == "trial" else None)
    else:
        search = Search(spec, baseline=asked == "baseline", warm_start=[tmp_path / "earlier"][: asked == "warm_start"])
    kind = {"baseline": BASELINE, "finalize": FINAL, "trial": FINAL, "larger": FINAL}.get(asked, SEARCH_KIND)
    job = Job(search, spec, Console(), 0, kind, of_run.path, history)
    again = parse_options(job.flags(of_run))
    assert list(again.warm_start) == list(search.warm_start)
    assert replace(again, command=None, warm_start=search.warm_start) == search


def test_what_is_wrong_is_an_exception_with_the_commands_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="confirm needs the winner of a search: baseline has none"):
        Search(baseline=True, confirm=True)
    with pytest.raises(UserError, match=r"^log must be one of tensorboard, mlflow, wandb; got 'neptune'"):
        Search(log=["neptune"])
    with pytest.raises(UserError, match=r"^confirm must be a whole number, True or False, got '3'"):
        Search(confirm="3")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^spec must be a SearchSpec, got dict"):
        Search({})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="does not exist"):
        Search(SearchSpec(data=DataSpec(dataset="folder", data_dir=str(tmp_path / "nothing")))).run()


def test_an_error_of_the_command_line_speaks_of_flags(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--confirm needs the winner of a search: --baseline has none"):
        parse_options(["--baseline", "--confirm"])


@pytest.mark.parametrize(
    "make",
    [
        lambda: ModelSpec(args={"a": 1}),
        lambda: BudgetSpec(name="a/b"),
        lambda: SearchSpec(data=DataSpec(dataset="folder")),
        lambda: load_dataset(DataSpec(dataset="folder")),
        lambda: load_spec("nope.toml"),
    ],
)
def test_what_is_raised_outside_a_search_speaks_of_settings(make: Callable[[], object]) -> None:
    with pytest.raises(UserError, match=r"^(?!.*--)(model\.args|search\.name|data\.dataset|cannot read nope\.toml)"):
        make()


def test_a_space_that_has_shrunk_is_no_flag(tmp_path: Path) -> None:
    spec = SearchSpec(space={"max_lr": Domain(low=1e-3, high=1e-1)})
    RunDirectory.create(tmp_path / "it", spec)
    with pytest.raises(SpecError, match=r"^space max_lr must contain 0\.001:0\.1"):
        Search(replace(spec, space={"max_lr": Domain(low=1e-3, high=5e-2)}), resume=tmp_path / "it")


def test_an_error_while_it_runs_speaks_of_arguments_too(tmp_path: Path) -> None:
    (tmp_path / "it").mkdir()
    with pytest.raises(UserError, match=r"choose another search\.name, or resume "):
        Search(SearchSpec(search=BudgetSpec(name="it")), runs_dir=tmp_path).run()


def test_what_is_made_shows_itself_in_a_line(tmp_path: Path) -> None:
    spec = SearchSpec(data=DataSpec(dataset="digits"), space={"max_lr": Domain(low=1e-3, high=1e-1)})
    shown = "SearchSpec(data=DataSpec(dataset='digits'), space={'max_lr': Domain(low=0.001, high=0.1, log=True)})"
    assert repr(spec) == shown
    assert eval(shown) == spec
    assert repr(Search(spec, confirm=3)) == f"Search(spec={shown}, confirm=3)"
    assert repr(Search()) == "Search(spec=SearchSpec())"


def test_a_run_has_its_trials_in_order_its_winner_and_its_confirmation() -> None:
    run = load_run(SEARCH)
    assert run.trials["winner"].tolist() == [True] + [False] * 31
    assert run.trials["estimate"].dropna().is_monotonic_decreasing
    assert run.winner is not None
    assert run.winner["trial"] == run.trials["trial"][0]
    assert run.confirmation is not None
    assert run.confirmation.trial == run.winner["trial"]
    assert repr(run.confirmation).startswith(f"<Confirmed with fresh seeds: Trial {run.winner['trial']} is better")
    assert repr(run).startswith("<search cifar10-jpeg-search: 32 trials, ")
    assert "\n" not in repr(run)
    assert run.spec == run.frames.spec
    assert len(run.epochs) == run.trials["epochs"].sum()


def test_a_run_without_a_finished_trial_has_neither_winner_nor_confirmation(tmp_path: Path) -> None:
    Build(tmp_path / "it").trial([0.5], STOPPED)
    run = load_run(tmp_path / "it")
    assert run.winner is None
    assert run.confirmation is None
    assert repr(run).startswith("<search it: 1 trial, 0 finished>: No trial has finished yet")


def test_a_notebook_gets_plain_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No cursor, no widgets, no HTML: what a cell prints stays."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    (build := Build(tmp_path / "it")).trial([0.5, 0.6, 0.7, 0.8], FINISHED)
    build.directory.write_env({"dataset_fingerprint": load_digits().fingerprint, "kind": "search"})
    spec = replace(build.load().spec, search=BudgetSpec(num_samples=1))
    run = Search(spec, resume=tmp_path / "it").run()
    assert run is not None
    assert len(run.trials) == 1
    output = capsys.readouterr().out
    assert "reference * finished 4/4    80.00%" in output
    assert "\033" not in output


def test_the_reference_is_the_specs_default() -> None:
    assert (REFERENCE.max_lr, REFERENCE.weight_decay, REFERENCE.grad_clip, REFERENCE.epochs) == (0.01, 1e-4, 0.1, 8)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tune_resnet.nothing  # noqa: B018
