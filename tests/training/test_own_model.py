"""The user's own network, by import string: as experiments/README.md shows it, and what is wrong with others."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from factories import ROOT

from tune_resnet import predict
from tune_resnet.commands.options import parse_options
from tune_resnet.config.default_space import default_space
from tune_resnet.config.sections import ModelSpec, ResourceSpec, TrainSpec
from tune_resnet.config.space import Domain
from tune_resnet.config.spec import SearchSpec
from tune_resnet.config.toml import load_spec
from tune_resnet.config.validation import SpecError
from tune_resnet.data.types import ImageSet, Split
from tune_resnet.hpo.ranking import winner
from tune_resnet.runs.load import load_frames
from tune_resnet.search import main
from tune_resnet.training.loop import TrainingRun
from tune_resnet.training.model import ModelError, build_network, check_network
from tune_resnet.training.saved_model import ModelFileError, load_model, save_model
from tune_resnet.training.speed import measure_here, measure_speed

PAGE = (ROOT / "experiments" / "README.md").read_text()
SHOWN = PAGE[PAGE.index("## Your own network") :]
BLOCK = re.match(r"(?:    .*\n|\n)+", SHOWN[SHOWN.index("    from torch") :])
COMMAND = next(line.strip() for line in SHOWN.splitlines() if "--model nets:" in line)
QUICK = "--limit-train 200 --epochs 2 --num-samples 8 --seed 1 --max-concurrent 1 --device cpu --name own"
OTHERS = """
import torch
from torch import nn

def broken(num_classes):
    raise RuntimeError("not\\ntoday")

def no_module(num_classes):
    return num_classes

def nine(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 9))

class Raises(nn.Module):
    def forward(self, images):
        raise RuntimeError("not on these")

def forward_raises(num_classes):
    return nn.Sequential(Raises())

def two_kinds(num_classes):
    return nn.LSTM(32, 4)

def for_others(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(100, num_classes))

def no_weights(num_classes):
    return nn.Sequential(nn.AvgPool2d(32), nn.Flatten(), nn.ZeroPad1d((0, num_classes - 3)))

def frozen(num_classes):
    return linear(num_classes).requires_grad_(False)

class PartlyIdle(nn.Linear):
    def __init__(self, num_classes):
        super().__init__(3072, num_classes)
        self.aside = nn.Linear(3, 4)

    def forward(self, images):
        return super().forward(images.flatten(1))

def partly_idle(num_classes):
    return PartlyIdle(num_classes)

def linear(num_classes):
    return nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(3072, num_classes), nn.BatchNorm1d(num_classes))

class InTraining(nn.Module):
    # Linear, so that it passes where it is tried on two images; then `act` is called with each batch.

    def __init__(self, num_classes, act):
        super().__init__()
        self.linear, self.act = nn.Linear(3072, num_classes), act

    def forward(self, images):
        logits = self.linear(images.flatten(1))
        return logits if len(images) == 2 else self.act(logits)

class Backward(torch.autograd.Function):
    @staticmethod
    def forward(context, logits):
        return logits.clone()

    @staticmethod
    def backward(context, gradient):
        raise ValueError("no way back")

def refuse(logits):
    raise ValueError(f"not\\n{len(logits)}")

def no_words(logits):
    assert len(logits) == 2

def raises(num_classes):
    return InTraining(num_classes, refuse)

def asserts(num_classes):
    return nn.Sequential(InTraining(num_classes, no_words))

def raises_back(num_classes):
    return InTraining(num_classes, Backward.apply)

def fills_memory(num_classes):
    return InTraining(num_classes, lambda logits: logits + torch.zeros(1 << 55))

def too_deep(num_classes):
    return InTraining(num_classes, nn.Linear(3, 4).requires_grad_(False))

def not_finite(num_classes):
    return InTraining(num_classes, lambda logits: logits / 0)

not_a_function = 3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example's network and worse ones."""
    folder = tmp_path_factory.mktemp("own")
    assert BLOCK is not None
    (folder / "nets.py").write_text(textwrap.dedent(BLOCK[0]))
    (folder / "other_nets.py").write_text(OTHERS)
    return folder


@pytest.fixture(scope="module")
def searched(folder: Path) -> Path:
    """The run that the example's command leaves, with fewer images and epochs."""
    words = shlex.split(COMMAND.replace("python", sys.executable, 1)) + shlex.split(QUICK)
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stderr) == (0, "")
    assert "model       nets:small (channels=16); 2 epochs" in done.stdout
    assert "--model nets:small" in done.stdout[done.stdout.index("\nrun  ") :]  # of the next commands
    return folder / "runs" / "own"


