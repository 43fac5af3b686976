"""Winner against reference on fresh seeds: the statistics, the files, and that nothing earlier sees the test set."""

from __future__ import annotations

import ast
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import ray
from scipy import stats

import tune_resnet
from tune_resnet.config.sections import TUNABLE, BudgetSpec, ModelSpec, TrainSpec
from tune_resnet.config.spec import SearchSpec
from tune_resnet.data import load
from tune_resnet.data.types import Dataset, ImageSet, Split
from tune_resnet.execution import training_pool
from tune_resnet.execution.cluster import ray_cluster
from tune_resnet.execution.training_pool import Training, train_all
from tune_resnet.hpo.ranking import winner
from tune_resnet.results.confirmation import (
    SEED_OFFSET,
    Confirmation,
    complete_pairs,
    confirmation_sentence,
    pairs_table,
)
from tune_resnet.results.paired_test import BETTER, NOT_DISTINGUISHABLE, WORSE, analyse_pairs
from tune_resnet.runs.load import load_frames
from tune_resnet.runs.tables import CONFIRM_DTYPES, REFERENCE, WINNER
from tune_resnet.search import main
from tune_resnet.training.device import resolved

# A reference that learns next to nothing, so that another trial wins.
SPEC = """
[data]
dataset = "digits"
limit_train = 400
flip = false
[model]
width = 4
[train]
max_lr = 1e-5
epochs = 4
batch_size = 20
precision = "fp32"
[space]
max_lr = { low = 1e-5, high = 0.05, log = false }
[search]
num_samples = 4
sampler = "random"
[scheduler]
name = "none"
[resources]
device = "cpu"
"""


def differences(count: int) -> np.ndarray:
    return np.random.default_rng(count).normal(0.5, 1, count)


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_the_exact_test_is_every_sign_pattern(count: int) -> None:
    values = differences(count)
    sums = [abs(np.dot(signs, values)) for signs in itertools.product((-1, 1), repeat=count)]
    expected = np.mean([total >= abs(values.sum()) - 1e-12 for total in sums])
    result = analyse_pairs(list(values))
    assert result.exact
    assert result.p_value == expected
    assert expected >= result.min_p == 2 / 2**count
    scipy = stats.permutation_test((values,), np.sum, permutation_type="samples", n_resamples=math.inf)
    assert result.p_value == pytest.approx(scipy.pvalue)


def test_the_interval_is_the_t_interval() -> None:
    values = differences(7)
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    result = analyse_pairs(list(values))
    assert [result.n, result.mean] == [7, pytest.approx(values.mean())]
    assert (result.low, result.high) == pytest.approx((interval.low, interval.high))


def test_many_pairs_are_judged_on_drawn_patterns() -> None:
    values = differences(17)
    result = analyse_pairs(list(values))
    assert not result.exact
    patterns = np.array(list(itertools.product((-1, 1), repeat=17)), dtype=np.int8)
    exact = (np.abs(patterns @ values) >= abs(values.sum()) - 1e-12).mean()
    assert result.p_value == pytest.approx(exact, abs=0.005)
    assert analyse_pairs(list(values)) == result  # the same every time


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([1.0, 1.1, 0.9], BETTER),
        ([-1.0, -1.1, -0.9], WORSE),
        ([1.0, -1.1, 0.3], NOT_DISTINGUISHABLE),
        ([0.5, 0.5, 0.5], NOT_DISTINGUISHABLE),  # no spread, no interval
        ([0.0, 0.0], NOT_DISTINGUISHABLE),
    ],
)
def test_the_interval_decides(values: list[float], verdict: str) -> None:
    result = analyse_pairs(values)
    assert result.verdict == verdict
    assert (result.low is None) == (len(set(values)) == 1)


