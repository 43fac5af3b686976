"""A trial's process where a GPU's memory is short; on the CPU, where the same errors are raised on purpose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tune_resnet.config.sections import ModelSpec, ResourceSpec, TrainSpec
from tune_resnet.config.spec import SearchSpec
from tune_resnet.data.types import Split
from tune_resnet.execution.trainable import TrialTrainable
from tune_resnet.execution.training_pool import Trainer
from tune_resnet.runs.directory import RunDirectory
from tune_resnet.training.device import OUT_OF_MEMORY, limit_to_share, resolved
from tune_resnet.training.loop import TrainingRun

SPEC = resolved(
    SearchSpec(model=ModelSpec(width=2), train=TrainSpec(epochs=2, batch_size=60, max_lr=1e-3)), "cpu", "fp32"
)


class InProcess(TrialTrainable):
    """A trial as Ray makes and calls it, in this process."""

    def setup(self, config: dict[str, Any]) -> None:  # type: ignore[override]
        super().setup(_trial(0), SPEC, config["data"], config["path"])
        self.config = _trial(0)


def _trial(number: int) -> dict[str, Any]:
    return {"trial": number, **SPEC.reference}


FULL = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
)


def full_gpu(patch: pytest.MonkeyPatch, where: str, error: Exception = FULL[0]) -> None:
    """The first call of a method of a training finds no memory, the others do."""
    method = getattr(TrainingRun, where)

    def fails(*arguments: Any, **settings: Any) -> Any:
        patch.setattr(TrainingRun, where, method)
        raise error

    patch.setattr(TrainingRun, where, fails)


@pytest.mark.parametrize("error", FULL)
@pytest.mark.parametrize(("where", "epochs"), [("__init__", 0), ("_train", 0), ("_evaluate", 1)])
def test_a_trial_that_has_no_room_on_the_gpu_fails_at_once_and_the_next_is_trained(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, epochs: int, error: Exception
) -> None:
    run = RunDirectory.create(tmp_path / "run", SPEC)
    if epochs == 0:
        full_gpu(monkeypatch, where, error)
    trial = InProcess(config={"data": split, "path": run.path})
    for _ in range(epochs):
        assert "failure" not in trial.train()
    if epochs:
        full_gpu(monkeypatch, where, error)
    result = trial.train()
    assert (result["failure"], result["epoch"], result["done"]) == (OUT_OF_MEMORY, epochs, True)
    assert trial.reset(_trial(1))
    assert [trial.train()["done"] for _ in range(2)] == [False, True]
    trial.stop()
    assert [path.name for path in run.checkpoints.iterdir()] == [run.model_of(1).name]


@pytest.mark.parametrize("where", ["__init__", "_train"])
def test_a_training_without_a_search_that_has_no_room_is_not_tried_again(
    where: str, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(SPEC, split)
    full_gpu(monkeypatch, where)
    outcome = trainer.epoch(SPEC, tmp_path / "first.pt")
    assert (outcome["error"], outcome["done"], "test_accuracy" in outcome) == (OUT_OF_MEMORY, True, False)
    assert trainer.epoch(SPEC, tmp_path / "second.pt")["epochs"] == 1


@pytest.mark.parametrize(
    ("device", "share", "limit"), [("cuda", 0.25, [0.25]), ("cuda", 1.0, []), ("cuda", None, []), ("cpu", 0.0, [])]
)
def test_a_share_of_a_gpu_is_a_share_of_its_memory(
    monkeypatch: pytest.MonkeyPatch, device: str, share: float | None, limit: list[float]
) -> None:
    found: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", found.append)
    limit_to_share(ResourceSpec(device=device, gpus_per_trial=share))
    assert found == limit


def test_it_is_limited_before_a_trial_begins(split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Limited(Exception):
        pass

    def limited(share: float) -> None:
        raise Limited(share)

    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limited)
    spec = replace(SPEC, resources=ResourceSpec(device="cuda", gpus_per_trial=0.5))
    with pytest.raises(Limited):
        TrialTrainable.setup(object.__new__(TrialTrainable), _trial(0), spec, split, tmp_path)
    with pytest.raises(Limited):
        Trainer(spec, split)
