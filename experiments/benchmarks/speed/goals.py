"""What the speed benchmarks share: paired samples become rows beside a goal; rows become CSV and a table.

    python -m experiments.benchmarks.speed.goals experiments/results/benchmarks   # the table of all rows so far

Each benchmark writes, into its folder:

    NAME.csv           one row per figure: measure, peer, theirs, ours, unit, ratio, low, high, goal, met, n
    NAME-samples.csv   every single measurement behind it
    NAME.json          versions, machine, commit, command, seconds taken
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import pandas as pd

from experiments.benchmarks.this_command import this_command
from tune_resnet._files import write_whole
from tune_resnet.results.paired_test import analyse_pairs
from tune_resnet.runs.environment import describe_environment


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure. `ratio` is the median over pairs, from `low` to `high`; where nothing runs beside it, NaN."""

    measure: str
    peer: str  # what ran beside it, alternately; empty: nothing
    theirs: float  # median
    ours: float  # median
    unit: str
    ratio: float
    low: float  # the lowest pair
    high: float
    goal: str
    met: bool
    n: int  # pairs

    def cells(self) -> list[str]:
        """For a table: measure, peer, ours, ratio, goal."""
        spread = f" ({self.low:.3g} to {self.high:.3g})" if self.n > 1 else ""
        return [
            self.measure,
            f"{self.peer}: {self.theirs:.4g} {self.unit}" if self.peer else "-",
            f"{self.ours:.4g} {self.unit}" + ("" if self.peer else spread),
            f"{self.ratio:.3g}{spread}" if self.peer else "-",
            f"{self.goal}: {'met' if self.met else 'missed'}",
        ]


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A bound on a ratio, or on a figure where nothing runs beside it. At least one of the two is None."""

    at_least: float | None = None
    at_most: float | None = None

    def __str__(self) -> str:
        return f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"

    def met_by(self, value: float) -> bool:
        """Whether a value is within the bound; NaN never is."""
        low = -math.inf if self.at_least is None else self.at_least
        high = math.inf if self.at_most is None else self.at_most
        return low <= value <= high


def paired(
    measure: str, pairs: Sequence[tuple[float, float]], *, peer: str, unit: str, goal: Goal, inverse: bool = False
) -> Row:
    """Pairs (theirs, ours) measured alternately. The ratio is ours / theirs, or where `inverse` theirs / ours: the
    speed-up of a time."""
    ratios = [theirs / ours if inverse else ours / theirs for theirs, ours in pairs]
    ratio = statistics.median(ratios)
    return Row(
        measure=measure,
        peer=peer,
        theirs=statistics.median(theirs for theirs, _ in pairs),
        ours=statistics.median(ours for _, ours in pairs),
        unit=unit,
        ratio=ratio,
        low=min(ratios),
        high=max(ratios),
        goal=str(goal),
        met=goal.met_by(ratio),
        n=len(pairs),
    )


def alone(measure: str, values: Sequence[float], *, unit: str, goal: Goal) -> Row:
    """Values of one figure that has a bound of its own."""
    ours = statistics.median(values)
    return Row(
        measure=measure,
        peer="",
        theirs=math.nan,
        ours=ours,
        unit=unit,
        ratio=math.nan,
        low=min(values),
        high=max(values),
        goal=str(goal),
        met=goal.met_by(ours),
        n=len(values),
    )


def no_difference(measure: str, differences: Sequence[float], *, unit: str) -> Row:
    """Two or more paired differences that should be zero: their mean, and its 95% interval in place of the range."""
    result = analyse_pairs(differences)
    low, high = (result.mean if bound is None else bound for bound in (result.low, result.high))
    return Row(
        measure=measure,
        peer="",
        theirs=math.nan,
        ours=result.mean,
        unit=unit,
        ratio=math.nan,
        low=low,
        high=high,
        goal="0 in the interval",
        met=low <= 0 <= high,
        n=result.n,
    )


class Benchmark:
    """Collects the samples and rows of one script and writes them; a context manager that writes at the end."""

    def __init__(self, name: str, out: Path) -> None:
        self.name, self.out = name, out
        self.env = describe_environment()  # before anything is written, which would change the checkout
        self.started = time.time()
        self.rows: list[Row] = []
        self.samples: list[dict[str, Any]] = []

    def sample(self, measure: str, **values: Any) -> None:
        """One measurement, kept and shown as it comes."""
        self.samples.append({"measure": measure, **values})
        shown = ", ".join(
            f"{name} {value:.5g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
        )
        print(f"{measure}: {shown}", flush=True)

    def row(self, row: Row) -> None:
        self.rows.append(row)

    def write(self) -> None:
        """Writes the three files and prints the rows."""
        self.out.mkdir(parents=True, exist_ok=True)
        write_whole(self.out / f"{self.name}.csv", _csv([asdict(row) for row in self.rows]))
        write_whole(self.out / f"{self.name}-samples.csv", _csv(self.samples))
        env = self.env | {"command": this_command(), "seconds": round(time.time() - self.started, 1)}
        write_whole(self.out / f"{self.name}.json", json.dumps(env, indent=2) + "\n")
        print(f"\n{table(self.rows)}\n\n{env['seconds']} s in all", flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *rest: object) -> None:
        if error is None:
            self.write()


def table(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table."""
    lines = [["what", "peer", "ours", "ratio", "goal"], ["---"] * 5, *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def read_rows(folder: Path) -> list[Row]:
    """All rows of a folder of results, by the scripts' names."""
    kinds = {field.name: str(field.type) for field in fields(Row)}
    rows = []
    for file in sorted(folder.glob("*.json")):
        with file.with_suffix(".csv").open(newline="") as lines:
            rows += [
                Row(**{name: _parsed(kinds[name], text) for name, text in line.items()})
                for line in csv.DictReader(lines)
            ]
    return rows


def _parsed(kind: str, text: str) -> Any:
    readers: dict[str, Callable[[str], Any]] = {"str": str, "float": float, "int": int, "bool": "True".__eq__}
    return readers[kind](text)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    return pd.DataFrame(rows).to_csv(index=False, na_rep="nan")


def options(description: str | None) -> argparse.ArgumentParser:
    """The command line that all of them share."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables")
    return parser


if __name__ == "__main__":
    print(table(read_rows(Path(sys.argv[1]))))
