"""One training on the full training set, judged on the test set; in this process, without Ray.

It is the reference of a baseline, trial 0, or the trial of a search that is trained for use: its final model.
"""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from dataclasses import dataclass

from rich.console import Console

from tune_resnet._text import busy, duration, percent
from tune_resnet.config.spec import SearchSpec
from tune_resnet.data.split import baseline_split, final_split
from tune_resnet.data.types import Dataset, Split
from tune_resnet.hpo.plan import Outlook
from tune_resnet.runs.directory import RunDirectory
from tune_resnet.runs.recorder import Recorder
from tune_resnet.runs.resume import History
from tune_resnet.runs.tables import ENDED, FAILED, FINISHED, REFERENCE_TRIAL
from tune_resnet.training.checkpoint import ResumableRun
from tune_resnet.training.device import choose_device, gpus_per_trial, resolved
from tune_resnet.training.loop import TrainingRun
from tune_resnet.training.metrics import EpochMetrics, NonFiniteLoss
from tune_resnet.training.saved_model import Outcome, save_model
from tune_resnet.training.speed import measure_speed


@dataclass(frozen=True, kw_only=True)
class SinglePlan(Outlook):
    """The plan of one training: `spec.train`, as the trial of that number; `final`: of the model for use."""

    trial: int
    final: bool

    def lines(self) -> list[str]:
        """The plan for a person."""
        train = self.spec.train
        name = "reference" if self.trial == REFERENCE_TRIAL else f"trial {self.trial}"
        return [
            *self.data_lines(),
            f"{name:12}max_lr {train.max_lr:g}, weight_decay {train.weight_decay:g}, grad_clip {train.grad_clip:g}, "
            f"seed {train.seed}",
            f"device      {self.device_name}, {train.precision}",
            f"time        about {duration(train.epochs * self.seconds_per_epoch)} "
            f"({self.train_images / self.seconds_per_epoch:,.0f} images/s, from a few timed steps)",
        ]


def plan_single(spec: SearchSpec, dataset: Dataset, trial: int = REFERENCE_TRIAL, *, final: bool = False) -> SinglePlan:
    """Settles device and precision, and times a few steps. DeviceError where the device is not there."""
    device = choose_device(spec.resources.device)
    gpus_per_trial(spec.resources, device.type)  # complains before steps are timed
    data = _split(dataset, spec, final)
    speed = measure_speed(spec.train, data, device, spec.model)
    return SinglePlan(
        spec=resolved(spec, device.type, speed.precision),
        trial=trial,
        final=final,
        device_name=speed.device_name,
        seconds_per_epoch=len(data.train) / speed.images_per_second,
        concurrency=1,
        train_images=len(data.train),
        held_out_images=len(data.held_out),
        held_out="validation" if dataset.test is None and not final else "test",
        note=data.note,
    )


def _split(dataset: Dataset, spec: SearchSpec, final: bool) -> Split:
    return final_split(dataset, spec.data) if final else baseline_split(dataset, spec.data)


def run_single(
    plan: SinglePlan, dataset: Dataset, run: RunDirectory, console: Console, history: History | None = None
) -> None:
    """Trains what is planned, from its `history` on; every epoch is printed and recorded, the model kept."""
    spec, trial = plan.spec, plan.trial
    data = _split(dataset, spec, plan.final)
    history = history or History()
    recorder = Recorder(run, spec, history.trials, history.epochs)
    if not history.trials:
        recorder.start(trial, {})
    elif recorder.trials[trial].state in ENDED:
        return
    else:
        recorder.go_on(trial)
    resumable = None
    try:
        training = TrainingRun(spec.train, data, spec.resources.device, spec.model, flip=spec.data.flip)
        resumable = ResumableRun(training, run.checkpoint_of(trial))
        last = _train(plan, resumable, recorder, console)
        outcome = Outcome(trial=trial, train=spec.train, last=last)
        save_model(run.model_of(trial), training.model, data, spec.model, outcome)
        recorder.end(trial, FINISHED)
    except NonFiniteLoss as error:
        recorder.end(trial, FAILED, str(error))
    except Exception as error:  # of any kind: the network may be the user's code
        raise run.ended_by(error, "the training", spec.model) from error
    finally:
        if resumable:
            resumable.save()
        with suppress(OSError):  # the same that has ended the training; one left running is one to continue
            recorder.close()


def _train(plan: SinglePlan, resumable: ResumableRun, recorder: Recorder, console: Console) -> EpochMetrics:
    """The epochs that are left; the metrics of the last."""
    epochs, seconds_per_epoch = plan.spec.train.epochs, plan.seconds_per_epoch
    worker = f"{platform.node()}:{os.getpid()}"
    if resumable.saved:
        _record(plan, recorder, resumable.saved, worker)  # it may not be on record yet
        console.print(f"goes on after epoch {resumable.saved.epoch}")
    while not resumable.is_done:
        done = resumable.training.epochs_done
        with busy(console, f"epoch {done + 1}, about {duration((epochs - done) * seconds_per_epoch)} left"):
            metrics = resumable.run_epoch()
        _record(plan, recorder, metrics, worker)
        seconds_per_epoch = metrics.seconds
        console.print(_line(plan, metrics), soft_wrap=True)
    assert resumable.training.last is not None
    return resumable.training.last


def _record(plan: SinglePlan, recorder: Recorder, metrics: EpochMetrics, worker: str) -> None:
    if recorder.is_new(plan.trial, metrics.epoch):
        recorder.epoch(plan.trial, metrics.columns("test" if plan.held_out == "test" else "val"), worker)


def _line(plan: SinglePlan, metrics: EpochMetrics) -> str:
    """What an epoch gave, for a person."""
    epochs = plan.spec.train.epochs
    judged = f"{plan.held_out} loss {metrics.loss:.4f}, accuracy {percent(metrics.accuracy)}, "
    if not plan.held_out_images:
        judged = ""
    return (
        f"epoch {metrics.epoch}/{epochs}: train loss {metrics.train_loss:.4f}, {judged}lr {metrics.lr:.2e}, "
        f"{metrics.images_per_second:,.0f} images/s, "
        f"about {duration((epochs - metrics.epoch) * metrics.seconds)} left"
    )
