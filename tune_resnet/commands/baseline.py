"""One training on training and validation images, judged on the test set; in this process, without Ray.

It is the reference of a baseline, trial 0, or the trial of a search that is trained for use: its final model.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from rich.console import Console

from tune_resnet._text import busy, duration, percent, say
from tune_resnet.commands.job import End, Job, images_of
from tune_resnet.commands.summary import conclude
from tune_resnet.config.sections import ACCURACY
from tune_resnet.config.spec import SearchSpec
from tune_resnet.data.split import baseline_split, final_split
from tune_resnet.data.types import Split
from tune_resnet.execution.interrupts import signal_of
from tune_resnet.hpo.plan import Plan, image_lines
from tune_resnet.runs.directory import FINAL, RunDirectory
from tune_resnet.runs.environment import this_process
from tune_resnet.runs.predictions import write_predictions
from tune_resnet.runs.recorder import Recorder
from tune_resnet.runs.resume import History
from tune_resnet.runs.tables import ENDED, FAILED, FINISHED
from tune_resnet.training.checkpoint import ResumableRun
from tune_resnet.training.device import choose_device, gpus_per_trial, resolved
from tune_resnet.training.metrics import EpochMetrics, NonFiniteLoss
from tune_resnet.training.saved_model import Outcome, save_model
from tune_resnet.training.speed import measure_speed


def run_single(job: Job, trial: int, of: Path | None = None, fingerprint: str | None = None) -> End:
    """One training on training and validation images: of the reference, or of the trial with that number of the run
    `of`, which knows its images by this fingerprint."""
    known = fingerprint or job.env.get("dataset_fingerprint")
    dataset = images_of(job.spec, of or job.path, known)
    is_final = job.kind == FINAL
    data = (final_split if is_final else baseline_split)(dataset, job.spec.data)
    held_out = "test" if is_final or dataset.test is not None else "validation"
    with busy(job.console, "timing a few steps"):
        plan = plan_single(job.spec, data, trial, held_out)
    say(job.console, "\n".join(plan.lines()))
    if job.request.dry_run:
        return End(0)
    with job.directory(plan, dataset, trial=trial) as run:
        ended_by = None
        try:
            train_single(plan, data, run, job.console, job.history, dataset.test_files)
        except (KeyboardInterrupt, SystemExit) as end:
            ended_by = signal_of(end)
        torch.cuda.empty_cache()  # a search that follows in this process has its own processes on the GPU
        code = conclude(run, job.console, job.started)
        return End(code if ended_by is None else 128 + ended_by, run.path)


def plan_single(spec: SearchSpec, data: Split, trial: int, held_out: str) -> Plan:
    """Settles device and precision, and times a few steps. DeviceError where the device is not there."""
    device = choose_device(spec.resources.device)
    gpus_per_trial(spec.resources, device.type)  # complains before steps are timed
    speed = measure_speed(spec.train, data, device, spec.model)
    return Plan(
        spec=resolved(spec, device.type, speed.precision),
        single=trial,
        device_name=speed.device_name,
        seconds_per_epoch=len(data.train) / speed.images_per_second,
        concurrency=1,
        train_images=len(data.train),
        held_out_images=len(data.held_out),
        held_out=held_out,
        note=data.note,
        image_lines=image_lines(data, spec.search),
    )


def train_single(
    plan: Plan,
    data: Split,
    run: RunDirectory,
    console: Console,
    history: History | None = None,
    test_files: Sequence[str] = (),
) -> None:
    """Trains what is planned, from its `history` on; every epoch is printed and recorded, the model kept, and so is
    what it says of each test image."""
    assert plan.single is not None
    spec, trial = plan.spec, plan.single
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
        resumable = ResumableRun(spec, data, spec.resources.device, run.checkpoint_of(trial))
        training, last = resumable.training, _train(plan, trial, resumable, recorder, console)
        outcome = Outcome(trial=trial, train=spec.train, last=last)
        save_model(run.model_of(trial), training.judged, data, spec.model, outcome)
        if plan.held_out == "test" and plan.held_out_images:
            # float64, in which logits that differ are probabilities that differ: the likeliest class stays the same
            found, tested = training.held_out_logits().double().softmax(1).numpy(), data.held_out
            write_predictions(run, found, tested.labels, data.classes, tested.source, test_files)
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


def _train(plan: Plan, trial: int, resumable: ResumableRun, recorder: Recorder, console: Console) -> EpochMetrics:
    """The epochs that are left; the metrics of the last."""
    epochs, seconds_per_epoch = plan.spec.train.epochs, plan.seconds_per_epoch
    if resumable.saved:
        _record(plan, trial, recorder, resumable.saved)  # it may not be on record yet
        console.print(f"goes on after epoch {resumable.saved.epoch}")
    while not resumable.is_done:
        done = resumable.training.epochs_done
        with busy(console, f"epoch {done + 1}, about {duration((epochs - done) * seconds_per_epoch)} left"):
            metrics = resumable.run_epoch()
        _record(plan, trial, recorder, metrics)
        recorder.steps(trial, resumable.training.steps)
        seconds_per_epoch = metrics.seconds
        console.print(_line(plan, metrics), soft_wrap=True)
    assert resumable.training.last is not None
    return resumable.training.last


def _record(plan: Plan, trial: int, recorder: Recorder, metrics: EpochMetrics) -> None:
    if recorder.is_new(trial, metrics.epoch):
        row = metrics.columns("test" if plan.held_out == "test" else "val", plan.spec.search.objective)
        recorder.epoch(trial, row, this_process())


def _line(plan: Plan, metrics: EpochMetrics) -> str:
    """What an epoch gave, for a person."""
    epochs, search, judged = plan.spec.train.epochs, plan.spec.search, ""
    if plan.held_out_images:
        judged = f"{plan.held_out} loss {metrics.loss:.4f}, accuracy {percent(metrics.accuracy)}, "
        if search.objective != ACCURACY:
            judged += f"{search.judged_by} {percent(getattr(metrics, search.objective))}, "
    return (
        f"epoch {metrics.epoch}/{epochs}: train loss {metrics.train_loss:.4f}, {judged}lr {metrics.lr:.2e}, "
        f"{metrics.images_per_second:,.0f} images/s, "
        f"about {duration((epochs - metrics.epoch) * metrics.seconds)} left"
    )
