"""The command line of `python -m tune_resnet.search`, turned into a search, and what the other command lines share.
Light, so that --help is quick."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

from tune_resnet.commands.request import LOGGERS, found_run, own_spec_file
from tune_resnet.commands.run import Search
from tune_resnet.config.hyperparameters import ARGUMENT, HYPERPARAMETERS, argument_from_text, from_text
from tune_resnet.config.sections import SECTIONS
from tune_resnet.config.space import Value
from tune_resnet.config.toml import spec_with_settings
from tune_resnet.config.validation import Arguments, SpecError, flag_of, nearest
from tune_resnet.runs.find import RUNS

_EPILOG = """\
tune-resnet runs [DIR] lists the runs in a folder.
Flags override the file of --experiment. Exit codes: 0 done, 1 the search failed, 2 bad input, 130 interrupted (Ctrl-C),
143 terminated, 129 the terminal was closed."""

FIXED = "fixed"  # in the place of bounds: not varied


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SpecError(message)


def _seconds(text: str) -> float:
    """`90`, `90s`, `30m` or `1.5h` as seconds."""
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([smh]?)", text.strip())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration such as 90s, 30m or 1.5h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def _domain(text: str) -> tuple[str, dict[str, Any]]:
    """`max_lr=1e-3:1e-1`, `batch_size=100:800:100` or `batch_size=100,200,400` as a name and its table, which is empty
    of `batch_size=fixed`."""
    name, _, values = text.partition("=")
    bounds = values.split(":")
    try:
        if name and len(bounds) in (2, 3):
            return name, dict(zip(("low", "high", "step"), map(float, bounds), strict=False))
    except ValueError:
        pass
    if ":" not in values and (name in HYPERPARAMETERS or name.startswith(ARGUMENT)):
        if values == FIXED:
            return name, {}
        if "," in values:
            return name, {"choices": [from_text(name, one) for one in values.split(",")]}
    raise argparse.ArgumentTypeError(
        f"{text!r} is not NAME=LOW:HIGH or NAME=LOW:HIGH:STEP, as max_lr=1e-3:1e-1, nor NAME=ONE,OTHER or NAME={FIXED}"
    )


def _argument(text: str) -> tuple[str, Value]:
    """`hidden=128` as a name and its value."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, as hidden=128")
    return name, argument_from_text(value)


