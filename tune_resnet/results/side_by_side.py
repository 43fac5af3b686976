"""Several runs beside each other: which has the best winner, and what differs between them."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tune_resnet._text import flat, printable
from tune_resnet.hpo.ranking import winner
from tune_resnet.results.comparison import compare_to_reference
from tune_resnet.results.confirmation import winner_results
from tune_resnet.runs.load import RunFrames
from tune_resnet.runs.tables import WINNER

_OWN = ("search.name", "points_to_evaluate")  # settings that say nothing about what differs


def score_of(runs: Sequence[RunFrames]) -> str:
    """What judges the runs, for a heading; `score` where that is not one thing."""
    words = {run.spec.search.judged_by for run in runs}
    return words.pop() if len(words) == 1 else "score"


@dataclass(frozen=True)
class Leader:
    """The run with the best winner. `confirmed`: the winner's mean score on the test images, in [0, 1], which decided;
    None: the estimates did, as not every run's winner is confirmed."""

    run: RunFrames
    estimate: float  # the winner's, in [0, 1]
    confirmed: float | None


def leader(runs: Sequence[RunFrames]) -> Leader | None:
    """The best among those that are judged by the same on the same images, in the largest such group; None where no
    trial has finished."""
    groups: dict[tuple[object, ...], list[Leader]] = {}
    for run in runs:
        found, best = compare_to_reference(run), winner(run)
        if best is not None:
            judged = (found.search.objective, found.judged_on, run.env.get("dataset_fingerprint"))
            groups.setdefault(judged, []).append(Leader(run, best["estimate"], _confirmed_score(run)))
    largest = max(groups.values(), key=len, default=[])
    if largest and all(one.confirmed is not None for one in largest):
        return max(largest, key=lambda one: one.confirmed or 0)
    best_estimate = max(largest, key=lambda one: one.estimate, default=None)
    return best_estimate and replace(best_estimate, confirmed=None)


def _confirmed_score(run: RunFrames) -> float | None:
    """The winner's mean over the pairs of its confirmation at the search's own size, in [0, 1]; None: there is none."""
    found = (one for one, _ in winner_results(run) if not one.place)
    return next((float(one.pairs[WINNER].mean()) for one in found), None)


def differing_settings(runs: Sequence[RunFrames]) -> list[list[str]]:
    """Of each setting that is not the same in all runs its dotted name, and its value in each run, `-` where it is not
    set; without what the runs are called, and the points tried first."""
    specs = [flat(tomllib.loads(run.spec.to_toml())) for run in runs]
    names = [name for name in dict.fromkeys(name for spec in specs for name in spec) if name not in _OWN]
    rows = [[name, *(printable(spec.get(name, "-")) for spec in specs)] for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]
