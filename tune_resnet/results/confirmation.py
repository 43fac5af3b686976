"""What a run's confirmations say: their pairs, the statistics of the differences, a sentence and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import pandas as pd

from tune_resnet._table import FittingTable
from tune_resnet._text import percent, printable
from tune_resnet.config.sections import MIN_SEEDS, BudgetSpec
from tune_resnet.hpo.ranking import winner
from tune_resnet.results.paired_test import (
    ALPHA,
    BETTER,
    FIRST_LOOK,
    MAX_PAIRS,
    WORSE,
    PairedResult,
    analyse_looks,
    analyse_pairs,
)
from tune_resnet.runs.directory import RunDirectory
from tune_resnet.runs.load import RunFrames, image_count, once_per_run, own_size, read_object
from tune_resnet.runs.tables import REFERENCE, SEQUENTIAL, SIZE, WINNER

SEED_OFFSET = 1000  # seeds are the search's seed + this + 0, 1, 2 ...: other searches rarely have come near them


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Confirmation:
    """One configuration that was trained again beside the reference, with fresh paired seeds, judged on the test set.

    A verdict is about this configuration at this size, whatever the run's winner is by now.
    """

    trial: int | None  # the first that has this configuration; None: the run has no such trial
    of_winner: bool  # it is the run's winner
    size: dict[str, int]  # by the columns of `SIZE`
    place: str  # the size for a person, empty where it is the search's own
    rows: pd.DataFrame  # of confirm.csv: its trainings, and the reference's with the same seeds
    pairs: pd.DataFrame  # those that count, as of `complete_pairs`
    sequential: bool  # looked at after each pair until the verdict is clear
    goes_on: bool  # it is not clear, and the last look is to come
    result: PairedResult | None  # differences in percentage points; None: too few complete pairs
    images: int | None  # of the test set
    search: BudgetSpec  # its objective judges

    def __repr__(self) -> str:
        return f"<{confirmation_sentence(self)}>"

    @property
    def judged_on(self) -> str:
        """The test images, for a person."""
        return "the test images" if self.images is None else f"{self.images:,} test images"

    @property
    def name(self) -> str:
        """The configuration, for a person."""
        return "an earlier configuration" if self.trial is None else f"trial {self.trial}"


@once_per_run
def confirmations(frames: RunFrames) -> list[Confirmation]:
    """Each configuration of confirm.csv beside the reference, at each size; first the winner at the search's own."""
    rows, columns = frames.confirm, [*frames.spec.hyperparameters, *SIZE]
    reference = rows[(rows["configuration"] == REFERENCE) & _is(rows, frames.spec.values, frames.spec.hyperparameters)]
    found = []
    for values, own in rows[rows["configuration"] == WINNER].groupby(columns, sort=False):
        configuration = dict(zip(columns, values, strict=True))
        beside = reference[reference["seed"].isin(own["seed"]) & _is(reference, configuration, [*SIZE])]
        found.append(_confirmation(frames, configuration, own, beside))
    return sorted(found, key=lambda one: (not one.of_winner, one.place))


def winner_results(frames: RunFrames) -> list[tuple[Confirmation, PairedResult]]:
    """The `confirmations` of the run's winner that have a result, each with it."""
    return [(one, one.result) for one in confirmations(frames) if one.of_winner and one.result]


def _confirmation(
    frames: RunFrames, configuration: Mapping[str, Any], own: pd.DataFrame, reference: pd.DataFrame
) -> Confirmation:
    best = winner(frames)
    of_winner = best is not None and all(best[name] == configuration[name] for name in frames.spec.hyperparameters)
    trials = frames.trials.loc[_is(frames.trials, configuration, frames.spec.hyperparameters), "trial"]
    rows = pd.concat([own, reference]).sort_values(["seed", "configuration"], ignore_index=True)
    sequential = bool((own["rule"] == SEQUENTIAL).any())
    size = {name: int(configuration[name]) for name in SIZE}
    first = frames.spec.train.seed + SEED_OFFSET
    ended = first_missing(rows, first)
    column = frames.spec.search.column("test")
    pairs = complete_pairs(rows, column)
    if sequential:
        result = look(rows, first, column)
        pairs = pairs[pairs.index >= first][: result.n if result else 0]
    else:
        result = analyse_pairs(_differences(pairs)) if len(pairs) >= MIN_SEEDS else None
    return Confirmation(
        trial=best["trial"] if best and of_winner else None if trials.empty else int(trials.min()),
        of_winner=of_winner,
        size=size,
        place=_place(size, own_size(frames.spec, frames.env), frames.spec.model.factory is None),
        rows=rows,
        pairs=pairs,
        sequential=sequential,
        goes_on=sequential and ended < first + MAX_PAIRS and not (result and result.is_clear),
        result=result,
        images=image_count(read_object(RunDirectory(frames.path).confirm_json).get("test_images")),
        search=frames.spec.search,
    )


def _place(size: Mapping[str, int], own: Mapping[str, int], is_resnet: bool) -> str:
    """A size for a person, with a blank before it; empty where it is the search's own."""
    if size == own:
        return ""
    width = f" at width {size['width']}" if is_resnet else ""
    epochs = f" for {size['of_epochs']} epochs" if size["of_epochs"] != own["of_epochs"] else ""
    return f"{width} on {size['train_images']:,} training images{epochs}"


