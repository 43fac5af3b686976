"""What 1,000 trials cost the driver, and 10,000 recorded ones their reader.

    python -m experiments.benchmarks.speed.scale --out experiments/results/benchmarks

Searches run as they always do (`run_trials`: searcher, early stopping, records, study, progress), but over a training
that takes no time and draws its results from its learning rate. One in four trials goes on after epoch 2 of 4: 2.5
reports a trial in the mean. Ray Tune's own random search and ASHA over the same training stand beside them, without its
loggers. Each search has a process of its own.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.trial import TrialState
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler
from ray.tune.search.optuna import OptunaSearch
from rich.console import Console

from experiments.benchmarks.speed.goals import Benchmark, Goal, alone, options, paired
from experiments.benchmarks.speed.idle import EPOCHS, Idle, IdleTrial, epoch_row
from tune_resnet.config.default_space import NARROW_SPACE, default_space
from tune_resnet.config.sections import BudgetSpec, DataSpec, ResourceSpec, SchedulerSpec, TrainSpec
from tune_resnet.config.spec import SearchSpec
from tune_resnet.data.load import load_dataset
from tune_resnet.data.split import search_split
from tune_resnet.execution.cluster import ray_cluster
from tune_resnet.execution.tuner import run_trials
from tune_resnet.hpo.plan import Plan
from tune_resnet.hpo.study import Study
from tune_resnet.hpo.warm_start import WarmStart, distributions
from tune_resnet.runs.directory import RunDirectory
from tune_resnet.runs.load import load_frames
from tune_resnet.runs.tables import EPOCH_DTYPES, FINISHED, REFERENCE_TRIAL, STOPPED, TrialRow
from tune_resnet.training.device import resolved

TRIALS, CONCURRENT, RUNG, KEPT = 1000, 2, 2, 4  # one in KEPT goes on from epoch RUNG
SAMPLERS = ("random", "tpe")
PEER = "Ray Tune with OptunaSearch, no loggers"
STUDY_SIZES = (100, 500, 1000)  # trials already known when a suggestion is timed
SUGGESTIONS = 15
RECORDED = 10_000  # trials in the run directory that is read
READINGS = 5
RANDOM_PAIRS = 3  # of searches that draw at random, ours and Ray Tune's
MEGABYTE = 2**20


@dataclass
class Cost:
    """What a search cost its driver."""

    wall: float  # seconds
    cpu: float  # seconds, all threads of the driver, system time included
    reported: list[float]  # Unix time of each report
    grown: float  # megabytes of private memory, from the first tenth of the reports to the end

    @property
    def milliseconds(self) -> float:
        """Wall time a report."""
        return 1000 * self.wall / len(self.reported)

    @property
    def cpu_milliseconds(self) -> float:
        return 1000 * self.cpu / len(self.reported)

    @property
    def growth(self) -> float:
        """Time of the last tenth of the reports, a hundred trials' worth, over that of the first."""
        times = sorted(self.reported)
        tenth = len(times) // 10
        return (times[-1] - times[-1 - tenth]) / (times[tenth] - times[0])


def search_spec(sampler: str) -> SearchSpec:
    return SearchSpec(
        train=TrainSpec(epochs=EPOCHS),
        space=NARROW_SPACE,  # which Ray's own searches can have, too
        search=BudgetSpec(num_samples=TRIALS, sampler=sampler),
        scheduler=SchedulerSpec(grace_epochs=RUNG, reduction_factor=KEPT, margin=0.0),
        resources=ResourceSpec(device="cpu", gpus_per_trial=0.0),
    )


class KnownPlan(Plan):
    """A plan that has nothing to simulate, which would count as the search's time."""

    survival = tuple(1.0 if epoch <= RUNG else 1 / KEPT for epoch in range(1, EPOCHS + 1))


def our_search(sampler: str, path: Path, concurrent: int = CONCURRENT) -> list[float]:
    """A search of this project; the times of its reports."""
    spec = resolved(search_spec(sampler), "cpu", "fp32")
    data_spec = DataSpec(dataset="digits", limit_train=200)
    data = search_split(load_dataset(data_spec), data_spec)
    plan = KnownPlan(
        spec=spec,
        trials=TRIALS,
        concurrency=concurrent,
        device_name="none",
        seconds_per_epoch=0.01,
        train_images=len(data.train),
        held_out_images=len(data.held_out),
        held_out="validation",
    )
    run = RunDirectory.create(path, spec)
    run_trials(plan, data, run, WarmStart(), Console(file=io.StringIO()), IdleTrial)
    return load_frames(path).epochs["ended_at"].to_list()


