"""Winner and reference of a search again: on the full training set, with fresh paired seeds, judged on the test set.

Nothing before this step reads the test set, and here only the accuracy after the last epoch counts, so that nothing is
chosen by it. confirm.csv has a row for each training that ended by itself, written when it ends; one whose process
died leaves none, and the same command trains what is missing. A larger number of seeds extends it. All pairs on record
count, but who extends until a verdict pleases has no 95% interval any more.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
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
from tune_resnet.frames import CONFIRM_DTYPES, REFERENCE, WINNER, RunFrames, load_run
from tune_resnet.options import Options
from tune_resnet.plan import Plan, make_plan
from tune_resnet.pool import Job, train_all
from tune_resnet.records import REFERENCE_TRIAL, SEARCH, RunDirectory, train_spec_of, write_whole
from tune_resnet.spec import TUNABLE, SearchSpec, TrainSpec
from tune_resnet.text import as_json, busy, counted, duration, percent, say
from tune_resnet.verdict import complete_pairs, confirmation_sentence, confirmations, pairs_table

SEED_OFFSET = 1000  # seeds are the search's seed + this + 0, 1, 2 ...: other searches rarely have come near them


class ConfirmError(UserError):
    """A run that cannot be confirmed."""


def judging_images(dataset: Dataset) -> int:
    """How many images there are to judge on; ConfirmError where there are none."""
    if dataset.test is None:
        raise ConfirmError(f"{dataset.name} has no test set (a folder's is DIR/test/CLASS/*): nothing to confirm on")
    return len(dataset.test)


@dataclass(frozen=True, kw_only=True)
class _Comparison:
    """What is compared. `spec.train` is the reference."""

    run: RunDirectory
    spec: SearchSpec
    trial: int  # the winner
    winner: TrainSpec
    seeds: tuple[int, ...]
    images: int  # of the test set

    def train_spec(self, seed: int, configuration: str) -> TrainSpec:
        return replace(self.winner if configuration == WINNER else self.spec.train, seed=seed)

    def checkpoint(self, seed: int, configuration: str) -> Path:
        return self.run.confirmation_of(self.trial if configuration == WINNER else REFERENCE_TRIAL, seed)

    def has(self, rows: pd.DataFrame, seed: int, configuration: str) -> bool:
        """Whether a training is among the rows of confirm.csv."""
        train = self.train_spec(seed, configuration)
        wanted = [seed, configuration, *(getattr(train, name) for name in TUNABLE)]
        return bool((rows[["seed", "configuration", *TUNABLE]] == wanted).all(axis=1).any())


def confirm(run: RunDirectory, spec: SearchSpec, dataset: Dataset, options: Options, console: Console) -> int:
    """Confirms the winner of a run with `options.confirm` paired seeds; the exit code: 0, or 1 without two whole pairs.

    Raises:
        ConfirmError: there is no finished trial, no test set, or the images or confirm.csv belong to something else.
    """
    started = time.time()
    assert options.confirm is not None
    frames = load_run(run.path)
    compared = _compared(frames, spec, dataset, options.confirm)
    if compared is None:
        say(console, "The reference itself is the winner: there is nothing to confirm.")
        return 0
    pairs = [(seed, name) for seed in compared.seeds for name in (WINNER, REFERENCE)]
    about = None
    if missing := [pair for pair in pairs if not compared.has(frames.confirm, *pair)]:
        data = baseline_split(dataset, spec.data)
        with ray_cluster(options.address):
            plan = _plan(spec, data, len(missing), console)
            ended_by = _train(compared, plan, missing, frames.confirm, data, console)
        if ended_by is not None:
            say(console, "The same command again goes on with what is missing.")
            return 128 + ended_by
        about = {**_describe(plan), "command": options.command, "wall_seconds": time.time() - started}
    return _conclude(compared, about, console)


def _compared(frames: RunFrames, spec: SearchSpec, dataset: Dataset, count: int) -> _Comparison | None:
    """None where no trial beats the reference."""
    if frames.kind != SEARCH:  # its spec has the trained configuration for reference
        raise ConfirmError(f"--confirm needs the winner of a search: {frames.name} is a single training")
    images, run = judging_images(dataset), RunDirectory(frames.path)
    if frames.env.get("dataset_fingerprint") != dataset.fingerprint:
        raise ConfirmError(f"the images differ from those of {frames.name}: env.json has another dataset_fingerprint")
    references = frames.confirm[frames.confirm["configuration"] == REFERENCE]
    for name in TUNABLE:
        if not (references[name] == getattr(spec.train, name)).all():
            raise ConfirmError(f"{run.confirm_csv} is about another reference: move it away to start anew")
    best = winner(frames)
    if best is None:
        raise ConfirmError(f"{frames.name} has no finished trial to confirm")
    if best["reference"]:
        return None
    return _Comparison(
        run=run,
        spec=spec,
        trial=best["trial"],
        winner=train_spec_of(best, spec.train),
        seeds=tuple(spec.train.seed + SEED_OFFSET + number for number in range(count)),
        images=images,
    )


def _plan(spec: SearchSpec, data: Split, trainings: int, console: Console) -> Plan:
    """As many trainings as trials, none of them stopped early."""
    search, scheduler = replace(spec.search, num_samples=trainings), replace(spec.scheduler, name="none")
    with busy(console, "timing a few steps"):
        plan = make_plan(replace(spec, search=search, scheduler=scheduler), data)
    expected = duration(plan.seconds(plan.epochs_expected))
    say(
        console,
        f"confirm     {trainings} trainings on {plan.train_images:,} images "
        f"({counted(plan.steps_per_epoch, 'step')} an epoch), {plan.concurrency} at once, "
        f"judged on {plan.held_out_images:,} test images{plan.note}: about {expected}",
    )
    for line in plan.step_warning():
        say(console, line)
    return plan


def _train(
    compared: _Comparison,
    plan: Plan,
    missing: list[tuple[int, str]],
    known: pd.DataFrame,
    data: Split,
    console: Console,
) -> int | None:
    """Trains what is missing, adding each row to those that are `known` as its training ends. Returns the signal that
    ended it early, or None."""
    started, end, rows = time.monotonic(), SearchEnd(None), known.to_dict("records")
    jobs = [Job(compared.train_spec(*pair), compared.checkpoint(*pair)) for pair in missing]
    _forget_others(compared.run, jobs)

    def tried_again(position: int, reason: str) -> None:
        seed, configuration = missing[position]
        say(console, f"seed {seed}, {configuration}, is tried again ({reason})")

    outcomes = train_all(plan.spec, data, jobs, plan.concurrency, plan.epoch_timeout, end.stop_all, tried_again)
    with signals_to(end, console):
        for ended, (position, outcome) in enumerate(outcomes, start=1):
            (seed, configuration), job = missing[position], jobs[position]
            if isinstance(outcome, str):
                said = f"no result, {outcome}"
            else:
                said = outcome["error"] or percent(outcome["accuracy"])
                row: dict[Hashable, Any] = dict(outcome) | {
                    "configuration": configuration,
                    "test_accuracy": outcome["accuracy"],
                    "test_loss": outcome["loss"],
                    "seconds": job.seconds,
                }
                rows.append(row)
                table = pd.DataFrame(rows, columns=list(CONFIRM_DTYPES)).sort_values(["seed", "configuration"])
                write_whole(compared.run.confirm_csv, table.to_csv(index=False, lineterminator="\n"))
                job.checkpoint.unlink(missing_ok=True)
            left = (time.monotonic() - started) / ended * (len(jobs) - ended)
            say(console, f"[{ended}/{len(jobs)}] seed {seed}, {configuration}: {said}; about {duration(left)} left")
    return end.signal


def _forget_others(run: RunDirectory, jobs: Sequence[Job]) -> None:
    """Deletes checkpoints of confirmations that nobody will go on with: of another winner, say."""
    for path in set(run.checkpoints.glob("confirm-*.pt")) - {job.checkpoint for job in jobs}:
        path.unlink(missing_ok=True)


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


def _conclude(compared: _Comparison, about: dict[str, Any] | None, console: Console) -> int:
    """Prints the pairs and the verdict, and writes confirm.json where something was trained (`about`)."""
    found = next((one for one in confirmations(load_run(compared.run.path)) if one.of_winner), None)
    if found is None:
        say(console, "No verdict: no training of the winner has a result.")
        return 1
    found = replace(found, images=compared.images)
    console.print()
    console.print(pairs_table(found.rows))
    pairs = complete_pairs(found.rows)
    incomplete = sorted({*compared.seeds, *found.rows["seed"]} - set(pairs.index))
    if incomplete:
        say(console, f"Incomplete pairs do not count: seed {', '.join(map(str, incomplete))}.")
    sentence = confirmation_sentence(found)
    say(console, f"\n{sentence}")
    if found.result is None:
        return 1
    if about is not None:
        summary = {
            "sentence": sentence,
            **asdict(found.result),
            "winner_accuracy": float(pairs[WINNER].mean()),
            "reference_accuracy": float(pairs[REFERENCE].mean()),
            "winner_trial": compared.trial,
            "winner": {name: getattr(compared.winner, name) for name in TUNABLE},
            "reference": {name: getattr(compared.spec.train, name) for name in TUNABLE},
            "seeds": [int(seed) for seed in pairs.index],
            "incomplete_seeds": [int(seed) for seed in incomplete],
            "test_images": compared.images,
            **about,
        }
        write_whole(compared.run.confirm_json, as_json(summary) + "\n")
    say(console, f"report      {written_report(compared.run.shown_path)}")
    return 0
