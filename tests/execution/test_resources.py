"""What a plan promises before a search starts."""

from __future__ import annotations

import itertools
import math
import re
import socket
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import ray
import torch
from factories import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from tune_resnet._text import duration
from tune_resnet.commands.job import Job
from tune_resnet.commands.options import parse_options
from tune_resnet.commands.search import prepare
from tune_resnet.config.sections import BudgetSpec, ModelSpec, ResourceSpec, SchedulerSpec, TrainSpec
from tune_resnet.config.space import Choices, Domain, Space
from tune_resnet.config.spec import SearchSpec
from tune_resnet.config.toml import load_spec
from tune_resnet.data.types import Dataset, ImageSet, Split
from tune_resnet.execution.cluster import ray_cluster
from tune_resnet.execution.resources import make_plan
from tune_resnet.hpo.plan import Plan, image_lines, trials_per_gpu
from tune_resnet.hpo.stopping import expected_survival, usual_last_rung
from tune_resnet.runs.load import load_frames
from tune_resnet.training.device import OUT_OF_MEMORY, DeviceError, resolved
from tune_resnet.training.loop import TrainingRun
from tune_resnet.training.model import ModelError
from tune_resnet.training.speed import Speed, TimingError, measure_speed

SPEED = Speed(device_name="a CPU", precision="fp32", images_per_second=100)


def spec(trials: int, epochs: int, scheduler: str) -> SearchSpec:
    return SearchSpec(
        train=TrainSpec(epochs=epochs),
        search=BudgetSpec(num_samples=trials),
        scheduler=SchedulerSpec(name=scheduler),
    )


EXPERIMENTS = ROOT / "experiments"
RESULTS, REGIMES = EXPERIMENTS / "results", EXPERIMENTS / "benchmarks" / "early_stopping" / "regimes"

CPU_SPEC = replace(spec(4, 2, "none"), resources=ResourceSpec(device="cpu"))


@settings(derandomize=True, deadline=None, max_examples=10)
@given(trials=st.integers(1, 40), epochs=st.integers(1, 12), scheduler=st.sampled_from(["asha", "median", "none"]))
def test_trials_are_expected_to_end_but_the_reference_to_go_on(trials: int, epochs: int, scheduler: str) -> None:
    survival = expected_survival(spec(trials, epochs, scheduler))
    assert len(survival) == epochs
    assert survival[0] == 1
    assert all(after <= before for before, after in itertools.pairwise(survival))
    assert survival[-1] >= 1 / trials - 1e-9  # the reference is never stopped
    if scheduler == "none" or trials == 1:
        assert survival == (1,) * epochs


def test_stopping_is_expected_to_save_epochs() -> None:
    default = spec(200, 8, "asha")
    usual = replace(default, scheduler=SchedulerSpec(grace_epochs=1, reduction_factor=2, margin=0))
    assert sum(expected_survival(usual)) < 0.5 * 8
    assert sum(expected_survival(default)) < 0.7 * 8


def test_recorded_searches_trained_as_many_epochs_as_a_plan_of_today_expects() -> None:
    recorded = {}
    for path in sorted((RESULTS / "searches").glob("*/searches.csv")):
        searches = pd.read_csv(path).query("set_up == 'ours'")
        own = load_spec(REGIMES / f"{path.parent.name}.toml")
        own = replace(own, search=replace(own.search, num_samples=int(searches["trials"].iloc[0])))
        if not path.parent.name.startswith("wide-"):  # recorded with the rule before: one rung
            rung = usual_last_rung(own.train.epochs)
            own = replace(own, scheduler=SchedulerSpec(grace_epochs=rung, reduction_factor=3))
        recorded[path.parent.name] = own, searches["epochs"].mean()
    for setting in ("cifar10-jpeg-search", "cifar10-jpeg-cpu-[0-9]"):
        runs = [load_frames(path) for path in RESULTS.glob(setting)]
        recorded[setting] = runs[0].spec, float(np.mean([len(run.epochs) for run in runs]))
    assert len(recorded) >= 6
    for name, (own, epochs) in recorded.items():
        assert own.search.num_samples * sum(expected_survival(own)) == pytest.approx(epochs, rel=0.15), name


