"""The signals that ask a command to end: Ctrl-C, the end of a job, a terminal that is closed; and output that nobody
reads any more after that."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console

    from tune_resnet.execution.callbacks import StopRequest

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def end_by(number: int) -> NoReturn:
    """Raises what a signal that ends a command raises in it: KeyboardInterrupt for Ctrl-C, else SystemExit."""
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


def signal_of(end: KeyboardInterrupt | SystemExit) -> int:
    """The signal for which `end_by` raised this; SIGTERM for any other SystemExit, which is Ray's answer to that."""
    if isinstance(end, KeyboardInterrupt):
        return signal.SIGINT
    return next((number for number in ENDING if end.code == 128 + number), signal.SIGTERM)


@contextmanager
def on_ending_signal(act: Callable[[int], None], *, once: bool = False) -> Iterator[None]:
    """In the block, calls `act` with the number of each signal that asks for the end. With `once`: of the
    first only; whatever answered before the block answers the next.

    After any of them SIGHUP means nothing more: whoever closes a terminal has often pressed Ctrl-C before, and a shell
    passes SIGHUP on that the system sends again when the shell has ended. Where SIGHUP is ignored, as nohup has it, it
    stays so.
    """
    handler = _Handler(act, once)
    with restored_handlers() as handler.before:
        ignored = (signal.SIGHUP, signal.SIG_IGN)
        _set({number: handler for number, before in handler.before.items() if (number, before) != ignored})
        yield


@contextmanager
def restored_handlers() -> Iterator[dict[int, Any]]:
    """The handlers of these signals, which are put back after the block."""
    before: dict[int, Any] = {number: signal.getsignal(number) for number in ENDING}
    try:
        yield before
    finally:
        _set(before)


@contextmanager
def sighup_kept_from_children() -> Iterator[None]:
    """Processes that are started in the block never hear SIGHUP; this one hears it after the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Handler:
    """Answers the signals of a block within, perhaps, the block of another."""

    def __init__(self, act: Callable[[int], None], once: bool) -> None:
        self.act, self.once, self.called = act, once, False
        self.before: dict[int, Any] = {}

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP and self.called:
            return
        self.note()
        if self.once:
            _set({other: before for other, before in self.before.items() if other != signal.SIGHUP})
        self.act(number)

    def note(self) -> None:
        """Notes, here and in the blocks around this one, that there has been a signal."""
        self.called = True
        for outer in self.before.values():
            if isinstance(outer, _Handler):
                outer.note()


def _set(handlers: dict[int, Any]) -> None:
    """Of the main thread only: in another, which hears no signals, Python allows no handler."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def lasting_output() -> Iterator[None]:
    """In the block, what nobody can read any more (the terminal is closed, the pipe's reader has gone) is dropped: it
    must not keep a command from its work."""
    with redirect_stdout(cast(TextIO, _Lasting(sys.stdout))), redirect_stderr(cast(TextIO, _Lasting(sys.stderr))):
        yield


class _Lasting:
    """A stream on which writing never fails."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def signals_to(end: StopRequest, console: Console) -> Iterator[None]:
    """The first signal that asks for the end ends the command in order; the second acts as it always does."""

    def on_signal(number: int) -> None:
        end.signal = number
        console.print("Ending: what is being trained is interrupted, results are kept. Interrupt again to end at once.")

    with on_ending_signal(on_signal, once=True):
        yield
