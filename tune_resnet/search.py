"""`python -m tune_resnet.search`: a spec becomes a run directory. See `--help`.

Only light modules are imported before the command line is known to be right.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from tune_resnet.cluster import set_ray_up
from tune_resnet.errors import UserError
from tune_resnet.options import Options, parse_options
from tune_resnet.text import printable

if TYPE_CHECKING:
    from tune_resnet.data import Dataset, Split
    from tune_resnet.history import History
    from tune_resnet.outlook import Outlook, Speed
    from tune_resnet.records import RunDirectory
    from tune_resnet.warm_start import WarmStart

_PIPE_WIDTH = 1000  # characters, so that no column is cut where output is not a terminal


@dataclass
class _Command:
    """One command, as far as it has come. `run` and `history`: of a run that is resumed, from the beginning."""

    options: Options
    console: Console
    started: float  # Unix time
    stack: ExitStack  # closed at the command's end
    run: RunDirectory | None = None
    history: History | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code: 0 done, 1 failed, 2 bad input, 128 + n ended by signal n."""
    started = time.time()
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False, markup=False)
    received = _listen_for_signals()
    try:
        code = _run(sys.argv[1:] if arguments is None else arguments, console, started)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except SystemExit as end:
        if not received and end.code != signal.SIGTERM:  # as Ray itself ends while it starts
            raise
        code = 128 + signal.SIGTERM
    return 128 + received[0] if received else code


def _listen_for_signals() -> list[int]:
    """A list of the signals that will have told the command to end: the exceptions they raise may be swallowed on their
    way by what they interrupt."""
    received: list[int] = []

    def on_signal(number: int, frame: Any) -> None:
        received.append(number)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    return received


def _run(arguments: Sequence[str], console: Console, started: float) -> int:
    """The command line's exit code, errors included."""
    try:
        options = parse_options(arguments)
        set_ray_up(options.address)
        with ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.showwarning = lambda message, *rest, **more: _say(console, [f"warning: {message}"])
            command = _Command(options, console, started, stack)
            if options.resume and options.confirm:
                return _confirm_ended(options.resume, options.confirm, command)
            baseline = _is_baseline(options.resume, command) if options.resume else options.baseline
            return _baseline(command) if baseline else _search(command)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1


def _is_baseline(path: Path, command: _Command) -> bool:
    """Takes hold of the run that is to be resumed; whether it is a baseline."""
    from tune_resnet.records import BASELINE, RunDirectory

    command.run = RunDirectory(path.resolve())
    command.stack.enter_context(command.run.lock())
    from tune_resnet.history import read_history

    command.history = read_history(command.run)
    return command.history.env.get("kind") == BASELINE


def _search(command: _Command) -> int:
    options, console, history = command.options, command.console, command.history
    path = _free_path(options)
    # Before Ray: where there are no data, the message comes at once.
    dataset = _images(command)
    from tune_resnet.data import search_split

    split = search_split(dataset, options.spec.data)
    ended = history.ended if history else 0
    if command.run and ended >= options.spec.search.num_samples:
        _say(console, [f"All {ended} trials have ended; --num-samples N adds more, where N is larger."])
        return _concluded(command.run, command, None)

    with ExitStack() as ray:
        with console.status("starting Ray and timing a few steps"):
            from tune_resnet.cluster import ray_cluster

            meanwhile = ThreadPoolExecutor(1).submit(_prepare, command, dataset, split)
            ray.enter_context(ray_cluster(options.address))
            warm, speed = meanwhile.result()
            from tune_resnet.plan import make_plan

            plan = make_plan(options.spec, split, speed, ended=ended, growing=options.address is not None)
        _say(console, plan.lines())
        if options.warm_start:
            known, first = len(warm.trials), len(warm.configurations)
            _say(console, [f"warm start  {known} trials known, {first} configurations to try first"])
        if options.dry_run:
            return 0
        from tune_resnet.tuning import run_search

        run = _open(path, plan, dataset, command)
        if options.warm_start:
            warm.write(run.warm_start_json)
        ended_by = run_search(plan, split, run, warm, console, history=history)
    code = _concluded(run, command, ended_by)
    if code or options.confirm is None:
        return code
    from tune_resnet.confirm import confirm

    return confirm(run.path, plan.spec, dataset, options.confirm, options.address, console)


