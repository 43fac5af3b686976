"""A network with weights from a file and frozen layers, as experiments/USING.md shows it."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from factories import ROOT
from torch import Tensor, nn

from tune_resnet import export, predict
from tune_resnet.config.sections import DataSpec, ModelSpec, TrainSpec
from tune_resnet.data.load import load_dataset
from tune_resnet.data.split import search_split
from tune_resnet.data.types import Split
from tune_resnet.search import main
from tune_resnet.training.loop import TrainingRun
from tune_resnet.training.model import check_network
from tune_resnet.training.saved_model import load_model

PAGE = (ROOT / "experiments" / "USING.md").read_text()
SHOWN = PAGE[PAGE.index("## Fine-tuning") :]
BLOCK = re.match(r"(?:    .*\n|\n)+", SHOWN[SHOWN.index("    from pathlib") :])
COMMAND = next(line.strip() for line in SHOWN.splitlines() if "--model finetuned:" in line)
QUICK = "--limit-train 200 --epochs 2 --num-samples 2 --device cpu --name fine"
OWN = ModelSpec(factory="finetuned:network")
State = Mapping[str, Tensor]


@pytest.fixture(scope="module")
def learnt() -> State:
    """What the example's backbone has learnt elsewhere."""
    layers = [nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3)]
    generator = torch.Generator().manual_seed(0)
    state = nn.Sequential(*layers).state_dict()
    for tensor in state.values():
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (0.1 if tensor.is_floating_point() else 100))
    return state


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, learnt: State) -> Path:
    """A folder with the example's network and its weights."""
    folder = tmp_path_factory.mktemp("finetuned")
    assert BLOCK is not None
    (folder / "finetuned.py").write_text(textwrap.dedent(BLOCK[0]))
    torch.save(learnt, folder / "backbone.pt")
    return folder


@pytest.fixture(autouse=True)
def importable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)


@pytest.fixture(scope="module")
def large() -> Split:
    """180 training and 20 validation images of 64 pixels."""
    spec = DataSpec(dataset="digits", image_size=64, limit_train=200)
    return search_split(load_dataset(spec), spec)


def is_unchanged(state: State, learnt: State) -> bool:
    return all(torch.equal(state[f"0.{name}"], tensor) for name, tensor in learnt.items())


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_frozen_weights_stay_and_the_others_learn(optimizer: str, large: Split, learnt: State) -> None:
    """To the bit, also in the average of the weights; and a run goes on from its state as if unbroken."""
    check_network(OWN, len(large.classes), 64)
    spec = TrainSpec(
        epochs=2, batch_size=45, max_lr=0.001, optimizer=optimizer, weight_decay=0.01, ema_decay=0.9, precision="fp32"
    )  # fmt: skip
    unbroken, begun, resumed = (TrainingRun(spec, large, model=OWN) for _ in range(3))
    losses = [unbroken.run_epoch().train_loss for _ in range(2)]
    assert losses[-1] < losses[0]
    for network in (unbroken.model, unbroken.judged):
        assert is_unchanged(network.state_dict(), learnt)
    begun.run_epoch()
    resumed.load_state_dict(begun.state_dict())
    assert resumed.run_epoch().train_loss == losses[1]
    for name, tensor in unbroken.judged.state_dict().items():
        assert torch.equal(tensor, resumed.judged.state_dict()[name]), name


@pytest.mark.slow
def test_the_example_is_searched_finalized_and_used(
    learnt: State, folder: Path, on_cluster: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    _, arguments = COMMAND.split("python -m tune_resnet.search")
    named = ["--model", str(OWN.factory)]
    assert on_cluster(*shlex.split(arguments), *QUICK.split()) == 0
    assert main(["--finalize", "runs/fine", *named]) == 0
    for model in ("best", "final/best"):
        found = load_model(folder / "runs" / "fine" / model / "model.safetensors", OWN.factory)
        assert found.size == 64
        assert is_unchanged(found.network.state_dict(), learnt), model
    Image.new("RGB", (90, 70)).save("black.png")
    capsys.readouterr()
    assert predict.main(["runs/fine", "black.png", *named]) == 0
    assert "black.png: " in capsys.readouterr().out
    assert export.main(["runs/fine", "--format", "torch", *named, "--out", "it.pt2"]) == 0
