"""Runs a planned search on Ray Tune, with every event written to the run directory."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import cloudpickle, tune
from ray.exceptions import RayActorError
from ray.tune.logger import TBXLoggerCallback
from rich.console import Console

from tune_resnet.data import Split
from tune_resnet.plan import Plan
from tune_resnet.progress import Progress
from tune_resnet.recorder import Recorder
from tune_resnet.records import EPOCH_COLUMNS, FAILED, RunDirectory, ending
from tune_resnet.scheduler import EarlyStopping
from tune_resnet.searcher import OptunaSearcher
from tune_resnet.trainable import TrialTrainable
from tune_resnet.warm_start import WarmStart


class SearchEnd(tune.Stopper):  # type: ignore[misc]
    """Ends the whole search at a deadline, or when a signal has come."""

    def __init__(self, time_budget: float | None) -> None:
        self.deadline = time.monotonic() + time_budget if time_budget else None
        self.signal: int | None = None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.signal is not None or (self.deadline is not None and time.monotonic() >= self.deadline)


@contextmanager
def signals_to(end: SearchEnd, console: Console) -> Iterator[None]:
    """The first SIGINT or SIGTERM ends the search in order; the second acts as it always does."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number: int, frame: Any) -> None:
        end.signal = number
        for each, handler in before.items():
            signal.signal(each, handler)
        console.print("Ending the search: running trials are stopped, results are kept. Once more to end at once.")

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class RecordEvents(tune.Callback):  # type: ignore[misc]
    """Passes what Ray Tune reports on to the recorder, and to whoever watches."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles it for a restore of its own, which this project does from the run directory instead."""
        return {}

    def __init__(self, recorder: Recorder, progress: Progress, epochs: int) -> None:
        self.recorder, self.progress, self.epochs = recorder, progress, epochs

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._started(trial)

    def _started(self, trial: Any) -> None:
        params = {name: value for name, value in trial.config.items() if name != "trial"}
        self.recorder.start(trial.config["trial"], params)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "failure" not in result:
            row = {column: result[column] for column in EPOCH_COLUMNS if column in result}
            self.recorder.epoch(trial.config["trial"], row, result["worker"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        result = trial.last_result
        failure = result.get("failure")
        self._ended(trial, ending(result.get("epoch", 0), self.epochs, failure), failure or "")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._ended(trial, FAILED, _reason(trial))

    def _ended(self, trial: Any, state: str, error: str) -> None:
        number = trial.config["trial"]
        if number not in self.recorder.trials:  # its process has failed before Ray called it started
            self._started(trial)
        self.recorder.end(number, state, error)
        self.progress.trial_ended(number)


def _reason(trial: Any) -> str:
    """Why a trial failed, in a few words. Ray leaves the exception in files of this process's own session folder."""
    if trial.pickled_error_file is None:  # it did not come from the trial's process, but from Ray or from us
        return Path(trial.error_file).read_text().strip().rpartition("\n")[2]
    error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    if isinstance(error, RayActorError):
        return "its process died (killed, or out of memory)"
    cause = getattr(error, "cause", error)
    return f"{type(cause).__name__}: {cause}"


def run_search(
    plan: Plan,
    data: Split,
    run: RunDirectory,
    warm: WarmStart,
    console: Console,
    trainable: type[tune.Trainable] = TrialTrainable,
) -> int | None:
    """Runs the search to its end. Returns the signal that ended it early, or None.

    `trainable` is set up and reports as `TrialTrainable` does.
    """
    spec = plan.spec
    recorder = Recorder(run, spec)
    searcher = OptunaSearcher(spec, run.study_db, warm)
    end = SearchEnd(spec.search.time_budget)
    progress = Progress(recorder, plan, console)
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(trainable, spec=spec, data=data, run_path=run.path),
            {"cpu": spec.resources.cpus_per_trial, "gpu": spec.resources.gpus_per_trial},
        ),
        tune_config=tune.TuneConfig(
            num_samples=spec.search.num_samples,
            search_alg=searcher,
            scheduler=EarlyStopping(spec),
            max_concurrent_trials=plan.concurrency,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"trial-{trial.config['trial']:05d}",
        ),
        run_config=tune.RunConfig(
            name=run.ray.name,
            storage_path=str(run.path),
            callbacks=[RecordEvents(recorder, progress, plan.epochs), TBXLoggerCallback()],
            stop=end,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # best/ has what is worth keeping
            verbose=0,
        ),
    )
    try:
        with progress, signals_to(end, console):
            tuner.fit()
    finally:
        searcher.close()
        recorder.close()
    return end.signal
