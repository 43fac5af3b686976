"""How far early signals can be trusted: tables whose answer is known, and every figure done again the slow way."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from factories import Build
from scipy.stats import spearmanr

from experiments.benchmarks.early_stopping import fidelity_table, stopping_rules
from tune_resnet.analysis import main
from tune_resnet.hpo.stopping import Asha
from tune_resnet.results.fidelity import FIDELITY_DTYPES, _drawn, _figures, fidelity, run_fidelity, signs
from tune_resnet.runs.tables import FAILED, FINISHED, STOPPED

FIGURES = ("spearman", "top_kept", "regret")
RUNS = 20
FINAL = np.arange(RUNS) / 100  # the top 10% are the last two


Floats = np.ndarray | Sequence[float]


def judged(signal: Floats, final: Floats = FINAL, sign: int = 1) -> pd.Series:
    """The one row of a table with one signal at one epoch."""
    table = pd.DataFrame({"run": range(len(signal)), "epoch": 1, "signal": signal})
    return fidelity(table, pd.Series(final), {"signal": sign}).iloc[0]


def noisy(runs: int, epochs: int, columns: Sequence[str], ties: bool = False) -> tuple[pd.DataFrame, pd.Series]:
    """Signals that are the final quality and as much noise again."""
    rng = np.random.default_rng(0)
    final = pd.Series(rng.random(runs).round(1 if ties else 9))
    table = pd.DataFrame({"run": np.tile(np.arange(runs), epochs), "epoch": np.repeat(np.arange(1, epochs + 1), runs)})
    for name in columns:
        table[name] = (final[table["run"]].to_numpy() + rng.random(len(table))).round(1 if ties else 9)
    return table, final


# --- known answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("signal", "sign"), [(FINAL, 1), (1 - FINAL, -1), (np.exp(FINAL), 1)])
def test_a_perfect_signal(signal: np.ndarray, sign: int) -> None:
    row = judged(signal, sign=sign)
    assert row[["spearman", "spearman_low", "spearman_high"]].tolist() == pytest.approx([1, 1, 1])
    assert row[["top_kept", "top_kept_low", "top_kept_high"]].tolist() == [1, 1, 1]
    assert row[["regret", "regret_low", "regret_high"]].tolist() == [0, 0, 0]


def test_a_reversed_signal() -> None:
    row = judged(-FINAL)
    assert row["spearman"] == pytest.approx(-1)
    assert row["top_kept"] == 0
    assert row["regret"] == pytest.approx(10)  # from 0.19 to 0.09, the best of the worse half
    assert row["regret_low"] > 0


def test_a_constant_signal_says_nothing_and_stops_nothing() -> None:
    row = judged([0.5] * RUNS)
    assert row[["spearman", "spearman_low", "spearman_high"]].isna().all()
    assert (row["top_kept"], row["regret"]) == (1, 0)


def test_a_winner_that_starts_slowly_is_lost() -> None:
    signal = FINAL.copy()
    signal[-1] = -1
    row = judged(signal)
    assert (row["top_kept"], row["regret"]) == (0.5, pytest.approx(1))


def test_with_an_odd_number_the_middle_goes_on() -> None:
    assert judged([3, 2, 1], [0, 1, 0])["top_kept"] == 1
    assert judged([3, 2, 1], [0, 0, 1])["top_kept"] == 0


def test_one_run() -> None:
    row = judged([0.3], [0.5])
    assert (row["n"], row["top_kept"], row["regret"]) == (1, 1, 0)
    assert np.isnan(row["spearman"])


@pytest.mark.parametrize("runs", [4, 7, 10])
def test_the_better_half_is_what_asha_lets_through(runs: int) -> None:
    signal = np.random.default_rng(runs).choice([0.1, 0.2, 0.3, 0.4], size=runs)
    rule = Asha((1,), reduction_factor=2)
    for _ in range(2):  # asked again when all have come, it judges each among all
        stopped = [rule.should_stop(run, 1, value) for run, value in enumerate(signal)]
    kept = [judged(signal, np.eye(runs)[run])["top_kept"] for run in range(runs)]  # each in turn is the only best
    assert kept == [not stop for stop in stopped]


# --- what is not known -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unknown", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_signal_that_is_not_finite_ranks_last(unknown: float, sign: int) -> None:
    signal = sign * FINAL
    signal[-1] = unknown
    row = judged(signal, sign=sign)
    assert (row["n"], row["top_kept"], row["regret"]) == (RUNS, 0.5, pytest.approx(1))
    assert row["spearman"] == pytest.approx(spearmanr([*FINAL[:-1], -1], FINAL).statistic)


def test_a_run_without_a_row_at_an_epoch_ranks_last_there() -> None:
    table = pd.DataFrame({"run": range(RUNS), "epoch": 1, "signal": FINAL})
    both = pd.concat([table, table.assign(epoch=2).iloc[:-1]])
    found = fidelity(both, pd.Series(FINAL), {"signal": 1}).set_index("epoch")
    assert found["n"].tolist() == [RUNS, RUNS]
    assert found["top_kept"].tolist() == [1, 0.5]


def test_a_failed_run_is_the_worst_and_is_not_dropped() -> None:
    final = FINAL.copy()
    final[5] = np.nan
    row = judged(FINAL, final)
    assert row["n"] == RUNS
    worst = np.where(np.isnan(final), -1, final)
    assert row["spearman"] == pytest.approx(spearmanr(FINAL, worst).statistic)
    # A signal that lets only failures through loses all of the best run's quality.
    assert judged([1, 1, 0, 0], [np.nan, np.nan, 0.6, 0.7])["regret"] == pytest.approx(70)


def test_failed_runs_are_never_the_top() -> None:
    assert judged(FINAL, [*[np.nan] * 19, 0.5])["top_kept"] == 1
    row = judged(FINAL, [np.nan] * RUNS)
    assert np.isnan(row["top_kept"])
    assert row["regret"] == 0


def test_nothing_is_let_through_where_no_signal_is_known() -> None:
    row = judged([np.nan] * 4, [0.1, 0.2, 0.3, 0.4])
    assert (row["top_kept"], row["regret"]) == (0, pytest.approx(40))


def test_without_runs_there_are_no_rows() -> None:
    table, final = noisy(4, 2, ["a"])
    for found in (fidelity(table, final.iloc[:0], {"a": 1}), fidelity(table.iloc[:0], final, {"a": 1})):
        assert found.empty
        assert found.dtypes.astype(str).to_dict() == FIDELITY_DTYPES


# --- intervals -------------------------------------------------------------------------------------------------------


def test_intervals_hold_the_estimate_and_are_the_same_again() -> None:
    table, final = noisy(40, 3, ["a", "b"])
    found = fidelity(table, final, {"a": 1, "b": 1})
    assert found[["signal", "epoch"]].to_numpy().tolist() == [[name, epoch] for name in "ab" for epoch in (1, 2, 3)]
    for figure in FIGURES:
        assert (found[f"{figure}_low"] <= found[figure]).all()
        assert (found[figure] <= found[f"{figure}_high"]).all()
    assert (found["spearman_low"] < found["spearman_high"]).all()
    pd.testing.assert_frame_equal(found, fidelity(table, final, {"a": 1, "b": 1}))
    assert not found.equals(fidelity(table, final, {"a": 1, "b": 1}, seed=1))


def slowly(signal: np.ndarray, final: np.ndarray) -> list[float]:
    """The three figures of one sample, from their definitions."""
    bar = np.sort(final)[-max(1, round(0.1 * len(final)))]
    goes_on = np.array([(signal > value).sum() < np.ceil(len(signal) / 2) for value in signal])
    regret = 100 * (final.max() - final[goes_on].max())
    return [spearmanr(signal, final).statistic, goes_on[final >= bar].mean(), regret]


@pytest.mark.parametrize("ties", [False, True])
def test_every_bootstrap_sample_done_again_one_by_one(ties: bool) -> None:
    table, quality = noisy(12, 1, ["a"], ties)
    signal, final = table["a"].to_numpy(), quality.to_numpy()
    counts = _drawn(len(final), samples=50, seed=0)
    assert (counts[0] == 1).all()
    assert (counts.sum(axis=1) == len(final)).all()
    figures = np.column_stack(list(_figures(signal, final, counts).values()))
    expected = [slowly(np.repeat(signal, times), np.repeat(final, times)) for times in counts]
    assert figures == pytest.approx(np.array(expected))


def test_there_is_a_row_for_each_signal_and_epoch() -> None:
    names = [f"signal{number}" for number in range(3)]
    table, final = noisy(64, 8, names)
    assert len(fidelity(table, final, dict.fromkeys(names, 1))) == 24


def test_signs() -> None:
    assert signs(["val_loss", "ema8_val_accuracy", "train_loss"]) == {
        "val_loss": -1, "ema8_val_accuracy": 1, "train_loss": -1
    }  # fmt: skip


# --- a search's own trials -------------------------------------------------------------------------------------------


@pytest.fixture
def search(tmp_path: Path) -> Build:
    """Five finished trials whose order turns round after epoch 2, and some that say nothing."""
    build = Build(tmp_path / "run")
    for number in range(5):
        build.trial([0.3 - number / 100, 0.4 - number / 100, 0.5 + number / 100, 0.6 + number / 100], FINISHED)
    build.trial([0.9], STOPPED)
    build.trial([0.9, 0.9], FAILED, error="no")
    return build


def test_a_search_is_judged_by_its_finished_trials(search: Build) -> None:
    found = run_fidelity(search.load())
    assert found.dtypes.astype(str).to_dict() == FIDELITY_DTYPES
    assert found["signal"].unique().tolist() == ["val_accuracy", "val_loss", "train_loss"]
    assert (found["n"] == 5).all()
    for _, rows in found.groupby("signal"):
        assert rows["epoch"].tolist() == [1, 2, 3]  # not the last
        assert rows["spearman"].tolist() == pytest.approx([-1, -1, 1])
        assert rows["top_kept"].tolist() == [0, 0, 1]
        assert rows["regret"].tolist() == pytest.approx([2, 2, 0])


def test_fewer_than_four_finished_trials_say_nothing(tmp_path: Path) -> None:
    build = Build(tmp_path / "run")
    assert run_fidelity(build.load()).empty
    for _ in range(3):
        build.trial([0.1, 0.2, 0.3, 0.4], FINISHED)
    assert run_fidelity(build.load()).empty
    build.trial([0.1, 0.2, 0.3, np.nan], FINISHED)
    assert (run_fidelity(build.load())["n"] == 4).all()


def test_the_command_line_prints_the_table(search: Build, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(search.directory.path)]) == 0
    usual = capsys.readouterr().out
    assert main([str(search.directory.path), "--fidelity"]) == 0
    output = capsys.readouterr().out
    assert output.startswith(usual)
    title, header, *lines = output[len(usual) :].splitlines()
    assert title == "run: what early signals said about the end"
    assert header.split() == ["signal", "epoch", "n", "spearman", "top_kept", "regret"]
    assert lines[0].startswith("val_accuracy 1     5 -1.00 [")
    assert "bootstrap intervals over the trials" in output
    assert max(len(line.rstrip()) for line in (title, header, *lines)) <= 100


def test_the_command_line_says_where_there_is_too_little(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        Build(tmp_path / name).trial([0.5] * 4, FINISHED)
    assert main([str(tmp_path / "one"), str(tmp_path / "two"), "--fidelity"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "early signals" in line]
    assert [line.split(":")[0] for line in lines] == ["one", "two"]
    assert all("at least 4 finished trials" in line and len(line) <= 100 for line in lines)


OTHER_SIGNALS = ("batch_stats_val_loss", "ema33_val_accuracy", "ema33_reestimated_val_loss", "cool_down_val_loss")


# --- the recorded curves ---------------------------------------------------------------------------------------------


def curves_of(configuration: int, seed: int, epochs: int) -> list[dict[str, object]]:
    """Training loss tells the final order, validation accuracy its reverse until the last epoch."""
    known = {"configuration": configuration, "seed": seed, "total_epochs": epochs, "failed": False}
    return [
        known
        | {
            "epoch": epoch,
            "train_loss": 1 - configuration / RUNS + 0.1 * seed,
            "val_loss": 1.0,
            **dict.fromkeys(OTHER_SIGNALS, 1.0),
            "val_accuracy": (configuration if epoch == epochs else RUNS - configuration) / 100 + 0.1 * seed,
            "seconds_train": 2.0,
            "seconds_val": 200.0 if configuration == 3 else 0.5,  # a pause
        }
        for epoch in range(1, epochs + 1)
    ]


@pytest.fixture
def curves() -> pd.DataFrame:
    """Every configuration in full, three also with a second seed, four also in cycles of one epoch."""
    runs = [(number, 0, 5) for number in range(RUNS)]
    runs += [(number, 1, 5) for number in range(3)] + [(number, 0, 1) for number in range(4)]
    return pd.DataFrame([row for run in runs for row in curves_of(*run)])


@pytest.fixture
def few_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping_rules, "ORDERS", 50)
    monkeypatch.setattr(stopping_rules, "RESAMPLES", 20)


def test_the_final_quality_is_a_mean_over_seeds_without_failures(curves: pd.DataFrame) -> None:
    expected = FINAL + np.where(np.arange(RUNS) < 3, 0.05, 0)
    assert fidelity_table.final_quality(curves).to_numpy() == pytest.approx(expected)
    second = (curves["configuration"] == 1) & (curves["seed"] == 1)
    early = curves[~second | (curves["epoch"] < 3)]
    late = curves.assign(val_accuracy=curves["val_accuracy"].mask(second & (curves["epoch"] == 5)))
    for failed in (early, late):
        assert np.flatnonzero(fidelity_table.final_quality(failed).isna()).tolist() == [1]


def test_signals_of_recorded_curves(curves: pd.DataFrame) -> None:
    curves = curves[curves["seed"] == 0]
    found = fidelity_table.signal_fidelity(curves, fidelity_table.final_quality(curves))
    rows = found.set_index(["signal", "epoch"])
    assert rows["spearman"]["train_loss"].tolist() == pytest.approx([1] * 4)
    assert rows["spearman"]["val_accuracy"].tolist() == pytest.approx([-1] * 4)
    assert [rows[name]["cycle_val_accuracy", 1] for name in ("n", "spearman")] == pytest.approx([4, 1])


def test_rules_on_recorded_curves(curves: pd.DataFrame, few_orders: None) -> None:
    rules = fidelity_table.all_tables(curves)["rules"].set_index("rule")
    assert [rules[name]["none"] for name in ("epochs_share", "best_survives", "top_kept", "regret")] == [1, 1, 1, 0]
    truthful = rules.loc["train_loss, rungs 1, 2, 1 in 2"]
    assert (truthful["best_survives"], truthful["regret"]) == (1, 0)
    assert truthful["epochs_share"] < 0.9
    assert rules["regret"]["val_accuracy, rungs 1, 2, 4, 1 in 2"] > 0


def test_a_failed_configuration_is_stopped_or_comes_last(curves: pd.DataFrame, few_orders: None) -> None:
    left = curves[(curves["configuration"] != RUNS - 1) | (curves["epoch"] < 3)]
    rules = fidelity_table.all_tables(left)["rules"].set_index("rule")
    assert rules.loc["none", "regret"] == 0
    assert rules.notna().all(axis=None)


def test_noise_is_known_with_and_without_what_a_seed_does_to_all(curves: pd.DataFrame) -> None:
    shifted = curves.assign(val_loss=curves["configuration"] * curves["seed"] / 100)
    noise = fidelity_table.noise_table(shifted).set_index("common", append=True)
    assert noise["configurations"].tolist() == [3] * 10
    assert noise.xs(True, level="common")["train_loss"].tolist() == pytest.approx([0.1 / np.sqrt(2)] * 5)
    assert noise.xs(False, level="common")["train_loss"].tolist() == pytest.approx([0] * 5)
    assert noise.xs(False, level="common")["val_loss"].tolist() == pytest.approx([0.01 / np.sqrt(2)] * 5)
    assert fidelity_table.noise_table(curves[curves["seed"] == 0]).empty


def test_what_signals_cost_is_not_distorted_by_a_pause(curves: pd.DataFrame) -> None:
    assert fidelity_table.cost_table(curves).to_numpy().tolist() == [["val", 0.25]]


def test_the_script_writes_what_it_prints(
    curves: pd.DataFrame,
    few_orders: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    curves.to_parquet(tmp_path / "curves.parquet")
    out = tmp_path / "new" / "out"
    arguments = ["--curves", str(tmp_path / "curves.parquet"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["fidelity_table.py", *arguments])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", fidelity_table.__spec__)  # as `python -m` leaves it
    fidelity_table.main()
    assert {path.name for path in out.iterdir()} == {
        "fidelity.csv", "rules.csv", "noise.csv", "cost.csv", "env.json"
    }  # fmt: skip
    assert json.loads((out / "env.json").read_text())["command"].endswith(" ".join(arguments))
    assert list(pd.read_csv(out / "fidelity.csv")) == list(FIDELITY_DTYPES)
    printed = capsys.readouterr().out
    assert all(f"\n{name}\n" in printed for name in ("fidelity", "rules", "noise", "cost"))


@pytest.mark.parametrize("name", ["missing", "text"])
def test_curves_that_cannot_be_read_are_told_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text").write_text("no table")
    monkeypatch.setattr(sys, "argv", ["fidelity_table.py", "--curves", str(tmp_path / name), "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"^error: cannot read [^\n]*$"):
        fidelity_table.main()