@pytest.fixture
def importable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)


@pytest.mark.slow
def test_the_example_searches_its_own_space_with_its_own_network(searched: Path) -> None:
    run = load_frames(searched)
    assert run.spec.model == ModelSpec(factory="nets:small", args={"channels": 16})
    assert run.spec.space == {**default_space(run.spec.train), "model.args.channels": Domain(low=4, high=64, log=True)}
    assert set(run.trials["state"]) <= {"finished", "stopped"}
    channels = run.trials.set_index("trial")["model.args.channels"]
    assert channels[0] == 16
    assert channels.nunique() > 1
    assert channels.between(4, 64).all()
    best = winner(run)
    assert best is not None
    own = ModelSpec(factory="nets:small", args={"channels": best["model.args.channels"]})
    assert load_spec(searched / "best" / "spec.toml").model == own == run.config(best["trial"]).model


@pytest.mark.slow
@pytest.mark.usefixtures("importable")
def test_its_model_predicts_where_the_network_is_named_again(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    Image.new("RGB", (32, 32)).save(tmp_path / "black.png")
    assert predict.main([str(searched), str(tmp_path / "black.png")]) == 2
    assert "it is nets:small: --model nets:small imports it" in capsys.readouterr().err
    assert predict.main([str(searched), str(tmp_path / "black.png"), "--model", "nets:small"]) == 0
    assert "black.png: " in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("importable")
def test_code_that_only_a_file_names_is_not_imported(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--resume", str(searched)], ["--experiment", str(searched / "spec.toml"), "--dry-run"]):
        assert main(arguments) == 2
        assert (
            "spec.toml uses a network of your own: --model nets:small allows it to be imported"
            in capsys.readouterr().err
        )
    assert main(["--resume", str(searched), "--model", "other_nets:linear"]) == 2
    assert "uses nets:small: --model other_nets:linear does not go with it" in capsys.readouterr().err
    assert main(["--resume", str(searched), "--model", "nets:small"]) == 0
    assert "8 of 8 trials ended" in capsys.readouterr().out


def test_another_network_than_the_files_has_no_width_of_it(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[model]\nwidth = 16\n")
    given = ["--experiment", str(tmp_path / "a.toml"), "--model", "a.b:c"]
    assert parse_options(given).spec.model == ModelSpec(factory="a.b:c")
    with pytest.raises(SpecError, match=r"model\.width is a setting of ResNet9 only, so it does not go with a.b:c"):
        parse_options([*given, "--width", "8"])


@pytest.mark.parametrize("name", ["", "a", "a:", ":b", "a:b:c", "a.:b", "a b:c", "os;x:y", "../a:b", "a:b()"])
def test_an_import_string_is_of_names_only(name: str) -> None:
    with pytest.raises(SpecError, match=r"model\.factory must"):
        ModelSpec(factory=name)


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("no_such_nets:small", "ModuleNotFoundError: No module named 'no_such_nets'"),
        ("other_nets:missing", "AttributeError: module 'other_nets' has no attribute 'missing'"),
        ("other_nets:not_a_function", "TypeError: 'int' object is not callable"),
        ("other_nets:broken", "RuntimeError: not today"),
        ("other_nets:no_module", "must make a torch.nn.Module, made int"),
        ("other_nets:nine", r"must give logits \(2, 10\), gave \(2, 9\)"),
        ("other_nets:two_kinds", r"on images \(2, 3, 32, 32\): "),
        ("other_nets:for_others", r"on images \(2, 3, 32, 32\): RuntimeError: mat1 and mat2 shapes"),
        ("other_nets:frozen", "has nothing to train: no parameter with requires_grad on"),
        ("other_nets:partly_idle", r": aside\.weight and 1 more do not lead to its logits; set requires_grad = False"),
        ("other_nets:no_weights", "has nothing to train: no parameter with requires_grad on"),
    ],
)  # fmt: skip
def test_a_network_that_would_not_train_is_a_clear_error(factory: str, message: str) -> None:
    with pytest.raises(ModelError, match=f"^--model {factory}.*{message}"):
        check_network(ModelSpec(factory=factory), 10)


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize(
    ("factory", "place"), [("broken", "broken"), ("forward_raises", "forward"), ("no_such", ""), ("two_kinds", "")]
)
def test_where_a_network_raised_is_said_of_own_code_only(folder: Path, factory: str, place: str) -> None:
    with pytest.raises(ModelError) as caught:
        check_network(ModelSpec(factory=f"other_nets:{factory}"), 10)
    expected = rf" \({re.escape(str(folder))}/other_nets.py, line \d+, in {place}\)$"
    assert bool(re.search(expected, str(caught.value))) is bool(place), caught.value
    assert place or "line" not in str(caught.value)


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize(
    ("factory", "message", "place"),
    [
        ("raises", "ValueError: not 100", "refuse"),
        ("asserts", "AssertionError", "no_words"),
        ("raises_back", "ValueError: no way back", "backward"),
        ("fills_memory", "RuntimeError: .*allocate memory.*", "<lambda>"),
        ("too_deep", "RuntimeError: mat1 and mat2 shapes.*", "forward"),
    ],
)
def test_a_network_that_raises_in_training_is_one_line_with_its_place(
    factory: str, message: str, place: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dataset", "digits", "--limit-train", "200", "--model", f"other_nets:{factory}", "--device", "cpu"]
    assert main([*arguments, "--baseline", "--runs-dir", str(tmp_path)]) == 2
    expected = f"error: --model other_nets:{factory}, while a few steps were timed: {message} "
    where = rf"\({re.escape(str(folder))}/other_nets.py, line \d+, in {place}\)\n"
    assert re.fullmatch(expected + where, capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("importable")
def test_a_network_whose_loss_is_not_finite_is_timed_all_the_same(split: Split) -> None:
    """Its trials are going to say so."""
    own = ModelSpec(factory="other_nets:not_finite")
    assert measure_speed(TrainSpec(precision="fp32"), split, torch.device("cpu"), own).images_per_second > 0


def test_after_the_timing_a_process_has_as_many_threads_as_before(split: Split) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        measure_here(SearchSpec(model=ModelSpec(width=1), resources=ResourceSpec(device="cpu")), split)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("importable")
def test_no_batch_is_timed_that_is_smaller_than_those_of_a_training(split: Split) -> None:
    """A network with batch norm at its end cannot train on one image, as 101 less a batch of 100 would be."""
    images = ImageSet(split.train.images[:101], split.train.labels[:101])
    data, own = replace(split, train=images), ModelSpec(factory="other_nets:linear")
    assert measure_speed(TrainSpec(precision="fp32"), data, torch.device("cpu"), own).images_per_second > 0


@pytest.mark.usefixtures("importable")
def test_a_wrong_network_is_found_before_ray_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dataset", "digits", "--model", "other_nets:nine", "--name", "none"]) == 2
    assert capsys.readouterr().err.startswith("error: --model other_nets:nine must give logits (2, 10)")


@pytest.mark.usefixtures("importable")
def test_a_reset_run_of_an_own_network_equals_a_fresh_one(split: Split) -> None:
    spec, own = TrainSpec(epochs=2, batch_size=45, precision="fp32"), ModelSpec(factory="other_nets:linear")
    reused = TrainingRun(spec, split, model=own)
    reused.run_epoch()
    other = replace(spec, seed=5, max_lr=0.003)
    reused.reset(other)
    fresh = TrainingRun(other, split, model=own)
    for _ in range(2):
        assert replace(reused.run_epoch(), seconds=0, images_per_second=0) == replace(
            fresh.run_epoch(), seconds=0, images_per_second=0
        )
    for name, tensor in fresh.model.state_dict().items():
        assert torch.equal(tensor, reused.model.state_dict()[name]), name


@pytest.mark.usefixtures("importable")
def test_a_model_file_names_its_network(split: Split, tmp_path: Path) -> None:
    own = ModelSpec(factory="other_nets:linear")
    save_model(tmp_path / "own.safetensors", build_network(own, 10), split, own)
    save_model(tmp_path / "ours.safetensors", build_network(ModelSpec(width=2), 10), split, ModelSpec(width=2))
    assert load_model(tmp_path / "own.safetensors", "other_nets:linear").classes == split.classes
    with pytest.raises(ModelFileError, match="it is ResNet9, width 2: it takes no --model"):
        load_model(tmp_path / "ours.safetensors", "other_nets:linear")
    with pytest.raises(ModelFileError, match="--model other_nets:linear imports it"):
        load_model(tmp_path / "own.safetensors", "other_nets:nine")
