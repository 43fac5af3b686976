"""`python -m tune_resnet.search`: a spec becomes a run directory. See `--help`.

Only light modules are imported before the command line is known to be right.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from tune_resnet.errors import UserError
from tune_resnet.options import Options, parse_options

if TYPE_CHECKING:
    from tune_resnet.data import Dataset, Split
    from tune_resnet.outlook import Outlook, Speed
    from tune_resnet.records import RunDirectory
    from tune_resnet.warm_start import WarmStart

_PIPE_WIDTH = 1000  # characters, so that no column is cut where output is not a terminal
_TOP = 10  # trials in the table at the end


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code: 0 done, 1 nothing finished, 2 bad input, 128 + n ended by signal n."""
    started = time.time()
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False, markup=False)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        options = parse_options(sys.argv[1:] if arguments is None else arguments)
        if options.resume and options.confirm:
            return _confirm_ended(options.resume, options.confirm, options, console)
        command = _baseline if options.baseline else _search
        return command(options, console, started)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _search(options: Options, console: Console, started: float) -> int:
    path = _free_path(options)
    # Before Ray: where there are no data, the message comes at once.
    from tune_resnet.data import load_dataset, search_split

    dataset = load_dataset(options.spec.data)
    split = search_split(dataset, options.spec.data)
    if options.confirm:
        from tune_resnet.confirm import judging_images

        judging_images(dataset)  # complains now, not after hours of searching

    with ExitStack() as stack:
        with console.status("starting Ray and timing a few steps"):
            from tune_resnet.cluster import ray_cluster

            meanwhile = ThreadPoolExecutor(1).submit(_prepare, options, dataset, split)
            stack.enter_context(ray_cluster(options.address))
            warm, speed = meanwhile.result()
            from tune_resnet.plan import make_plan

            plan = make_plan(options.spec, split, speed)
        _say(console, plan.lines())
        if options.warm_start:
            known, first = len(warm.trials), len(warm.configurations)
            _say(console, [f"warm start  {known} trials known, {first} configurations to try first"])
        if options.dry_run:
            return 0
        from tune_resnet.tuning import run_search

        run = _new_run(path, plan, dataset, started)
        ended_by = run_search(plan, split, run, warm, console)
    code = _conclude(run, console, started, ended_by)
    if code or options.confirm is None:
        return code
    from tune_resnet.confirm import confirm

    return confirm(run.path, plan.spec, dataset, options.confirm, options.address, console)


def _prepare(options: Options, dataset: Dataset, split: Split) -> tuple[WarmStart, Speed | None]:
    """What takes seconds and needs no Ray, to be done while Ray starts: most imports, what earlier runs give, and the
    pace of a trial where trials are going to run on this machine's CPU.

    It must not import Ray's modules: Ray does so itself meanwhile, and two threads that import the same circle of
    modules can see a half of one.
    """
    import torch

    from tune_resnet.outlook import measure_here
    from tune_resnet.warm_start import warm_start

    warm = warm_start(options.warm_start, options.spec, dataset.fingerprint)
    elsewhere = options.address or options.spec.resources.device == "cuda" or torch.cuda.is_available()
    return warm, None if elsewhere else measure_here(options.spec, split)


def _confirm_ended(path: Path, count: int, options: Options, console: Console) -> int:
    """Confirms a run that has ended."""
    from tune_resnet.data import load_dataset

    dataset = load_dataset(options.spec.data)
    from tune_resnet.confirm import confirm

    return confirm(path, options.spec, dataset, count, options.address, console)


def _baseline(options: Options, console: Console, started: float) -> int:
    path = _free_path(options)
    from tune_resnet.data import load_dataset

    dataset = load_dataset(options.spec.data)

    with console.status("timing a few steps"):
        from tune_resnet.baseline import plan_baseline, run_baseline

        plan = plan_baseline(options.spec, dataset)
    _say(console, plan.lines())
    if options.dry_run:
        return 0
    run = _new_run(path, plan, dataset, started)
    ended_by = None
    try:
        run_baseline(plan, dataset, run, console)
    except (KeyboardInterrupt, SystemExit) as end:
        ended_by = signal.SIGINT if isinstance(end, KeyboardInterrupt) else signal.SIGTERM
    return _conclude(run, console, started, ended_by)


def _free_path(options: Options) -> Path:
    """Where the run directory is going to be; RecordError where there is something already."""
    from tune_resnet.records import RecordError

    spec = options.spec
    path = options.runs_dir / (spec.search.name or f"{spec.data.dataset}-{datetime.now():%Y%m%d-%H%M%S}")
    if path.exists():
        raise RecordError(f"{path} exists already: choose another --name, or remove it")
    return path


def _new_run(path: Path, plan: Outlook, dataset: Dataset, started: float) -> RunDirectory:
    """The run directory, with what is known before the first trial."""
    from tune_resnet.environment import describe_environment
    from tune_resnet.records import RunDirectory

    run = RunDirectory.create(path, plan.spec)
    run.write_env(
        {
            **describe_environment(),
            "device": plan.spec.resources.device,
            "device_name": plan.device_name,
            "precision": plan.spec.train.precision,
            "concurrency": plan.concurrency,
            "dataset": dataset.name,
            "dataset_fingerprint": dataset.fingerprint,
            "train_images": plan.train_images,
            "held_out": plan.held_out,
            "held_out_images": plan.held_out_images,
            "started_at": started,
        }
    )
    return run


def _conclude(run: RunDirectory, console: Console, started: float, ended_by: int | None) -> int:
    """Prints what was found and what to do next; the exit code."""
    from tune_resnet.analysis import comparison_sentence, load_run, ranked_table, winner

    frames = load_run(run.path)
    ended = time.time()
    run.write_env({**frames.env, "ended_at": ended, "wall_seconds": ended - started})
    console.print()
    console.print(ranked_table(frames, _TOP))
    best = winner(frames)
    _say(console, ["", comparison_sentence(frames), ""])
    _say(console, _next_commands(run, finished=best is not None, beaten=best is not None and not best["reference"]))
    if ended_by is not None:
        return 128 + ended_by
    return 1 if best is None else 0


def _next_commands(run: RunDirectory, *, finished: bool, beaten: bool) -> list[str]:
    """`beaten`: a trial is better than the reference."""
    path = _relative(run.path)
    lines = [f"run         {path}", f"look closer python -m tune_resnet.analysis {path}"]
    if beaten:
        lines.append(f"prove it    python -m tune_resnet.search --confirm 5 --resume {path}")
    if finished:
        lines.append(f"use it      python -m tune_resnet.predict {path} IMAGE ...")
    return lines


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _say(console: Console, lines: Sequence[Any]) -> None:
    for line in lines:
        console.print(line, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
