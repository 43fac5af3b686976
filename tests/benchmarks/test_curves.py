"""The recorded learning curves: the design, signals that leave the run alone, a table that survives being killed."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from factories import MIXED, RESULTS, ROOT
from PIL import Image

from experiments.benchmarks.early_stopping import curves, regimes, signals
from tune_resnet.config.default_space import NARROW_SPACE
from tune_resnet.config.sections import DataSpec, ModelSpec, TrainSpec
from tune_resnet.config.space import Space
from tune_resnet.config.spec import SearchSpec
from tune_resnet.config.toml import load_spec
from tune_resnet.data.types import Dataset, Split
from tune_resnet.training.loop import TrainingRun
from tune_resnet.training.metrics import EpochMetrics, NonFiniteLoss
from tune_resnet.training.optimizer import Adam

SPEC = TrainSpec(epochs=3, batch_size=30, seed=7)  # 6 steps per epoch
WIDTH = ModelSpec(width=4)
NARROW = SearchSpec(space=NARROW_SPACE)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Sums are then added up in one order."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tree(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Image files, 12 of each class."""
    root = tmp_path_factory.mktemp("tree")
    for label, name in enumerate(digits.classes):
        folder = root / "train" / name
        folder.mkdir(parents=True)
        for number, image in enumerate(digits.train.images[digits.train.labels == label][:12]):
            Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number}.png")
    return root


def command(tree: Path, out: Path, width: int = 4) -> list[str]:
    module = "experiments.benchmarks.early_stopping.curves"
    sizes = f"--limit-train 120 --width {width} --epochs 2 --configurations 2 --workers 1".split()
    return [sys.executable, "-m", module, "--data-dir", str(tree), "--out", str(out), *sizes]


def without_seconds(table: pd.DataFrame) -> pd.DataFrame:
    return table.loc[:, [not name.startswith("seconds_") for name in table.columns]].reset_index(drop=True)


def test_the_design_holds_the_reference_and_fills_the_space() -> None:
    points = curves.design(64, NARROW)
    assert points[0] == NARROW.reference
    assert len({tuple(point.values()) for point in points}) == 64
    for name, domain in NARROW_SPACE.items():
        place = [math.log(point[name] / domain.low) / math.log(domain.high / domain.low) for point in points[1:]]
        assert all(0 <= share < 1 for share in place)
        # what makes it a Sobol design: 64 of its points would put exactly 8 into each eighth
        assert {sum(int(share * 8) == eighth for share in place) for eighth in range(8)} == {7, 8}


def test_the_design_is_that_of_the_recorded_curves() -> None:
    recorded = pd.read_parquet(RESULTS / "curves" / "curves.parquet").drop_duplicates("configuration")
    points = pd.DataFrame(curves.design(64, NARROW)).loc[recorded["configuration"]]
    # The powers' last digit depends on the processor: AVX2 and AVX-512 differ in one of these values.
    np.testing.assert_allclose(recorded[list(NARROW_SPACE)], points, rtol=1e-15)


@pytest.mark.parametrize("space", [NARROW_SPACE, MIXED])
@pytest.mark.parametrize("count", [1, 2, 5, 63])
def test_a_smaller_design_is_the_start_of_a_larger_one(count: int, space: Space) -> None:
    spec = SearchSpec(train=TrainSpec(batch_size=90), space=space)
    assert curves.design(count, spec) == curves.design(64, spec)[:count]


def test_the_design_of_a_wide_space_has_all_kinds_of_values() -> None:
    spec = SearchSpec(train=TrainSpec(batch_size=90), space=MIXED)
    points = pd.DataFrame(curves.design(128, spec))
    assert points.iloc[0].to_dict() == spec.reference
    for name, domain in MIXED.items():
        assert all(domain.holds(value) for value in points[name].tolist()), name
    assert set(points["crop_padding"]) == set(range(9))
    assert points["schedule"].value_counts().tolist() == [64, 64]
    assert set(points.loc[points["optimizer"] == "adam", "momentum"]) == {0.9}
    assert points.loc[points["optimizer"] == "sgd", "momentum"].nunique() > 50
    for point in points.to_dict("records"):
        spec.configured({str(name): value for name, value in point.items()})


def test_a_wide_space_is_recorded_as_its_file_says(tree: Path, tmp_path: Path) -> None:
    wide = load_spec(regimes.REGIMES / "wide.toml")
    assert len(wide.space) == 8
    plan, configurations = regimes.plan_of(wide)
    assert configurations == len({run.configuration for run in plan}) == 96
    assert {run.epochs for run in plan} == {wide.train.epochs}
    spec = replace(wide, data=replace(small_spec(tree).data, limit_train=60), model=WIDTH)
    points = curves.design(configurations, spec)
    for run in (curves.Run(0, 0, 1), curves.Run(95, 0, 1)):
        assert curves.record(run, points[run.configuration], spec, tmp_path, regimes.free_rows) > 0
    table = pd.concat([pd.read_parquet(path) for path in sorted(tmp_path.glob("*.parquet"))])
    assert table[list(wide.space)].to_dict("records") == [points[0], points[95]]


