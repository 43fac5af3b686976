"""The page while a command is at work in its run."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from factories import Build, Page

from tune_resnet.commands import live_page
from tune_resnet.commands.live_page import LivePage
from tune_resnet.results import page as pages
from tune_resnet.runs.tables import FINISHED, STOPPED


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    monkeypatch.setattr(live_page, "_LOOK", 0.01)
    return Build(tmp_path / "run")


def soon(holds: Callable[[], bool]) -> bool:
    for _ in range(1000):
        if holds():
            return True
        time.sleep(0.01)
    return False


def test_a_page_is_there_after_the_first_epoch_and_loads_itself_again(build: Build) -> None:
    path = build.directory.path / "report.html"
    with build.directory.lock(), LivePage(build.directory) as page:
        assert str(path) in page.words()
        time.sleep(0.1)
        assert not path.exists()
        build.trial([0.5], STOPPED)
        assert soon(path.exists)
        assert "the run was still running" in Page(path).text
        assert "every 30 seconds" in Page(path).text
    assert live_page.written_report(build.directory.path, at_its_end=True) == str(path)
    assert "data-reload" not in Page(path).attributes


def test_a_command_that_fails_leaves_a_page_that_is_at_rest(build: Build) -> None:
    path = build.directory.path / "report.html"

    def command() -> None:
        with build.directory.lock(), LivePage(build.directory):
            build.trial([0.5, 0.6, 0.7, 0.8], FINISHED)
            assert soon(path.exists)
            raise ValueError("a network")

    with pytest.raises(ValueError, match="a network"):
        command()
    assert "data-reload" not in Page(path).attributes


def test_what_is_wrong_with_a_page_ends_nothing(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def full_disk(paths: list[Path], *, reload_seconds: int) -> None:
        tried.append(reload_seconds)
        raise MemoryError

    monkeypatch.setattr(pages, "write_report", full_disk)
    monkeypatch.setattr(live_page, "EVERY", 0)
    with LivePage(build.directory) as page:
        for number in (1, 2):
            build.trial([0.5], STOPPED)
            assert soon(lambda number=number: len(tried) == number)  # type: ignore[misc]
        assert page.thread.is_alive()


def test_pages_that_take_long_come_seldom(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "write_report", lambda paths, reload_seconds: time.sleep(0.1))
    monkeypatch.setattr(live_page, "EVERY", 1)
    page = LivePage(build.directory)
    assert page._look() == 0.01  # nothing is new
    time.sleep(0.01)
    build.trial([0.5], STOPPED)
    assert page._look() >= 2
    assert page._look() == 0.01
