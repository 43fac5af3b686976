"""Writes runs as one HTML page: `python -m tune_resnet.report RUN [RUN ...]`, while they go on too."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tune_resnet._text import printable
from tune_resnet.commands.live_page import EVERY
from tune_resnet.commands.options import run_parser
from tune_resnet.errors import exit_code_of
from tune_resnet.results.page import write_report
from tune_resnet.runs.directory import SEARCH
from tune_resnet.runs.find import find_run
from tune_resnet.runs.load import load_frames


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code, see `exit_code_of`."""
    parser = run_parser("report", "Writes runs as one HTML page.", several=True)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the page (default RUN/report.html; ./report.html for several)"
    )
    options = parser.parse_args(arguments)
    return exit_code_of(lambda: _write(options.runs, options.out))


def _write(paths: Sequence[Path], out: Path | None) -> None:
    """Writes the page. A browser that shows it loads it again where somebody goes on writing it: a search in its own
    directory or, on a terminal, this command as long as the only run goes on."""
    runs = [find_run(path) for path in paths]  # `latest` may be another one later
    alone = load_frames(runs[0]) if len(runs) == 1 else None
    goes_on = alone is not None and alone.active
    by_search = alone is not None and alone.kind == SEARCH and out is None
    here = goes_on and not by_search and sys.stdout.isatty()
    print(f"wrote {printable(write_report(runs, out, reload_seconds=EVERY if by_search or here else 0))}")
    if here:
        print(f"it is written again every {EVERY} s until the run ends; Ctrl-C ends that sooner")
        with suppress(KeyboardInterrupt):
            while load_frames(runs[0]).active:
                time.sleep(EVERY)
                write_report(runs, out, reload_seconds=EVERY)
    if here or (goes_on and not load_frames(runs[0]).active):  # it may have ended while its page was written
        write_report(runs, out)


if __name__ == "__main__":
    sys.exit(main())
