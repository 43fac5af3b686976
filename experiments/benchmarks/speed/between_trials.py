"""A whole search on two workers: what lies between trials, and the same search in the pattern of Ray's tutorial.

    python -m experiments.benchmarks.speed.between_trials --out experiments/results/benchmarks
    python -m experiments.benchmarks.speed.between_trials --samples 32 --epochs 8 --pairs 1 --stop-early --out DIR

Trials of digits.toml (width 16, batches of 100), two at once with one CPU each. Both draw at random, and nothing is
stopped early, so that all searches of a size train the same number of epochs; with --stop-early, ours stops trials as
by default, so that the same number of trials is decided. Each search is a process of its own; seconds are those of
`fit` alone, from the call to its return: the start of trials' processes counts, that of Ray does not. The ideal is
the seconds that ours spent inside of epochs, divided by two.

The peer is "Hyperparameter tuning with Ray Tune" of the PyTorch tutorials: a function that loads the data, trains, and
after each epoch writes model and optimizer with `torch.save` and reports them as a checkpoint; torchvision transforms
and a DataLoader (without workers: there is no core for them), fp32, Ray Tune's defaults. The network is the same.

A gap is the time on one worker from the end of a trial's last epoch to the beginning of the next one's first.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.benchmarks.speed.goals import Benchmark, Goal, alone, options, paired
from experiments.benchmarks.speed.tutorial import TutorialRun
from experiments.benchmarks.this_command import this_module
from tune_resnet.config.default_space import NARROW_SPACE
from tune_resnet.config.spec import SearchSpec
from tune_resnet.config.toml import load_spec
from tune_resnet.data.load import load_dataset
from tune_resnet.data.split import search_split
from tune_resnet.execution.cluster import ray_cluster
from tune_resnet.runs.load import RunFrames, load_frames

EXPERIMENT = Path(__file__).with_name("digits.toml")
CONCURRENCY = 2
LONGEST = 3600.0  # seconds of one search


def search_spec(samples: int, epochs: int, stop_early: bool) -> SearchSpec:
    spec = load_spec(EXPERIMENT)
    return replace(
        spec,
        train=replace(spec.train, epochs=epochs),
        search=replace(spec.search, num_samples=samples, sampler="random"),
        scheduler=spec.scheduler if stop_early else replace(spec.scheduler, name="none"),
        resources=replace(spec.resources, device="cpu", cpus_per_trial=1, max_concurrent=CONCURRENCY),
    )


def search_ours(spec: SearchSpec, path: Path) -> float:
    """Seconds of this project's search."""
    from rich.console import Console

    from tune_resnet.execution.resources import make_plan
    from tune_resnet.execution.tuner import run_trials
    from tune_resnet.hpo.warm_start import WarmStart
    from tune_resnet.runs.directory import RunDirectory

    split = search_split(load_dataset(spec.data), spec.data)
    with ray_cluster(None):
        plan = make_plan(spec, split)
        run = RunDirectory.create(path, plan.spec)
        started = time.perf_counter()
        run_trials(plan, split, run, WarmStart(), Console(file=sys.stderr))
        return time.perf_counter() - started


def search_tutorial(spec: SearchSpec, path: Path) -> float:
    """Seconds of the same search as the tutorial writes it."""
    from functools import partial

    from ray import tune

    draw = random.Random(spec.train.seed)
    configurations = [
        {name: domain.value(draw.random()) for name, domain in NARROW_SPACE.items()}
        for _ in range(spec.search.num_samples)
    ]
    with ray_cluster(None):
        tuner = tune.Tuner(
            tune.with_resources(partial(tutorial_trial, spec=spec), {"cpu": 1}),
            param_space={"hyper": tune.grid_search(configurations)},
            tune_config=tune.TuneConfig(metric="loss", mode="min", max_concurrent_trials=CONCURRENCY),
            run_config=tune.RunConfig(storage_path=str(path), verbose=0),
        )
        started = time.perf_counter()
        results = tuner.fit()
        taken = time.perf_counter() - started
    if results.errors or any(result.metrics["epoch"] != spec.train.epochs for result in results):
        raise RuntimeError(f"the tutorial's search did not train all epochs: {results.errors}")
    return taken


def tutorial_trial(config: dict[str, Any], spec: SearchSpec) -> None:
    import torch
    from ray import tune

    split = search_split(load_dataset(spec.data), spec.data)
    train = replace(spec.train, **config["hyper"])
    run = TutorialRun(train, split, spec.model.width, flip=spec.data.flip, workers=0)
    for epoch in range(1, train.epochs + 1):
        loss = run.train_epoch()
        with tempfile.TemporaryDirectory() as folder:
            torch.save((run.model.state_dict(), run.optimizer.state_dict()), Path(folder) / "checkpoint.pt")
            tune.report(
                {"epoch": epoch, "loss": loss, "accuracy": run.accuracy()},
                checkpoint=tune.Checkpoint.from_directory(folder),
            )


