"""A model's file: whole, or an error of the system's kind."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from tune_resnet.config.sections import ModelSpec
from tune_resnet.data.types import Split
from tune_resnet.training.saved_model import save_model


def test_what_cannot_be_written_is_the_systems_error(split: Split, tmp_path: Path) -> None:
    """Only such an error ends a search in order; any other is taken for one of the trial."""
    with pytest.raises(FileNotFoundError):
        save_model(tmp_path / "gone" / "it.safetensors", nn.Linear(1, 1), split, ModelSpec(width=1))


def test_who_may_read_a_run_may_read_its_models(split: Split, tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    save_model(tmp_path / "it.safetensors", nn.Linear(1, 1), split, ModelSpec(width=1))
    assert (tmp_path / "it.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode
