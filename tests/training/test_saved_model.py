"""A model's file: whole, or an error of the system's kind."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from tune_resnet.config.sections import ModelSpec
from tune_resnet.data.types import Split
from tune_resnet.training.saved_model import save_model


def test_what_cannot_be_written_is_the_systems_error_whatever_the_library_raises(split: Split, tmp_path: Path) -> None:
    """Only such an error ends a search in order; any other is taken for one of the trial."""
    with pytest.raises(OSError, match=r"cannot write it\.safetensors"):
        save_model(tmp_path / "gone" / "it.safetensors", nn.Linear(1, 1), split, ModelSpec(width=1))
