"""What a run's best model sees in image files: `python -m tune_resnet.predict RUN IMAGE [IMAGE ...]`."""

from __future__ import annotations

import argparse
import csv
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tune_resnet._text import as_json, counted, percent, printable
from tune_resnet.commands.options import positive, run_parser
from tune_resnet.data.image_file import image_files
from tune_resnet.data.image_tree import part_of
from tune_resnet.errors import exit_code_of
from tune_resnet.hpo.models import chosen_model
from tune_resnet.runs.find import find_run
from tune_resnet.training.saved_model import TrainedModel, file_probabilities, load_model

_TOP = 3  # classes shown of an image to a person


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code, see `exit_code_of`."""
    options = _parser().parse_args(arguments)
    return exit_code_of(lambda: _print(options))


def _print(options: argparse.Namespace) -> None:
    chosen = chosen_model(find_run(options.run))
    model = load_model(chosen.path, options.model)
    found = [(named, path) for named in options.images for path in image_files(named)]
    paths = [path for _, path in found]
    rows = file_probabilities(model, paths)
    if options.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["file", *map(printable, model.classes)])
        writer.writerows([printable(path), *row.tolist()] for path, row in zip(paths, rows, strict=True))
        return
    top = options.top or (len(model.classes) if options.json else _TOP)
    ranked = [_likeliest(model, row, top) for row in rows]
    if options.json:
        files = [{"file": str(path), "classes": dict(best)} for path, best in zip(paths, ranked, strict=True)]
        print(as_json(files))
        return
    print(f"model: {chosen.whose}")
    for path, best in zip(paths, ranked, strict=True):
        shown = ", ".join(f"{printable(name)} {percent(share)}" for name, share in best)
        print(f"{printable(path)}: {shown}")
    if line := _accuracy_line(found, rows, model.classes):
        print(line)


def _accuracy_line(found: Sequence[tuple[Path, Path]], rows: np.ndarray, classes: Sequence[str]) -> str:
    """How many of the images are of the class that their folder is named after; empty where no folder is. `found` has
    what was named and the image: a single file that was named is not counted."""
    judged = [
        (_class_of(path, named, classes), classes[row.argmax()])
        for (named, path), row in zip(found, rows, strict=True)
        if path != named
    ]
    known = [label == seen for label, seen in judged if label is not None]
    if not known:
        return ""
    right, others = sum(known), len(judged) - len(known)
    left_out = f"; {counted(others, 'image')} in other folders left out" if others else ""
    images = counted(len(known), "image")
    return f"accuracy: {percent(right / len(known))}, {right} of {images} in folders named after a class{left_out}"


def _class_of(path: Path, folder: Path, classes: Sequence[str]) -> str | None:
    """The class of an image below a folder: the first folder on the way to it that is named after one, else the folder
    itself; None where neither is."""
    way = path.relative_to(folder).parts[:-1]
    if len(way) > 1 and part_of(way[0]) and way[1] in classes:  # train/CLASS, even where a class is called train
        way = way[1:]
    return next((name for name in (*way, folder.name) if name in classes), None)


def _likeliest(model: TrainedModel, row: np.ndarray, count: int) -> list[tuple[str, float]]:
    """The names and probabilities of the `count` likeliest classes, the likeliest first."""
    places = np.argsort(-row, kind="stable")[:count]
    return [(model.classes[place], float(row[place])) for place in places]


def _parser() -> argparse.ArgumentParser:
    about = "Prints what a run's best model sees in image files: the likeliest classes of each."
    parser = run_parser("predict", about)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image files of any size, or folders")
    parser.add_argument(
        "--top", type=positive, metavar="K", help=f"print the K likeliest classes (default {_TOP}; with --json all)"
    )
    parser.add_argument("--model", metavar="MODULE:FUNCTION", help="import your own network, if the run used one")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print them as JSON, by default all classes")
    form.add_argument("--csv", action="store_true", help="print every class's probability, as CSV")
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # whoever reads the output may have enough of it
    sys.exit(main())
