"""The speed benchmarks' rows: medians of paired ratios, bounds that can be missed, and files that read back."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from experiments.benchmarks.speed.goals import Benchmark, Goal, alone, no_difference, paired, read_rows, table


def test_the_ratio_is_the_median_over_pairs() -> None:
    row = paired("speed", [(1.0, 3.0), (2.0, 4.0), (1.0, 10.0)], peer="them", unit="images/s", goal=Goal(at_least=2.5))
    assert (row.ratio, row.low, row.high, row.n) == (3.0, 2.0, 10.0, 3)
    assert row.met


def test_an_inverse_ratio_is_a_speed_up() -> None:
    row = paired("search", [(40.0, 10.0)], peer="them", unit="s", goal=Goal(at_least=4.0), inverse=True)
    assert row.ratio == 4.0
    assert row.met


@pytest.mark.parametrize(
    ("goal", "value", "met"),
    [
        (Goal(at_least=0.9), 0.899, False),
        (Goal(at_least=0.9), 0.9, True),
        (Goal(at_most=1.5), 1.51, False),
        (Goal(at_most=1.5), 0.3, True),
        (Goal(at_most=1.5), math.nan, False),
    ],
)
def test_a_bound_can_be_missed(goal: Goal, value: float, met: bool) -> None:
    assert alone("figure", [value], unit="s", goal=goal).met is met


@pytest.mark.parametrize(
    ("differences", "met"),
    [([-1.0, 1.2, 0.1], True), ([1.0, 1.1, 1.2], False), ([0.0, 0.0], True), ([0.1, 0.1], False)],
)
def test_a_difference_is_none_where_its_interval_holds_zero(differences: list[float], met: bool) -> None:
    row = no_difference("accuracy", differences, unit="points")
    assert row.met is met
    assert row.n == len(differences)


def test_rows_read_back_as_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Benchmark("speed", tmp_path) as benchmark:
        benchmark.sample("figure", value=0.2)
        benchmark.row(alone("figure", [0.1, 0.2, 0.3], unit="s", goal=Goal(at_most=0.15)))
        benchmark.row(paired("ratio", [(1.0, 3.0)], peer="them", unit="s", goal=Goal(at_most=2)))
    rows = read_rows(tmp_path)
    assert [row.measure for row in rows] == ["figure", "ratio"]
    assert table(rows) == table(benchmark.rows)
    assert "| <= 0.15: missed |" in table(rows)
    assert table(rows) in capsys.readouterr().out


def test_nothing_is_written_of_a_benchmark_that_failed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Benchmark("speed", tmp_path) as benchmark:
        benchmark.sample("figure", value=1 / 0)
    assert not list(tmp_path.iterdir())
