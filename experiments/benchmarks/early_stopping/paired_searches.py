"""Real searches side by side: this project's default and two others, with the same images, seeds and number of epochs.

    python -m experiments.benchmarks.early_stopping.paired_searches --data-dir DIR --regimes gtsrb \
        --out experiments/results/searches

A regime is a file in regimes/. For each seed there is one search per set-up:

    ours  the defaults, with those points to evaluate that were chosen without this regime (see points.py)
    tpe   the default sampler and stopping rule, no points to evaluate; the highest accuracy wins
    ray   the same with ASHA as Ray Tune has it by default: validation accuracy, one in four, from epoch 1

and `accuracy` is the search of ours whose highest accuracy wins. The first is whole. The others start with more trials
than they need, and count as far as whole trials take as many epochs. The winners and the reference are then trained on
all training images with seeds that no search has used, and judged on the test set. Writes, for each regime, in
OUT/REGIME

    searches.csv  a row per search: epochs counted and expected, trials, the winner and its measured accuracy
    confirm.csv   a row per training of a configuration
    pairs.csv     a row per seed of the searches: the winners' test accuracies, means over the fresh seeds
    seeds.csv     a row per fresh seed: the same, means over the searches
    summary.json  test accuracy per set-up, and paired differences over seeds with their 95% intervals
    runs/         the run directories
    env.json      versions, machine, command

and OUT/summary.json over all pairs of all regimes there. The same command continues where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from experiments.benchmarks.early_stopping.recorded import environment, write_environment
from experiments.benchmarks.early_stopping.search_efficiency import points_chosen_without
from experiments.benchmarks.early_stopping.stopping_rules import RAYS_ASHA
from tune_resnet._files import write_whole
from tune_resnet.config.sections import ResourceSpec
from tune_resnet.config.space import Point
from tune_resnet.config.spec import SearchSpec
from tune_resnet.config.toml import load_spec
from tune_resnet.data.load import load_dataset
from tune_resnet.data.split import baseline_split
from tune_resnet.execution.cluster import ray_cluster
from tune_resnet.execution.training_pool import Training, train_all
from tune_resnet.hpo.ranking import best_trials, winner
from tune_resnet.hpo.stopping import expected_survival
from tune_resnet.results.paired_test import analyse_pairs
from tune_resnet.runs.load import RunFrames, load_frames
from tune_resnet.runs.tables import ENDED, FINISHED
from tune_resnet.training.device import choose_precision, resolved

REGIMES = Path(__file__).parent / "regimes"
OURS, BY_ACCURACY, OTHERS = "ours", "accuracy", ("tpe", "ray")
MORE_TRIALS = 5  # so many times those of ours: enough for its epochs, whatever is stopped
MORE_EPOCHS = 4  # so many whole trials
EPOCH_TIMEOUT = 3600.0  # seconds
FRESH_SEED = 2000  # the first of those that winners are trained with


def spec_of(set_up: str, regime: str, options: argparse.Namespace) -> SearchSpec:
    """The spec of a search; its seed is still to be given."""
    spec = load_spec(REGIMES / f"{regime}.toml")
    data = spec.data
    if data.data_dir is not None:
        spec = replace(spec, data=replace(data, data_dir=f"{options.data_dir}/{data.data_dir}"))
    spec = replace(spec, resources=ResourceSpec(device="cpu"), points_to_evaluate=())
    if set_up == OURS:
        search = replace(spec.search, num_samples=options.samples)
        return replace(spec, search=search, points_to_evaluate=points_chosen_without(regime))
    search = replace(spec.search, num_samples=MORE_TRIALS * options.samples)
    return replace(spec, search=search, scheduler=RAYS_ASHA if set_up == "ray" else spec.scheduler)


def run_search(spec: SearchSpec, path: Path, seed: int, budget: int | None) -> RunFrames:
    """A search that is ended after `budget` epochs, whole without; what is there already is not run again."""
    if not path.exists():
        file = path.with_suffix(".toml")
        write_whole(file, spec.to_toml())
        _watched(["--experiment", file, "--seed", seed, "--runs-dir", path.parent, "--name", path.name], path, budget)
        file.unlink()
    elif budget is None or _epochs(path) < budget:
        _watched(["--resume", path], path, budget)
    return load_frames(path)


def _watched(arguments: list[Any], path: Path, budget: int | None) -> None:
    command = [sys.executable, "-m", "tune_resnet.search", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as search:
        while search.poll() is None:
            time.sleep(0.5)
            if budget is not None and _epochs(path) >= budget:
                search.send_signal(signal.SIGINT)
                break
        _, errors = search.communicate()
    if search.returncode not in (0, 130) and "has ended" not in errors:
        sys.exit(f"{path}: {errors}")


def _epochs(path: Path) -> int:
    table = path / "epochs.csv"
    return max(0, len(table.read_text().splitlines()) - 1) if table.exists() else 0


def cut_off(frames: RunFrames, budget: int) -> RunFrames:
    """The run as if it had begun no more trials than those that take as near to so many epochs as whole trials can."""
    trials = frames.trials.sort_values("trial")
    trials = trials[trials["state"].isin(ENDED).cummin()]
    trials = trials[: int((trials["epochs"].cumsum() - budget).abs().to_numpy().argmin()) + 1]
    return replace(frames, trials=trials, epochs=frames.epochs[frames.epochs["trial"].isin(trials["trial"])])


def highest_accuracy(frames: RunFrames) -> dict[Any, Any]:
    """The finished trial with the highest accuracy as measured."""
    finished = best_trials(frames, len(frames.trials)).sort_values("val_accuracy", ascending=False, kind="stable")
    return {str(name): value for name, value in finished.iloc[0].items()}


def search_rows(regime: str, options: argparse.Namespace) -> pd.DataFrame:
    """Runs all searches of a regime; a row per search."""
    rows, runs = [], options.out / regime / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    for seed in range(options.pairs):
        whole = run_search(spec_of(OURS, regime, options), runs / f"{OURS}-{seed}", seed, None)
        rows += [_row(OURS, seed, whole, winner), _row(BY_ACCURACY, seed, whole, highest_accuracy)]
        for set_up in OTHERS:
            # Those that are under way when it is ended never end: it goes on until all that count have ended.
            enough = len(whole.epochs) + MORE_EPOCHS * whole.spec.train.epochs
            frames = run_search(spec_of(set_up, regime, options), runs / f"{set_up}-{seed}", seed, enough)
            rows.append(_row(set_up, seed, cut_off(frames, len(whole.epochs)), highest_accuracy))
        print(pd.DataFrame(rows[-2 - len(OTHERS) :]).to_string(index=False), flush=True)
    return pd.DataFrame(rows)


def _row(
    set_up: str, seed: int, frames: RunFrames, chosen: Callable[[RunFrames], dict[Any, Any] | None]
) -> dict[str, Any]:
    best = chosen(frames)
    assert best is not None
    row = {"set_up": set_up, "seed": seed, "epochs": len(frames.epochs), "trials": len(frames.trials)}
    row["epochs_expected"] = round(frames.spec.search.num_samples * sum(expected_survival(frames.spec)))
    row["finished"] = int((frames.trials["state"] == FINISHED).sum())
    return row | {name: best[name] for name in ("trial", *frames.spec.hyperparameters, "val_accuracy", "estimate")}


def confirm_rows(regime: str, searches: pd.DataFrame, options: argparse.Namespace) -> pd.DataFrame:
    """Trains what confirm.csv lacks, and returns all of it. A configuration that two searches found is trained once."""
    path = options.out / regime / "confirm.csv"
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    spec = spec_of(OURS, regime, options)
    names = list(spec.hyperparameters)
    found = {tuple(row) for row in searches[names].to_numpy().tolist()}
    known = {(*(row[name] for name in names), row["seed"]) for row in rows}
    wanted = [
        (*values, seed)
        for seed in range(FRESH_SEED, FRESH_SEED + options.seeds)
        for values in sorted(found | {tuple(spec.values.values())})
    ]
    missing = [one for one in wanted if one not in known]
    trainings = [
        Training(spec.configured({"seed": seed, **dict(zip(names, values, strict=True))}), path.parent / f"{place}.pt")
        for place, (*values, seed) in enumerate(missing)
    ]
    spec = resolved(spec, "cpu", choose_precision(spec.train.precision, torch.device("cpu")))
    data = baseline_split(load_dataset(spec.data), spec.data)
    with ray_cluster(None):
        for place, outcome in train_all(spec, data, trainings, options.concurrency, EPOCH_TIMEOUT, lambda: False):
            if isinstance(outcome, str):
                sys.exit(f"error: {missing[place]}: {outcome}")
            trained = trainings[place].spec
            rows.append(
                {name: trained.value(name) for name in (*names, "seed")} | {"accuracy": outcome["test_accuracy"]}
            )
            write_whole(path, pd.DataFrame(rows).to_csv(index=False))
            trainings[place].checkpoint.unlink(missing_ok=True)
            print(f"{len(rows)} of {len(known) + len(missing)}: {outcome['test_accuracy']:.2%}", flush=True)
    return pd.DataFrame(rows)


def differences(searches: pd.DataFrame, confirmed: pd.DataFrame, reference: Point) -> pd.DataFrame:
    """A row per seed: test accuracy in percent of each set-up's winner and of the reference, means over fresh seeds."""
    mean = 100 * confirmed.groupby(list(reference))["accuracy"].mean()
    accuracy = searches[list(reference)].apply(lambda row: mean[tuple(row)], axis=1)
    table = searches.assign(accuracy=accuracy).pivot(index="seed", columns="set_up", values="accuracy")
    return table.assign(reference=mean[tuple(reference.values())])