class Clock(tune.Callback):  # type: ignore[misc]
    """Notes when reports arrive."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_trial_result(self, **info: Any) -> None:
        self.times.append(time.time())

    def on_trial_complete(self, **info: Any) -> None:
        """Ray does not pass a trial's last result to on_trial_result."""


def rays_search(what: str, path: Path) -> list[float]:
    """Ray Tune with its own searcher for Optuna, drawing at random, and its own ASHA; the times of its reports."""
    clock = Clock()
    space = {name: tune.loguniform(domain.low, domain.high) for name, domain in NARROW_SPACE.items()}
    scheduler = AsyncHyperBandScheduler(time_attr="epoch", max_t=EPOCHS, grace_period=RUNG, reduction_factor=KEPT)
    tune.Tuner(
        tune.with_resources(Idle, {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="train_loss",
            mode="min",
            num_samples=TRIALS,
            search_alg=OptunaSearch(sampler=optuna.samplers.RandomSampler(0)),
            scheduler=scheduler,
            max_concurrent_trials=CONCURRENT,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="ray",
            storage_path=str(path),
            callbacks=[clock],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    ).fit()
    return clock.times


@contextlib.contextmanager
def memory_watched(every: float = 0.25) -> Iterator[list[tuple[float, float]]]:
    """Private memory of this process in megabytes, as (Unix time, megabytes), for the time of the block."""
    samples: list[tuple[float, float]] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(every):
            resident, shared = Path("/proc/self/statm").read_text().split()[1:3]
            samples.append((time.time(), (int(resident) - int(shared)) * resource.getpagesize() / MEGABYTE))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def cost_of(search: Callable[[str, Path], list[float]], what: str, address: str | None = None) -> Cost:
    """Runs a search to its end in this process, on the cluster at `address` or a local one."""
    path = Path(tempfile.mkdtemp(prefix="scale-"))
    try:
        with ray_cluster(address), memory_watched() as memory:
            before, started = resource.getrusage(resource.RUSAGE_SELF), time.time()
            reported = search(what, path / "run")
            wall, after = time.time() - started, resource.getrusage(resource.RUSAGE_SELF)
    finally:
        shutil.rmtree(path)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    early = sorted(reported)[len(reported) // 10]
    grown = memory[-1][1] - next(amount for at, amount in memory if at >= early)
    return Cost(wall=wall, cpu=cpu, reported=reported, grown=grown)


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def searches(benchmark: Benchmark) -> None:
    """Whole searches of 1,000 trials."""
    goal = Goal(at_most=12)
    for sampler in SAMPLERS:
        ours, theirs = list[Cost](), list[Cost]()
        for _ in range(RANDOM_PAIRS if sampler == "random" else 1):
            ours.append(in_new_process(cost_of, our_search, sampler))
            note(benchmark, f"search, {sampler}", ours[-1])
            if sampler == "random":
                theirs.append(in_new_process(cost_of, rays_search, PEER))
                note(benchmark, PEER, theirs[-1])
        name = f"driver, {TRIALS:,} trials, {sampler}"
        benchmark.row(alone(f"{name}: time a report", [cost.milliseconds for cost in ours], unit="ms", goal=goal))
        growth = [cost.growth for cost in ours]
        benchmark.row(alone(f"{name}: last 100 over first 100", growth, unit="", goal=Goal(at_most=1.3)))
        grown = [cost.grown for cost in ours]
        benchmark.row(alone(f"{name}: memory grown", grown, unit="MB", goal=Goal(at_most=150)))
        if theirs:
            pairs = [(peer.milliseconds, cost.milliseconds) for peer, cost in zip(theirs, ours, strict=True)]
            benchmark.row(paired(f"{name}: time a report", pairs, peer=PEER, unit="ms", goal=Goal(at_most=1)))


def note(benchmark: Benchmark, name: str, cost: Cost) -> None:
    benchmark.sample(
        name,
        reports=len(cost.reported),
        wall_ms=cost.milliseconds,
        cpu_ms=cost.cpu_milliseconds,
        growth=cost.growth,
        grown_mb=cost.grown,
    )


def suggestions(benchmark: Benchmark) -> None:
    """Seconds of one proposal of the default sampler in the default space, by how many trials are known."""
    for size in STUDY_SIZES:
        seconds = proposal_seconds(size)
        for one in seconds:
            benchmark.sample(f"proposal at {size:,} trials", seconds=one)
        # 12 ms: what the driver may spend on a trial.
        benchmark.row(alone(f"proposal with {size:,} trials known", seconds, unit="s", goal=Goal(at_most=0.012)))


def proposal_seconds(size: int) -> list[float]:
    """Of several proposals in a row that the sampler makes, each trial ending before the next."""
    spec = search_spec(BudgetSpec.sampler)
    spec = replace(spec, space=default_space(spec.train), points_to_evaluate=())
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    known = [known_trial(drawn.ask(distributions(spec)).params, spec) for _ in range(size)]
    study, seconds = Study(spec, WarmStart(known)), []
    for place in range(1 + SUGGESTIONS):
        started = time.perf_counter()
        number, params = study.propose()
        if place:  # the first is the reference
            seconds.append(time.perf_counter() - started)
        study.end(number, FINISHED, random.Random(params["max_lr"]).random())
    return seconds


def known_trial(params: dict[str, Any], spec: SearchSpec) -> optuna.trial.FrozenTrial:
    """One in KEPT has finished, the others were stopped, as the search would have told it."""
    quality = random.Random(params["max_lr"]).random()
    finished = quality > 1 - 1 / KEPT
    return optuna.trial.create_trial(
        params=params,
        distributions=distributions(spec),
        intermediate_values={RUNG: quality},
        state=TrialState.COMPLETE if finished else TrialState.PRUNED,
        value=quality if finished else None,
    )


def reading(benchmark: Benchmark) -> None:
    """The whole commands that print a run of 10,000 trials, and write its page."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        record(path)
        for module, goal in (("analysis", 2.5), ("report", 10)):
            name, seconds = f"{module} of {RECORDED:,} trials", []
            for _ in range(READINGS):
                started = time.perf_counter()
                command = [sys.executable, "-m", f"tune_resnet.{module}", str(path)]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                seconds.append(time.perf_counter() - started)
                benchmark.sample(name, seconds=seconds[-1])
            benchmark.row(alone(f"{name}, whole command", seconds, unit="s", goal=Goal(at_most=goal)))
        size = (path / "report.html").stat().st_size / 1e6
        benchmark.row(alone(f"page of {RECORDED:,} trials", [size], unit="MB", goal=Goal(at_most=8)))


def record(path: Path) -> None:
    """A run directory of many trials, written without a disk's delay for each of their events."""
    run = RunDirectory.create(path, search_spec("random"))
    draw, lines, rows = random.Random(0), [], []
    for trial in range(RECORDED):
        params: dict[str, Any] = {name: domain.value(draw.random()) for name, domain in NARROW_SPACE.items()}
        quality = random.Random(params["max_lr"]).random()
        done = EPOCHS if quality > 1 - 1 / KEPT or trial == REFERENCE_TRIAL else RUNG
        row = TrialRow(trial=trial, state=FINISHED if done == EPOCHS else STOPPED, seed=0, values=params)
        row.epochs, row.val_accuracy, row.best_epoch, row.seconds = done, quality, 1, 0.001 * done
        row.started_at, row.ended_at, row.worker = float(trial), trial + 0.5, "host:1"
        lines.append(row.line())
        rows += [
            {"trial": trial, "ended_at": trial + 0.1 * epoch} | epoch_row(epoch, quality)
            for epoch in range(1, done + 1)
        ]
    run.write_trials(lines)
    pd.DataFrame(rows, columns=list(EPOCH_DTYPES)).to_csv(run.epochs_csv, index=False)
    run.write_env({"held_out": "validation", "held_out_images": 1000})


def main() -> None:
    arguments = options(__doc__).parse_args()
    with Benchmark("scale", arguments.out) as benchmark:
        searches(benchmark)
        suggestions(benchmark)
        reading(benchmark)


if __name__ == "__main__":
    main()