@pytest.mark.parametrize(
    ("node", "cpus", "gpus", "trials"),
    [
        ({"CPU": 2}, 1, 0, 2),
        ({"CPU": 2}, 0.3, 0, 6),
        ({"CPU": 1}, 2, 0, 0),
        ({"CPU": 16, "GPU": 2}, 1, 1, 2),
        ({"CPU": 16, "GPU": 2}, 1, 0.5, 4),
        ({"CPU": 16, "GPU": 2}, 1, 0.4, 4),  # 0.2 of each GPU stays free: no trial spans two
        ({"CPU": 16, "GPU": 3}, 1, 2, 1),
        ({"CPU": 3, "GPU": 2}, 1, 0.25, 3),
        ({"CPU": 16}, 1, 1, 0),
    ],
)
def test_how_many_trials_fit_on_a_node(
    node: dict[str, float], cpus: float, gpus: float, trials: int, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": gpus})
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": node}])
    monkeypatch.setattr("tune_resnet.execution.resources._measure", lambda *_: SPEED)
    resources = ResourceSpec(cpus_per_trial=cpus, gpus_per_trial=gpus)
    with nullcontext() if trials else pytest.raises(DeviceError, match="no node has"):
        assert make_plan(replace(spec(64, 8, "none"), resources=resources), split).concurrency == trials


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_share_of_a_gpu_is_refused_where_trials_run_on_the_cpu(
    device: str, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}])
    resources = ResourceSpec(device=device, gpus_per_trial=0.5)
    with pytest.raises(DeviceError, match=r"gpus_per_trial = 0\.5, but trials run on the CPU"):
        make_plan(SearchSpec(resources=resources), split, SPEED)
    settled = make_plan(SearchSpec(resources=replace(resources, gpus_per_trial=None)), split, SPEED).spec
    assert (settled.resources.device, settled.resources.gpus_per_trial) == ("cpu", 0)


