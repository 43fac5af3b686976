"""One command, from its options to a run directory that says what was found.

Only light modules are imported before they are needed, so that a wrong command line is answered at once.
"""

from __future__ import annotations

import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from tune_resnet._text import busy, counted, say, shown_path
from tune_resnet.commands.options import Options
from tune_resnet.config.spec import PAST_SAMPLERS
from tune_resnet.config.validation import SpecError
from tune_resnet.errors import RecordError
from tune_resnet.execution.cluster import set_ray_up
from tune_resnet.execution.interrupts import signal_of
from tune_resnet.runs.directory import BASELINE, FINAL, SEARCH, RunDirectory, write_whole
from tune_resnet.runs.tables import REFERENCE_TRIAL, train_spec_of

if TYPE_CHECKING:
    from tune_resnet.commands.summary import TimeBudget
    from tune_resnet.config.spec import SearchSpec
    from tune_resnet.data.types import Dataset, Split
    from tune_resnet.execution.callbacks import SearchEnd
    from tune_resnet.hpo.plan import Outlook, Plan
    from tune_resnet.hpo.warm_start import WarmStart
    from tune_resnet.runs.resume import History
    from tune_resnet.training.speed import Speed


@dataclass
class Command:
    """One command, as far as it has come. A run that is resumed has a `history`."""

    options: Options
    console: Console
    started: float  # Unix time
    stack: ExitStack  # closed at the command's end
    path: Path  # of the run directory, which a new run gets when all is ready for it
    run: RunDirectory | None = None
    history: History | None = None
    exit_code: int = 0

    @property
    def kind(self) -> str:
        """`search`, `baseline` or `final`."""
        if self.history:
            return str(self.history.env.get("kind", SEARCH))
        return FINAL if self.options.finalize else BASELINE if self.options.baseline else SEARCH


def run_options(options: Options, console: Console, started: float) -> Command:
    """Runs what a command line asked for, from `started` (Unix time) on; the command with its exit code.

    Raises:
        UserError: something only the user can mend.
    """
    set_ray_up(options.address)
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.showwarning = lambda message, *rest, **more: say(console, f"warning: {message}")
        command = Command(options, console, started, stack, options.resume or options.finalize or _free_path(options))
        if options.finalize:
            command.exit_code = _finalize(command)
        elif options.resume and options.confirm:
            command.exit_code = _confirm_ended(command)
        else:
            if options.resume:
                _take_hold(command)
            env = command.history.env if command.history else {}
            single = command.kind in (BASELINE, FINAL)
            command.exit_code = (
                _single(command, options.spec, env.get("trial", REFERENCE_TRIAL), env.get("dataset_fingerprint"))
                if single
                else _search(command, env.get("dataset_fingerprint"))
            )
    return command


def _take_hold(command: Command) -> None:
    """Keeps other commands from the run that is to be resumed, and reads what it has done."""
    command.run = RunDirectory(command.path.resolve())
    command.stack.enter_context(command.run.lock())
    from tune_resnet.runs.resume import read_history

    command.history = read_history(command.run)


def _search(command: Command, fingerprint: str | None) -> int:
    options, console, history = command.options, command.console, command.history
    if options.spec.search.sampler in PAST_SAMPLERS:
        raise SpecError(f"there is no sampler {options.spec.search.sampler} any more: change it to tpe in the file")
    # Before Ray: where there are no data, the message comes at once.
    dataset = _images(command, fingerprint)
    from tune_resnet.data.split import search_split

    split = search_split(dataset, options.spec.data)
    ended = history.ended if history else 0
    if command.run and ended >= options.spec.search.num_samples:
        say(console, f"{ended} of {counted(ended, 'trial')} have ended. To add more, give a larger --num-samples.")
        return _concluded(command.run, command, None)

    with ExitStack() as cluster:
        with busy(console, "starting Ray and timing a few steps"):
            from tune_resnet.execution.cluster import ray_cluster

            meanwhile = ThreadPoolExecutor(1).submit(_prepare, command, dataset, split)
            cluster.enter_context(ray_cluster(options.address))
            warm, speed = meanwhile.result()
            from tune_resnet.execution.resources import make_plan

            # What an earlier run has found is better to begin with than what did well elsewhere.
            spec = replace(options.spec, points_to_evaluate=()) if options.warm_start else options.spec
            plan = make_plan(spec, split, speed, ended=ended, growing=options.address is not None)
        say(console, "\n".join(plan.lines()))
        if options.warm_start:
            known, first = counted(len(warm.trials), "trial"), counted(len(warm.configurations), "configuration")
            say(console, f"warm start  {known} known, {first} to try first")
        if options.dry_run:
            return 0
        from tune_resnet.execution.loggers import logger_callbacks
        from tune_resnet.execution.tuner import run_search

        run = _open(plan, dataset, command)
        if options.warm_start:
            warm.write(run.warm_start_json)
        loggers = logger_callbacks(options.log, run)
        end = run_search(plan, split, run, warm, console, history=history, loggers=loggers)
    return _concluded(run, command, end.signal, _budget_over(command, plan, end)) or _confirmed(
        command, plan.spec, dataset
    )


def _images(command: Command, fingerprint: str | None) -> Dataset:
    """The images; RecordError where the run is about others, those with the `fingerprint` (None: it is a new run),
    ConfirmError where none are left to judge on."""
    dataset = _dataset(command)
    if fingerprint not in (None, dataset.fingerprint):
        run = command.options.resume or command.options.finalize
        raise RecordError(f"the images are not those of {run} (env.json: dataset_fingerprint)")
    if command.options.confirm:
        from tune_resnet.commands.pairs import check_test_set

        check_test_set(dataset)  # complains now, not after hours of searching
    return dataset


def _dataset(command: Command) -> Dataset:
    """The images; the user's own network is tried on their classes. UserError where there is something wrong."""
    from tune_resnet.data.load import load_dataset

    spec = command.options.spec
    dataset = load_dataset(spec.data)
    if spec.model.factory is not None:
        from tune_resnet.training.model import check_network

        check_network(spec.model, len(dataset.classes))
    return dataset


def _prepare(command: Command, dataset: Dataset, split: Split) -> tuple[WarmStart, Speed | None]:
    """What takes seconds and needs no Ray, to be done while Ray starts: most imports, what earlier runs give, and the
    pace of a trial where trials are going to run on this machine's CPU.

    It must not import Ray's modules: Ray does so itself meanwhile, and two threads that import the same circle of
    modules can see a half of one.
    """
    import torch

    from tune_resnet.hpo.warm_start import WarmStart, warm_start
    from tune_resnet.training.speed import measure_here

    options = command.options
    if command.run:
        warm = WarmStart.read(command.run.warm_start_json, options.spec)
    else:
        warm = warm_start(options.warm_start, options.spec, dataset.fingerprint)
    device = options.spec.resources.device
    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    elsewhere = options.address or on_gpu
    return warm, None if elsewhere else measure_here(options.spec, split)


def _confirm_ended(command: Command) -> int:
    """Confirms a run that has ended; the exit code."""
    command.run = RunDirectory(command.path.resolve())
    command.stack.enter_context(command.run.lock())
    return _confirmed(command, command.options.spec, _dataset(command))


def _confirmed(command: Command, spec: SearchSpec, dataset: Dataset) -> int:
    """Confirms the run where that was asked for; the exit code."""
    options = command.options
    if not options.confirm:
        return 0
    from tune_resnet.commands.confirm import confirm

    assert command.run is not None
    return confirm(command.run, spec, dataset, options, command.console)


def _finalize(command: Command) -> int:
    """Trains the winner of a search, or the trial that was asked for, on all training images, in a run directory of its
    own within the search's; the exit code."""
    from tune_resnet.hpo.models import trial_to_finalize
    from tune_resnet.runs.load import load_run

    options, frames = command.options, load_run(command.path)
    trial = trial_to_finalize(frames, options.trial)
    train = train_spec_of(trial, options.spec.train)
    spec = replace(options.spec, train=train, search=replace(options.spec.search, name=None))
    command.path = RunDirectory(command.path.resolve()).final
    if command.path.exists():
        before = load_run(command.path)
        if before.env.get("trial") == trial["trial"] and train_spec_of(trial, before.spec.train) == before.spec.train:
            _take_hold(command)
    return _single(command, spec, trial["trial"], frames.env.get("dataset_fingerprint"))


