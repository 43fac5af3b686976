"""Data that several tests train on: few, small, real images."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from faults import FAULTS, summary

from tune_resnet.data import Dataset, Split, load_dataset, search_split
from tune_resnet.spec import DataSpec


@pytest.fixture(autouse=True)
def no_user_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests neither read nor fill the cache folder of whoever runs them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_dataset(DataSpec(dataset="digits"))


@pytest.fixture(scope="session")
def split(digits: Dataset) -> Split:
    """180 training and 20 validation images."""
    return search_split(digits, DataSpec(dataset="digits", limit_train=200))


@pytest.fixture(scope="session")
def photos() -> Path:
    """The folder with the CIFAR-10 photographs."""
    folder = os.environ.get("TUNE_RESNET_PHOTOS")
    if not folder:
        pytest.skip("TUNE_RESNET_PHOTOS does not name the folder of the CIFAR-10 photographs")
    return Path(folder)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The faults that the searches of this test run have survived."""
    if injected := config.stash.get(FAULTS, []):
        terminalreporter.section("faults")
        terminalreporter.write_line(summary(injected))
