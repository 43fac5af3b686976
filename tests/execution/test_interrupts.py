"""How a command answers the signals that ask for its end, and what it prints where nobody reads."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tune_resnet.execution.interrupts import (
    ENDING,
    end_by,
    lasting_output,
    on_ending_signal,
    restored_handlers,
    sighup_kept_from_children,
    signal_of,
)


@pytest.fixture(autouse=True)
def same_handlers() -> Iterator[None]:
    """Whatever happens, the signals do afterwards what they did before."""
    before = [signal.getsignal(number) for number in ENDING]
    with restored_handlers():
        yield
    assert [signal.getsignal(number) for number in ENDING] == before


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", ENDING)
def test_each_signal_is_heard_and_known_by_what_it_raises(number: int) -> None:
    with pytest.raises((KeyboardInterrupt, SystemExit)) as raised, on_ending_signal(end_by):
        send(number)
    assert isinstance(raised.value, KeyboardInterrupt | SystemExit)
    assert signal_of(raised.value) == number


def test_a_signal_is_answered_inside_once_then_outside() -> None:
    inside: list[int] = []
    outside: list[int] = []
    with on_ending_signal(outside.append):
        with on_ending_signal(inside.append, once=True):
            send(signal.SIGTERM)
            send(signal.SIGINT)
        send(signal.SIGTERM)
    assert (inside, outside) == ([signal.SIGTERM], [signal.SIGINT, signal.SIGTERM])


@pytest.mark.parametrize("first", ENDING)
def test_a_terminal_that_is_closed_after_any_signal_changes_nothing(first: int) -> None:
    inside: list[int] = []
    outside: list[int] = []
    with on_ending_signal(outside.append):
        with on_ending_signal(inside.append, once=True):
            for number in (first, signal.SIGHUP):
                send(number)
        send(signal.SIGHUP)
    assert (inside, outside) == ([first], [])


def test_a_terminal_that_is_closed_changes_nothing_under_nohup() -> None:
    heard: list[int] = []
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with on_ending_signal(heard.append), on_ending_signal(heard.append, once=True):
        send(signal.SIGHUP)
        send(signal.SIGTERM)
        send(signal.SIGHUP)
    assert heard == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def test_children_do_not_hear_of_a_closed_terminal() -> None:
    with sighup_kept_from_children():
        assert signal.SIGHUP in signal.pthread_sigmask(signal.SIG_BLOCK, set())
    assert signal.SIGHUP not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def test_what_nobody_reads_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1, closefd=False) as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        monkeypatch.setattr(sys, "stderr", gone)
        with lasting_output():
            print("nothing")
            print("nothing", file=sys.stderr, flush=True)
            assert not sys.stdout.isatty()
        with pytest.raises(BrokenPipeError):
            gone.close()
    os.close(writer)