def test_every_run_is_planned_once_and_every_configuration_first() -> None:
    runs = curves.planned(64, 8)
    assert len(runs) == len(set(runs)) == 64 + 24 * 3 + 16 * 2
    assert runs[:64] == [curves.Run(number, 0, 8) for number in range(64)]
    assert {(run.epochs, run.seed) for run in runs[64:96]} == {(8, 1), (8, 2)}
    assert {(run.epochs, run.seed) for run in runs[96:]} == {(1, 0), (2, 0), (4, 0)}
    assert len(curves.planned(2, 2)) == 2 + 2 * 1 + 2 * 2


def test_the_signals_leave_the_run_as_it_is_bit_for_bit(split: Split) -> None:
    plain, watched = TrainingRun(SPEC, split, model=WIDTH), signals.WatchedRun(SPEC, split, WIDTH)
    for _ in range(SPEC.epochs):
        metrics, row = plain.run_epoch(), watched.watched_epoch()
        assert (row["epoch"], row["lr"], row["train_loss"]) == (metrics.epoch, metrics.lr, metrics.train_loss)
        assert (row["val_loss"], row["val_accuracy"]) == (metrics.loss, metrics.accuracy)
    for expected, found in zip(tensors_of(plain), tensors_of(watched), strict=True):
        assert torch.equal(expected, found)


def tensors_of(run: TrainingRun) -> list[torch.Tensor]:
    moments = [tensor for tensors in run.optimizer.state_dict().values() for tensor in tensors]
    return [*run.model.state_dict().values(), *moments]


def test_the_average_weighs_every_step_by_its_age() -> None:
    weights = [torch.tensor([float(value)]) for value in (3, 1, 4, 1, 5)]
    average = signals._Average(4, [torch.tensor([100.0])])  # the initial weights do not count
    for weight in weights:
        average.update([weight])
    shares = [0.75**age for age in (4, 3, 2, 1, 0)]
    expected = sum(share * weight.item() for share, weight in zip(shares, weights, strict=True)) / sum(shares)
    assert average.tensors[0].item() == pytest.approx(expected, rel=1e-6)


def test_averages_of_a_single_step_are_the_run_itself(split: Split) -> None:
    row = signals.WatchedRun(replace(SPEC, batch_size=len(split.train)), split, WIDTH).watched_epoch()
    for horizon in signals.HORIZONS:
        assert row[f"ema{horizon}_val_accuracy"] == row["val_accuracy"]
        assert row[f"ema{horizon}_val_loss"] == pytest.approx(row["val_loss"], rel=1e-3)


