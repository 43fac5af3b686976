"""Runs a planned search on Ray Tune, with every event written to the run directory."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from ray import tune
from rich.console import Console

from tune_resnet.data.types import Split
from tune_resnet.execution.callbacks import RecordEvents, StopRequest
from tune_resnet.execution.interrupts import signals_to
from tune_resnet.execution.progress import Progress
from tune_resnet.execution.ray_patches import patched_ray
from tune_resnet.execution.scheduler import EarlyStopping
from tune_resnet.execution.searcher import OptunaSearcher
from tune_resnet.execution.trainable import TrialTrainable
from tune_resnet.hpo.models import last_epoch
from tune_resnet.hpo.plan import Plan
from tune_resnet.hpo.ranking import winner
from tune_resnet.hpo.study import Study
from tune_resnet.hpo.warm_start import WarmStart
from tune_resnet.runs.directory import RunDirectory
from tune_resnet.runs.load import load_frames
from tune_resnet.runs.recorder import Recorder
from tune_resnet.runs.resume import History
from tune_resnet.runs.tables import FINISHED, INTERRUPTED, RUNNING, STOPPED


def run_trials(
    plan: Plan,
    data: Split,
    run: RunDirectory,
    warm: WarmStart,
    console: Console,
    trainable: type[tune.Trainable] = TrialTrainable,
    history: History | None = None,
    loggers: Sequence[tune.Callback] = (),
) -> StopRequest:
    """Runs the search to its end, from its `history` on. Returns what has ended it early, if anything has.

    `trainable` is set up and reports as `TrialTrainable` does; `loggers` are told all that it reports.

    Raises:
        SearchError: the search could not go on, or not be recorded.
    """
    spec, history = plan.spec, history or History()
    end = StopRequest(spec.search.time_budget)
    try:
        recorder = Recorder(run, spec, history.trials, history.epochs)
        history, scheduler = settle_unfinished_trials(recorder, history)
        left = spec.search.num_samples - history.ended
        if left <= 0:
            return end
        study = Study(spec, warm, history, run.study_log)
        searcher = OptunaSearcher(study, spec.train.epochs, recorder.start)
        progress = Progress(recorder, plan, console)
        events = RecordEvents(recorder, progress, end, searcher.learn, plan.epoch_timeout)
        ready = tune.with_parameters(trainable, spec=spec, data=data, run_path=run.path)
        tuner = _tuner(ready, plan, run, left, searcher, scheduler, [events, *loggers], end)
        try:
            with progress, patched_ray(), signals_to(end, console), _imports_uncollected():
                tuner.fit()
        finally:
            study.close()
            with suppress(OSError):  # the same that has ended the search; a trial left running is one to continue
                recorder.close()
        if best := winner(load_frames(run.path)):
            study.name_winner(best["trial"])
    except Exception as error:
        # Ray's are of any kind: after a full disk, say, it stumbles over files that it could not write whole.
        end.error = end.error or error
    if end.error:
        raise run.ended_by(end.error, "the search", spec.model) from end.error
    return end


@contextmanager
def _imports_uncollected() -> Iterator[None]:
    """Keeps the garbage collector from looking through all that is imported, a third of a second each time."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _tuner(
    trainable: Any,
    plan: Plan,
    run: RunDirectory,
    left: int,
    searcher: OptunaSearcher,
    scheduler: EarlyStopping,
    callbacks: list[tune.Callback],
    end: StopRequest,
) -> tune.Tuner:
    """Ray Tune, set to run the `left` trials of a plan."""
    spec = plan.spec
    resources = {"cpu": spec.resources.cpus_per_trial, "gpu": spec.resources.gpus_per_trial}
    return tune.Tuner(
        tune.with_resources(trainable, resources),
        tune_config=tune.TuneConfig(
            num_samples=left,
            search_alg=searcher,
            scheduler=scheduler,
            max_concurrent_trials=plan.concurrency,
            reuse_actors=True,
            trial_dirname_creator=_folder_name,
        ),
        run_config=tune.RunConfig(
            name=run.ray.name,
            storage_path=str(run.path),
            callbacks=callbacks,
            stop=end,
            failure_config=tune.FailureConfig(max_failures=spec.search.max_retries),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # checkpoints/ has our own
            verbose=0,
        ),
    )


def settle_unfinished_trials(recorder: Recorder, history: History) -> tuple[History, EarlyStopping]:
    """Ends what had ended when the search was cut off, before that was on record: trials that have left the model of
    their last epoch, and those that the rule has stopped. The others go on. The history with that, and the rule."""
    epochs = list(history.epochs)
    unended = [row for row in recorder.trials.values() if row.state in (RUNNING, INTERRUPTED)]
    for row in unended:
        last = last_epoch(recorder.run, row, recorder.spec)
        if last is None:
            continue
        if recorder.is_new(row.trial, last["epoch"]):
            recorder.epoch(row.trial, last, row.worker)
            epochs.append(last)
        recorder.end(row.trial, FINISHED)
    scheduler = EarlyStopping(recorder.spec, recorder.is_new, epochs)
    for row in unended:
        if row.state == FINISHED:
            continue
        if row.trial in scheduler.stopped:
            recorder.end(row.trial, STOPPED)
        else:
            recorder.go_on(row.trial)
    trials = [recorder.trials[number] for number in sorted(recorder.trials)]
    return replace(history, trials=trials, epochs=epochs), scheduler


def _folder_name(trial: Any) -> str:
    return f"trial-{trial.config['trial']:05d}"
