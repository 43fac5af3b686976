"""Writes runs as one HTML page: `python -m tune_resnet.report RUN [RUN ...]`, while they go on too."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tune_resnet._text import printable
from tune_resnet.errors import exit_code_of
from tune_resnet.results.page import write_report


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code: 0, or 2 after one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m tune_resnet.report", description="Writes runs as one HTML page.", allow_abbrev=False
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="a run: its directory, its name in runs/, or latest"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the page (default RUN/report.html; ./report.html for several)"
    )
    options = parser.parse_args(arguments)
    return exit_code_of(lambda: print(f"wrote {printable(write_report(options.runs, options.out))}"))


if __name__ == "__main__":
    sys.exit(main())
