"""Records real learning curves, with every candidate early-stopping signal at every epoch, as one Parquet table.

    python -m experiments.benchmarks.early_stopping.curves --data-dir DIR --out experiments/results/curves

trains a Sobol design over rate, decay and clip, some of it with more seeds and in compressed cycles. What the
table's columns mean: README.md in experiments/results/curves. The same command continues where it was stopped, in
whatever way: only the runs in progress are lost.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import multiprocessing
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import qmc

from experiments.benchmarks.early_stopping.signals import WatchedRun
from experiments.benchmarks.this_command import this_command
from tune_resnet._files import write_whole
from tune_resnet._text import duration, percent
from tune_resnet.config.default_space import NARROW_SPACE
from tune_resnet.config.sections import DataSpec, ModelSpec, TrainSpec
from tune_resnet.config.space import Choices, Point, Space, Value
from tune_resnet.config.spec import SearchSpec
from tune_resnet.data.load import load_dataset
from tune_resnet.data.split import search_split
from tune_resnet.data.types import Split
from tune_resnet.errors import UserError
from tune_resnet.runs.environment import describe_environment
from tune_resnet.training.device import choose_precision, device_name
from tune_resnet.training.metrics import NonFiniteLoss

DESIGN_SEED = 0
SEEDS = (0, 1, 2)
SEVERAL_SEEDS = 16  # configurations, the first ones, that are trained with every seed
CYCLES = (1, 2, 4)  # epochs of a complete one-cycle run
COMPRESSED = 24  # configurations, the first ones, that are also trained in these cycles
RowsOf = Callable[[SearchSpec], Iterator[dict[str, float]]]  # what trains a run, an epoch at a time
KEY = ["configuration", "seed", "total_epochs"]  # what a run is known by


@dataclass(frozen=True)
class Run:
    """One training of one configuration. `configuration` is its place in the design; `epochs` is the whole cycle."""

    configuration: int
    seed: int
    epochs: int


def design(count: int, spec: SearchSpec) -> list[Point]:
    """`count` configurations: the reference, then scrambled Sobol points over the spec's space, each hyperparameter on
    its scale; what a condition leaves out has the reference's value.

    A larger count only adds to a smaller one's.
    """
    sobol = qmc.Sobol(len(spec.space), scramble=True, rng=DESIGN_SEED)
    shares = sobol.random_base2(count.bit_length())[: count - 1]
    drawn = {name: _values(spec, name, column) for name, column in zip(spec.space, shares.T, strict=True)}
    points = [dict(zip(drawn, values, strict=True)) for values in zip(*drawn.values(), strict=True)]
    whole = [{**spec.reference, **{name: point[name] for name in spec.varied(point)}} for point in points]
    return [spec.reference, *whole]


def _values(spec: SearchSpec, name: str, shares: np.ndarray[Any, Any]) -> list[Value]:
    """A hyperparameter's values at shares in [0, 1) of its domain; each choice, and each whole number, has as much."""
    domain = spec.space[name]
    if isinstance(domain, Choices):
        return [domain.choices[place] for place in (shares * len(domain.choices)).astype(int)]
    whole = spec.kind(name) is int
    low, high = (domain.low - 0.5, domain.high + 0.5) if whole else (domain.low, domain.high)
    values = low * (high / low) ** shares if domain.log else low + (high - low) * shares
    return [int(value) for value in np.rint(values)] if whole else list(values.tolist())


def planned(
    configurations: int, epochs: int, cycles: Sequence[int] = CYCLES, compressed: int = COMPRESSED
) -> list[Run]:
    """All runs, in an order that makes an unfinished table useful: all configurations, then more seeds, then cycles."""
    first, *others = SEEDS
    numbers = range(configurations)
    return [
        *(Run(number, first, epochs) for number in numbers),
        *(Run(number, seed, epochs) for seed in others for number in numbers[:SEVERAL_SEEDS]),
        *(Run(number, first, cycle) for number in numbers[:compressed] for cycle in cycles if cycle < epochs),
    ]


def watched_rows(spec: SearchSpec) -> Iterator[dict[str, float]]:
    """One run's epochs with every signal."""
    watched = WatchedRun(spec.train, _split(spec.data), spec.model)
    return (watched.watched_epoch() for _ in range(spec.train.epochs))


def record(run: Run, hyperparameters: Point, spec: SearchSpec, parts: Path, rows_of: RowsOf = watched_rows) -> float:
    """Trains one run and leaves its rows, one per epoch, as a file of `parts`, whole or not at all.

    Returns:
        The last epoch's validation accuracy, in [0, 1]; NaN where the run failed.
    """
    spec = spec.configured({**hyperparameters, "seed": run.seed, "epochs": run.epochs})
    known = {"configuration": run.configuration, "seed": run.seed, "total_epochs": run.epochs, **hyperparameters}
    rows = [known | row for row in _until_failure(rows_of(spec))]
    _write_table(pd.DataFrame(rows), parts / f"{run.configuration}-{run.seed}-{run.epochs}.parquet")
    return float(rows[-1].get("val_accuracy", math.nan))