@pytest.mark.parametrize("usable", [True, False])
@pytest.mark.parametrize("host", [socket.gethostname(), "another"])
def test_a_gpu_of_this_machine_is_taken_where_pytorch_can_use_it(
    usable: bool, host: str, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its driver may be too old for PyTorch, or PyTorch be made for CPUs only."""
    node = {"Alive": True, "NodeManagerHostname": host, "Resources": {"CPU": 2.0, "GPU": 1.0}}
    monkeypatch.setattr(ray, "cluster_resources", lambda: node["Resources"])
    monkeypatch.setattr(ray, "nodes", lambda: [node])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: usable)
    monkeypatch.setattr("tune_resnet.execution.resources._measure", lambda *_: SPEED)
    device = "cuda" if usable or host == "another" else "cpu"
    assert make_plan(SearchSpec(), split, SPEED).spec.resources.device == device


def test_a_search_without_end_is_planned_like_a_long_one() -> None:
    long, endless = (replace(spec(1, 8, "asha"), search=BudgetSpec(num_samples=trials)) for trials in (20_000, 10**6))
    assert expected_survival(long) == expected_survival(endless)


def lines_about_data(images: int, batch: int, note: str = "") -> list[str]:
    """What the plan of a single training says of its images and network."""
    plan = Plan(
        spec=resolved(SearchSpec(train=TrainSpec(batch_size=batch, epochs=1)), "cpu", "fp32"),
        device_name="a CPU",
        seconds_per_epoch=1,
        concurrency=1,
        train_images=images,
        held_out_images=20,
        held_out="validation",
        note=note,
        single=0,
    )
    return plan.lines()[:-3]


def test_a_plan_says_how_many_steps_an_epoch_has_and_warns_of_few() -> None:
    assert lines_about_data(4000, 400, "; the validation set is the folder's own") == [
        "data        cifar10: 4,000 training, 20 validation images; the validation set is the folder's own",
        "model       ResNet9, width 64; 1 epoch of 10 steps, batch 400, linear-exponential",
    ]
    assert lines_about_data(216, 400)[1:] == [
        "model       ResNet9, width 64; 1 epoch of 1 step, batch 400, linear-exponential",
        "warning     only 1 optimizer step an epoch, too few to learn much: "
        "choose a smaller --batch-size (21 gives 11 steps)",
    ]
    assert len(lines_about_data(8, 1)) == 2  # there is no smaller one


def test_a_plan_says_how_even_the_classes_are_and_what_chance_gives_of_the_objective(split: Split) -> None:
    def line(train: list[int], held_out: list[int], objective: str = "accuracy") -> str:
        parts = [ImageSet(split.train.source, np.repeat(np.arange(3), each)) for each in (train, held_out)]
        data = replace(split, train=parts[0], held_out=parts[1], classes=("ant", "bee", "cat"))
        return image_lines(data, BudgetSpec(objective=objective))[-1]

    assert line([2, 2, 2], [1, 1, 2]) == "classes     3, of 2 training images each; the chance level is 25.0%"
    assert line([1, 1, 1], [0, 0, 0]) == "classes     3, of 1 training image each; the chance level is 33.3%"
    uneven = [2000, 9, 70], [70, 10, 20]
    assert line(*uneven) == "classes     3, of 9 to 2,000 training images each; the chance level is 70.0%"
    assert line(*uneven, "balanced_accuracy").endswith("; the chance level of balanced accuracy is 33.3%")
    f1 = 2 * 0.7 / (1 + 0.7)  # of the common class: its precision is 0.7, its recall 1
    assert line(*uneven, "macro_f1").endswith(f"; the chance level of macro F1 is {f1 / 3:.1%}")


def plan_of(trials: int = 4, ended: int = 0, **sections: Any) -> list[str]:
    """The plan of so many trials with these sections of a spec."""
    plan = Plan(
        spec=resolved(SearchSpec(**sections), "cpu", "fp32"), device_name="a CPU", seconds_per_epoch=1, concurrency=1,
        train_images=4000, held_out_images=20, held_out="validation", trials=trials, ended=ended,
    )  # fmt: skip
    return plan.lines()


def test_a_plan_warns_where_trials_are_judged_by_what_a_hyperparameter_changes_by_itself() -> None:
    def warnings_of(**changes: Any) -> list[str]:
        space = {"max_lr": Domain(low=1e-3, high=0.1), "dropout": Domain(low=0, high=0.5, log=False)}
        lines = plan_of(32, space=space, scheduler=SchedulerSpec(**changes))
        return [line for line in lines if line.startswith("warning")]

    assert warnings_of()[0].startswith(
        "warning     dropout: its value alone changes the training loss, by which trials are"
    )
    assert warnings_of(signal="val_loss") == warnings_of(name="none") == []


def test_a_plan_warns_of_what_its_trials_do_not_vary() -> None:
    space: Space = {"max_lr": Domain(low=1e-3, high=0.1), "model.width": Choices(choices=(32, 64))}

    def warnings_of(trials: int) -> list[str]:
        return [line for line in plan_of(trials, space=space) if line.startswith("warning")]

    given = len(SearchSpec(space=space).first_points)
    assert warnings_of(given + 1) == []
    assert warnings_of(given) == [
        f"warning     model.width: the same in every trial; from --num-samples {given + 1} on, "
        "the sampler proposes other values"
    ]


def test_a_plan_says_what_is_left_of_a_resumed_search_and_what_a_time_budget_leaves() -> None:
    def lines(**changes: Any) -> list[str]:
        found = plan_of(40, 10, scheduler=SchedulerSpec(name="none"), search=BudgetSpec(**changes))
        return [line for line in found if line.startswith(("resume", "epochs", "time"))]

    left = [
        "resume      10 of 40 trials ended, 30 left",
        "epochs      about 240 expected with early stopping, 240 at most",
    ]
    pace = "(4s to start, 1.0 s an epoch, from a few timed steps)"
    assert lines() == [*left, f"time        about 4m 04s expected, 4m 04s at most {pace}"]
    assert lines(time_budget=3600) == lines()
    assert lines(time_budget=60) == [
        *left,
        f"time        1m 00s, the time budget; all trials would take about 4m 04s {pace}",
    ]


def test_a_plan_of_a_long_search_says_how_to_have_it_sooner() -> None:
    def ways(epochs: int, width: int = 64, **budget: Any) -> list[str]:
        lines = plan_of(
            train=TrainSpec(epochs=epochs), model=ModelSpec(width=width), search=BudgetSpec(**budget),
            scheduler=SchedulerSpec(name="none"),
        )  # fmt: skip
        return [line for line in lines if line.startswith("sooner")]

    in_time = "--time-budget 1h ends the search after an hour, with the best so far"
    assert ways(800) == []  # four trials of 800 seconds
    assert ways(900) == [f"sooner      --width 16 trains 4 times as fast or more; {in_time}"]
    assert ways(900, width=16) == [f"sooner      {in_time}"]
    assert ways(900, width=16, time_budget=7200) == []


def test_a_plan_says_where_early_stopping_does_not_go_by_the_objective() -> None:
    def stopping(objective: str, **changes: Any) -> str:
        lines = plan_of(search=BudgetSpec(objective=objective), scheduler=SchedulerSpec(**changes))
        return next(line for line in lines if line.startswith("stopping"))

    assert stopping("accuracy").startswith("stopping    asha on train_loss, judged after epoch")
    assert stopping("macro_f1").startswith("stopping    asha on train_loss whatever the objective is, judged after")
    assert stopping("macro_f1", signal="val_accuracy").startswith("stopping    asha on val_macro_f1, judged")
    assert stopping("macro_f1", name="median") == "stopping    median on train_loss whatever the objective is"
    assert stopping("macro_f1", name="none") == "stopping    none on train_loss"


@given(images=st.integers(1, 100_000), batch=st.integers(2, 100_000))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_the_batch_size_that_a_warning_names_gives_no_warning(images: int, batch: int) -> None:
    for line in lines_about_data(images, batch)[2:]:
        named = int(line.partition("(")[2].split()[0])
        assert 1 <= named < batch
        assert len(lines_about_data(images, named)) == 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0s"), (0.4, "0s"), (59.4, "59s"), (59.6, "1m 00s"), (185, "3m 05s"), (3599.7, "1h 00m"), (7800, "2h 10m")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("device", "share", "concurrency", "together"),
    [
        ("cuda", 1.0, 4, 1),
        ("cuda", 2.0, 2, 1),
        ("cuda", 0.5, 4, 2),
        ("cuda", 0.4, 4, 2),
        ("cuda", 0.1, 16, 10),
        ("cuda", 0.1, 3, 3),
        ("cuda", 0.0, 5, 5),  # Ray counts none, and all see the first
        ("cpu", 0.0, 4, 1),
    ],
)
def test_trials_that_share_a_gpu_are_counted(device: str, share: float, concurrency: int, together: int) -> None:
    assert trials_per_gpu(ResourceSpec(device=device, gpus_per_trial=share), concurrency) == together


@pytest.mark.parametrize(
    ("share", "seconds", "said"),
    [
        (None, 2.0, "(4s to start, 2.0 s an epoch, from a few timed steps)"),
        (0.25, 8.0, "(4s to start, 8.0 s an epoch: a few steps timed alone, times the 4 trials on one GPU)"),
    ],
)
def test_the_time_of_trials_that_share_a_gpu_is_theirs_together(
    share: float | None, seconds: float, said: str, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upper bound: together they may be faster than one after the other, never slower."""
    node = {"CPU": 16.0, "GPU": 1.0}
    monkeypatch.setattr(ray, "cluster_resources", lambda: node)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": node}])
    speed = Speed(device_name="a GPU", precision="bf16", images_per_second=len(split.train) / 2)
    monkeypatch.setattr("tune_resnet.execution.resources._measure", lambda *_: speed)
    plan = make_plan(replace(spec(16, 8, "asha"), resources=ResourceSpec(gpus_per_trial=share)), split)
    assert plan.seconds_per_epoch == pytest.approx(seconds)
    assert plan.lines()[-1].endswith(said)


def test_a_search_of_the_past_can_be_planned_again_which_its_confirmation_does(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}])
    past = replace(CPU_SPEC, search=BudgetSpec(sampler="multifidelity", num_samples=6))
    assert make_plan(past, split, SPEED).trials == 6


