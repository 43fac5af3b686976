"""Which configurations did well elsewhere: those that a search tries first, and what they are worth on other tables.

    python -m experiments.benchmarks.early_stopping.points --out experiments/results/points \\
        --curves experiments/results/curves/curves.parquet experiments/results/regimes/*/curves.parquet

A greedy portfolio (Feurer et al., "Auto-Sklearn 2.0", JMLR 2022, section 3.1) of rate, decay and clip: each next point
is the one that adds the most to the mean, over all tables of that space, of the best gain so far, as a share of what is
to be had there. The other tables have a wider space: for what it has beside these, a single set of values is chosen,
which gains the reference the most on average over these tables. The points are the reference with this set, and each
point of the portfolio with it. Gains are those of each table's surrogate, without seed noise, over the reference.
Writes

    points.json  `all`: chosen on all tables, what `POINTS_TO_EVALUATE` is made of; and for each table, by its name,
                 those that are chosen on the tables of other images
    gains.csv    percentage points over the reference: of those chosen without a table's images, there; beside them,
                 what is to be had there (`best_of_all`), and the best of `COUNT` random points (`best_of_random`, a
                 median)
    env.json     versions, machine, command
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
from scipy.stats import qmc

from experiments.benchmarks.early_stopping.recorded import (
    environment,
    images_of,
    options_of,
    spec_of,
    tables,
    write_environment,
)
from experiments.benchmarks.early_stopping.surrogate import Surrogate, comparable_runs
from tune_resnet._files import write_whole
from tune_resnet.config.default_space import NARROW_SPACE
from tune_resnet.config.sections import SCHEDULES
from tune_resnet.config.space import Point

COUNT = 4  # points of the portfolio: an eighth of a search of 32 trials
OWN = 0.05  # weight of a point's own mean gain beside what it adds: of points that add the same, the safer one
CANDIDATES = 2**13  # Sobol points of the narrow space
DRAWS = 2000  # of random ones
WIDER = {  # what is tried of what else a wide space has; no bounds of it, where a surrogate knows least
    "batch_size": ("x1", "x0.5", "x0.25"),
    "momentum": (0.85, 0.9, 0.95),
    "crop_padding": (1, 2, 4),
    "schedule": SCHEDULES,
}


def gains(surrogate: Surrogate, points: Sequence[Point]) -> np.ndarray:
    """Of each point, percentage points of true quality over the reference; as a search there would try it."""
    reference, spec = surrogate.quality(surrogate.spec.reference), surrogate.spec
    tried = (replace(spec, points_to_evaluate=(point,)).first_points[-1] for point in points)
    return np.array([100 * (surrogate.quality(point) - reference) for point in tried])


def portfolio(gained: Mapping[str, np.ndarray], points: Sequence[Point]) -> list[Point]:
    """`COUNT` of the points. `gained`: table -> each point's gain there."""
    shares = np.stack([every / every.max() for every in gained.values()])  # (tables, points)
    own, best = np.clip(shares, -1, 1).mean(axis=0), np.zeros((len(shares), 1))
    chosen: list[int] = []
    for _ in range(COUNT):
        worth = np.maximum(best, shares).mean(axis=0) + OWN * own
        worth[chosen] = -np.inf  # where nothing is left to gain, the best would come again
        chosen.append(int(worth.argmax()))
        best = np.maximum(best, shares[:, chosen[-1:]])
    return [points[position] for position in chosen]


def best_of_random(gained: np.ndarray) -> float:
    """The median gain of the best of `COUNT` random candidates."""
    drawn = np.random.default_rng(0).integers(len(gained), size=(DRAWS, COUNT))
    return float(np.median(gained[drawn].max(axis=1)))


def candidates() -> list[Point]:
    """Points of the narrow space, rounded to two digits."""
    shares = qmc.Sobol(len(NARROW_SPACE), rng=0).random(CANDIDATES)
    return [
        {name: float(f"{domain.value(at):.2g}") for (name, domain), at in zip(NARROW_SPACE.items(), row, strict=True)}
        for row in shares.tolist()
    ]


def main() -> None:
    options, env = options_of(__doc__), environment()
    surrogates = {
        name: Surrogate(comparable_runs(runs), spec_of(path))
        for (name, runs), path in zip(tables(options.curves).items(), options.curves, strict=True)
    }
    points, wider = candidates(), [dict(zip(WIDER, values, strict=True)) for values in product(*WIDER.values())]
    narrow = {name: gains(one, points) for name, one in surrogates.items() if one.spec.space == NARROW_SPACE}
    wide = {name: gains(one, wider) for name, one in surrogates.items() if name not in narrow}

    images = {path.parent.name: images_of(path) for path in options.curves}

    def chosen_without(table: str | None) -> list[Point]:
        own = images.get(table or "")
        narrow_ones, wide_ones = (
            {name: every for name, every in gained.items() if images[name] != own} for gained in (narrow, wide)
        )
        common = wider[int(np.mean(list(wide_ones.values()), axis=0).argmax())]
        return [{**point, **common} for point in ({}, *portfolio(narrow_ones, points))]

    found, rows = {"all": chosen_without(None)}, []
    for name, surrogate in surrogates.items():
        found[name] = chosen_without(name)
        each = gains(surrogate, found[name])
        most = 100 * (surrogate.optimum - surrogate.quality(surrogate.spec.reference))
        chance = best_of_random(narrow[name]) if name in narrow else np.nan
        rows += [
            {"table": name, **point, "gain": gain, "best_so_far": best, "best_of_all": most, "best_of_random": chance}
            for point, gain, best in zip(found[name], each, np.maximum.accumulate(each), strict=True)
        ]
    table = pd.DataFrame(rows)
    table = table.round(dict.fromkeys([name for name in map(str, table) if name.startswith(("gain", "best"))], 2))
    print(table.to_string(index=False), "", *found["all"], sep="\n")
    write_whole(options.out / "points.json", json.dumps(found, indent=1) + "\n")
    write_whole(options.out / "gains.csv", table.to_csv(index=False))
    write_environment(options.out, env)


if __name__ == "__main__":
    main()
