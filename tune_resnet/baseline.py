"""The reference once, on the full training set, judged on the test set; in this process, without Ray."""

from __future__ import annotations

import os
import platform
from dataclasses import replace

from rich.console import Console

from tune_resnet.checkpoint import Checkpoint, continue_training
from tune_resnet.data import Dataset, baseline_split
from tune_resnet.device import choose_device
from tune_resnet.history import History
from tune_resnet.metrics import NonFiniteLoss
from tune_resnet.outlook import Outlook, measure_speed
from tune_resnet.recorder import Recorder
from tune_resnet.records import ENDED, FAILED, FINISHED, REFERENCE_TRIAL, RunDirectory
from tune_resnet.spec import SearchSpec
from tune_resnet.text import busy, duration, percent
from tune_resnet.train import TrainingRun
from tune_resnet.weights import save_model


class Baseline(Outlook):
    """The plan of a baseline run."""

    def lines(self) -> list[str]:
        """The plan for a person."""
        train = self.spec.train
        return [
            *self.data_lines(),
            f"reference   max_lr {train.max_lr:g}, weight_decay {train.weight_decay:g}, grad_clip {train.grad_clip:g}, "
            f"seed {train.seed}",
            f"device      {self.device_name}, {train.precision}",
            f"time        about {duration(train.epochs * self.seconds_per_epoch)} "
            f"({self.train_images / self.seconds_per_epoch:,.0f} images/s, from a few timed steps)",
        ]


def plan_baseline(spec: SearchSpec, dataset: Dataset) -> Baseline:
    """Settles device and precision, and times a few steps. DeviceError where the device is not there."""
    device = choose_device(spec.resources.device)
    data = baseline_split(dataset, spec.data)
    speed = measure_speed(spec.train, data, device, spec.model)
    return Baseline(
        spec=replace(
            spec,
            train=replace(spec.train, precision=speed.precision),
            resources=replace(spec.resources, device=device.type),
        ),
        device_name=speed.device_name,
        seconds_per_epoch=len(data.train) / speed.images_per_second,
        concurrency=1,
        train_images=len(data.train),
        held_out_images=len(data.held_out),
        held_out="validation" if dataset.test is None else "test",
    )


def run_baseline(
    plan: Baseline, dataset: Dataset, run: RunDirectory, console: Console, history: History | None = None
) -> None:
    """Trains the reference, from its `history` on; every epoch is printed and recorded, the model kept as the best."""
    spec = plan.spec
    data = baseline_split(dataset, spec.data)
    columns = "test" if plan.held_out == "test" else "val"
    history = history or History()
    recorder = Recorder(run, spec, history.trials, history.epochs)
    if not history.trials:
        recorder.start(REFERENCE_TRIAL, {})
    elif history.trials[REFERENCE_TRIAL].state in ENDED:
        return
    else:
        recorder.go_on(REFERENCE_TRIAL)
    checkpoint = Checkpoint(run.checkpoint_of(REFERENCE_TRIAL))
    worker = f"{platform.node()}:{os.getpid()}"
    try:
        training = TrainingRun(spec.train, data, spec.resources.device, spec.model, flip=spec.data.flip)
        if continue_training(training, checkpoint) and training.last:
            console.print(f"goes on after epoch {training.epochs_done}")
            recorder.epoch(REFERENCE_TRIAL, training.last.columns(columns), worker)  # may not be on record yet
        seconds_per_epoch = plan.seconds_per_epoch
        while training.epochs_done < spec.train.epochs:
            left = (spec.train.epochs - training.epochs_done) * seconds_per_epoch
            with busy(console, f"epoch {training.epochs_done + 1}, about {duration(left)} left"):
                metrics = training.run_epoch()
            recorder.epoch(REFERENCE_TRIAL, metrics.columns(columns), worker)
            if training.epochs_done < spec.train.epochs:
                checkpoint.offer(training.state_dict, metrics.seconds)
            seconds_per_epoch = recorder.trials[REFERENCE_TRIAL].seconds / metrics.epoch
            left = (spec.train.epochs - metrics.epoch) * seconds_per_epoch
            console.print(
                f"epoch {metrics.epoch}/{spec.train.epochs}: train loss {metrics.train_loss:.4f}, "
                f"{plan.held_out} loss {metrics.loss:.4f}, accuracy {percent(metrics.accuracy)}, lr {metrics.lr:.2e}, "
                f"{metrics.images_per_second:,.0f} images/s, about {duration(left)} left",
                soft_wrap=True,
            )
        save_model(run.model_of(REFERENCE_TRIAL), training.model, data, spec.model)
        recorder.end(REFERENCE_TRIAL, FINISHED)
    except NonFiniteLoss as error:
        recorder.end(REFERENCE_TRIAL, FAILED, str(error))
    finally:
        checkpoint.wait()
        recorder.close()
