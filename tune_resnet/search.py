"""`python -m tune_resnet.search`: a spec becomes a run directory. See `--help`. `runs [DIR]` lists those there are."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from tune_resnet._text import output_console, printable, say
from tune_resnet.commands.options import parse_options, parse_runs
from tune_resnet.commands.run import carry_out
from tune_resnet.errors import exit_code_of
from tune_resnet.execution.interrupts import end_by, lasting_output, on_ending_signal, signal_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code: 0 done, 1 failed, 2 bad input, 128 + n ended by signal n."""
    with lasting_output():
        return _run(sys.argv[1:] if arguments is None else arguments)


def _run(arguments: Sequence[str]) -> int:
    started = time.time()
    received: list[int] = []  # the exceptions that signals raise may be swallowed on their way by what they interrupt

    def on_signal(number: int) -> None:
        received.append(number)
        end_by(number)

    console = output_console()
    with on_ending_signal(on_signal):
        try:
            code = exit_code_of(lambda: _carried_out(arguments, console, started))
        except KeyboardInterrupt:
            code = 128 + signal.SIGINT
        except SystemExit as end:
            if not received and end.code != signal.SIGTERM:  # as Ray itself ends while it starts
                raise
            code = 128 + signal_of(end)
    return 128 + received[0] if received else code


def _carried_out(arguments: Sequence[str], console: Console, started: float) -> int:
    """Does what a command line asks for; the exit code."""
    if arguments and arguments[0] == "runs":
        _list_runs(parse_runs(arguments[1:]), console)
        return 0
    return carry_out(parse_options(arguments), console, started).exit_code


def _list_runs(folder: Path, console: Console) -> None:
    from tune_resnet.results.runs_list import runs_table

    table = runs_table(folder)
    if table.row_count:
        console.print(table)
    else:
        say(console, f"there is no run in {printable(folder)}")


def process() -> NoReturn:
    """What a shell starts."""
    exit_code = main()
    with lasting_output():
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(exit_code)  # at once: a thread may be in the middle of imports that nobody waits for any more


if __name__ == "__main__":
    process()