def _make_room(command: Command) -> None:
    """Moves another trial's final training aside, if there is one; RecordError where a command is at work in it."""
    before = RunDirectory(command.path)
    if not before.path.exists():
        return
    from tune_resnet.runs.load import load_run

    aside = before.path.with_name(f"final-trial-{load_run(before.path).env.get('trial')}")
    with before.lock():
        shutil.rmtree(aside, ignore_errors=True)
        before.path.rename(aside)
    say(command.console, f"the final training there was is in {shown_path(aside)} now")


def _single(command: Command, spec: SearchSpec, trial: int, fingerprint: str | None = None) -> int:
    """One training on all training images, those with this fingerprint: of the reference, or of the trial with that
    number; the exit code."""
    options, console = command.options, command.console
    dataset = _images(command, fingerprint)

    with busy(console, "timing a few steps"):
        from tune_resnet.commands.baseline import plan_single, run_single

        plan = plan_single(spec, dataset, trial, final=command.kind == FINAL)
    say(console, "\n".join(plan.lines()))
    if options.dry_run:
        return 0
    run = _open(plan, dataset, command, trial=trial)
    ended_by = None
    try:
        run_single(plan, dataset, run, console, command.history)
    except (KeyboardInterrupt, SystemExit) as end:
        ended_by = signal_of(end)
    return _concluded(run, command, ended_by)


def _free_path(options: Options) -> Path:
    """Where a new run directory is going to be; RecordError where there is something else already."""
    spec = options.spec
    path = options.runs_dir / (spec.search.name or f"{spec.data.dataset}-{datetime.now():%Y%m%d-%H%M%S}")
    if path.exists():
        raise RecordError(f"{path} exists already: choose another --name, or --resume {path}")
    return path


def _open(plan: Outlook, dataset: Dataset, command: Command, **more: int) -> RunDirectory:
    """The run directory, with what is known before the first trial, `more` included; for this command alone."""
    from tune_resnet.runs.environment import describe_environment

    here = describe_environment()
    if command.run and command.history:
        env = command.history.env
        resumed = {"started_at": command.started, "git_commit": here["git_commit"], "command": command.options.command}
        command.run.write_env({**env, "resumed": [*env.get("resumed", []), resumed]})
        write_whole(command.run.spec_toml, plan.spec.to_toml())
        return command.run
    env = {
        **here,
        "command": command.options.command,
        "kind": command.kind,
        "device": plan.spec.resources.device,
        "device_name": plan.device_name,
        "precision": plan.spec.train.precision,
        "concurrency": plan.concurrency,
        "dataset": dataset.name,
        "dataset_fingerprint": dataset.fingerprint,
        "test_set": dataset.has_test_set,
        "train_images": plan.train_images,
        "held_out": plan.held_out,
        "held_out_images": plan.held_out_images,
        "started_at": command.started,
        **more,
    }
    if command.kind == FINAL:
        _make_room(command)
    command.run = RunDirectory.create(command.path, plan.spec, env)
    command.stack.enter_context(command.run.lock())
    return command.run


def _budget_over(command: Command, plan: Plan, end: SearchEnd) -> TimeBudget | None:
    """The time budget, if it has ended the search."""
    from tune_resnet.commands.summary import TimeBudget

    seconds = plan.spec.search.time_budget
    if seconds is None or not end.over or end.signal is not None:
        return None
    epochs_before = len(command.history.epochs) if command.history else 0
    return TimeBudget(seconds=seconds, seconds_per_epoch=plan.seconds_per_epoch, epochs_before=epochs_before)


def _concluded(run: RunDirectory, command: Command, ended_by: int | None, budget: TimeBudget | None = None) -> int:
    """Prints what was found and what to do next; the exit code."""
    from tune_resnet.commands.summary import conclude

    done = conclude(run, command.console, command.started, budget)
    if ended_by is not None:
        return 128 + ended_by
    return 0 if done else 1