def _until_failure(rows: Iterator[dict[str, float]]) -> Iterator[dict[str, Any]]:
    """The rows of a run's epochs; the last has `failed` and nothing else where the loss was not finite."""
    done = 0
    try:
        for row in rows:
            done += 1
            yield {"failed": False, **row}
    except NonFiniteLoss:
        yield {"failed": True, "epoch": done + 1}


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


def _train_all(
    runs: list[Run], spec: SearchSpec, points: list[Point], workers: int, out: Path, rows_of: RowsOf
) -> Iterator[tuple[Run, float]]:
    """Trains the runs in processes of one thread each; yields each one, with what `record` gives, when it is done."""
    parts = out / "parts"
    parts.mkdir(exist_ok=True)
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        futures = {pool.submit(record, run, points[run.configuration], spec, parts, rows_of): run for run in runs}
        for future in as_completed(futures):
            yield futures[future], future.result()
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


def main() -> None:
    options = _options()
    spec = SearchSpec(
        data=DataSpec(
            dataset="folder", data_dir=options.data_dir, limit_train=options.limit_train, validation_fraction=1 / 6
        ),
        model=ModelSpec(width=options.width),
        train=TrainSpec(epochs=options.epochs),
        space=NARROW_SPACE,
    )
    try:
        record_all(
            spec, planned(options.configurations, options.epochs), options.configurations, options.workers, options.out
        )
    except UserError as error:
        sys.exit(f"error: {error}")


def record_all(
    spec: SearchSpec, plan: list[Run], configurations: int, workers: int, out: Path, rows_of: RowsOf = watched_rows
) -> None:
    """Trains those runs of a plan that OUT/curves.parquet has not got yet, and adds them to it.

    Raises:
        UserError: there are no such images, or OUT has a table of something else.
    """
    out.mkdir(parents=True, exist_ok=True)
    env = _environment(spec, workers)
    wall_before = _wall_seconds_so_far(out, env)
    done = {Run(*key) for key in merge(out)[KEY].drop_duplicates().itertuples(index=False)}
    runs = [run for run in plan if run not in done]
    print(f"{len(done)} runs are recorded, {len(runs)} are left", flush=True)
    started = time.perf_counter()
    epochs_left = epochs_in_all = sum(run.epochs for run in runs)
    for run, accuracy in _train_all(runs, spec, design(configurations, spec), workers, out, rows_of):
        elapsed = time.perf_counter() - started
        write_whole(out / "env.json", json.dumps({**env, "wall_seconds": wall_before + elapsed}, indent=2) + "\n")
        epochs_left -= run.epochs
        eta = duration(elapsed / (epochs_in_all - epochs_left) * epochs_left)
        print(
            f"configuration {run.configuration}, seed {run.seed}, {run.epochs} epochs: "
            f"validation accuracy {percent(accuracy)}; about {eta} left",
            flush=True,
        )
    print(f"{len(merge(out))} rows are in {out / 'curves.parquet'}")


def _environment(spec: SearchSpec, workers: int) -> dict[str, Any]:
    cpu = torch.device("cpu")
    return {
        **describe_environment(),
        "command": this_command(),
        "processor": device_name(cpu),
        "workers": workers,
        "precision": choose_precision(spec.train.precision, cpu),
        "data": replace(spec.data, data_dir=None).to_table(),  # another copy of the same images is as good
        "model": spec.model.to_table(),
        "train": spec.train.to_table(),
        "space": _tables(spec.space),
        "dataset_fingerprint": load_dataset(spec.data).fingerprint,
    }


def _tables(space: Space) -> dict[str, Any]:
    return {name: domain.to_table() for name, domain in space.items()}


def _wall_seconds_so_far(out: Path, env: Mapping[str, Any]) -> float:
    """What earlier starts took; UserError where they recorded something that does not belong in one table with this."""
    file = out / "env.json"
    if not file.exists():
        return 0.0
    before = json.loads(file.read_text())
    before.setdefault("space", _tables(NARROW_SPACE))  # of all tables before there were others
    before["train"] = TrainSpec.from_table(before["train"]).to_table()  # without the settings that came later
    for name in ("precision", "data", "model", "train", "space", "dataset_fingerprint"):
        if before[name] != env[name]:
            raise UserError(f"{file} says that {name} was {before[name]}, not {env[name]}: choose another --out")
    return float(before["wall_seconds"])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="folder that holds train/CLASS/IMAGE")
    parser.add_argument("--out", type=Path, required=True, help="folder for curves.parquet and env.json")
    parser.add_argument("--limit-train", type=int, default=12_000, help="images, of which a sixth is for validation")
    parser.add_argument("--width", type=int, default=16, help="channels of the first convolution")
    parser.add_argument("--epochs", type=int, default=8, help="of a full run")
    parser.add_argument("--configurations", type=int, default=64, help="the reference included")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    return parser.parse_args()


if __name__ == "__main__":
    main()