def _is(rows: pd.DataFrame, configuration: Mapping[str, Any], columns: Sequence[str]) -> pd.Series:
    """Which rows have these values in the columns."""
    return (rows[list(columns)] == [configuration[name] for name in columns]).all(axis=1)


def look(rows: pd.DataFrame, first_seed: int, column: str) -> PairedResult | None:
    """The result of a sequential confirmation so far, of one configuration beside the reference at one size, judged by
    this column.

    Pairs are looked at in the order of their seeds, whenever they ended: up to the first that has not, and not beyond
    the last look. None before the first look.
    """
    ended = min(first_missing(rows, first_seed), first_seed + MAX_PAIRS)
    return analyse_looks(_differences(complete_pairs(rows[rows["seed"].between(first_seed, ended - 1)], column)))


def first_missing(rows: pd.DataFrame, first_seed: int) -> int:
    """The first seed with which one of the two has not been trained."""
    trained = rows["seed"].value_counts()
    return next(seed for seed in count(first_seed) if trained.get(seed, 0) < 2)


def _differences(pairs: pd.DataFrame) -> list[float]:
    """Percentage points, in the order of the seeds."""
    return list(100 * (pairs[WINNER] - pairs[REFERENCE]))


def complete_pairs(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """What this column says, in [0, 1]: columns winner and reference, one row per seed for which both are known."""
    scores = rows.pivot(index="seed", columns="configuration", values=column)
    return scores.reindex(columns=[WINNER, REFERENCE]).dropna()


def pairs_table(rows: pd.DataFrame, search: BudgetSpec) -> FittingTable:
    """What judges the search, of both, and the difference in percentage points, one row per seed; a failed training
    says why."""
    column = search.column("test")
    table = FittingTable("seed", WINNER, REFERENCE, f"difference{search.of_what}")
    for seed, pair in rows.groupby("seed"):
        by_name = pair.set_index("configuration")
        cells = [_cell(by_name, WINNER, column), _cell(by_name, REFERENCE, column)]
        known = complete_pairs(pair, column)
        difference = f"{100 * (known[WINNER] - known[REFERENCE]).item():+.2f}" if len(known) else "-"
        table.add_row(str(seed), *cells, difference)
    return table


def _cell(by_name: pd.DataFrame, configuration: str, column: str) -> str:
    if configuration not in by_name.index:
        return "-"
    error = str(by_name.at[configuration, "error"])
    return printable(error) if error else percent(float(by_name[column][configuration]))


def confirmation_sentence(confirmation: Confirmation) -> str:
    """What came of a confirmation, for a person."""
    name, result, place = confirmation.name, confirmation.result, confirmation.place
    whose = f"{name[0].upper()}{name[1:]}" + ("" if confirmation.of_winner else " (no longer the winner)")
    if result is None:
        least = FIRST_LOOK if confirmation.sequential else MIN_SEEDS
        return f"{whose} was trained again{place}, but a verdict takes {least} complete pairs of trainings."
    yet = " yet" if confirmation.goes_on else ""
    answer = {
        BETTER: f"Confirmed with fresh seeds: {whose} is better than the reference{place}",
        WORSE: f"Checked with fresh seeds: {whose} is worse than the reference{place}",
    }.get(
        result.verdict,
        f"Checked with fresh seeds: {whose} and the reference are not{yet} distinguishable with {result.n} pairs"
        f"{place}",
    )
    points = f"percentage points{confirmation.search.of_what}"
    return (
        f"{answer}: {result.mean:+.2f} {points} on {confirmation.judged_on} ({interval_words(result)}), "
        f"over {result.n} paired seeds; {how_sure(result)}.{_needed(confirmation, result)}"
    )


def look_line(result: PairedResult, of_what: str) -> str:
    """What is said after a look; `of_what`: as of `BudgetSpec`."""
    clear = "clear" if result.is_clear else "not clear"
    return f"after {result.n} pairs {result.mean:+.2f} percentage points{of_what}, {interval_words(result)}: {clear}"


def interval_words(result: PairedResult) -> str:
    if result.low is None or result.high is None:
        return "no interval, since all pairs differ by the same amount"
    return f"95% interval {result.low:+.2f} to {result.high:+.2f}"


def how_sure(result: PairedResult) -> str:
    return "looked at after each pair, which the interval allows for" if result.sequential else _permutation(result)


def _permutation(result: PairedResult) -> str:
    if not result.exact:
        return f"permutation test on drawn sign flips p = {result.p_value:.2g}"
    limit = f" ({result.n} pairs cannot give less than {result.min_p:.4g})" if result.min_p > ALPHA else ""
    return f"exact permutation test p = {result.p_value:.4g}{limit}"


def _needed(confirmation: Confirmation, result: PairedResult) -> str:
    if result.sequential and not result.is_clear:
        return f" Pairs are added up to {MAX_PAIRS}." if confirmation.goes_on else " No more pairs are added."
    if result.is_clear or result.pairs_needed is None:
        return ""
    return f" To show a difference of this size with 80% power takes about {result.pairs_needed:,} paired seeds."
