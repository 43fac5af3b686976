"""The command line of `python -m tune_resnet.search`, turned into a spec. Light, so that --help is quick."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tune_resnet._text import to_install
from tune_resnet.config.space import DEFAULT_SPACE, check_grown, with_bounds
from tune_resnet.config.spec import (
    DATASETS,
    DEVICES,
    LEAST_SEEDS,
    PRECISIONS,
    SAMPLERS,
    SCHEDULERS,
    TUNABLE,
    SearchSpec,
    load_tables,
    spec_from_tables,
)
from tune_resnet.config.validation import SpecError, nearest
from tune_resnet.errors import RecordError
from tune_resnet.runs.directory import LATEST, RUNS, find_run

_EPILOG = """\
Hyperparameters (learning rate, weight decay, gradient clip) and their bounds are set in the TOML file of --experiment;
see experiments/*.toml. Flags override the file. Exit codes: 0 done, 1 the search failed, 2 bad input,
130 interrupted (Ctrl-C), 143 terminated, 129 the terminal was closed."""

_MODULES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}  # what each logger imports
_PACKAGES = {**_MODULES, "mlflow": "mlflow-skinny"}  # what brings it: the whole mlflow wants an older pyarrow
LOGGERS = tuple(_MODULES)

_WITH_RESUME = {  # a run's own spec says what it is; these say how far to go, where its images are, and how to train
    "resume", "finalize", "trial", "confirm", "address", "runs_dir", "dry_run", "log", "search.num_samples",
    "search.time_budget", "space", "data.data_dir", "model.factory", "resources.device", "resources.cpus_per_trial",
    "resources.gpus_per_trial", "resources.max_concurrent",
}  # fmt: skip
_SIZE = {"model.width", "data.limit_train", "train.epochs"}  # what a confirmation may have otherwise
_NOT_WITH_CONFIRM = {"dry_run", "search.num_samples", "search.time_budget", "space"}  # of those
_NOT_WITH_FINALIZE = {"resume", "confirm", "address", "log", "search.num_samples", "search.time_budget", "space"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to do with which spec."""

    command: str  # what a shell runs to have it done
    spec: SearchSpec
    baseline: bool
    confirm: bool
    pairs: int | None  # of seeds, to confirm with; None: until the verdict is clear
    warm_start: list[Path]  # directories of earlier runs
    finalize: Path | None  # the run directory whose winner is to be trained on all images
    trial: int | None  # ... or this trial of it
    resume: Path | None  # the run directory to continue, or with `confirm` to confirm as it is; None: a new run's
    dry_run: bool
    runs_dir: Path
    address: str | None
    log: list[str]  # of LOGGERS


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SpecError(message)


def _seconds(text: str) -> float:
    """`90`, `90s`, `30m` or `1.5h` as seconds."""
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([smh]?)", text.strip())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration such as 90s, 30m or 1.5h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def _domain(text: str) -> tuple[str, dict[str, float]]:
    """`max_lr=1e-3:1e-1` as a name and its table."""
    match = re.fullmatch(r"(\w+)=([^:]+):([^:]+)", text)
    try:
        if match:
            return match[1], {"low": float(match[2]), "high": float(match[3])}
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not NAME=LOW:HIGH, as max_lr=1e-3:1e-1")


def _space(domains: list[tuple[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Tables by name; SpecError where a name comes twice."""
    space: dict[str, dict[str, float]] = {}
    for name, table in domains:
        if name in space:
            raise SpecError(f"--space names {name} twice")
        space[name] = table
    return space


def _pairs(text: str) -> int:
    if re.fullmatch(r"-?\d{1,9}", text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seeds; a run is named by --resume")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m tune_resnet.search",
        description="Finds ResNet9 hyperparameters that beat the reference (0.01, 1e-4, 0.1, 8 epochs) on your images.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    what = parser.add_argument_group("what to run")
    what.add_argument("--experiment", type=Path, metavar="FILE.toml", help="settings to start from")
    what.add_argument("--baseline", action="store_true", help="one run of the reference on the full training set")
    what.add_argument(
        "--confirm",
        type=_pairs,
        nargs="?",
        metavar="N",
        help="then compare winner and reference on the test set, with fresh seeds: N each, or until it is clear",
    )
    what.add_argument(
        "--resume",
        type=Path,
        metavar="RUN",
        help="go on with this run (its directory or --name, or latest); with --confirm: judge it, at another --width, "
        "--limit-train or --epochs if you like",
    )
    what.add_argument(
        "--finalize", type=Path, metavar="RUN", help="train its winner on all training images; judge it on the test set"
    )
    what.add_argument("--trial", type=int, metavar="N", help="with --finalize: this trial instead of the winner")
    what.add_argument(
        "--warm-start", type=Path, nargs="+", metavar="RUN", help="learn from earlier runs, or try their best first"
    )
    what.add_argument("--dry-run", action="store_true", help="print the plan and its estimated time, then stop")
    what.add_argument("--num-samples", type=int, dest="search.num_samples", metavar="N", help="trials (default 32)")
    what.add_argument(
        "--time-budget", type=_seconds, dest="search.time_budget", metavar="T", help="end after 90s, 30m or 1.5h"
    )
    what.add_argument("--sampler", dest="search.sampler", metavar="NAME", help="|".join(SAMPLERS))
    what.add_argument("--scheduler", dest="scheduler.name", metavar="NAME", help="|".join(SCHEDULERS))
    what.add_argument("--epochs", type=int, dest="train.epochs", metavar="N", help="epochs per trial (default 8)")
    what.add_argument("--batch-size", type=int, dest="train.batch_size", metavar="N", help="images (default 400)")
    what.add_argument("--width", type=int, dest="model.width", metavar="N", help="channels of ResNet9 (default 64)")
    what.add_argument(
        "--model",
        dest="model.factory",
        metavar="MODULE:FUNCTION",
        help="your own network instead; see experiments/README.md",
    )
    what.add_argument(
        "--space",
        type=_domain,
        nargs="+",
        action="extend",
        metavar="NAME=LOW:HIGH",
        help="other bounds; with --resume: wider ones",
    )
    what.add_argument("--seed", type=int, dest="train.seed", metavar="N", help="for training and sampler (default 0)")
    data = parser.add_argument_group("data")
    data.add_argument("--dataset", dest="data.dataset", metavar="NAME", help="|".join(DATASETS))
    data.add_argument(
        "--data-dir", dest="data.data_dir", metavar="DIR", help="folder with train/<class>/*, or with CIFAR-10"
    )
    data.add_argument(
        "--limit-train", type=int, dest="data.limit_train", metavar="N", help="use only N training images"
    )
    where = parser.add_argument_group("where and how")
    where.add_argument("--device", dest="resources.device", metavar="NAME", help="|".join(DEVICES))
    where.add_argument("--precision", dest="train.precision", metavar="NAME", help="|".join(PRECISIONS))
    where.add_argument(
        "--cpus-per-trial", type=float, dest="resources.cpus_per_trial", metavar="N", help="and threads (default 1)"
    )
    where.add_argument(
        "--gpus-per-trial",
        type=float,
        dest="resources.gpus_per_trial",
        metavar="N",
        help="0.5: two trials share one GPU",
    )
    where.add_argument(
        "--max-concurrent",
        type=int,
        dest="resources.max_concurrent",
        metavar="N",
        help="trials at once (default: as many as fit)",
    )
    where.add_argument("--address", metavar="HOST:PORT", help="join this Ray cluster instead of starting one here")
    where.add_argument("--log", nargs="+", choices=LOGGERS, metavar="NAME", help="|".join(LOGGERS))
    where.add_argument(
        "--name", dest="search.name", metavar="NAME", help="of the run directory (default: data set and time)"
    )
    where.add_argument("--runs-dir", type=Path, metavar="DIR", help="folder for run directories (default runs)")
    return parser


def parse_options(arguments: Sequence[str]) -> Options:
    """The options in a command line. SpecError, one line, where it is wrong; SystemExit(0) after --help."""
    parser = _parser()
    known, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise SpecError(_about_unknown(unknown[0], parser))
    given = vars(known)
    _check_together(given)
    runs_dir = given.get("runs_dir", RUNS)
    for key in ("resume", "finalize"):
        if key in given:
            given[key] = _found(given[key], runs_dir)
    known_run = given.get("resume") or given.get("finalize")
    settings = {key: value for key, value in given.items() if "." in key}
    if known_run and "resources.device" in settings:
        settings.setdefault("resources.gpus_per_trial", None)  # the run's own share is of the device it had
    space = _space(given.get("space", []))
    spec = _resolve(_spec_file(given, known_run), settings, space, resumed=known_run is not None)
    if spec.search.name == LATEST and known_run is None:
        raise SpecError(f"a run cannot be called {LATEST}: that word means the run that was started last")
    return Options(
        command=shlex.join(["python", "-m", "tune_resnet.search", *arguments]),
        spec=spec,
        baseline=given.get("baseline", False),
        confirm="confirm" in given,
        pairs=given.get("confirm"),
        warm_start=[_found(run, runs_dir) for run in given.get("warm_start", [])],
        finalize=given.get("finalize"),
        trial=given.get("trial"),
        resume=given.get("resume"),
        dry_run=given.get("dry_run", False),
        runs_dir=runs_dir,
        address=given.get("address"),
        log=given.get("log", []),
    )


def _check_together(given: dict[str, Any]) -> None:
    """SpecError where --confirm or --resume is wrong, or does not go with another flag."""
    if given.get("confirm") is not None and given["confirm"] < LEAST_SEEDS:
        raise SpecError(f"--confirm must be at least {LEAST_SEEDS} seeds, got {given['confirm']}")
    if "confirm" in given and "baseline" in given:
        raise SpecError("--confirm needs the winner of a search: --baseline has none")
    if "warm_start" in given and "baseline" in given:
        raise SpecError("--warm-start needs a search: --baseline proposes nothing")
    for name in given.get("log", []):
        if importlib.util.find_spec(_MODULES[name]) is None:
            raise SpecError(f"--log {name} needs a package: {to_install(_PACKAGES[name])}")
    if "trial" in given and "finalize" not in given:
        raise SpecError("--trial goes with --finalize: it names the trial to train")
    if "resume" not in given and "finalize" not in given:
        return
    command = "finalize" if "finalize" in given else "resume"
    for key in given:
        flag = key.rpartition(".")[2].replace("_", "-")
        if key not in _WITH_RESUME | (_SIZE if "confirm" in given else set()):
            raise SpecError(f"--{flag} does not go with --{command}: the run's own spec.toml says what it is")
        if "finalize" in given and key in _NOT_WITH_FINALIZE:
            raise SpecError(f"--{flag} does not go with --finalize")
        if "confirm" in given and key in _NOT_WITH_CONFIRM:
            raise SpecError(f"--{flag} does not go with --resume and --confirm: go on first, then confirm")


def _found(run: Path, runs_dir: Path) -> Path:
    try:
        return find_run(run, runs_dir)
    except RecordError as error:
        raise SpecError(error) from None


def _spec_file(given: dict[str, Any], known_run: Path | None) -> Path | None:
    """The file that the settings start from."""
    if known_run is None:
        return given.get("experiment")
    path = known_run / "spec.toml"
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe, say, would be waited for
        raise SpecError(f"cannot read {path}: not a regular file")
    return path


def _check_factory(named: str | None, given: str | None, experiment: Path, resumed: bool) -> None:
    """A file may be a stranger's: the code that it names is imported only where --model names it, too."""
    if named is not None and given is None:
        raise SpecError(f"{experiment} uses a network of your own: --model {named} allows it to be imported and run")
    if resumed and named != given:
        raise SpecError(f"{experiment} uses {named or 'ResNet9'}: --model {given} does not go with it")


def _about_unknown(argument: str, parser: argparse.ArgumentParser) -> str:
    name = argument.partition("=")[0].lstrip("-")
    setting = name.replace("-", "_")
    if argument.startswith("--") and setting in TUNABLE:
        return f"there is no --{name}: set train.{setting} and space.{setting} in a TOML file (--experiment)"
    flags = [flag.lstrip("-") for action in parser._actions for flag in action.option_strings]
    close = nearest(name, flags).replace("'", "'--", 1) if argument.startswith("-") else ""
    return f"unknown argument {argument!r}{close}"


def _resolve(
    experiment: Path | None, settings: dict[str, Any], space: dict[str, dict[str, float]], *, resumed: bool
) -> SearchSpec:
    """The file's tables with the flags' values laid over them; a message names the file where the file is wrong."""
    tables = load_tables(experiment) if experiment else {}
    if experiment:
        folder = {key: value for key, value in settings.items() if key == "data.data_dir"}
        try:
            spec = spec_from_tables(_laid_over(tables, folder))  # a folder spec may leave the folder to the flag
        except SpecError as error:
            raise SpecError(f"{experiment}: {error}") from None
        _check_factory(spec.model.factory, settings.get("model.factory"), experiment, resumed)
    if "model.factory" in settings:
        tables = {**tables, "model": {}}  # the file's network is another
    own = spec.space if experiment else DEFAULT_SPACE
    if space:
        tables = {**tables, "space": with_bounds(own, space)}
    resolved = spec_from_tables(_laid_over(tables, settings))
    if resumed:
        check_grown(own, resolved.space)
    return resolved


def _laid_over(tables: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Tables with each `section.name` of the settings in its section."""
    for key, value in settings.items():
        section, name = key.split(".")
        table = tables.get(section, {})
        if isinstance(table, dict):  # else it is an error that the spec explains
            tables = {**tables, section: {**table, name: value}}
    return tables
