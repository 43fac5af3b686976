"""One training run as a Ray Tune trial, in a process that is reused from trial to trial."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ray import tune

from tune_resnet.data.types import Split
from tune_resnet.runs.directory import RunDirectory
from tune_resnet.runs.environment import this_process
from tune_resnet.training.checkpoint import ResumableRun
from tune_resnet.training.device import OUT_OF_MEMORY, ResolvedSpec, limit_to_share, ran_out_of_memory
from tune_resnet.training.metrics import EpochMetrics, NonFiniteLoss
from tune_resnet.training.saved_model import Outcome, save_model


class TrialTrainable(tune.Trainable):  # type: ignore[misc]
    """Each step is one epoch. A configuration holds the hyperparameters that the space varies, and `trial`, its number.

    A trial goes on after its checkpoint, if it has one: then its first step reports the saved epoch, which may not have
    been heard of, without training. A result has the columns of epochs.csv, `worker` (host:process), `continued` (the
    saved epoch, 0: none) and `done`; on a GPU also `steps`, how these are run, once that is known. Where the loss is
    not finite or the GPU's memory runs out, it repeats the last good epoch and says why in `failure`: no exception, so
    that it is not tried again, and the process stays usable.
    """

    resumable: ResumableRun | None  # None: it has no room in the GPU's memory
    to_repeat: EpochMetrics | None

    def setup(self, config: dict[str, Any], spec: ResolvedSpec, data: Split, run_path: Path) -> None:
        """`data` comes out of Ray's object store, one copy per node."""
        limit_to_share(spec.resources)
        self.spec, self.data = spec, data
        self.directory = RunDirectory(run_path)
        self.worker = this_process()
        self.resumable = None
        self.reset_config(config)

    def step(self) -> dict[str, Any]:
        if self.resumable is None:
            return self._failure(OUT_OF_MEMORY, None)
        if self.to_repeat is not None:
            saved, self.to_repeat = self.to_repeat, None
            return self._result(saved, self.resumable)
        try:
            metrics = self.resumable.run_epoch()
        except NonFiniteLoss as error:
            return self._failure(str(error), error.last_good)
        except RuntimeError as error:
            if not ran_out_of_memory(error):
                raise
            self.cleanup()
            last, self.resumable = self.resumable.training.last, None
            return self._failure(OUT_OF_MEMORY, last)
        if self.resumable.is_done:
            training, trial = self.resumable.training, self.config["trial"]
            outcome = Outcome(trial=trial, train=training.spec, last=metrics)
            save_model(self.directory.model_of(trial), training.judged, self.data, training.model_spec, outcome)
        return self._result(metrics, self.resumable)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        configured = self.spec.configured({name: new_config[name] for name in self.spec.space})
        path = self.directory.checkpoint_of(new_config["trial"])
        try:
            if self.resumable is None:
                self.resumable = ResumableRun(configured, self.data, self.spec.resources.device, path)
            else:
                self.resumable.restart(configured, path)
            self.to_repeat = self.resumable.saved
        except RuntimeError as error:
            if not ran_out_of_memory(error):
                raise
            self.resumable = None
        return True

    def cleanup(self) -> None:
        """Saves a trial that the end of the search cuts off. Ray also calls it after an exception in `step`."""
        if self.resumable is not None:
            self.resumable.save()

    def _result(self, metrics: EpochMetrics, resumable: ResumableRun) -> dict[str, Any]:
        return {**self._columns(metrics), **self._about(), "done": resumable.is_done}

    def _failure(self, reason: str, last: EpochMetrics | None) -> dict[str, Any]:
        nothing = dict.fromkeys(("val_accuracy", self.spec.search.column("val"), "val_loss", "train_loss"), math.nan)
        columns = self._columns(last) if last else {"epoch": 0, **nothing}
        return {**columns, **self._about(), "failure": reason, "done": True}

    def _columns(self, metrics: EpochMetrics) -> dict[str, float]:
        return metrics.columns("val", self.spec.search.objective)

    def _about(self) -> dict[str, Any]:
        saved = self.resumable.saved if self.resumable else None
        steps = self.resumable.training.steps if self.resumable else ""
        return {"worker": self.worker, "continued": saved.epoch if saved else 0, **({"steps": steps} if steps else {})}