def _space(domains: list[tuple[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Tables by name; SpecError where a name comes twice."""
    space: dict[str, dict[str, Any]] = {}
    for name, table in domains:
        if name in space:
            raise SpecError(f"--space names {name} twice")
        space[name] = table
    return space


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if re.fullmatch(r"[0-9]{1,18}", text) is None or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def run_parser(module: str, about: str, *, several: bool = False) -> argparse.ArgumentParser:
    """The beginning of the command line of a module that takes a `run`, or `runs` where it takes several."""
    parser = argparse.ArgumentParser(prog=f"python -m tune_resnet.{module}", description=about, allow_abbrev=False)
    parser.add_argument(
        "runs" if several else "run", nargs="+" if several else None, type=Path, metavar="RUN",
        help="a run: its directory, its name in runs/, or latest",
    )  # fmt: skip
    return parser


def _pairs(text: str) -> int:
    if re.fullmatch(r"-?\d{1,9}", text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seeds; a run is named by --resume")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m tune_resnet.search",
        usage="%(prog)s [options]",
        description="Finds ResNet9 hyperparameters that beat the reference (0.01, 1e-4, 0.1; 8 epochs) on your images."
        "\nTo begin: python -m tune_resnet.search --data-dir DIR --dry-run",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    _add_what(parser.add_argument_group("what to run; RUN is a run's directory, its --name, or latest"))
    for section, kind in SECTIONS.items():
        group, hints = parser.add_argument_group(f"settings [{section}]"), get_type_hints(kind)
        for item in fields(kind):
            _add_setting(group, section, item, hints[item.name])
    return parser


def _add_what(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--experiment", type=Path, metavar="FILE.toml", help="settings to start from")
    group.add_argument(
        "--space", type=_domain, nargs="+", action="extend", metavar="NAME=LOW:HIGH",
        help="what to vary: between bounds, in steps (NAME=LOW:HIGH:STEP), or among values (NAME=ONE,OTHER); "
        f"NAME={FIXED}: not this; with --resume: a wider space",
    )  # fmt: skip
    group.add_argument("--dry-run", action="store_true", help="print the plan and its estimated time, then stop")
    group.add_argument("--baseline", action="store_true", help="train the reference alone, judged on the test set")
    group.add_argument("--resume", type=Path, metavar="RUN", help="go on with this run; or --confirm its winner")
    group.add_argument(
        "--confirm", type=_pairs, nargs="?", const=True, metavar="N",
        help="train winner and reference again with N fresh seeds, or until it is clear which is better, and compare "
        "them on the test set; with --resume: also at another --width, --limit-train or --epochs",
    )  # fmt: skip
    group.add_argument(
        "--finalize", type=Path, metavar="RUN",
        help="train the winner for use, validation images included; also at another --width, --limit-train or --epochs",
    )  # fmt: skip
    group.add_argument("--trial", type=int, metavar="N", help="with --finalize: train this trial instead")
    group.add_argument(
        "--warm-start", type=Path, nargs="+", metavar="RUN", help="learn from earlier runs, or try their best first"
    )
    group.add_argument("--address", metavar="HOST:PORT", help="join this Ray cluster instead of starting one here")
    group.add_argument("--log", nargs="+", choices=LOGGERS, metavar="NAME", help=f"also log to {', '.join(LOGGERS)}")
    group.add_argument("--runs-dir", type=Path, metavar="DIR", help=f"folder for run directories (default {RUNS})")


def _add_setting(group: argparse._ArgumentGroup, section: str, item: Field[Any], kind: Any) -> None:
    """The flag of one setting of the spec."""
    about, flag = item.metadata["about"], flag_of(item)
    if kind == Arguments:
        group.add_argument(
            flag, dest=f"{section}.{item.name}", help=about, type=_argument, nargs="+", metavar="NAME=VALUE"
        )
        return
    wanted = next(one for one in (get_args(kind) or (kind,)) if one is not type(None))
    if item.default is not None:
        about += f" (default {str(item.default).lower() if wanted is bool else item.default})"
    metavar = "|".join(item.metadata.get("choices", ())) or {int: "N", float: "X"}.get(wanted, "NAME")
    how: dict[str, Any] = {"type": wanted, "metavar": item.metadata.get("metavar", metavar)}
    if wanted is bool:
        how = {"action": argparse.BooleanOptionalAction}
    elif item.metadata.get("seconds"):
        how = {"type": _seconds, "metavar": "T"}
    group.add_argument(flag, dest=f"{section}.{item.name}", help=about, **how)


def parse_options(arguments: Sequence[str]) -> Search:
    """The search in a command line. SpecError, one line, where it is wrong; SystemExit(0) after --help."""
    parser = _parser()
    known, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise SpecError(_about_unknown(unknown[0], parser))
    given = vars(known)
    settings = {name: given.pop(name) for name in list(given) if "." in name}
    if "model.args" in settings:
        settings["model.args"] = dict(settings["model.args"])
    space = _space(given.pop("space", []))
    experiment, runs_dir = given.pop("experiment", None), given.get("runs_dir", RUNS)
    run = given.get("resume") or given.get("finalize")
    if run is not None:
        if experiment is not None:
            raise SpecError("--experiment does not go with an existing run: its own spec.toml says what it is")
        experiment = own_spec_file(found_run(run, runs_dir))
    spec = spec_with_settings(experiment, settings, space, resumed=run is not None)
    return Search(spec, command=shlex.join(["python", "-m", "tune_resnet.search", *arguments]), **given)


def parse_runs(arguments: Sequence[str]) -> Path:
    """The folder of whose runs `tune-resnet runs` is asked. SpecError, one line, where the command line is wrong;
    SystemExit(0) after --help."""
    parser = _Parser(
        prog="tune-resnet runs",
        description="Lists the runs in a folder: state, trials ended, best estimate, verdict of the confirmation.",
        allow_abbrev=False,
    )
    parser.add_argument("folder", type=Path, nargs="?", default=RUNS, metavar="DIR", help=f"default: {RUNS}")
    known, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise SpecError(f"runs takes one folder of runs, got {shlex.join(arguments)}")
    if known.folder != RUNS and not os.path.isdir(known.folder):
        raise SpecError(f"there is no folder {known.folder}")
    return Path(known.folder)


def _about_unknown(argument: str, parser: argparse.ArgumentParser) -> str:
    name = argument.partition("=")[0].lstrip("-")
    flags = [flag.lstrip("-") for action in parser._actions for flag in action.option_strings]
    close = nearest(name, flags).replace("'", "'--", 1) if argument.startswith("-") else ""
    return f"unknown argument {argument!r}{close}"
