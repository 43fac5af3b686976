"""Does what is asked for."""

from __future__ import annotations

import time
import warnings
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from tune_resnet._text import say
from tune_resnet.commands.job import End, Job, images_of
from tune_resnet.commands.request import Request
from tune_resnet.config.spec import SearchSpec
from tune_resnet.errors import RecordError
from tune_resnet.execution.cluster import set_ray_up
from tune_resnet.execution.interrupts import lasting_output
from tune_resnet.runs.directory import BASELINE, SEARCH, RunDirectory
from tune_resnet.runs.tables import REFERENCE_TRIAL

_NOTEBOOK_WIDTH = 120  # characters

if TYPE_CHECKING:
    from tune_resnet.results.run import Run


class Search(Request):
    """What is to be done with a spec, and the doing.

    Search(SearchSpec(data=DataSpec(dataset="digits"), search=BudgetSpec(num_samples=8)), confirm=5).run()
    """

    def run(self, console: Console | None = None) -> Run | None:
        """Does it; the run, None after a dry run. Interrupted, it ends in order, and the run says how far it came.

        Raises:
            UserError: something only the user can mend, as on the command line.
        """
        with lasting_output(), self.in_its_words():
            path = carry_out(self, console or _console(), time.time()).path
        if path is None:
            return None
        from tune_resnet.results.run import load_run

        return load_run(path)


def _console() -> Console:
    """Where Python prints. A notebook gets plain lines: it would keep each state of a table that redraws itself."""
    console = Console(highlight=False, markup=False)
    if not console.is_jupyter:
        return console
    return Console(highlight=False, markup=False, width=_NOTEBOOK_WIDTH, force_jupyter=False, force_terminal=False)


def carry_out(request: Request, console: Console, started: float) -> End:
    """Does what is asked for, from `started` (Unix time) on.

    Raises:
        UserError: something only the user can mend.
    """
    set_ray_up(request.address)
    spec = request.spec
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *rest, **more: say(console, f"warning: {message}")
        if request.finalize is not None:
            from tune_resnet.commands.finalize import finalize

            return finalize(request, Path(request.finalize), console, started)
        if request.resume is None:
            kind = BASELINE if request.baseline else SEARCH
            return _trained(Job(request, spec, console, started, kind, _free_path(spec, request.runs_dir)))
        run = RunDirectory(Path(request.resume).resolve())
        with run.lock():
            if request.confirm:
                from tune_resnet.commands.confirm import confirm

                return End(confirm(run, request, spec, images_of(spec), console), run.path)
            from tune_resnet.runs.resume import read_history

            history = read_history(run, spec)
            return _trained(Job(request, spec, console, started, history.kind, run.path, history))


def _trained(job: Job) -> End:
    if job.kind == SEARCH:
        from tune_resnet.commands.search import run_search

        return run_search(job)
    from tune_resnet.commands.baseline import run_single

    return run_single(job, job.env.get("trial", REFERENCE_TRIAL))


def _free_path(spec: SearchSpec, runs_dir: Path) -> Path:
    """Where a new run directory is going to be; RecordError where there is something else already."""
    path = runs_dir / (spec.search.name or f"{spec.data.dataset}-{datetime.now():%Y%m%d-%H%M%S}")
    if path.exists():
        raise RecordError(f"{path} exists already: choose another --name, or --resume {path}")
    return path
