"""Winner and reference of a search again, with fresh paired seeds, on all that trains and judges; the test set decides.

Nothing before this step reads the test set, and here only the accuracy after the last epoch counts, so that nothing is
chosen by it. confirm.csv has a row for each training that ended by itself, written when it ends; one whose process
died leaves none, and the same command trains what is missing.

Without a number of seeds, pairs are added until the verdict is clear, see `paired_test.analyse_looks`; the winner's
rows say so from the first training on, since whoever has looked cannot go back to a number that was fixed before. With
one, a larger one extends it. All pairs on record count then, but who extends until a verdict pleases has no 95%
interval any more.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

import pandas as pd
from rich.console import Console

from tune_resnet._files import write_whole
from tune_resnet._text import as_json, busy, counted, duration, percent, say, to_run
from tune_resnet.commands.live_page import LivePage, written_report
from tune_resnet.commands.pairs import Pairs, compared_with_reference, under_rule
from tune_resnet.commands.request import Request
from tune_resnet.commands.summary import say_next
from tune_resnet.config.spec import SearchSpec
from tune_resnet.data.types import Dataset
from tune_resnet.execution.callbacks import StopRequest
from tune_resnet.execution.cluster import ray_cluster
from tune_resnet.execution.interrupts import signals_to
from tune_resnet.execution.progress import TrainingsProgress
from tune_resnet.execution.resources import make_plan
from tune_resnet.execution.training_pool import Training, train_all
from tune_resnet.hpo.plan import Plan
from tune_resnet.results.confirmation import Confirmation, confirmation_sentence, confirmations, look_line, pairs_table
from tune_resnet.results.paired_test import PairedResult
from tune_resnet.runs.directory import RunDirectory
from tune_resnet.runs.environment import describe_environment
from tune_resnet.runs.load import load_frames, read_object
from tune_resnet.runs.reading import records
from tune_resnet.runs.tables import REFERENCE, REFERENCE_TRIAL, WINNER, confirm_dtypes


def confirm(run: RunDirectory, request: Request, spec: SearchSpec, dataset: Dataset, console: Console) -> int:
    """Confirms the winner of a run with `request.pairs` paired seeds, or as many as it takes, at the size that `spec`
    has; the exit code: 0, or 1 without enough whole pairs.

    Raises:
        ConfirmError: there is no finished trial, no test set, or the images or confirm.csv belong to something else.
    """
    started = time.time()
    frames = load_frames(run.path)
    compared = compared_with_reference(frames, spec, dataset, request.pairs)
    if compared is None:
        say(console, "The reference itself is the winner: there is nothing to confirm.")
        say_next(run, console)
        return 0
    count = () if request.pairs is None else (request.pairs,)
    alone = to_run("search", "--confirm", *count, "--resume", run.shown_path, *spec.model.flag)
    command = request.command or alone
    known = under_rule(compared, frames.confirm)
    about: dict[str, Any] = {"command": command}
    if missing := compared.missing(known):
        with ExitStack() as cluster:
            with busy(console, "starting Ray"):
                cluster.enter_context(ray_cluster(request.address))
            plan = _plan(compared, len(missing), console, growing=request.address is not None)
            page = LivePage(run)
            if request.resume:  # else the search has said so
                say(console, page.words(), whole=True)
            with page:
                ended_by = _train(compared, plan, missing, known, console)
        if ended_by is not None:
            written_report(run.path, at_its_end=True)
            again = "The same command again goes on with what is missing." if request.resume else f"go on       {alone}"
            say(console, again, whole=True)
            return 128 + ended_by
        about |= {**describe_environment(), **plan.machine(), "wall_seconds": time.time() - started}
    code = _conclude(compared, about, console)
    if code:
        written_report(run.path, at_its_end=True)
    else:
        say_next(run, console)
    return code


def _plan(compared: Pairs, trainings: int, console: Console, *, growing: bool) -> Plan:
    """As many trainings as trials, none of them stopped early."""
    spec, data = compared.spec, compared.data
    search, scheduler = replace(spec.search, num_samples=trainings), replace(spec.scheduler, name="none")
    share = max(1, len(data.held_out) // spec.train.epochs)  # of an epoch, as only the last is judged
    with busy(console, "timing a few steps"):
        plan = make_plan(
            replace(spec, search=search, scheduler=scheduler),
            replace(data, held_out=data.held_out.subset(slice(share))),
            growing=growing,
        )
    most = "at most " if compared.sequential else ""
    say(
        console,
        f"confirm     {most}{trainings} trainings of {spec.model}, on {plan.train_images:,} images "
        f"({counted(plan.steps_per_epoch, 'step')} an epoch), {plan.concurrency} at once, judged on "
        f"{len(data.held_out):,} test images{plan.note}: {most or 'about '}"
        f"{duration(plan.seconds(plan.epochs_expected))}",
    )
    if compared.sequential:
        say(console, "            a look after each pair, until it is clear which is better")
    for line in plan.step_warning():
        say(console, line)
    return plan


def _train(
    compared: Pairs, plan: Plan, missing: list[tuple[int, str]], known: pd.DataFrame, console: Console
) -> int | None:
    """Trains what is missing, as long as the verdict is not clear where that is looked at, adding each row to those
    that are `known` as its training ends. Returns the signal that ended it early, or None."""
    end = StopRequest(None)
    rows = records(known)
    columns = list(confirm_dtypes(compared.spec.kinds, compared.spec.search.objective))
    trainings = [Training(compared.trained(*pair), compared.checkpoint(*pair)) for pair in missing]
    _forget_others(compared, trainings)
    progress = TrainingsProgress(trainings, plan, console, "at most " if compared.sequential else "about ")
    seen, done = compared.look(known), False

    def stop() -> bool:
        return done or end.stop_all()

    def tried_again(position: int, reason: str) -> None:
        seed, configuration = missing[position]
        say(console, f"seed {seed}, {configuration}, is tried again ({reason})")

    outcomes = train_all(plan.spec, compared.data, trainings, plan.concurrency, plan.epoch_timeout, stop, tried_again)
    with progress, signals_to(end, console):
        for ended, (position, outcome) in enumerate(outcomes, start=1):
            (seed, configuration), training = missing[position], trainings[position]
            if isinstance(outcome, str):
                said, done = f"no result, {outcome}", compared.sequential  # no look beyond a pair that is missing
            else:
                said = outcome["error"] or percent(outcome[compared.spec.search.column("test")])
                rows.append(compared.row(configuration, outcome, training.seconds))
                compared.write(pd.DataFrame(rows, columns=columns))
                training.checkpoint.unlink(missing_ok=True)
            progress.ended.add(position)
            left = progress.words_left()
            say(console, f"[{ended}/{len(trainings)}] seed {seed}, {configuration}: {said}; {left}")
            latest = compared.look(pd.DataFrame(rows, columns=columns))
            if latest is not None and latest != seen:
                say(console, look_line(latest, compared.spec.search.of_what))
                seen, done = latest, done or latest.is_clear
    if compared.is_clear(pd.DataFrame(rows, columns=columns)):
        _forget_others(compared, [])
    return end.signal


def _forget_others(compared: Pairs, trainings: Sequence[Training]) -> None:
    """Deletes checkpoints of confirmations that nobody will go on with: of another winner, say. Those of the same two
    at another size stay."""
    these = {f"{trial:05d}" for trial in (compared.trial, REFERENCE_TRIAL)}
    here = [str(value) for value in compared.size.values()]
    wanted = {training.checkpoint for training in trainings}
    for path in set(compared.run.checkpoints.glob("confirm-*-*.pt")) - wanted:
        _, trial, _, *size = path.stem.split("-")
        if trial not in these or size in (here, []):  # none: from before there were sizes
            path.unlink(missing_ok=True)


def _conclude(compared: Pairs, about: dict[str, Any], console: Console) -> int:
    """Prints the pairs and the verdict, and writes confirm.json, with what is said `about` the command, where it does
    not say so already. The exit code."""
    confirmed = confirmations(load_frames(compared.run.path))
    found = next((one for one in confirmed if one.of_winner and one.size == compared.size), None)
    if found is None:
        say(console, "No verdict: no training of the winner has a result.")
        return 1
    found = replace(found, images=len(compared.data.held_out))
    console.print()
    console.print(pairs_table(found.rows, compared.spec.search))
    asked = () if compared.sequential else compared.seeds
    idle = sorted({*asked, *found.rows["seed"]} - set(found.pairs.index))
    if idle and found.result is not None:
        after = " and those after the last look" if compared.sequential else ""
        say(console, f"Incomplete pairs{after} do not count: seed {', '.join(map(str, idle))}.")
    say(console, f"\n{confirmation_sentence(found)}")
    if found.result is None:
        return 1
    summary = _summary(compared, found, found.result, idle)
    before = read_object(compared.run.confirm_json)
    if {**before, **json.loads(as_json(summary))} != before:
        write_whole(compared.run.confirm_json, as_json({**summary, **about}) + "\n")
    return 0


def _summary(compared: Pairs, found: Confirmation, result: PairedResult, idle: Sequence[int]) -> dict[str, Any]:
    """What confirm.json says of a verdict."""
    return {
        "sentence": confirmation_sentence(found),
        **asdict(result),
        "objective": compared.spec.search.objective,
        "winner_accuracy": float(found.pairs[WINNER].mean()),
        "reference_accuracy": float(found.pairs[REFERENCE].mean()),
        "winner_trial": compared.trial,
        "winner": compared.winner.values,
        "reference": compared.spec.values,
        "seeds": [int(seed) for seed in found.pairs.index],
        "seeds_not_counted": [int(seed) for seed in idle],
        "test_images": found.images,
        **compared.size,
    }