def test_the_number_of_pairs_needed_has_the_power_it_promises() -> None:
    values = np.array([0.2, 1.4, -0.6, 1.0, 0.1])
    needed = analyse_pairs(list(values)).pairs_needed
    assert needed is not None
    effect = values.mean() / values.std(ddof=1)

    def power(count: int) -> float:
        limit, shift = stats.t.ppf(0.975, count - 1), effect * math.sqrt(count)
        return float(1 - stats.nct.cdf(limit, count - 1, shift) + stats.nct.cdf(-limit, count - 1, shift))

    assert power(needed - 2) < 0.8 < power(needed + 1)
    assert analyse_pairs([1.0, -1.0]).pairs_needed is None
    with pytest.raises(ValueError, match="at least 2"):
        analyse_pairs([1.0])


def sentence(values: list[float], images: int | None = 10_000, of_winner: bool = True, trial: int | None = 7) -> str:
    result = analyse_pairs(values) if len(values) > 1 else None
    rows = pd.DataFrame(columns=list(CONFIRM_DTYPES))
    return confirmation_sentence(
        Confirmation(
            trial=trial,
            of_winner=of_winner,
            size={},
            place="",
            rows=rows,
            pairs=rows,
            sequential=False,
            goes_on=False,
            result=result,
            images=images,
            search=BudgetSpec(),
        )
    )


def test_a_verdict_is_one_sentence_about_the_configuration_that_was_trained() -> None:
    better = sentence([1.0, 1.1, 0.9, 1.2, 0.8])
    assert better.startswith("Confirmed with fresh seeds: Trial 7 is better than the reference: +1.00 percentage")
    assert "on 10,000 test images" in better
    assert "p = 0.0625 (5 pairs cannot give less than 0.0625)" in better
    assert "95% interval +0.80 to +1.20" in better
    unclear = sentence([1.0, -1.1, 0.3], 100)
    assert unclear.startswith(
        "Checked with fresh seeds: Trial 7 and the reference are not distinguishable with 3 pairs: +0.07"
    )
    assert "with 80% power takes about" in unclear
    assert sentence([-1.0, -1.1, -0.9]).startswith("Checked with fresh seeds: Trial 7 is worse than the reference")
    assert sentence([1.0, 1.1], of_winner=False).startswith(
        "Confirmed with fresh seeds: Trial 7 (no longer the winner) is better"
    )
    assert "An earlier configuration (no longer the winner)" in sentence([1.0, 1.1], None, of_winner=False, trial=None)
    assert "on the test images (" in sentence([1.0, 1.1], None)
    assert sentence([]) == "Trial 7 was trained again, but a verdict takes 2 complete pairs of trainings."


def test_a_pair_counts_only_when_both_have_an_accuracy() -> None:
    rows = pd.DataFrame(
        [(1, WINNER, 0.9, ""), (1, REFERENCE, 0.8, ""), (2, WINNER, math.nan, "the loss"), (2, REFERENCE, 0.8, ""),
         (3, WINNER, 0.7, "")],
        columns=["seed", "configuration", "test_accuracy", "error"],
    )  # fmt: skip
    assert list(complete_pairs(rows, "test_accuracy").index) == [1]
    table = pairs_table(rows, BudgetSpec())
    assert [list(column.cells) for column in table.columns] == [
        ["1", "2", "3"], ["90.00%", "the loss", "70.00%"], ["80.00%", "80.00%", "-"], ["+10.00", "-", "-"],
    ]  # fmt: skip


class Poison:
    """Raises whatever is done with it, but that it is counted: the plan says how many images are left to test on."""

    def __getattribute__(self, name: str) -> object:
        raise AssertionError(f"the test set was touched: {name}")

    def __len__(self) -> int:
        return 359


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, on_cluster: Callable[..., int]) -> Path:
    """A search during which every touch of the test set raises."""
    runs = tmp_path_factory.mktemp("runs")
    (runs / "spec.toml").write_text(SPEC)
    load_dataset, untouched = load.load_dataset, cast(ImageSet, Poison())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "load_dataset", lambda spec: replace(load_dataset(spec), test=untouched))
        code = on_cluster("--experiment", runs / "spec.toml", "--runs-dir", runs, "--name", "it")
    assert code == 0
    return runs / "it"