@pytest.mark.parametrize(
    ("kind", "said"), [(RuntimeError, "RuntimeError: no kernel. Too new."), (torch.OutOfMemoryError, OUT_OF_MEMORY)]
)
def test_what_pytorch_cannot_train_is_one_line(
    split: Split, monkeypatch: pytest.MonkeyPatch, kind: type[Exception], said: str
) -> None:
    def fails(run: TrainingRun) -> None:
        raise kind("no kernel.\nToo new.")

    monkeypatch.setattr(TrainingRun, "run_epoch", fails)
    with pytest.raises(TimingError) as caught:
        measure_speed(TrainSpec(), split, torch.device("cpu"), ModelSpec(width=4))
    assert (str(caught.value), caught.value.exit_code) == (f"timing a few steps: {said}", 2)


@pytest.mark.parametrize("device", ["cpu", "auto", "cuda"])
def test_what_trains_on_the_cpu_is_timed_in_this_process_on_a_machine_with_a_gpu_too(
    device: str, digits: Dataset, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    options = parse_options(["--dataset", "digits", "--width", "4", "--epochs", "2", "--device", device])
    _, speed = prepare(Job(options, options.spec, Console(), 0.0, "search", Path("it")), digits, split)
    assert (speed is not None) is (device == "cpu")


DYING = """
import os, pathlib, signal
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, signal_number):
        super().__init__()
        self.linear, self.signal_number = nn.Linear(3072, num_classes), signal_number

    def forward(self, images):
        pathlib.Path("{folder}", str(os.getpid())).touch()
        if self.signal_number:
            os.kill(os.getpid(), self.signal_number)
        raise LookupError("nothing here")

def raises(num_classes):
    return Net(num_classes, 0)

def dies(num_classes):
    return Net(num_classes, signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_process_of_ray_that_times_steps_says_what_went_wrong_and_ends(
    split: Split, tmp_path: Path, cluster: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would keep the memory of a GPU."""
    started = tmp_path / "started"
    started.mkdir()
    (tmp_path / "dying_nets.py").write_text(DYING.format(folder=started))
    monkeypatch.chdir(tmp_path)  # Ray's processes import from there, too
    monkeypatch.syspath_prepend(tmp_path)
    own = {name: replace(CPU_SPEC, model=ModelSpec(factory=f"dying_nets:{name}")) for name in ("raises", "dies")}
    with ray_cluster(cluster[-1]):
        with pytest.raises(ModelError) as raised:
            make_plan(own["raises"], split)
        with pytest.raises(TimingError) as died:
            make_plan(own["dies"], split)
        deadline = time.monotonic() + 20
        while any(Path("/proc", number.name).exists() for number in started.iterdir()):
            assert time.monotonic() < deadline, "a process is left"
            time.sleep(0.05)
    assert len(list(started.iterdir())) == 2
    assert re.fullmatch(
        r"--model dying_nets:raises, while a few steps were timed: LookupError: nothing here "
        rf"\({tmp_path}/dying_nets.py, line \d+, in forward\)",
        str(raised.value),
    )
    assert str(died.value) == "the process that timed a few steps died (killed, or out of memory)"


def test_steps_are_timed_until_they_last_or_the_images_end(split: Split) -> None:
    speed = measure_speed(TrainSpec(batch_size=50, precision="fp32"), split, torch.device("cpu"), ModelSpec(width=4))
    assert speed.precision == "fp32"
    assert 0 < speed.images_per_second < math.inf
