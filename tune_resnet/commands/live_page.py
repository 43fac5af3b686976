"""The page of a run, written again and again while a command is at work in the run, and once more at its end."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from tune_resnet.errors import RecordError
from tune_resnet.runs.directory import RunDirectory

EVERY = 30  # seconds from one page to the next, and from one look of a browser to the next
_LEAST_SHARE = 20  # times as long as the last page took is the pause after it: of many trials it takes seconds
_LOOK = 1.0  # seconds between two looks for news


class LivePage:
    """Writes a run's page in a thread for the time of the block, when the run has something new on record. Whoever
    ends the run writes the last one, with `written_report`; after an error it is written here.

    The first comes after the first epoch: the page needs seconds of imports, which would delay the start. A page that
    cannot be made or written is left out: nothing about it may end the block, or delay it.
    """

    def __init__(self, run: RunDirectory) -> None:
        self.run, self.page = run, run.path / "report.html"
        self.shown = _changed(self.page) or self._recorded()
        self.every: float = EVERY
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._write_on, daemon=True)

    def words(self) -> str:
        """Where it is, for a person."""
        return f"watch       {self.run.shown_path / self.page.name}, written again about every {EVERY} s"

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.over.set()
        self.thread.join()
        if isinstance(error, Exception) and self.page.exists():
            with suppress(Exception):
                written_report(self.run.path, at_its_end=True)

    def _write_on(self) -> None:
        pause = _LOOK
        while not self.over.wait(pause):
            pause = self._look()

    def _look(self) -> float:
        """Writes the page where there is something new. The seconds until the next look."""
        recorded = self._recorded()
        if recorded <= self.shown:
            return _LOOK
        self.shown = recorded
        with suppress(Exception):
            from tune_resnet.results.page import write_report

            began = time.monotonic()
            write_report([self.run.path], reload_seconds=round(self.every))
            self.every = max(EVERY, _LEAST_SHARE * (time.monotonic() - began))
        return self.every

    def _recorded(self) -> int:
        """When something was recorded last, in nanoseconds of Unix time."""
        return max(map(_changed, (self.run.epochs_csv, self.run.confirm_csv)))


def _changed(path: Path) -> int:
    """When a file was written last, in nanoseconds of Unix time; 0: it is not there."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def written_report(path: Path, *, at_its_end: bool = False) -> str:
    """Writes the run's report, see `write_report`; its path, or why there is none."""
    from tune_resnet.results.page import write_report

    try:
        return str(write_report([path], at_its_end=at_its_end))
    except RecordError as error:
        return f"none: {error}"