def _images(command: _Command) -> Dataset:
    """The images; RecordError where a run that is resumed was about others, ConfirmError where none are left to judge
    on."""
    from tune_resnet.data import load_dataset
    from tune_resnet.records import RecordError

    dataset = load_dataset(command.options.spec.data)
    if command.history and command.history.env["dataset_fingerprint"] != dataset.fingerprint:
        raise RecordError(f"the images are not those of {command.options.resume} (env.json: dataset_fingerprint)")
    if command.options.confirm:
        from tune_resnet.confirm import judging_images

        judging_images(dataset)  # complains now, not after hours of searching
    return dataset


def _prepare(command: _Command, dataset: Dataset, split: Split) -> tuple[WarmStart, Speed | None]:
    """What takes seconds and needs no Ray, to be done while Ray starts: most imports, what earlier runs give, and the
    pace of a trial where trials are going to run on this machine's CPU.

    It must not import Ray's modules: Ray does so itself meanwhile, and two threads that import the same circle of
    modules can see a half of one.
    """
    import torch

    from tune_resnet.outlook import measure_here
    from tune_resnet.warm_start import WarmStart, warm_start

    options = command.options
    if command.run:
        warm = WarmStart.read(command.run.warm_start_json, options.spec)
    else:
        warm = warm_start(options.warm_start, options.spec, dataset.fingerprint)
    elsewhere = options.address or options.spec.resources.device == "cuda" or torch.cuda.is_available()
    return warm, None if elsewhere else measure_here(options.spec, split)


def _confirm_ended(path: Path, count: int, command: _Command) -> int:
    """Confirms a run that has ended."""
    from tune_resnet.data import load_dataset

    options = command.options
    dataset = load_dataset(options.spec.data)
    from tune_resnet.confirm import confirm

    return confirm(path, options.spec, dataset, count, options.address, command.console)


def _baseline(command: _Command) -> int:
    options, console = command.options, command.console
    path = _free_path(options)
    dataset = _images(command)

    with console.status("timing a few steps"):
        from tune_resnet.baseline import plan_baseline, run_baseline

        plan = plan_baseline(options.spec, dataset)
    _say(console, plan.lines())
    if options.dry_run:
        return 0
    run = _open(path, plan, dataset, command)
    ended_by = None
    try:
        run_baseline(plan, dataset, run, console, command.history)
    except (KeyboardInterrupt, SystemExit) as end:
        ended_by = signal.SIGINT if isinstance(end, KeyboardInterrupt) else signal.SIGTERM
    return _concluded(run, command, ended_by)


def _free_path(options: Options) -> Path:
    """Where the run directory is, or is going to be; RecordError where there is something else already."""
    from tune_resnet.records import RecordError

    if options.resume:
        return options.resume
    spec = options.spec
    path = options.runs_dir / (spec.search.name or f"{spec.data.dataset}-{datetime.now():%Y%m%d-%H%M%S}")
    if path.exists():
        raise RecordError(f"{path} exists already: choose another --name, or --resume {path}")
    return path


def _open(path: Path, plan: Outlook, dataset: Dataset, command: _Command) -> RunDirectory:
    """The run directory, with what is known before the first trial; for this command alone."""
    from tune_resnet.environment import describe_environment
    from tune_resnet.records import BASELINE, SEARCH, RunDirectory, write_whole

    here = describe_environment()
    if command.run and command.history:
        env = command.history.env
        resumed = {"started_at": command.started, "git_commit": here["git_commit"], "command": here["command"]}
        command.run.write_env({**env, "resumed": [*env.get("resumed", []), resumed]})
        write_whole(command.run.spec_toml, plan.spec.to_toml())
        return command.run
    env = {
        **here,
        "kind": BASELINE if command.options.baseline else SEARCH,
        "device": plan.spec.resources.device,
        "device_name": plan.device_name,
        "precision": plan.spec.train.precision,
        "concurrency": plan.concurrency,
        "dataset": dataset.name,
        "dataset_fingerprint": dataset.fingerprint,
        "train_images": plan.train_images,
        "held_out": plan.held_out,
        "held_out_images": plan.held_out_images,
        "started_at": command.started,
    }
    run = RunDirectory.create(path, plan.spec, env)
    command.stack.enter_context(run.lock())
    return run


def _concluded(run: RunDirectory, command: _Command, ended_by: int | None) -> int:
    """Prints what was found and what to do next; the exit code."""
    from tune_resnet.conclusion import conclude

    found = conclude(run, command.console, command.started)
    if ended_by is not None:
        return 128 + ended_by
    return 0 if found else 1


def _say(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(Text(line), soft_wrap=True)


if __name__ == "__main__":
    exit_code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)  # at once: a thread may be in the middle of imports that nobody waits for any more
