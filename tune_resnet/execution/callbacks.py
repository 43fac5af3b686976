"""What Ray Tune reports of a search, passed on to its records and to whoever watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle, tune
from ray.exceptions import RayActorError

from tune_resnet._text import duration, one_line
from tune_resnet.errors import RecordError
from tune_resnet.execution.progress import Progress
from tune_resnet.hpo.models import drop_outrun_models
from tune_resnet.runs.recorder import Recorder
from tune_resnet.runs.tables import FAILED, FINISHED, ending


class StopRequest(tune.Stopper):  # type: ignore[misc]
    """Ends the whole search at a deadline, when a signal has come, or when it cannot be recorded any more."""

    def __init__(self, time_budget: float | None) -> None:
        self.deadline = time.monotonic() + time_budget if time_budget else None
        self.signal: int | None = None
        self.error: Exception | None = None

    @property
    def over(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.over or self.signal is not None or self.error is not None


class RecordEvents(tune.Callback):  # type: ignore[misc]
    """Records results and endings, ends trials that hang, and the search where the disk fails.

    Ray would count an error in here as one of the trial, so none may leave.

    Args:
        learn: told, by Ray's name of a trial, of each epoch that is new.
        epoch_timeout: seconds after which a trial without a result is taken to hang.
    """

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles it for a restore of its own, which this project does from the run directory instead."""
        return {}

    def __init__(
        self,
        recorder: Recorder,
        progress: Progress,
        end: StopRequest,
        learn: Callable[[str, Mapping[str, Any]], None],
        epoch_timeout: float,
    ) -> None:
        self.recorder, self.progress, self.end, self.learn = recorder, progress, end, learn
        self.epochs, self.epoch_timeout = recorder.spec.train.epochs, epoch_timeout
        self.heard: dict[Any, float] = {}  # running trials: when they were heard of last
        self.hung: set[Any] = set()
        self.going_on: set[int] = set()  # trials with epochs on record, whose process has begun them again

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.heard[trial] = time.monotonic()
        if self.recorder.trials[trial.config["trial"]].epochs:
            self.going_on.add(trial.config["trial"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self.heard[trial] = time.monotonic()
        number = trial.config["trial"]
        if number in self.going_on:
            self.going_on.remove(number)
            self.progress.trial_goes_on(number, result["continued"])
        if "failure" not in result and self.recorder.is_new(number, result["epoch"]):
            with self._storage():
                self.recorder.epoch(number, result, result["worker"])
                self.recorder.steps(number, result.get("steps", ""))
                self.learn(trial.trial_id, result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        result = trial.last_result
        failure = result.get("failure")
        self._ended(trial, ending(result.get("epoch", 0), self.epochs, failure), failure or "")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.heard.pop(trial, None)
        if reason := self._failure(trial):
            self.progress.trial_tried_again(trial.config["trial"], reason)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if reason := self._failure(trial):
            self._ended(trial, FAILED, reason)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Kills the process of a trial that hangs; Ray then sees it fail."""
        now = time.monotonic()
        for trial, heard in list(self.heard.items()):
            if now - heard > self.epoch_timeout and trial.temporary_state.ray_actor is not None:
                self.hung.add(trial)
                self.heard[trial] = now
                ray.kill(trial.temporary_state.ray_actor)

    def _ended(self, trial: Any, state: str, error: str) -> None:
        self.heard.pop(trial, None)
        number = trial.config["trial"]
        with self._storage():
            self.recorder.end(number, state, error)
            if state == FINISHED:
                drop_outrun_models(self.recorder.run)
            self.progress.trial_ended(number)

    @contextmanager
    def _storage(self) -> Iterator[None]:
        """What cannot be written, or be added to, ends the search."""
        try:
            yield
        except (OSError, RecordError) as error:
            self.end.error = self.end.error or error

    def _failure(self, trial: Any) -> str | None:
        """Why a trial failed, in a few words.

        None where it was for want of a disk that works, which ends the search: so would the others, and none of them
        is to blame.
        """
        if trial in self.hung:
            self.hung.remove(trial)
            return f"it hung: no epoch for {duration(self.epoch_timeout)}"
        cause = _cause(trial)
        if isinstance(cause, OSError):
            self.end.error = self.end.error or cause
            return None
        if "out of memory issue" in str(cause):  # Ray's words
            return "Ray ended its process, as memory ran out"
        if isinstance(cause, RayActorError):
            return "its process died (killed, or out of memory)"
        return cause if isinstance(cause, str) else one_line(f"{type(cause).__name__}: {cause}")


def _cause(trial: Any) -> BaseException | str:
    """What a trial failed of. Ray leaves the exception in files of this process's own session folder."""
    if trial.pickled_error_file is None:  # it did not come from the trial's process, but from Ray or from us
        return Path(trial.error_file).read_text().strip().rpartition("\n")[2]
    try:
        error: BaseException = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    except Exception as damaged:  # Ray could not write it whole, or it holds what cannot be made here
        return f"unknown, as its exception cannot be read ({type(damaged).__name__})"
    return getattr(error, "cause", None) or error
