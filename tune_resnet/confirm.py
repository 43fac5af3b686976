"""Winner and reference of a search again: on the full training set, with fresh paired seeds, judged on the test set.

Nothing before this step reads the test set, and here only the accuracy after the last epoch counts, so that nothing is
chosen by it. confirm.csv has a row for each training that ended by itself, written when it ends; one whose process
died leaves none, and the same command trains what is missing. A larger number of seeds extends it. All pairs on record
count, but who extends until a verdict pleases has no 95% interval any more.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from tune_resnet.cluster import ray_cluster
from tune_resnet.conclusion import written_report
from tune_resnet.data import Dataset, Split, baseline_split
from tune_resnet.environment import describe_environment
from tune_resnet.errors import UserError
from tune_resnet.events import SearchEnd, signals_to
from tune_resnet.findings import winner
from tune_resnet.frames import load_run
from tune_resnet.options import LEAST_SEEDS, Options
from tune_resnet.paired import analyse_pairs
from tune_resnet.plan import Plan, make_plan
from tune_resnet.pool import train_all
from tune_resnet.reading import read_table
from tune_resnet.records import write_whole
from tune_resnet.spec import TUNABLE, SearchSpec, TrainSpec
from tune_resnet.text import as_json, busy, duration, percent, say, shown_path
from tune_resnet.verdict import CONFIRM_DTYPES, REFERENCE, WINNER, complete_pairs, pairs_table, verdict_sentence

SEED_OFFSET = 1000  # seeds are the search's seed + this + 0, 1, 2 ...: other searches rarely have come near them


class ConfirmError(UserError):
    """A run that cannot be confirmed."""


def judging_images(dataset: Dataset) -> int:
    """How many images there are to judge on; ConfirmError where there are none."""
    if dataset.test is None:
        raise ConfirmError(f"{dataset.name} has no test set (a folder's is DIR/test/CLASS/*): nothing to confirm on")
    return len(dataset.test)


@dataclass(frozen=True, kw_only=True)
class _Confirmation:
    """What is compared. `spec.train` is the reference."""

    path: Path  # the run directory
    spec: SearchSpec
    trial: int  # the winner
    winner: TrainSpec
    seeds: tuple[int, ...]
    images: int  # of the test set

    @property
    def csv(self) -> Path:
        return self.path / "confirm.csv"

    def train_spec(self, seed: int, configuration: str) -> TrainSpec:
        return replace(self.winner if configuration == WINNER else self.spec.train, seed=seed)


def confirm(path: Path, spec: SearchSpec, dataset: Dataset, options: Options, console: Console) -> int:
    """Confirms the run in `path` with `options.confirm` paired seeds; the exit code: 0, or 1 without two whole pairs.

    Raises:
        ConfirmError: there is no finished trial, no test set, or the images or confirm.csv belong to something else.
    """
    started = time.time()
    assert options.confirm is not None
    confirmation = _prepare(path, spec, dataset, options.confirm)
    if confirmation is None:
        say(console, "The reference itself is the best trial: there is nothing to confirm.")
        return 0
    rows = _recorded(confirmation)
    trained = {(row["seed"], row["configuration"]) for row in rows}
    pairs = [(seed, name) for seed in confirmation.seeds for name in (WINNER, REFERENCE)]
    about = None
    if jobs := [job for job in pairs if job not in trained]:
        data = baseline_split(dataset, spec.data)
        with ray_cluster(options.address):
            plan = _plan(spec, data, len(jobs), console)
            ended_by = _train(confirmation, plan, jobs, rows, data, console)
        if ended_by is not None:
            say(console, "The same command again trains what is missing.")
            return 128 + ended_by
        about = {**_describe(plan), "command": options.command, "wall_seconds": time.time() - started}
    return _conclude(confirmation, pd.DataFrame(rows, columns=list(CONFIRM_DTYPES)), about, console)


def _prepare(path: Path, spec: SearchSpec, dataset: Dataset, count: int) -> _Confirmation | None:
    """None where no trial beats the reference."""
    images, frames = judging_images(dataset), load_run(path)
    if frames.env.get("dataset_fingerprint") != dataset.fingerprint:
        raise ConfirmError(f"the images differ from those of {frames.name}: env.json has another dataset_fingerprint")
    best = winner(frames)
    if best is None:
        raise ConfirmError(f"{frames.name} has no finished trial to confirm")
    if best["reference"]:
        return None
    return _Confirmation(
        path=frames.path,
        spec=spec,
        trial=best["trial"],
        winner=replace(spec.train, **{name: best[name] for name in TUNABLE}),
        seeds=tuple(spec.train.seed + SEED_OFFSET + number for number in range(count)),
        images=images,
    )


def _recorded(confirmation: _Confirmation) -> list[dict[Any, Any]]:
    """The rows of confirm.csv, none where there is no such file. ConfirmError where it is not about these trainings."""
    if not confirmation.csv.exists():
        return []
    rows: list[dict[Any, Any]] = read_table(confirmation.csv, CONFIRM_DTYPES).to_dict("records")
    known: set[tuple[int, str]] = set()
    for line, row in enumerate(rows, start=2):
        training = (row["seed"], row["configuration"])
        if row["configuration"] not in (WINNER, REFERENCE) or training in known:
            problem = "a second time" if training in known else f"is not {WINNER} or {REFERENCE}"
            raise ConfirmError(
                f"{confirmation.csv} line {line}: {row['configuration']} of seed {row['seed']} {problem}"
            )
        known.add(training)
        train = confirmation.train_spec(0, row["configuration"])
        if any(row[name] != getattr(train, name) for name in TUNABLE):
            raise ConfirmError(f"{confirmation.csv} is about another winner or reference: move it away to start anew")
    return rows


def _plan(spec: SearchSpec, data: Split, trainings: int, console: Console) -> Plan:
    """As many trainings as trials, none of them stopped early."""
    search, scheduler = replace(spec.search, num_samples=trainings), replace(spec.scheduler, name="none")
    with busy(console, "timing a few steps"):
        plan = make_plan(replace(spec, search=search, scheduler=scheduler), data)
    expected = duration(plan.seconds(plan.epochs_expected))
    say(
        console,
        f"confirm     {trainings} trainings on {plan.train_images:,} images, {plan.concurrency} at once, "
        f"judged on {plan.held_out_images:,} test images: about {expected}",
    )
    return plan


def _train(
    confirmation: _Confirmation,
    plan: Plan,
    jobs: list[tuple[int, str]],
    rows: list[dict[Any, Any]],
    data: Split,
    console: Console,
) -> int | None:
    """Trains the jobs, writing each row as its training ends. Returns the signal that ended it early, or None."""
    started, end = time.monotonic(), SearchEnd(None)
    configurations = [confirmation.train_spec(*job) for job in jobs]
    outcomes = train_all(plan.spec, data, configurations, plan.concurrency, end.stop_all)
    with signals_to(end, console):
        for ended, (position, outcome) in enumerate(outcomes, start=1):
            seed, configuration = jobs[position]
            if isinstance(outcome, str):
                said = f"no result, {outcome}"
            else:
                said = outcome["error"] or percent(outcome["accuracy"])
                row = {
                    "configuration": configuration,
                    "test_accuracy": outcome["accuracy"],
                    "test_loss": outcome["loss"],
                }
                rows.append({**outcome, **row})
                table = pd.DataFrame(rows, columns=list(CONFIRM_DTYPES)).sort_values(["seed", "configuration"])
                write_whole(confirmation.csv, table.to_csv(index=False, lineterminator="\n"))
            left = (time.monotonic() - started) / ended * (len(jobs) - ended)
            say(console, f"[{ended}/{len(jobs)}] seed {seed}, {configuration}: {said}; about {duration(left)} left")
    return end.signal


def _describe(plan: Plan) -> dict[str, Any]:
    """What the figures depend on, as in env.json."""
    return {
        **describe_environment(),
        "device": plan.spec.resources.device,
        "device_name": plan.device_name,
        "precision": plan.spec.train.precision,
        "concurrency": plan.concurrency,
        "train_images": plan.train_images,
    }


def _conclude(confirmation: _Confirmation, rows: pd.DataFrame, about: dict[str, Any] | None, console: Console) -> int:
    """Prints the pairs and the verdict, and writes confirm.json where something was trained (`about`)."""
    console.print()
    console.print(pairs_table(rows))
    pairs = complete_pairs(rows)
    incomplete = sorted({*confirmation.seeds, *rows["seed"]} - set(pairs.index))
    if incomplete:
        say(console, f"Incomplete pairs do not count: seed {', '.join(map(str, incomplete))}.")
    if len(pairs) < LEAST_SEEDS:
        say(console, f"No verdict: that takes {LEAST_SEEDS} complete pairs, and there are {len(pairs)}.")
        return 1
    result = analyse_pairs(list(100 * (pairs[WINNER] - pairs[REFERENCE])))
    sentence = verdict_sentence(result, confirmation.images)
    say(console, f"\n{sentence}")
    if about is not None:
        summary = {
            "sentence": sentence,
            **asdict(result),
            "winner_accuracy": float(pairs[WINNER].mean()),
            "reference_accuracy": float(pairs[REFERENCE].mean()),
            "winner_trial": confirmation.trial,
            "winner": {name: getattr(confirmation.winner, name) for name in TUNABLE},
            "reference": {name: getattr(confirmation.spec.train, name) for name in TUNABLE},
            "seeds": [int(seed) for seed in pairs.index],
            "incomplete_seeds": [int(seed) for seed in incomplete],
            "test_images": confirmation.images,
            **about,
        }
        write_whole(confirmation.path / "confirm.json", as_json(summary) + "\n")
    say(console, f"report      {written_report(shown_path(confirmation.path))}")
    return 0
