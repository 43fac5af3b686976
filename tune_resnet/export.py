"""A run's best model for other programs: `python -m tune_resnet.export RUN --format onnx` (or torch)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tune_resnet._text import printable
from tune_resnet.commands.options import run_parser
from tune_resnet.errors import exit_code_of
from tune_resnet.hpo.models import chosen_model
from tune_resnet.runs.find import find_run
from tune_resnet.training.exported_model import COMPARED_IMAGES, FORMATS, SUFFIXES, export
from tune_resnet.training.saved_model import load_model


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code, see `exit_code_of`."""
    parser = run_parser("export", "Writes a run's best model for other programs.")
    parser.add_argument("--format", choices=tuple(FORMATS), default="onnx", help="default onnx; torch: torch.export")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="default model.onnx or model.pt2 in RUN/best or RUN/final/best"
    )
    parser.add_argument("--model", metavar="MODULE:FUNCTION", help="import your own network, if the run used one")
    options = parser.parse_args(arguments)
    return exit_code_of(lambda: _write(options))


def _write(options: argparse.Namespace) -> None:
    chosen = chosen_model(find_run(options.run))
    model = load_model(chosen.path, options.model)
    path = options.out or chosen.place / f"model{SUFFIXES[options.format]}"
    if not options.out:
        chosen.place.mkdir(exist_ok=True)
    difference = export(model, path, options.format)
    print(
        f"wrote {printable(path)}, {chosen.whose}; "
        f"on {COMPARED_IMAGES} random images its probabilities differ by at most {difference:.1g}"
    )


if __name__ == "__main__":
    sys.exit(main())
