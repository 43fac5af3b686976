"""Records real learning curves, with every candidate early-stopping signal at every epoch, as one Parquet table.

    python experiments/benchmarks/curves.py --data-dir DIR --out experiments/results/curves

trains a Sobol design over the default search space, some of it with more seeds and in compressed cycles. What the
table's columns mean: README.md in experiments/results/curves. The same command continues where it was stopped, in
whatever way: only the runs in progress are lost.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import shutil
import threading
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import qmc  # type: ignore[import-untyped]
from signals import WatchedRun

from tune_resnet.data import Split, load_dataset, search_split
from tune_resnet.spec import DEFAULT_SPACE, DataSpec, SearchSpec
from tune_resnet.train import NonFiniteLoss

DESIGN_SEED = 0
SEEDS = (0, 1, 2)
SEVERAL_SEEDS = 16  # configurations, the first ones, that are trained with every seed
CYCLES = (1, 2, 4)  # epochs of a complete one-cycle run
COMPRESSED = 24  # configurations, the first ones, that are also trained in these cycles
KEY = ["configuration", "seed", "total_epochs"]  # what a run is known by


@dataclass(frozen=True)
class Run:
    """One training of one configuration. `configuration` is its place in the design; `epochs` is the whole cycle."""

    configuration: int
    seed: int
    epochs: int


def design(count: int) -> list[dict[str, float]]:
    """`count` configurations: the reference, then scrambled Sobol points on a log scale over the default space.

    A larger count only adds to a smaller one's.
    """
    sobol = qmc.Sobol(len(DEFAULT_SPACE), scramble=True, rng=DESIGN_SEED)
    points = sobol.random_base2(count.bit_length())[: count - 1]
    low, high = (np.array([getattr(domain, end) for domain in DEFAULT_SPACE.values()]) for end in ("low", "high"))
    drawn = low * (high / low) ** points
    return [SearchSpec().reference, *(dict(zip(DEFAULT_SPACE, row, strict=True)) for row in drawn.tolist())]


def planned(configurations: int, epochs: int) -> list[Run]:
    """All runs, in an order that makes an unfinished table useful: every configuration, then cycles, then seeds."""
    first, *others = SEEDS
    numbers = range(configurations)
    return [
        *(Run(number, first, epochs) for number in numbers),
        *(Run(number, first, cycle) for number in numbers[:COMPRESSED] for cycle in CYCLES if cycle < epochs),
        *(Run(number, seed, epochs) for number in numbers[:SEVERAL_SEEDS] for seed in others),
    ]


def record(run: Run, hyperparameters: dict[str, float], spec: SearchSpec, parts: Path) -> None:
    """Trains one run and leaves its rows, one per epoch, as a file of `parts`, whole or not at all."""
    train = replace(spec.train, **hyperparameters, seed=run.seed, epochs=run.epochs)
    watched = WatchedRun(train, _split(spec.data), spec.model)
    known = {"configuration": run.configuration, "seed": run.seed, "total_epochs": run.epochs, **hyperparameters}
    table = pd.DataFrame([known | row for row in _rows(watched)])
    _write_table(table, parts / f"{run.configuration}-{run.seed}-{run.epochs}.parquet")


def _rows(watched: WatchedRun) -> Iterator[dict[str, Any]]:
    """One row per epoch; the last has `failed` and nothing else where the loss was not finite."""
    for epoch in range(1, watched.spec.epochs + 1):
        try:
            yield {"failed": False, **watched.watched_epoch()}
        except NonFiniteLoss:
            yield {"failed": True, "epoch": epoch}
            return


@functools.cache
def _split(spec: DataSpec) -> Split:
    return search_split(load_dataset(spec), spec)


def merge(out: Path) -> pd.DataFrame:
    """Moves the rows of all finished runs into OUT/curves.parquet; the whole table, empty before the first run."""
    table, parts = out / "curves.parquet", out / "parts"
    files = [file for file in (table, *parts.glob("[!.]*.parquet")) if file.exists()]
    if not files:
        return pd.DataFrame(columns=KEY)
    rows = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
    # A merge that was stopped before it removed the parts leaves rows that are in both.
    rows = rows.drop_duplicates([*KEY, "epoch"]).sort_values([*KEY, "epoch"], ignore_index=True)
    _write_table(rows, table)
    shutil.rmtree(parts, ignore_errors=True)
    return rows


def _write_table(table: pd.DataFrame, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    table.to_parquet(temporary, index=False)
    temporary.replace(path)


def _train_all(runs: list[Run], spec: SearchSpec, configurations: int, workers: int, out: Path) -> Iterator[Run]:
    """Trains the runs in separate processes of one thread each; yields each one when its file is there."""
    parts = out / "parts"
    parts.mkdir()
    points = design(configurations)
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        futures = {pool.submit(record, run, points[run.configuration], spec, parts): run for run in runs}
        for future in as_completed(futures):
            future.result()
            yield futures[future]
    finally:
        pool.shutdown(cancel_futures=True)  # on an error, too: what is queued does not start


def _start_worker() -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Without it, a worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


class _Environment:
    """OUT/env.json: what the runs have in common, and the time they took over all starts of the command."""

    def __init__(self, out: Path, spec: SearchSpec, fingerprint: str, workers: int) -> None:
        self.path = out / "env.json"
        self.started = time.perf_counter()
        tables = tomllib.loads(spec.to_toml())
        del tables["data"]["data_dir"]  # another copy of the same images is as good
        before = json.loads(self.path.read_text()) if self.path.exists() else {"wall_seconds": 0.0}
        self.wall_before = before["wall_seconds"]