def by_fresh_seed(searches: pd.DataFrame, confirmed: pd.DataFrame, reference: Point) -> pd.DataFrame:
    """A row per fresh seed: the same accuracies of the trainings with it, means over all searches. All winners and the
    reference share these seeds, and several searches may have one winner, so pairs of searches are not independent."""
    seeds = {seed: differences(searches, rows, reference).mean() for seed, rows in confirmed.groupby("seed")}
    return pd.DataFrame(seeds).T.rename_axis("fresh_seed")


def summary(table: pd.DataFrame) -> dict[str, Any]:
    """Mean accuracy per set-up, and how far ours is above each of the others over all pairs."""
    against = [name for name in table if name != OURS]
    return {
        "accuracy": table.mean().round(3).to_dict(),
        **{f"ours_minus_{name}": asdict(analyse_pairs((table[OURS] - table[name]).tolist())) for name in against},
    }


def main() -> None:
    options, env = _options(), environment()
    for regime in options.regimes:
        searches = search_rows(regime, options)
        folder = options.out / regime
        write_whole(folder / "searches.csv", searches.to_csv(index=False))
        confirmed = confirm_rows(regime, searches, options)
        reference = spec_of(OURS, regime, options).values
        table = differences(searches, confirmed, reference)
        write_whole(folder / "pairs.csv", table.round(4).to_csv())
        write_whole(folder / "seeds.csv", by_fresh_seed(searches, confirmed, reference).round(4).to_csv())
        write_whole(folder / "summary.json", json.dumps(summary(table), indent=2) + "\n")
        write_environment(folder, env)
        print(json.dumps(summary(table), indent=2), flush=True)
    every = pd.concat([pd.read_csv(path, index_col="seed") for path in sorted(options.out.glob("*/pairs.csv"))])
    write_whole(options.out / "summary.json", json.dumps(summary(every), indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder that holds the data sets' folders")
    parser.add_argument("--out", type=Path, required=True, help="folder for one folder a regime")
    parser.add_argument("--regimes", nargs="+", required=True, help="names of files in regimes/")
    parser.add_argument("--pairs", type=int, default=8, help="searches of each set-up, with seeds 0, 1, ...")
    parser.add_argument("--samples", type=int, default=32, help="trials of a search of ours")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each winner")
    parser.add_argument("--concurrency", type=int, default=2, help="trainings at once")
    return parser.parse_args()


if __name__ == "__main__":
    main()