@pytest.fixture
def run(searched: Path, tmp_path: Path) -> Path:
    """A copy that a test may write into."""
    return Path(shutil.copytree(searched, tmp_path / "it"))


@pytest.mark.slow
def test_a_search_does_not_touch_the_test_set(searched: Path) -> None:
    trials = pd.read_csv(searched / "trials.csv")
    assert list(trials["state"]) == ["finished"] * 4
    assert trials["val_accuracy"].idxmax() != 0
    assert trials["test_accuracy"].isna().all()


def test_the_source_mentions_the_test_set_only_where_it_belongs() -> None:
    package = Path(tune_resnet.__file__).parent
    users = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = {getattr(node, "attr", ""), getattr(node, "id", "")}
            if "baseline_split" in names or (isinstance(node, ast.Attribute) and node.attr == "test"):
                users.add(path.stem)
    assert users == {"split", "baseline", "pairs", "types"}  # there, whether there is one


@pytest.mark.slow
def test_a_confirmation_is_recorded_and_extended(
    run: Path, on_cluster: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert on_cluster("--confirm", 2, "--resume", run, "--cpus-per-trial", 0.5) == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert "2 at once" in output.out
    assert "[4/4] seed " in output.out
    assert "percentage points on 359 test images" in output.out
    rows = pd.read_csv(run / "confirm.csv")
    assert list(rows.columns) == list(CONFIRM_DTYPES)
    seeds = [SEED_OFFSET, SEED_OFFSET + 1]
    assert sorted(zip(rows["seed"], rows["configuration"], strict=True)) == list(
        itertools.product(seeds, (REFERENCE, WINNER))
    )
    assert rows["error"].isna().all()
    assert rows["worker"].nunique() <= 2  # processes are reused
    frames = load_frames(run)
    for configuration, expected in ((REFERENCE, frames.trials.loc[0].to_dict()), (WINNER, winner(frames))):
        mine = rows[rows["configuration"] == configuration]
        assert expected is not None
        assert (mine[list(TUNABLE)] == [expected[name] for name in TUNABLE]).all(axis=None)
    summary = json.loads((run / "confirm.json").read_text())
    wide = rows.pivot(index="seed", columns="configuration", values="test_accuracy")
    assert summary["mean"] == pytest.approx(100 * (wide[WINNER] - wide[REFERENCE]).mean())
    assert (summary["n"], summary["seeds"], summary["test_images"]) == (2, seeds, 359)
    assert summary["train_images"] == 400  # validation images are trained on too

    assert on_cluster("--confirm", 3, "--resume", run) == 0
    assert "[2/2] seed 1002" in capsys.readouterr().out
    longer = pd.read_csv(run / "confirm.csv")
    pd.testing.assert_frame_equal(longer[longer["seed"] != 1002].reset_index(drop=True), rows)
    written = (run / "confirm.json").read_text()
    assert json.loads(written)["n"] == 3

    assert main(["--confirm", "2", "--resume", str(run)]) == 0  # all trained: says it again, from all on record
    assert "over 3 paired seeds" in capsys.readouterr().out
    assert (run / "confirm.json").read_text() == written

    text = (run / "confirm.csv").read_text()
    (run / "confirm.csv").write_text(text.replace("0.0001", "0.0002"))
    assert main(["--confirm", "3", "--resume", str(run)]) == 2
    assert "is about another reference" in capsys.readouterr().err


def wait_for_a_row(run: Path) -> None:
    deadline = time.monotonic() + 300
    while not (run / "confirm.csv").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_a_signal_leaves_whole_rows(run: Path, cluster: list[str]) -> None:
    text = (run / "spec.toml").read_text()
    (run / "spec.toml").write_text(text.replace("epochs = 4", "epochs = 20"))
    command = [sys.executable, "-m", "tune_resnet.search", "--confirm", "60", "--resume", str(run), *cluster]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_a_row(run)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (128 + signal.SIGTERM, "")
    assert 1 <= len(pd.read_csv(run / "confirm.csv")) < 120
    assert not list(run.glob(".*.tmp"))


@pytest.mark.slow
def test_the_reference_as_winner_needs_no_confirmation(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trials = pd.read_csv(run / "trials.csv", dtype={"error": str})
    trials.loc[0, "val_accuracy"] = 1.0
    trials.to_csv(run / "trials.csv", index=False, lineterminator="\n")
    assert main(["--confirm", "2", "--resume", str(run)]) == 0
    assert "nothing to confirm" in capsys.readouterr().out
    assert not (run / "confirm.csv").exists()


@pytest.mark.slow
def test_other_images_or_none_are_refused(
    run: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(dataset: Dataset) -> str:
        monkeypatch.setattr(load, "load_dataset", lambda spec: dataset)
        assert main(["--confirm", "2", "--resume", str(run)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "the images differ from those of it" in refused(replace(digits, fingerprint="0" * 64))
    assert "digits has no test set" in refused(replace(digits, test=None))
    trials = pd.read_csv(run / "trials.csv", dtype={"error": str}).assign(state="stopped")
    trials.to_csv(run / "trials.csv", index=False, lineterminator="\n")
    assert "it has no finished trial to confirm" in refused(digits)


def test_a_search_that_is_to_be_confirmed_needs_a_test_set_first(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(load, "load_dataset", lambda spec: replace(digits, test=None))
    assert main(["--dataset", "digits", "--confirm", "2", "--runs-dir", str(tmp_path)]) == 2
    assert "digits has no test set" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_killed_process_costs_no_training(
    run: Path, on_cluster: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    text = (run / "spec.toml").read_text()
    (run / "spec.toml").write_text(text.replace("epochs = 4", "epochs = 12"))

    def kill() -> None:
        wait_for_a_row(run)
        os.kill(int(pd.read_csv(run / "confirm.csv")["worker"][0].rpartition(":")[2]), signal.SIGKILL)

    killing = threading.Thread(target=kill)
    killing.start()
    assert on_cluster("--confirm", 2, "--resume", run) == 0
    killing.join()
    output, errors = capsys.readouterr()
    assert errors == ""
    assert output.count("is tried again (its process died (killed, or out of memory))") == 1
    assert len(pd.read_csv(run / "confirm.csv")) == 4
    assert not list((run / "checkpoints").glob("confirm-*"))


@pytest.mark.slow
def test_waiting_for_a_process_is_no_hang(cluster: list[str], few: Split, tmp_path: Path) -> None:
    """Another trial has the only CPU for as long as an epoch may take, and PyTorch is imported only then."""
    timeout = 5.0
    spec = SearchSpec(model=ModelSpec(width=2), train=TrainSpec(epochs=2, batch_size=10))
    with ray_cluster(cluster[1]):
        ray.remote(lambda: time.sleep(timeout)).remote()
        trainings = [Training(spec, tmp_path / "it.pt")]
        ((_, outcome),) = train_all(
            resolved(spec, "cpu", "fp32"), few, trainings, 1, epoch_timeout=timeout, stop=lambda: False
        )
    assert not isinstance(outcome, str)
    assert (outcome["epochs"], trainings[0].failures) == (2, 0)


def test_a_training_that_hangs_is_seen_while_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    process = training_pool._Process(trainer="it", started="started")
    processes = object.__new__(training_pool._Processes)
    processes.busy = {
        name: training_pool._Epoch(position, process, time.monotonic() - seconds)
        for position, (name, seconds) in enumerate({"hangs": 100.0, "ends": 1.0}.items())
    }
    processes.idle, processes._make = [], lambda: cast(Any, SimpleNamespace(started=SimpleNamespace(remote=str)))
    monkeypatch.setattr(ray, "wait", lambda *_, **__: (["ends"], ["hangs"]))
    monkeypatch.setattr(ray, "get", {"ends": {"epochs": 1}}.__getitem__)
    monkeypatch.setattr(ray, "kill", lambda _: None)
    assert dict(processes.ended(epoch_timeout=60)) == {1: {"epochs": 1}, 0: "it hung: no epoch for 1m 00s"}
    assert not processes.busy
    assert len(processes.idle) == 2
