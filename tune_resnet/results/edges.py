"""Where a run's best trials lie at a bound of its space, and the command that goes on with a wider one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from tune_resnet._text import printable, to_run
from tune_resnet.config.hyperparameters import limits_of
from tune_resnet.config.sections import MAX_TRIALS
from tune_resnet.config.space import Domain, exact, written
from tune_resnet.config.spec import SearchSpec
from tune_resnet.hpo.ranking import best_trials, finished_trials
from tune_resnet.runs.directory import SEARCH, RunDirectory
from tune_resnet.runs.load import RunFrames, once_per_run
from tune_resnet.runs.reading import records

LOWER, UPPER = "lower", "upper"
_AT_BOUND = 0.05  # of a domain, on its scale, counted from a bound: what lies there lies at it
_MIN_FOR_QUARTER = 8  # finished trials: by chance, the two best are at a given bound together once in 400 runs
_GOOD_SHARE = 0.25  # of the finished trials
_STEPS = 9  # from a domain's lower bound to its upper one: with fewer, chance leads to a bound
_MORE_TRIALS = 1.5  # times as many as the run has, for a wider space
_AS_GOOD_AS_ZERO = {"weight_decay": 1e-6}  # no log scale reaches 0, and smaller values do nothing else


@dataclass(frozen=True, kw_only=True)
class Edge:
    """A bound of a hyperparameter at which the best trials lie."""

    name: str  # of the hyperparameter
    side: str  # LOWER or UPPER
    bound: float
    wider: float  # where the bound can be moved
    winner: bool  # the winner lies there; else most of the best quarter do


def best_quarter(frames: RunFrames, least: int) -> pd.DataFrame:
    """The best quarter of the finished trials, and two of them at least, columns and order as in `ranked_trials`; no
    rows where fewer than `least` have finished."""
    finished = finished_trials(frames)
    return finished.head(max(2, round(_GOOD_SHARE * len(finished))) if len(finished) >= least else 0)


@once_per_run
def edges(frames: RunFrames) -> list[Edge]:
    """Each bound that can be moved and has the winner, or more than half of the best quarter of at least 8 finished
    trials, in the outermost 5% of the domain. None while a search goes on: its winner may change.
    """
    if frames.kind != SEARCH or (frames.active and frames.has_running):
        return []
    winner, quarter = best_trials(frames, 1), best_quarter(frames, _MIN_FOR_QUARTER)
    found = []
    for name, domain in _intervals(frames).items():
        ours, theirs = _varied(winner, name, frames.spec), _varied(quarter, name, frames.spec)
        for side, bound, wider in _movable(name, domain, frames.spec.kind(name)):
            wins = _most_at(ours, domain, side)
            if wins or _most_at(theirs, domain, side):
                found.append(Edge(name=name, side=side, bound=bound, wider=wider, winner=wins))
    return found


def _intervals(frames: RunFrames) -> dict[str, Domain]:
    """The intervals with so many values that to lie at a bound says something: no choices, no few whole numbers."""
    found = {name: domain for name, domain in frames.spec.space.items() if isinstance(domain, Domain)}
    steps = {name: domain.step or (1 if frames.spec.kind(name) is int else 0) for name, domain in found.items()}
    return {name: domain for name, domain in found.items() if domain.high - domain.low >= _STEPS * steps[name]}


def _varied(trials: pd.DataFrame, name: str, spec: SearchSpec) -> pd.Series:
    """The trials' values of a hyperparameter; NaN where its condition does not hold."""
    if spec.space[name].when is None:
        return trials[name]
    holds = [name in spec.varied(row) for row in records(trials)]
    return trials[name].where(pd.Series(holds, trials.index, dtype=bool))


def _most_at(values: pd.Series, domain: Domain, side: str) -> bool:
    """Whether more than half of the values lie at a bound; not where there are none."""
    # a spec edited by hand may no longer contain them
    places = values.where(values.between(domain.low, domain.high)).map(domain.share)
    near = places <= _AT_BOUND if side == LOWER else places >= 1 - _AT_BOUND
    return bool(near.mean() > 0.5)


def _movable(name: str, domain: Domain, kind: type) -> list[tuple[str, float, float]]:
    """The sides of a domain that can be moved outwards: side, bound, and where to; within the setting's limits, which
    are not known of an argument."""
    limits = limits_of(name)
    least = _AS_GOOD_AS_ZERO.get(name, 0.0) if domain.log else 0.0
    low, high = domain.wider_bounds()
    low, high = max(low, least, limits.get("ge", 0.0)), min(high, limits.get("le", math.inf))
    if step := domain.step or (1 if kind is int else None):
        low, high = _by_steps(domain.low, low, step), _by_steps(domain.high, high, step)
    sides = [(LOWER, domain.low, low)] if low < domain.low and low > limits.get("gt", -math.inf) else []
    return [*sides, (UPPER, domain.high, high)] if high > domain.high else sides


def _by_steps(bound: float, wanted: float, step: float) -> float:
    """The bound moved by whole steps, as near to where it is wanted as that goes without passing it."""
    steps = int((exact(wanted) - exact(bound)) / exact(step))
    return float(exact(bound) + steps * exact(step))


def edge_sentences(found: Sequence[Edge]) -> list[str]:
    """One sentence that says at which bounds the best trials lie; none where they do not."""
    parts = [
        (who, [edge for edge in found if edge.winner == wins])
        for who, wins in (("the winner is", True), ("most of the best quarter of the trials are", False))
    ]
    told = ", ".join(f"{who} at {' and '.join(map(_named, there))}" for who, there in parts if there)
    return [f"{told[0].upper()}{told[1:]}: better ones may lie beyond, in a wider space."] if told else []


def _named(edge: Edge) -> str:
    return f"the {edge.side} bound of {edge.name} ({edge.bound:g})"


def widening_commands(frames: RunFrames) -> list[str]:
    """The command that goes on with each of the `edges` moved outwards and half as many trials again; none without."""
    moved = {(edge.name, edge.side): edge.wider for edge in edges(frames)}
    if not moved:
        return []
    space = [
        f"{name}={written(moved.get((name, LOWER), domain.low))}:{written(moved.get((name, UPPER), domain.high))}"
        for name, domain in _intervals(frames).items()
        if {(name, LOWER), (name, UPPER)} & moved.keys()
    ]
    trials = min(math.ceil(_MORE_TRIALS * frames.spec.search.num_samples), MAX_TRIALS)
    path, model = RunDirectory(frames.path).shown_path, frames.spec.model.flag
    return [printable(to_run("search", "--resume", path, "--space", *space, "--num-samples", trials, *model))]
