"""Prints what runs have found, while they go on too: `python -m tune_resnet.analysis RUN [RUN ...]`.

For use from Python, the DataFrames and the answers drawn from them are importable from here as well.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tune_resnet._text import output_console, printable, say
from tune_resnet.commands.options import positive, run_parser
from tune_resnet.errors import exit_code_of
from tune_resnet.hpo.ranking import best_trials, estimates, ranked_trials, winner
from tune_resnet.results.comparison import Comparison, compare_to_reference
from tune_resnet.results.early_stopping import rung_table
from tune_resnet.results.fidelity import fidelity, run_fidelity
from tune_resnet.results.importance import importance
from tune_resnet.results.sentences import comparison_sentence
from tune_resnet.results.tables import print_fidelity, print_overview, print_run, ranked_table
from tune_resnet.runs.load import RunFrames, accuracy_column, load_frames
from tune_resnet.runs.merge import export_csv, export_parquet, merge_runs, run_labels

__all__ = [
    "Comparison",
    "RunFrames",
    "accuracy_column",
    "best_trials",
    "compare_to_reference",
    "comparison_sentence",
    "estimates",
    "fidelity",
    "importance",
    "load_frames",
    "main",
    "merge_runs",
    "ranked_table",
    "ranked_trials",
    "run_fidelity",
    "rung_table",
    "winner",
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code, see `exit_code_of`."""
    options = _parser().parse_args(arguments)
    return exit_code_of(lambda: _print(options))


def _print(options: argparse.Namespace) -> None:
    runs = list({run.path: run for run in map(load_frames, options.runs)}.values())  # each once
    written = []
    if options.csv:
        written += export_csv(merge_runs(runs), options.csv)
    if options.parquet:
        written += export_parquet(merge_runs(runs), options.parquet)
    console = output_console()
    for run, label in zip(runs, run_labels(runs), strict=True):
        print_run(console, run, label, options.top)
    if len(runs) > 1:
        print_overview(console, runs)
    if options.fidelity:
        for run, label in zip(runs, run_labels(runs), strict=True):
            print_fidelity(console, run, label)
    for path in written:
        say(console, f"wrote {printable(path)}")


def _parser() -> argparse.ArgumentParser:
    parser = run_parser("analysis", "Prints what runs have found.", several=True)
    parser.add_argument("--top", type=positive, default=10, metavar="N", help="trials shown of each run (default 10)")
    parser.add_argument("--fidelity", action="store_true", help="also print how far early signals could be trusted")
    parser.add_argument("--csv", type=Path, metavar="DIR", help="write all trials and epochs to this folder as CSV")
    parser.add_argument(
        "--parquet", type=Path, metavar="DIR", help="write all trials and epochs to this folder as Parquet"
    )
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # whoever reads the output may have enough of it
    sys.exit(main())
