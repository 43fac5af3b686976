"""The report: what its plots are drawn from, and the page."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from factories import MIXED, RESULTS, SEARCH, SPEC, Build, Page

from experiments.benchmarks.speed.scale import RECORDED, record
from tune_resnet._text import percent
from tune_resnet.commands.live_page import EVERY
from tune_resnet.config.default_space import NARROW_SPACE
from tune_resnet.config.sections import SchedulerSpec
from tune_resnet.config.space import Choices, Domain
from tune_resnet.config.toml import load_spec
from tune_resnet.errors import RecordError
from tune_resnet.hpo.ranking import winner
from tune_resnet.hpo.stopping import Signal, stopping_rule
from tune_resnet.report import main
from tune_resnet.results.chart_data import (
    comparable,
    configurations,
    cost,
    good_region,
    learning_curves,
    positions,
    rate_curves,
    roles,
    runs_side_by_side,
    timeline,
)
from tune_resnet.results.early_stopping import cuts, judged
from tune_resnet.results.next_steps import next_steps, winner_toml
from tune_resnet.results.page import write_report
from tune_resnet.results.side_by_side import differing_settings, leader
from tune_resnet.results.space_charts import slice_chart
from tune_resnet.results.verdict import BAD, GOOD, OPEN, Verdict, evidence, verdict
from tune_resnet.runs.directory import FINAL, RunDirectory
from tune_resnet.runs.load import load_frames
from tune_resnet.runs.tables import CONFIRM_DTYPES, FAILED, FINISHED, INTERRUPTED, RUNNING, STOPPED
from tune_resnet.training.schedule import rate_at

EVERY_RUN = sorted(path.parent for path in RESULTS.glob("*/trials.csv"))


@pytest.fixture
def mixed(tmp_path: Path) -> Build:
    build = Build(tmp_path / "run")
    build.trial([0.5, 0.6, 0.7, 0.80], FINISHED)
    build.trial([0.6, 0.8, 0.95, 0.9], FINISHED, max_lr=0.0123)
    build.trial([0.3], STOPPED, weight_decay=1e-3)
    build.trial([0.45, 0.5], STOPPED, weight_decay=1e-5)
    build.trial([0.35, 0.4, 0.99], INTERRUPTED)
    build.trial([0.55, 0.65], RUNNING, grad_clip=0.5)
    build.trial([], FAILED, error="<b>no</b> \x1b[31mspace")
    return build


def test_a_trial_s_role_is_its_state_unless_it_is_the_reference_or_has_won(mixed: Build) -> None:
    expected = ["reference", "winner", STOPPED, STOPPED, INTERRUPTED, RUNNING, FAILED]
    assert roles(mixed.load()).sort_index().tolist() == expected


def test_a_reference_that_has_won_is_the_reference(tmp_path: Path) -> None:
    build = Build(tmp_path / "run")
    build.trial([0.5, 0.6, 0.7, 0.8], FINISHED)
    build.trial([0.4, 0.5, 0.6, 0.7], FINISHED, max_lr=0.02)
    assert roles(build.load()).tolist() == ["reference", FINISHED]


def test_curves_have_every_epoch_of_every_trial(mixed: Build) -> None:
    curves = learning_curves(mixed.load())
    assert curves.groupby("trial")["accuracy"].apply(list).to_dict() == {
        0: [0.5, 0.6, 0.7, 0.8], 1: [0.6, 0.8, 0.95, 0.9], 2: [0.3], 3: [0.45, 0.5], 4: [0.35, 0.4, 0.99],
        5: [0.55, 0.65],
    }  # fmt: skip
    assert set(curves.loc[curves["trial"] == 1, "role"]) == {"winner"}


def test_configurations_have_the_last_accuracy(mixed: Build) -> None:
    rows = configurations(mixed.load()).set_index("trial")
    assert [rows[name][3] for name in ("role", "weight_decay", "epochs", "accuracy")] == [STOPPED, 1e-5, 2, 0.5]
    assert math.isnan(rows["accuracy"][6])


def test_the_good_region_is_where_the_best_quarter_is(tmp_path: Path) -> None:
    build = Build(tmp_path / "run")
    for number in range(3):
        build.trial([0.5] * 4, FINISHED, max_lr=0.01 + number / 1000)
    assert good_region(build.load()).empty
    for number in range(3, 8):
        build.trial([0.5, 0.6, 0.7, 0.5 + number / 20], FINISHED, max_lr=0.01 + number / 1000)
    region = good_region(build.load())
    assert region.T["max_lr"].tolist() == pytest.approx([0.016, 0.017])
    assert region.T["grad_clip"].tolist() == [0.1, 0.1]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1e-3, 1e-2, 1e-1], [0, 0.5, 1]), ([1e-2], [0.5]), ([0.0, 1e-4, 1e-1], [math.nan, 0, 1])],
)
def test_positions_are_those_on_a_logarithmic_axis(values: list[float], expected: list[float]) -> None:
    places = positions(pd.DataFrame({"max_lr": values}), {"max_lr": NARROW_SPACE["max_lr"]})
    assert places["max_lr"].tolist() == pytest.approx(expected, nan_ok=True)


def test_judged_says_by_how_little_a_trial_was_stopped(tmp_path: Path) -> None:
    build = Build(tmp_path / "run")
    build.trial([0.1, 0.65, 0.65, 0.65], FINISHED)  # the reference goes on whatever its signal
    build.trial([0.5, 0.6, 0.7, 0.80], FINISHED)
    build.trial([0.7, 0.5], STOPPED)
    build.trial([0.45], STOPPED)
    build.trial([0.55], STOPPED)
    build.trial([0.2], RUNNING)  # not judged yet
    rows = judged(build.load())
    assert [tuple(row) for row in rows[["trial", "epoch", "fate"]].itertuples(index=False)] == [
        (1, 1, "went on"), (1, 2, "went on"), (2, 1, "went on"), (2, 2, "stopped"), (3, 1, "stopped"),
        (4, 1, "stopped"),
    ]  # fmt: skip
    # By this spec's rule trial 4 would have gone on: nothing can be said of it.
    assert rows["short_by"].tolist() == pytest.approx([math.nan] * 3 + [0.1, 0.05, math.nan], nan_ok=True)


def test_a_stopped_trial_is_short_of_the_cut_as_it_was_then(tmp_path: Path) -> None:
    scheduler = SchedulerSpec(grace_epochs=1, reduction_factor=2, signal="train_loss", margin=0.01)
    build = Build(tmp_path / "run", replace(SPEC, scheduler=scheduler))
    build.trial([0.1, 0.1, 0.1, 0.1], FINISHED)  # losses are 1 minus these
    build.trial([0.5, 0.6, 0.7, 0.80], FINISHED)
    build.trial([0.8, 0.8, 0.8, 0.8], FINISHED)
    build.trial([0.48], STOPPED)  # a loss of 0.52; the second best of four then had 0.5, less the margin of 1%
    build.trial([0.2, 0.2, 0.2, 0.2], FINISHED)  # a weak one, which an earlier spec let go on
    rows = judged(build.load())
    assert rows.loc[rows["fate"] == "stopped", "short_by"].tolist() == pytest.approx([math.log(0.52 / 0.5) - 0.01])


def test_every_trial_that_the_rule_stops_is_short_of_its_cut(tmp_path: Path) -> None:
    spec = replace(SPEC, scheduler=SchedulerSpec(grace_epochs=1, reduction_factor=3, signal="train_loss", margin=0.02))
    build, rule, draw = Build(tmp_path / "run", spec), stopping_rule(spec), random.Random(1)
    signal = Signal("train_loss")
    for trial in range(30):
        accuracies: list[float] = []
        while len(accuracies) < spec.train.epochs:
            accuracies.append(draw.random())
            row = {"epoch": len(accuracies), "train_loss": 1 - accuracies[-1]}
            if rule.should_stop(trial, len(accuracies), signal.quality(trial, row)) and trial != 0:
                break
        build.trial(accuracies, FINISHED if len(accuracies) == spec.train.epochs else STOPPED)
    rows = judged(build.load())
    stopped = rows["fate"] == "stopped"
    assert stopped.sum() > 10
    assert (rows.loc[stopped, "short_by"] > 0).all()
    assert rows.loc[~stopped, "short_by"].isna().all()


@pytest.mark.parametrize("path", EVERY_RUN, ids=lambda path: path.name)
def test_no_recorded_trial_is_short_of_the_cut_by_less_than_nothing(path: Path) -> None:
    assert not (judged(load_frames(path))["short_by"] <= 0).any()


def test_rate_curves_are_the_schedule_s(mixed: Build) -> None:
    rates = rate_curves(mixed.load())
    peaks = rates.groupby("role")["lr"].max()
    assert peaks.to_dict() == pytest.approx({"reference": 0.01, "winner": 0.0123})
    first = rates[rates["role"] == "winner"].iloc[20]
    assert (first["epoch"], first["lr"]) == (1.0, rate_at(replace(SPEC.train, max_lr=0.0123), 20, 80))


def test_each_rate_curve_has_the_schedule_of_its_own_trial(tmp_path: Path) -> None:
    shapes = Choices(choices=("linear-exponential", "cosine"))
    build = Build(tmp_path / "run", replace(SPEC, space={**NARROW_SPACE, "schedule": shapes}))
    build.trial([0.5] * 4, FINISHED)
    build.trial([0.9] * 4, FINISHED, schedule="cosine")
    rates = rate_curves(build.load())
    peaks = rates.loc[rates.groupby("role")["lr"].idxmax()].set_index("role")["epoch"]
    assert peaks.to_dict() == {"reference": 2.0, "winner": 1.15}  # cosine rises over 30% of 80 steps


def run_at(build: Build, times: dict[int, tuple[float, float, str]]) -> None:
    """Sets when and where trials ran, and the ends of their epochs."""
    trials = pd.read_csv(build.directory.trials_csv)
    for trial, (start, end, worker) in times.items():
        row = trials["trial"] == trial
        trials.loc[row, "started_at"], trials.loc[row, "ended_at"], trials.loc[row, "worker"] = start, end, worker
    trials.to_csv(build.directory.trials_csv, index=False)


def test_the_timeline_and_what_was_idle(tmp_path: Path) -> None:
    build = Build(tmp_path / "run")
    for state, accuracies in ((FINISHED, [0.5] * 4), (STOPPED, [0.4] * 2), (FINISHED, [0.6] * 4)):
        build.trial(accuracies, state)
    run_at(build, {0: (100.0, 102.0, "a:1"), 1: (100.0, 101.0, "a:2"), 2: (102.0, 104.0, "a:1")})
    frames = build.load()
    rows = timeline(frames)
    assert rows[["trial", "start", "end"]].to_numpy().tolist() == [[0, 0, 2], [1, 0, 1], [2, 2, 4]]
    spent = cost(frames)
    # 10 epochs of half a second by two processes within 4 seconds; a stopped trial had two epochs left
    assert spent == pytest.approx(
        {"epochs": 10, "epochs_saved": 2, "training_seconds": 5, "span_seconds": 4, "utilisation": 5 / 8}
    )


def test_runs_side_by_side_count_the_epochs_of_all_trials(tmp_path: Path) -> None:
    build = Build(tmp_path / "run")
    build.trial([0.5, 0.6, 0.7, 0.8], FINISHED)
    build.trial([0.4], STOPPED)
    build.trial([0.4, 0.5, 0.6, 0.7], FINISHED)
    build.trial([0.4, 0.5, 0.6, 0.9], FINISHED)
    rows = runs_side_by_side({"it": build.load()})
    assert rows.to_dict("list") == {"run": ["it"] * 3, "epochs": [4, 9, 13], "best": [0.8, 0.8, 0.9]}


@pytest.mark.parametrize("run", EVERY_RUN, ids=lambda path: path.name)
def test_every_recorded_run_has_a_page(run: Path, tmp_path: Path) -> None:
    path = write_report([run], tmp_path / "page.html")
    page = Page(path)
    assert path.stat().st_size < 6_000_000
    assert page.links == ["data:,"]  # no icon is asked for
    assert page.figures
    assert all(figure["data"] for figure in page.figures.values())
    assert json.loads((run / "env.json").read_text())["command"] in page.text


def test_the_answer_comes_first_and_what_was_proved_before_what_was_measured(tmp_path: Path) -> None:
    page = Page(write_report([SEARCH], tmp_path / "page.html"))
    text = " ".join(page.text.split())
    found = [
        text.index(words)
        for words in (
            "Proven: +1.58 points, 95% interval 0.74 to 2.42",
            "Trial 19: 76.60%",
            "max_lr = 0.014643850777033942",
            "--finalize",
            "tune_resnet.predict",
            "observed76.60%75.05%+1.55",
            "estimated",
            "confirmed76.72%75.14%+1.58 (0.74 to 2.42)",
            "pair by pair",
            "Learning",
        )
    ]
    assert found == sorted(found)
    titles = ["Best trials", "Hyperparameters together", "Hyperparameters one by one", "Importance", "Early stopping"]
    titles += ["Learning rates", "Time", "Environment, and how to repeat it"]
    assert all(title in text for title in titles)


def test_a_name_or_text_from_a_run_is_only_text(mixed: Build, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    trials = mixed.directory.trials_csv
    trials.write_text(trials.read_text().replace("host:1", f'"{evil}"'))
    mixed.directory.write_env({"command": f"</script>{evil}", evil: {evil: evil}, "device_name": evil})
    (mixed.directory.path / "confirm.json").write_text(json.dumps({"sentence": evil}))
    path = mixed.directory.path.rename(tmp_path / "<img src=y>")
    page = Page(write_report([path]))
    assert page.tags.count("script") == 3 + len(page.figures)
    assert "img" not in page.tags
    workers = [text for figure in page.figures.values() for bar in figure["data"] for text in bar.get("text", [])]
    assert any("&lt;script&gt;" in str(worker) for worker in workers)  # Plotly would read the tags
    assert not any("<script" in str(worker) for worker in workers)


@pytest.mark.parametrize("states", [[], [RUNNING], [FAILED], [FINISHED], [RUNNING, STOPPED, INTERRUPTED]])
def test_a_run_has_a_page_at_any_time(states: list[str], tmp_path: Path) -> None:
    build = Build(tmp_path / "run")
    for state in states:
        build.trial({FAILED: [], FINISHED: [0.5] * 4}.get(state, [0.5]), state, error="broken" * (state == FAILED))
    path = write_report([build.directory.path])
    assert path == build.directory.path / "report.html"
    text = Page(path).text
    assert ("No trial has finished yet" in text) == (FINISHED not in states)
    assert ("broken" in text) == (FAILED in states)


def test_a_baseline_judged_on_the_test_set_has_a_page(tmp_path: Path) -> None:
    build = Build(tmp_path / "run")
    build.trial([0.5, 0.6, 0.7, 0.8], FINISHED, on="test")
    assert "The reference: 80.00% test accuracy" in Page(write_report([build.directory.path])).text


def test_a_final_training_has_no_winner_and_its_own_rates(tmp_path: Path) -> None:
    build = Build(tmp_path / "run")
    build.directory.write_env({"kind": FINAL, "trial": 0})
    build.trial([0.5, 0.6, 0.7, 0.8], FINISHED, on="test")
    trials = build.directory.trials_csv  # the trial of a search that is trained, here the seventh
    trials.write_text(trials.read_text().replace("\n0,", "\n7,"))
    epochs = build.directory.epochs_csv
    epochs.write_text(epochs.read_text().replace("\n0,", "\n7,"))
    page = Page(write_report([build.directory.path]))
    assert "winner" not in page.text.lower()
    assert {trace["name"] for figure in page.figures.values() for trace in figure["data"]} == {FINISHED}
    assert "Learning rates" in page.text
    assert "Early stopping" not in page.text


def test_the_time_between_the_commands_of_a_run_is_not_said_to_be_idle(tmp_path: Path) -> None:
    text = Page(write_report([RESULTS / "cifar10-jpeg-wide"], tmp_path / "page.html")).text
    assert "The run was resumed: the time between its commands is part of the picture." in text
    assert "ran side by side" not in text


def test_the_last_page_of_a_run_that_ends_meanwhile_is_of_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = Build(tmp_path / "run")
    build.trial([0.5, 0.6, 0.7, 0.8], FINISHED)
    path = build.directory.path
    looks = iter([True, True])  # as the page is begun
    monkeypatch.setattr(RunDirectory, "in_use", lambda self: next(looks, False))
    assert main([str(path)]) == 0
    assert 'data-reload="' not in (path / "report.html").read_text()


def test_several_runs_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    baseline = RESULTS / "cifar10-jpeg-baseline"
    assert main([str(SEARCH), str(baseline), str(SEARCH), "--out", str(tmp_path / "two.html")]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'two.html'}\n"
    page = Page(tmp_path / "two.html")
    assert "2 runs" in page.text
    assert [trace["name"] for trace in page.figures["plot-3-1"]["data"]] == [SEARCH.name, baseline.name]
    assert f"{SEARCH.name} has the best confirmed winner: 76.72% mean test accuracy" in page.text
    commands = [load_frames(run).env["command"] for run in (SEARCH, baseline)]
    assert all(command in page.text for command in commands)


def test_what_is_wrong_is_said_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert main([str(SEARCH), "--out", str(tmp_path / "no" / "page.html")]) == 2
    run = Path(shutil.copytree(SEARCH, tmp_path / "run"))
    (run / "confirm.json").write_text("[]")
    assert main([str(run)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3
    assert all(error.startswith("error: ") for error in errors)
    assert not (tmp_path / "no").exists()
    with pytest.raises(RecordError, match="is not a run directory"):
        write_report([tmp_path])


def test_damaged_figures_make_a_page_all_the_same(mixed: Build) -> None:
    """A run that somebody sends: figures that no search writes."""
    original = mixed.directory.trials_csv.read_text()
    for old, new in (("0.0123", "0"), ("0.0123", "1e38"), ("0.0123", ""), ("host:1", "")):
        mixed.directory.trials_csv.write_text(original.replace(old, new))
        write_report([mixed.directory.path])
    mixed.directory.trials_csv.write_text(re.sub(r"1[0-9]{9}\.[0-9]+", "1e30", original))
    mixed.directory.write_env({"started_at": 1e300, "wall_seconds": 1e300, "resumed": [1, {"command": []}]})
    write_report([mixed.directory.path])


def test_the_page_says_whether_a_run_with_running_trials_goes_on(mixed: Build) -> None:
    path = mixed.directory.path
    assert "the run was not running (it ended without saying so" in Page(write_report([path])).text
    with mixed.directory.lock():
        assert "the run was still running, last epoch " in Page(write_report([path])).text
        mixed.recorder.close()
        assert "last epoch" not in Page(write_report([path])).text


@pytest.mark.slow
def test_a_page_of_ten_thousand_trials_is_small_and_soon_there(tmp_path: Path) -> None:
    record(tmp_path / "run")
    started = time.process_time()
    path = write_report([tmp_path / "run"])
    assert time.process_time() - started < 10
    assert path.stat().st_size < 8_000_000
    page = Page(path)
    assert f"1,000 of {RECORDED:,} trials are shown" in page.text
    assert sum(len(trace["text"]) for trace in page.figures["plot-4-1"]["data"]) == 1_000


def test_a_page_loads_itself_again_where_somebody_writes_it_again(mixed: Build, tmp_path: Path) -> None:
    path, elsewhere = mixed.directory.path, tmp_path / "page.html"
    with mixed.directory.lock():
        assert main([str(path)]) == main([str(path), "--out", str(elsewhere)]) == 0
    assert "data-reload" in Page(path / "report.html").attributes  # by the search
    assert "data-reload" not in Page(elsewhere).attributes
    assert "the run was still running" in Page(elsewhere).text


def test_on_a_terminal_a_page_elsewhere_is_written_until_the_run_ends(
    mixed: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, page, waited = mixed.directory.path, tmp_path / "page.html", []
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    lock = mixed.directory.lock()
    lock.__enter__()

    def sleep(seconds: float) -> None:
        assert "data-reload" in Page(page).attributes
        waited.append(seconds)
        if len(waited) == 2:
            lock.__exit__(None, None, None)

    monkeypatch.setattr("tune_resnet.report.time.sleep", sleep)
    assert main([str(path), "--out", str(page)]) == 0
    assert waited == [EVERY] * 2
    assert capsys.readouterr().out.count("\n") == 2
    assert "data-reload" not in Page(page).attributes


def confirmed(build: Build, gains: list[float]) -> Path:
    """A confirmation of trial 1 beside the reference, with these gains in accuracy."""
    spec, cells = SPEC.train, {"epochs": 4, "test_loss": 0.5, "seconds": 1.0, "worker": "host:1", "error": ""}
    size = {"width": SPEC.model.width, "train_images": 0, "of_epochs": 4, "rule": ""}
    rows = [
        {"seed": 1000 + pair, "configuration": name, "max_lr": rate, "weight_decay": spec.weight_decay}
        | {"grad_clip": spec.grad_clip, "test_accuracy": 0.5 + (gain if name == "winner" else 0)}
        | cells
        | size
        for pair, gain in enumerate(gains)
        for name, rate in (("winner", 0.02), ("reference", spec.max_lr))
    ]
    pd.DataFrame(rows, columns=list(CONFIRM_DTYPES)).to_csv(build.directory.confirm_csv, index=False)
    return build.directory.path


@pytest.mark.parametrize(
    ("gains", "tone", "headline"),
    [
        ([0.02, 0.021, 0.019], GOOD, "Proven: +2.00 points, 95% interval 1.75 to 2.25"),
        ([-0.02, -0.021, -0.019], BAD, "Worse than the reference: -2.00 points, 95% interval -2.25 to -1.75"),
        ([0.02, -0.02, 0.01], OPEN, "Not proven: +0.33 points, 95% interval -4.84 to 5.50"),
        ([0.02], OPEN, "Not confirmed yet: +10.00 points as measured"),
    ],
)
def test_the_headline_is_what_fresh_seeds_have_shown(
    gains: list[float], tone: str, headline: str, tmp_path: Path
) -> None:
    build = Build(tmp_path / "run")
    build.trial([0.5, 0.6, 0.7, 0.80], FINISHED)
    build.trial([0.6, 0.8, 0.95, 0.9], FINISHED, max_lr=0.02)
    assert verdict(load_frames(confirmed(build, gains))) == Verdict(tone, headline)


@pytest.mark.parametrize(
    ("trials", "headline"),
    [
        ([], "No trial has finished yet"),
        ([([0.5], RUNNING), ([0.5, 0.6, 0.7, 0.8], FINISHED)], "The gain is not known: the reference has not finished"),
        ([([0.5, 0.6, 0.7, 0.8], FINISHED)], "Only the reference has finished"),
        ([([0.5, 0.6, 0.7, 0.8], FINISHED), ([0.5, 0.6, 0.7, 0.7], FINISHED)], "No better than the reference"),
    ],
)
def test_without_a_confirmation_nothing_is_claimed(
    trials: list[tuple[list[float], str]], headline: str, tmp_path: Path
) -> None:
    build = Build(tmp_path / "run")
    for number, (accuracies, state) in enumerate(trials):
        build.trial(accuracies, state, max_lr=0.01 + number / 1000)
    assert verdict(build.load()) == Verdict(OPEN, headline)
    assert "Proven" not in Page(write_report([build.directory.path])).text


def test_what_is_not_estimated_is_not_called_so(tmp_path: Path) -> None:
    build = Build(tmp_path / "run")
    build.directory.write_env({"kind": "search"})
    for last in (0.6, 0.8, 0.7):
        build.trial([0.3, 0.4, 0.5, last], FINISHED, max_lr=last / 10)
    assert [row[0] for row in evidence(build.load())] == ["observed", "confirmed"]
    assert evidence(build.load())[0][-1].endswith("; the best of 3 is probably a lucky one: expect less")
    text = Page(write_report([build.directory.path])).text
    assert "By accuracy on the validation images, which is also the estimate." in text
    assert "together" not in text.replace("Hyperparameters together", "")
    build.trial([0.3, 0.4, 0.5, 0.75], FINISHED, max_lr=0.075)
    assert [row[0] for row in evidence(build.load())] == ["observed", "estimated", "confirmed"]
    assert "accuracy and loss on the validation images say together" in Page(write_report([build.load().path])).text


def test_the_third_row_says_what_a_confirmation_would_take(mixed: Build) -> None:
    assert evidence(mixed.load())[-1] == ["confirmed", "-", "-", "-", "no verdict yet: see the command to confirm it"]
    mixed.directory.write_env({"test_set": False})
    assert evidence(mixed.load())[-1][-1] == "nothing: there are no test images"
    assert verdict(mixed.load()).headline == "Not confirmed: +10.00 points as measured"


def test_what_is_to_be_copied_can_be_used(mixed: Build, tmp_path: Path) -> None:
    steps = next_steps(mixed.load())
    assert list(steps) == ["confirm it", "finalize it", "use it"]
    values = tmp_path / "winner.toml"
    values.write_text(winner_toml(mixed.load()))
    assert load_spec(values).train.max_lr == 0.0123


def test_a_space_without_a_learning_rate_has_a_page(tmp_path: Path) -> None:
    build = Build(tmp_path / "run", replace(SPEC, space={"dropout": Domain(low=0.1, high=0.5, log=False)}))
    build.trial([0.5, 0.6, 0.7, 0.8], FINISHED)
    build.trial([0.6, 0.8, 0.95, 0.9], FINISHED, dropout=0.3)
    assert winner_toml(build.load()) == "[train]\ndropout = 0.3\n"
    assert "Learning rates" in Page(write_report([build.directory.path])).text


def test_losses_can_be_chosen_and_axes_begin_where_trials_differ(tmp_path: Path) -> None:
    figure = Page(write_report([SEARCH], tmp_path / "page.html")).figures["plot-2-1"]
    assert [view["label"] for view in figure["views"]] == ["accuracy", "loss", "training loss"]
    assert all(len(view["y"]) == len(figure["data"]) for view in figure["views"])
    assert figure["views"][0]["yaxis"] == figure["layout"]["yaxis"]
    low, high = figure["layout"]["yaxis"]["range"]
    assert 0.3 < low < 0.45
    assert 0.77 < high < 0.8
    assert [shape["x0"] for shape in figure["layout"]["shapes"]] == [3]  # where trials are stopped
    assert "max_lr 0.0146" in str(figure["data"][-1]["text"])


def test_trials_that_were_stopped_stand_at_the_bottom_of_a_slice(mixed: Build) -> None:
    frames = mixed.load()
    whole, lowest, highest = comparable(frames, configurations(frames))
    assert (whole.sum(), lowest, highest) == (2, 0.8, 0.9)
    trials = configurations(frames).dropna(subset=["accuracy"]).assign(text="")
    trials, domain = trials.assign(complete=comparable(frames, trials)[0]), NARROW_SPACE["max_lr"]
    figure = slice_chart(trials, "max_lr", domain, good_region(frames), lowest, highest, "accuracy")
    rows = {trace.name: list(trace.y) for trace in figure.data}
    assert rows["winner"] == [0.9]
    assert max(rows[STOPPED]) < 0.8
    assert tuple(shape.x0 for shape in figure.layout.shapes) == domain.ends


def test_choices_and_whole_numbers_have_places_too(tmp_path: Path) -> None:
    build = Build(tmp_path / "run", replace(SPEC, space=MIXED, train=replace(SPEC.train, batch_size=90)))
    for number, choice in enumerate(("adam", "sgd", "sgd")):
        build.trial([0.5, 0.6, 0.7, 0.8 - number / 10], FINISHED, optimizer=choice, batch_size=45 * 2**number)
    trials = configurations(build.load()).sort_values("trial")
    places = positions(trials, MIXED)
    assert places["optimizer"].tolist() == [0, 1, 1]
    assert places["batch_size"].tolist() == [0, 0.5, 1]
    assert places["crop_padding"].tolist() == [0.5] * 3  # 4 of 0 to 8
    page = Page(write_report([build.directory.path]))
    shown = [note["text"] for figure in page.figures.values() for note in figure["layout"].get("annotations", [])]
    assert {"adam", "sgd", "45", "90", "180", "80.0%"} <= set(shown)


def test_the_cut_of_a_rung_lies_between_those_that_it_parts(mixed: Build) -> None:
    frames = mixed.load()
    found = cuts(frames)
    # of 0.6, 0.55, 0.5, 0.45, 0.35 and 0.3 at epoch 1, and 0.8, 0.65, 0.6, 0.5 and 0.4 at epoch 2, half go on
    assert found.to_dict() == pytest.approx({1: 0.5, 2: 0.6})


def test_a_comparison_names_the_best_run_and_what_differs(tmp_path: Path) -> None:
    other = RESULTS / "cifar10-jpeg-search-usual"
    runs = [load_frames(SEARCH), load_frames(other)]
    names = [row[0] for row in differing_settings(runs)]
    assert "scheduler.signal" in names
    assert "train.epochs" not in names
    text = Page(write_report([SEARCH, other], tmp_path / "page.html")).text
    assert f"{other.name} has the best confirmed winner: 77.14% mean test accuracy" in text
    assert "Proven: +2.02 points, 95% interval 1.51 to 2.53" in text


def test_without_every_confirmation_the_estimates_decide_and_the_page_says_so(tmp_path: Path) -> None:
    other = Path(shutil.copytree(RESULTS / "cifar10-jpeg-search-usual", tmp_path / "other"))
    (other / "confirm.csv").unlink()
    best = leader([load_frames(other), load_frames(SEARCH)])
    assert best is not None
    assert (best.run.path, best.confirmed) == (SEARCH, None)
    text = Page(write_report([SEARCH, other], tmp_path / "page.html")).text
    assert f"{SEARCH.name} has the best winner by its estimate: {percent(best.estimate)}, 76.60% validation" in text


@pytest.mark.parametrize("name", ["cifar10-jpeg-search", "cifar10-jpeg-search-usual"])
def test_the_curve_of_a_run_beside_others_ends_at_its_winner(name: str) -> None:
    run = load_frames(RESULTS / name)
    assert runs_side_by_side({"it": run})["best"].iloc[-1] == winner(run)["val_accuracy"]  # type: ignore[index]


def test_runs_on_other_images_do_not_lead(tmp_path: Path) -> None:
    builds = [Build(tmp_path / name) for name in ("a", "b", "c")]
    for build, last, images in zip(builds, (0.7, 0.8, 0.9), ("same", "same", "other"), strict=True):
        build.trial([0.5, 0.6, 0.7, last], FINISHED)
        build.directory.write_env({"dataset_fingerprint": images})
    runs = [build.load() for build in builds]
    best = leader(runs)
    assert best is not None
    assert best.run is runs[1]
    assert leader([Build(tmp_path / "empty").load()]) is None
