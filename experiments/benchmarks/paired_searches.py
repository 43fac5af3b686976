"""Real searches in pairs: the usual set-up and this project's default, the same images, seeds and number of epochs.

    python experiments/benchmarks/paired_searches.py --data-dir DIR --out experiments/results/paired

Each pair is a search with paired_plain.toml, then one with paired_ours.toml, which counts only up to as many epochs as
the first one took. The winners, as each would name them, and the reference are then trained on all 10,000 photographs
with seeds that no search has used, and judged on the test set. Writes

    searches.csv  a row per search: epochs counted, trials, the winner and its measured accuracy
    confirm.csv   a row per training of a winner or the reference: `search` names whose it is
    summary.json  test accuracy per set-up: mean over pairs, and their paired difference with its 95% interval
    env.json      versions, machine, command

and the run directories in OUT/runs. The same command continues where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from tune_resnet.cluster import ray_cluster
from tune_resnet.data import baseline_split, load_dataset
from tune_resnet.device import choose_precision, resolved
from tune_resnet.environment import describe_environment
from tune_resnet.findings import best_trials, winner
from tune_resnet.frames import RunFrames, load_run
from tune_resnet.paired import analyse_pairs
from tune_resnet.pool import Job, train_all
from tune_resnet.records import FINISHED, INTERRUPTED, write_whole
from tune_resnet.spec import TUNABLE, SearchSpec

HERE = Path(__file__).parent
PLAIN, OURS, REFERENCE = "plain", "ours", "reference"
EPOCH_TIMEOUT = 3600.0  # seconds
FRESH_SEED = 2000  # the first of those that winners are trained with


def run_search(set_up: str, seed: int, options: argparse.Namespace) -> Path:
    """The run directory of a whole search; run if it is not there yet."""
    path: Path = options.out / "runs" / f"{set_up}-{seed}"
    if not path.exists():
        command = [
            sys.executable, "-m", "tune_resnet.search", "--experiment", os.path.relpath(HERE / f"paired_{set_up}.toml"),
            "--data-dir", str(options.data_dir), "--seed", str(seed), "--runs-dir", str(path.parent),
            "--name", path.name,
        ]  # fmt: skip
        subprocess.run(command, check=True)
    return path


def cut_off(frames: RunFrames, budget: int) -> RunFrames:
    """The run as it was when so many epochs had been trained, over all trials."""
    epochs = frames.epochs.sort_values("ended_at", kind="stable").head(budget).sort_values(["trial", "epoch"])
    done = epochs.groupby("trial")["epoch"].max()
    trials = frames.trials[frames.trials["trial"].isin(done.index)].copy()
    unfinished = (trials["state"] == FINISHED) & (trials["trial"].map(done) < trials["epochs"])
    trials.loc[unfinished, "state"] = INTERRUPTED
    return replace(frames, trials=trials, epochs=epochs)


def found_by(set_up: str, frames: RunFrames) -> dict[Any, Any]:
    """The winner as this set-up would name it: as measured, or as estimated."""
    best = winner(frames) if set_up == OURS else best_trials(frames, 1).to_dict("records")[0]
    assert best is not None
    return best


def search_rows(options: argparse.Namespace) -> pd.DataFrame:
    """Runs all pairs; a row per search."""
    rows = []
    for seed in range(options.pairs):
        plain = load_run(run_search(PLAIN, seed, options))
        budget = len(plain.epochs)
        ours = load_run(run_search(OURS, seed, options))
        for set_up, frames in ((PLAIN, plain), (OURS, cut_off(ours, budget))):
            best = found_by(set_up, frames)
            row = {"set_up": set_up, "seed": seed, "epochs": len(frames.epochs), "trials": len(frames.trials)}
            row["finished"] = int((frames.trials["state"] == FINISHED).sum())
            row |= {name: best[name] for name in ("trial", *TUNABLE, "val_accuracy", "estimate")}
            rows.append(row)
        print(pd.DataFrame(rows[-2:]).to_string(index=False), flush=True)
    return pd.DataFrame(rows)


def confirm_rows(searches: pd.DataFrame, spec: SearchSpec, options: argparse.Namespace) -> pd.DataFrame:
    """Trains what confirm.csv lacks, and returns all of it."""
    path = options.out / "confirm.csv"
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    contenders = {f"{row['set_up']}-{row['seed']}": row for row in searches.to_dict("records")}
    contenders[REFERENCE] = spec.reference
    known = {(row["search"], row["seed"]) for row in rows}
    seeds = range(FRESH_SEED, FRESH_SEED + options.seeds)
    jobs = [(name, seed) for seed in seeds for name in contenders if (name, seed) not in known]
    trainings = [
        Job(
            replace(spec.train, seed=seed, **{key: contenders[name][key] for key in TUNABLE}),
            options.out / f"{name}-{seed}.pt",
        )
        for name, seed in jobs
    ]
    spec = resolved(spec, "cpu", choose_precision(spec.train.precision, torch.device("cpu")))
    data = baseline_split(load_dataset(spec.data), spec.data)
    with ray_cluster(None):
        for position, outcome in train_all(spec, data, trainings, options.concurrency, EPOCH_TIMEOUT, lambda: False):
            if isinstance(outcome, str):
                sys.exit(f"error: {jobs[position]}: {outcome}")
            rows.append({"search": jobs[position][0], **outcome, "seconds": trainings[position].seconds})
            write_whole(path, pd.DataFrame(rows).to_csv(index=False))
            trainings[position].checkpoint.unlink(missing_ok=True)
            print(f"{len(rows)} of {len(known) + len(jobs)}: {jobs[position]}: {outcome['accuracy']:.2%}", flush=True)
    return pd.DataFrame(rows)


def summary(confirmed: pd.DataFrame, pairs: int) -> dict[str, Any]:
    """Mean test accuracy of each winner over seeds, then figures over pairs; in percent and percentage points."""
    means = 100 * confirmed.groupby("search")["accuracy"].mean()
    of = {set_up: [float(means[f"{set_up}-{seed}"]) for seed in range(pairs)] for set_up in (PLAIN, OURS)}
    differences = {
        "ours_minus_plain": [ours - plain for ours, plain in zip(of[OURS], of[PLAIN], strict=True)],
        "ours_minus_reference": [ours - float(means[REFERENCE]) for ours in of[OURS]],
        "plain_minus_reference": [plain - float(means[REFERENCE]) for plain in of[PLAIN]],
    }
    return {
        **{f"{set_up}_winners": of[set_up] for set_up in of},
        "reference": float(means[REFERENCE]),
        **{name: asdict(analyse_pairs(values)) for name, values in differences.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="holds train/CLASS/* and test/CLASS/*")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables and runs")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of searches, with seeds 0, 1, ...")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each winner")
    parser.add_argument("--concurrency", type=int, default=2, help="trainings at once")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    searches = search_rows(options)
    write_whole(options.out / "searches.csv", searches.to_csv(index=False))
    spec = load_run(options.out / "runs" / f"{OURS}-0").spec
    confirmed = confirm_rows(searches, spec, options)
    found = summary(confirmed, options.pairs)
    write_whole(options.out / "summary.json", json.dumps(found, indent=2) + "\n")
    command = " ".join(["python experiments/benchmarks/paired_searches.py", *sys.argv[1:]])
    write_whole(options.out / "env.json", json.dumps(describe_environment() | {"command": command}, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