SEARCHES = {"ours": search_ours, "tutorial": search_tutorial}


def fit_seconds(who: str, arguments: argparse.Namespace, path: Path) -> float:
    """Seconds of one search, in a process of its own."""
    command = [
        sys.executable, "-m", this_module(), "--one", who, "--samples", str(arguments.samples),
        "--epochs", str(arguments.epochs), "--out", str(path), *["--stop-early"] * arguments.stop_early,
    ]  # fmt: skip
    # Workers of Ray find this module by the path, as they do not run in this folder.
    search_path = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=LONGEST, env=os.environ | {"PYTHONPATH": search_path}
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return float(done.stdout.split()[-1])


def gaps(frames: RunFrames) -> list[float]:
    """Seconds between trials, over all workers."""
    epochs = frames.epochs.assign(began=frames.epochs["ended_at"] - frames.epochs["seconds"])
    trials = epochs.groupby("trial").agg(began=("began", "min"), ended=("ended_at", "max"))
    trials = trials.join(frames.trials.set_index("trial")["worker"]).sort_values("began")
    return list((trials["began"] - trials.groupby("worker")["ended"].shift()).dropna())


def epoch_gaps(frames: RunFrames) -> pd.Series:
    """Seconds between the epochs of a trial."""
    epochs = frames.epochs
    return (epochs["ended_at"] - epochs["seconds"] - epochs.groupby("trial")["ended_at"].shift()).dropna()


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--samples", type=int, default=8, help="trials a search")
    parser.add_argument("--epochs", type=int, default=2, help="epochs a trial")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of searches")
    parser.add_argument("--stop-early", action="store_true", help="in ours, as by default")
    parser.add_argument("--full", action="store_true", help="and one search of 32 trials of 8 epochs, ours alone")
    parser.add_argument("--one", choices=SEARCHES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        spec = search_spec(arguments.samples, arguments.epochs, arguments.stop_early)
        print(SEARCHES[arguments.one](spec, arguments.out))
    else:
        run(arguments)


def run(arguments: argparse.Namespace) -> None:
    size = f"{arguments.samples} trials of {arguments.epochs} epochs" + ", stopped early" * arguments.stop_early
    name = f"between_trials-{arguments.samples}x{arguments.epochs}" + "-stopped" * arguments.stop_early
    with Benchmark(name, arguments.out) as benchmark, tempfile.TemporaryDirectory() as folder:
        against_ideal, against_peer, medians, tails, inside = [], [], [], [], []
        for pair in range(arguments.pairs):
            path = Path(folder) / f"ours-{pair}"
            ours = fit_seconds("ours", arguments, path)
            theirs = fit_seconds("tutorial", arguments, Path(folder) / f"tutorial-{pair}")
            frames = load_frames(path)
            ideal = float(frames.epochs["seconds"].sum()) / CONCURRENCY
            between = gaps(frames)
            against_ideal.append((ideal, ours))
            against_peer.append((theirs, ours))
            medians.append(float(np.median(between)))
            tails.append(float(np.quantile(between, 0.95)))
            inside.append(float(epoch_gaps(frames).median()))
            benchmark.sample(
                size, ours=ours, ideal=ideal, tutorial=theirs, gap=medians[-1], gap_95=tails[-1], epoch_gap=inside[-1]
            )
        if arguments.full:
            whole_search(benchmark, Path(folder))
        gap = Goal(at_most=0.15)
        benchmark.row(alone(f"gap between trials, median of a search ({size})", medians, unit="s", goal=gap))
        benchmark.row(alone(f"gap between trials, 95th percentile ({size})", tails, unit="s", goal=gap))
        benchmark.row(
            paired(f"whole fit, {size}", against_ideal, peer="epochs alone", unit="s", goal=Goal(at_most=1.1))
        )
        benchmark.row(
            paired(f"whole fit, {size}", against_peer, peer="tutorial", unit="s", goal=Goal(at_least=5), inverse=True)
        )


def whole_search(benchmark: Benchmark, folder: Path) -> None:
    """One search of this project at the size of these trials, without the peer, which takes many minutes."""
    arguments = argparse.Namespace(samples=32, epochs=8, stop_early=False)
    ours = fit_seconds("ours", arguments, folder / "whole")
    frames = load_frames(folder / "whole")
    ideal = float(frames.epochs["seconds"].sum()) / CONCURRENCY
    between = gaps(frames)
    benchmark.sample("32 trials of 8 epochs", ours=ours, ideal=ideal, gap=float(np.median(between)))
    goal = Goal(at_most=1.1)
    benchmark.row(paired("whole fit, 32 trials of 8 epochs", [(ideal, ours)], peer="epochs alone", unit="s", goal=goal))
    name = "gap between trials, median of 30 (32 trials of 8 epochs)"
    benchmark.row(alone(name, [float(np.median(between))], unit="s", goal=Goal(at_most=0.15)))


if __name__ == "__main__":
    main()