def test_batch_statistics_are_those_of_training_mode_without_dropout(split: Split) -> None:
    watched = signals.WatchedRun(replace(SPEC, precision="fp32"), split, WIDTH)
    row = watched.watched_epoch()
    watched.model.train()
    dropout = watched.model.get_submodule("classifier.2")
    assert isinstance(dropout, torch.nn.Dropout)
    dropout.p = 0.0
    logits = watched.model(watched.normalise(watched.held_out.images))
    loss = torch.nn.functional.cross_entropy(logits, watched.held_out.labels)
    assert row["batch_stats_val_loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert row["batch_stats_val_loss"] != pytest.approx(row["val_loss"], rel=1e-2)


def test_reestimated_statistics_are_the_training_images_own(split: Split) -> None:
    watched = signals.WatchedRun(replace(SPEC, precision="fp32", batch_size=180), split, WIDTH)
    watched.watched_epoch()
    bench = watched.bench
    bench.reestimated(watched.model, watched.live)
    features = bench.model.get_submodule("conv1.0")(bench.normalise(bench.train_images.images))
    means = bench.model.get_buffer("conv1.1.running_mean")
    torch.testing.assert_close(means, features.mean((0, 2, 3)), atol=1e-4, rtol=1e-4)
    assert not torch.equal(means, watched.model.get_buffer("conv1.1.running_mean"))


def test_the_cool_down_runs_the_rate_to_zero_over_a_part_of_an_epoch(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = signals.WatchedRun(replace(SPEC, batch_size=10), split, WIDTH)  # 18 steps per epoch
    rates: list[float] = []

    step = Adam.step

    def noted_step(optimizer: Adam) -> None:
        if optimizer is watched.bench.optimizer:
            rates.append(float(optimizer.lr))
        step(optimizer)

    monkeypatch.setattr(Adam, "step", noted_step)
    row = watched.watched_epoch()
    assert rates == pytest.approx([row["lr"] * share for share in (0.8, 0.6, 0.4, 0.2)])
    assert row["cool_down_val_loss"] != row["val_loss"]


def test_a_loss_that_is_not_finite_ends_the_run_with_a_failed_row(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy = TrainingRun.run_epoch

    def run_epoch(self: TrainingRun) -> EpochMetrics:
        if self.epochs_done == 1:
            raise NonFiniteLoss(2, self.last)
        return healthy(self)

    monkeypatch.setattr(TrainingRun, "run_epoch", run_epoch)
    accuracy = curves.record(curves.Run(0, 0, 3), NARROW.reference, small_spec(tree), tmp_path)
    table = pd.read_parquet(tmp_path / "0-0-3.parquet")
    assert math.isnan(accuracy)
    assert table[["epoch", "failed"]].values.tolist() == [[1, False], [2, True]]
    assert table.filter(like="val_").isna().all(axis=1).tolist() == [False, True]


def small_spec(tree: Path) -> SearchSpec:
    data = DataSpec(dataset="folder", data_dir=str(tree), limit_train=120, validation_fraction=1 / 6)
    return SearchSpec(data=data, model=WIDTH, space=NARROW_SPACE)


@pytest.mark.slow
def test_a_killed_recording_continues_and_gives_the_whole_table(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "curves"
    killed = subprocess.Popen(command(tree, out), start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(out.glob("parts/[!.]*.parquet")):
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    saved = {file.name: file.read_bytes() for file in out.glob("parts/[!.]*.parquet")}
    first = pd.concat([pd.read_parquet(out / "parts" / name) for name in saved], ignore_index=True)

    monkeypatch.setattr(sys, "argv", command(tree, out)[2:])
    curves.main()
    text = capsys.readouterr().out
    table = pd.read_parquet(out / "curves.parquet")
    runs = curves.planned(2, 2)
    assert text.startswith(f"{len(saved)} runs are recorded, {len(runs) - len(saved)} are left")
    assert not (out / "parts").exists()
    assert len(table) == sum(run.epochs for run in runs)
    assert {curves.Run(*key) for key in table[curves.KEY].itertuples(index=False)} == set(runs)
    pd.testing.assert_frame_equal(table.merge(first), first.sort_values([*curves.KEY, "epoch"], ignore_index=True))

    curves.record(runs[1], curves.design(2, NARROW)[1], small_spec(tree), tmp_path)
    again = without_seconds(pd.read_parquet(tmp_path / "1-0-2.parquet"))
    pd.testing.assert_frame_equal(
        without_seconds(table.query("configuration == 1 and seed == 0 and total_epochs == 2")), again
    )

    monkeypatch.setattr(sys, "argv", command(tree, out, width=5)[2:])
    with pytest.raises(SystemExit, match=r"^error: .*choose another --out"):
        curves.main()


def test_the_readme_explains_every_column(tree: Path, tmp_path: Path) -> None:
    curves.record(curves.Run(0, 0, 1), NARROW.reference, small_spec(tree), tmp_path)
    lines = (ROOT / "experiments" / "results" / "curves" / "README.md").read_text().splitlines()
    cells = [line.split("|")[1] for line in lines if line.startswith("| `")]
    explained = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    assert set(explained) == set(pd.read_parquet(tmp_path / "0-0-1.parquet").columns)


def test_a_regime_s_rows_are_a_plain_run_s_and_end_with_unused_images(tree: Path) -> None:
    data = DataSpec(dataset="folder", data_dir=str(tree), limit_train=60, validation_fraction=0.5)
    spec = SearchSpec(data=data, model=WIDTH, train=replace(SPEC, batch_size=10))
    rows = list(regimes.free_rows(spec))
    split, unused = regimes.used_and_unused(data)
    plain = TrainingRun(spec.train, split, model=WIDTH)
    for row in rows:
        metrics = plain.run_epoch().columns("val")
        assert {name: row[name] for name in ("train_loss", "val_loss", "val_accuracy")} == {
            name: metrics[name] for name in ("train_loss", "val_loss", "val_accuracy")
        }
    assert ["unused_accuracy" in row for row in rows] == [False, False, True]
    assert unused is not None
    used = {image.tobytes() for part in (split.train, split.held_out) for image in part.images}
    assert len(unused) == 60
    assert not used & {image.tobytes() for image in unused.images}


def test_every_regime_is_planned() -> None:
    real_searches_only = {"digits", "wide-digits", "gtsrb-tracks", "cifar10-5000"}
    assert {path.stem for path in regimes.REGIMES.glob("*.toml")} == {*regimes.ORDER} | real_searches_only
    for name in regimes.ORDER:
        assert load_spec(regimes.REGIMES / f"{name}.toml").data.data_dir is not None
