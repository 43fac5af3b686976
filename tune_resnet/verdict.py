"""What a run's confirmations say: their pairs, the statistics of the differences, a sentence and a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.table import Table

from tune_resnet.findings import winner
from tune_resnet.frames import REFERENCE, WINNER, RunFrames, read_object
from tune_resnet.options import LEAST_SEEDS
from tune_resnet.paired import ALPHA, BETTER, WORSE, PairedResult, analyse_pairs
from tune_resnet.records import RunDirectory
from tune_resnet.spec import TUNABLE
from tune_resnet.text import percent, printable


@dataclass(frozen=True, kw_only=True, eq=False)
class Confirmation:
    """One configuration that was trained again beside the reference, with fresh paired seeds, judged on the test set.

    A verdict is about this configuration, whatever the run's winner is by now.
    """

    trial: int | None  # the first that has this configuration; None: the run has no such trial
    of_winner: bool  # it is the run's winner
    rows: pd.DataFrame  # of confirm.csv: its trainings, and the reference's with the same seeds
    result: PairedResult | None  # differences in percentage points; None: fewer than two complete pairs
    images: int | None  # of the test set

    @property
    def name(self) -> str:
        """The configuration, for a person."""
        return "an earlier configuration" if self.trial is None else f"trial {self.trial}"


def confirmations(frames: RunFrames) -> list[Confirmation]:
    """Every configuration of confirm.csv beside the reference, the winner's first."""
    rows, columns = frames.confirm, list(TUNABLE)
    best, images = winner(frames), read_object(RunDirectory(frames.path).confirm_json).get("test_images")
    reference = rows[(rows["configuration"] == REFERENCE) & _is(rows, vars(frames.spec.train))]
    found = []
    for values, own in rows[rows["configuration"] == WINNER].groupby(columns, sort=False):
        configuration = dict(zip(columns, values, strict=True))
        trials = frames.trials.loc[_is(frames.trials, configuration), "trial"]
        of_winner = best is not None and all(best[name] == configuration[name] for name in columns)
        both = pd.concat([own, reference[reference["seed"].isin(own["seed"])]]).sort_values(["seed", "configuration"])
        found.append(
            Confirmation(
                trial=best["trial"] if best and of_winner else None if trials.empty else int(trials.min()),
                of_winner=of_winner,
                rows=both.reset_index(drop=True),
                result=_result(both),
                images=images if type(images) is int and images > 0 else None,  # confirm.json may hold anything
            )
        )
    return sorted(found, key=lambda one: not one.of_winner)


def _is(rows: pd.DataFrame, configuration: Mapping[str, Any]) -> pd.Series:
    """Which rows have these hyperparameters."""
    return (rows[list(TUNABLE)] == [configuration[name] for name in TUNABLE]).all(axis=1)


def _result(rows: pd.DataFrame) -> PairedResult | None:
    pairs = complete_pairs(rows)
    return analyse_pairs(list(100 * (pairs[WINNER] - pairs[REFERENCE]))) if len(pairs) >= LEAST_SEEDS else None


def complete_pairs(rows: pd.DataFrame) -> pd.DataFrame:
    """Test accuracies in [0, 1], columns winner and reference, one row per seed for which both are known."""
    accuracies = rows.pivot(index="seed", columns="configuration", values="test_accuracy")
    return accuracies.reindex(columns=[WINNER, REFERENCE]).dropna()


def pairs_table(rows: pd.DataFrame) -> Table:
    """Both accuracies and their difference in percentage points, one row per seed; a failed training says why."""
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    for name in ("seed", WINNER, REFERENCE, "difference"):
        table.add_column(name)
    for seed, pair in rows.groupby("seed"):
        by_name = pair.set_index("configuration")
        cells = [_cell(by_name, WINNER), _cell(by_name, REFERENCE)]
        known = complete_pairs(pair)
        difference = f"{100 * (known[WINNER] - known[REFERENCE]).item():+.2f}" if len(known) else "-"
        table.add_row(str(seed), *cells, difference)
    return table


def _cell(by_name: pd.DataFrame, configuration: str) -> str:
    if configuration not in by_name.index:
        return "-"
    error = str(by_name.at[configuration, "error"])
    return printable(error) if error else percent(float(by_name["test_accuracy"][configuration]))


def confirmation_sentence(confirmation: Confirmation) -> str:
    """What came of a confirmation, for a person."""
    name, result = confirmation.name, confirmation.result
    whose = f"{name[0].upper()}{name[1:]}" + ("" if confirmation.of_winner else " (not the winner now)")
    if result is None:
        return f"{whose} was trained again, but a verdict takes {LEAST_SEEDS} complete pairs of trainings."
    answer = {
        BETTER: f"Confirmed with fresh seeds: {whose} is better than the reference",
        WORSE: f"Checked with fresh seeds: {whose} is worse than the reference",
    }.get(
        result.verdict,
        f"Checked with fresh seeds: {whose} and the reference are not distinguishable with {result.n} pairs",
    )
    interval = "no interval, since all pairs differ by the same"
    if result.low is not None and result.high is not None:
        interval = f"95% interval {result.low:+.2f} to {result.high:+.2f}"
    images = "the test images" if confirmation.images is None else f"{confirmation.images:,} test images"
    return (
        f"{answer}: {result.mean:+.2f} percentage points on {images} ({interval}), "
        f"over {result.n} paired seeds; {_permutation(result)}.{_needed(result)}"
    )


def _permutation(result: PairedResult) -> str:
    if not result.exact:
        return f"permutation test on drawn sign flips p = {result.p_value:.2g}"
    limit = f" ({result.n} pairs cannot give less than {result.least_p:.4g})" if result.least_p > ALPHA else ""
    return f"exact permutation test p = {result.p_value:.4g}{limit}"


def _needed(result: PairedResult) -> str:
    if result.verdict in (BETTER, WORSE) or result.pairs_needed is None:
        return ""
    return f" To show a difference of this size with 80% power takes about {result.pairs_needed:,} paired seeds."
