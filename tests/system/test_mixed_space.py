"""A search over numbers, whole numbers, choices and a condition: run, gone on with, read, confirmed, used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from factories import MIXED, SEARCH

from tune_resnet import export, report
from tune_resnet.analysis import main as analysis
from tune_resnet.config.sections import BudgetSpec, DataSpec, ModelSpec, ResourceSpec, SchedulerSpec, TrainSpec
from tune_resnet.config.space import Domain
from tune_resnet.config.spec import SearchSpec
from tune_resnet.config.toml import load_spec
from tune_resnet.data.load import load_dataset
from tune_resnet.data.split import search_split
from tune_resnet.hpo.ranking import winner
from tune_resnet.runs.load import load_frames
from tune_resnet.runs.merge import merge_runs
from tune_resnet.training.loop import TrainingRun
from tune_resnet.training.saved_model import load_model, probabilities

SPACE = {**MIXED, "model.width": Domain(low=2, high=8, log=True)}
SPEC = SearchSpec(
    data=DataSpec(dataset="digits", limit_train=200, flip=False),
    model=ModelSpec(width=4),
    train=TrainSpec(epochs=2, batch_size=90, precision="fp32", ema_decay=0.9),
    space=SPACE,
    search=BudgetSpec(num_samples=6, name="it"),
    scheduler=SchedulerSpec(name="none"),
    resources=ResourceSpec(device="cpu"),
    points_to_evaluate=({"optimizer": "sgd", "momentum": 0.95, "schedule": "cosine", "crop_padding": 2},),
)


@pytest.mark.slow
def test_a_search_over_all_kinds_of_hyperparameters(
    tmp_path: Path, on_cluster: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "spec.toml").write_text(SPEC.to_toml())
    run, runs = tmp_path / "it", ["--runs-dir", str(tmp_path)]
    assert on_cluster("--experiment", tmp_path / "spec.toml", *runs) == 0
    assert on_cluster("--resume", "it", "--num-samples", 8, *runs) == 0
    frames = load_frames(run)
    assert frames.spec.space == SPACE
    (again,) = frames.env["resumed"]
    assert (again["device_name"], again["precision"]) == ("a CPU", "fp32")
    trials = frames.trials.set_index("trial")
    point = {"optimizer": "sgd", "momentum": 0.95, "schedule": "cosine", "crop_padding": 2}
    assert {name: trials.at[1, name] for name in point} == point
    assert set(trials.loc[trials["optimizer"] == "adam", "momentum"]) == {0.9}
    assert len(trials) == 8
    assert all(
        trials[name].nunique() > 1 for name in ("batch_size", "schedule", "decoupled_decay", "optimizer", "model.width")
    )
    data = search_split(load_dataset(SPEC.data), SPEC.data)
    for row in trials.reset_index().to_dict("records")[:3]:  # each value reaches the training
        torch.set_num_threads(1)
        spec = frames.config(row["trial"])
        alone = TrainingRun(spec.train, data, model=spec.model, flip=spec.data.flip)
        losses = [alone.run_epoch().train_loss for _ in range(2)]
        assert frames.epochs.loc[frames.epochs["trial"] == row["trial"], "train_loss"].tolist() == losses

    best = winner(frames)
    assert best is not None
    kept, config = load_spec(run / "best" / "spec.toml"), frames.config(best["trial"])
    assert (kept.train, kept.model, kept.data.flip) == (config.train, config.model, config.data.flip)
    assert config.model.width == best["model.width"]
    found = probabilities(load_model(run / "best" / "model.safetensors"), data.held_out.images).argmax(1)
    assert (found == data.held_out.labels).mean() == best["val_accuracy"]  # what is kept is what was judged
    capsys.readouterr()
    merged = merge_runs([frames, load_frames(SEARCH)]).trials  # a recorded search of the usual space
    assert merged.loc[merged["run"] == "it", list(MIXED)].to_dict("records") == frames.trials[list(MIXED)].to_dict(
        "records"
    )
    assert set(merged.loc[merged["run"] != "it", "optimizer"]) == {"adam"}
    assert analysis([str(run), str(SEARCH), "--fidelity"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in MIXED)
    assert report.main([str(run)]) == 0
    page = (run / "report.html").read_text()
    assert all(f"Accuracy over {name}" in page for name in MIXED)
    assert export.main([str(run), "--format", "torch"]) == 0
    if not best["reference"]:
        assert on_cluster("--resume", "it", "--confirm", 2, *runs) == 0
        confirmed = load_frames(run).confirm
        assert len(confirmed) == 4
        assert set(confirmed["optimizer"]) <= {"adam", "sgd"}
    wider = replace(SPEC, search=BudgetSpec(num_samples=2, name="again"))
    (tmp_path / "again.toml").write_text(wider.to_toml())
    assert on_cluster("--experiment", tmp_path / "again.toml", "--warm-start", "it", "--dry-run", *runs) == 0
    assert "8 trials known" in capsys.readouterr().out
