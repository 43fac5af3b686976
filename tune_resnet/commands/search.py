"""A search, from its images to what it has found."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tune_resnet._text import busy, counted, say
from tune_resnet.commands.job import End, Job, images_of
from tune_resnet.config.sections import PAST_SAMPLERS
from tune_resnet.config.validation import SpecError
from tune_resnet.data.split import search_split
from tune_resnet.data.types import Dataset, Split, check_test_set
from tune_resnet.execution.cluster import ray_cluster
from tune_resnet.runs.directory import RunDirectory

if TYPE_CHECKING:
    from tune_resnet.hpo.plan import Plan
    from tune_resnet.hpo.warm_start import WarmStart
    from tune_resnet.training.speed import Speed


def run_search(job: Job) -> End:
    """Runs a search, or goes on with one, and confirms its winner where that is asked for."""
    spec, console = job.spec, job.console
    if spec.search.sampler in PAST_SAMPLERS:
        raise SpecError(f"there is no sampler {spec.search.sampler} any more: change it to tpe in the file")
    # Before Ray: where there are no data, the message comes at once.
    dataset = images_of(spec, job.path, job.env.get("dataset_fingerprint"))
    if job.request.confirm:
        check_test_set(dataset)  # complains now, not after hours of searching
    split = search_split(dataset, spec.data)
    ended = job.history.ended if job.history else 0
    if job.history and ended >= spec.search.num_samples:
        say(console, f"{ended} of {counted(ended, 'trial')} ended. To add more, give a larger --num-samples.")
        if job.request.dry_run:
            return End(0, job.path)
        from tune_resnet.commands.summary import conclude

        return End(conclude(RunDirectory(job.path), console, job.started), job.path)
    with ExitStack() as cluster:
        plan, warm = _planned(job, dataset, split, ended, cluster)
        say(console, "\n".join(plan.lines()))
        if job.request.warm_start:
            known, first = counted(len(warm.trials), "trial"), counted(len(warm.configurations), "configuration")
            say(console, f"warm start  {known} known, {first} to try first")
        if job.request.dry_run:
            return End(0)
        with job.directory(plan, dataset, warm.to_json() if job.request.warm_start else None) as run:
            return End(_searched(job, plan, warm, dataset, split, run, cluster), run.path)


def _planned(job: Job, dataset: Dataset, split: Split, ended: int, cluster: ExitStack) -> tuple[Plan, WarmStart]:
    """The plan, and what earlier runs give, once Ray runs, which it does until the `cluster` is closed."""
    with busy(job.console, "starting Ray and timing a few steps"):
        meanwhile = ThreadPoolExecutor(1).submit(prepare, job, dataset, split)
        cluster.enter_context(ray_cluster(job.request.address))
        warm, speed = meanwhile.result()
        from tune_resnet.execution.resources import make_plan

        # What an earlier run has found is better to begin with than what did well elsewhere.
        spec = replace(job.spec, points_to_evaluate=()) if job.request.warm_start else job.spec
        return make_plan(spec, split, speed, ended=ended, growing=job.request.address is not None), warm


def prepare(job: Job, dataset: Dataset, split: Split) -> tuple[WarmStart, Speed | None]:
    """What takes seconds and needs no Ray, to be done while Ray starts: most imports, what earlier runs give, and the
    pace of a trial where trials are going to run on this machine's CPU.

    It must not import Ray's modules: Ray does so itself meanwhile, and two threads that import the same circle of
    modules can see a half of one.
    """
    import torch

    from tune_resnet.hpo.warm_start import WarmStart, warm_start
    from tune_resnet.training.speed import measure_here

    if job.history:
        warm = WarmStart.read(RunDirectory(job.path).warm_start_json, job.spec)
    else:
        warm = warm_start([Path(run) for run in job.request.warm_start], job.spec, dataset.fingerprint)
    device = job.spec.resources.device
    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    return warm, None if job.request.address or on_gpu else measure_here(job.spec, split)


def _searched(
    job: Job, plan: Plan, warm: WarmStart, dataset: Dataset, split: Split, run: RunDirectory, cluster: ExitStack
) -> int:
    """Runs the search, ends Ray, and says what was found; the exit code."""
    from tune_resnet.commands.confirm import confirm
    from tune_resnet.commands.live_page import LivePage
    from tune_resnet.commands.summary import TimeBudget, conclude
    from tune_resnet.execution.loggers import logger_callbacks
    from tune_resnet.execution.tuner import run_trials

    loggers = logger_callbacks(job.request.log, run)
    page = LivePage(run)
    say(job.console, page.words(), whole=True)
    with page:
        end = run_trials(plan, split, run, warm, job.console, history=job.history, loggers=loggers)
    cluster.close()
    budget, seconds = None, plan.spec.search.time_budget
    if seconds is not None and end.over and end.signal is None:
        epochs_before = len(job.history.epochs) if job.history else 0
        budget = TimeBudget(seconds=seconds, seconds_per_epoch=plan.seconds_per_epoch, epochs_before=epochs_before)
    goes_on = bool(job.request.confirm) and end.signal is None
    code = conclude(run, job.console, job.started, budget, goes_on=goes_on)
    if end.signal is not None:
        return 128 + end.signal
    if code or not goes_on:
        return code
    return confirm(run, job.request, plan.spec, dataset, job.console)
