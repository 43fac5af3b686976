"""What is asked for, in Python or on the command line: a spec, and what is to be done with it."""

from __future__ import annotations

import importlib.util
import operator
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, fields, replace
from pathlib import Path

from tune_resnet._text import to_install
from tune_resnet.config.sections import MIN_SEEDS, SECTIONS
from tune_resnet.config.spec import SearchSpec, check_grown
from tune_resnet.config.toml import load_spec
from tune_resnet.config.validation import SpecError, differences, flag_of
from tune_resnet.errors import RecordError, UserError
from tune_resnet.runs.directory import RunDirectory
from tune_resnet.runs.find import LATEST, RUNS, find_run
from tune_resnet.runs.tables import SIZE

LOGGERS = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}  # and what each imports
_PACKAGES = {"mlflow": "mlflow-skinny"}  # that bring it: the whole mlflow wants an older pyarrow

# What may change of a run: where its images are and how to train, whatever is done with it;
_MACHINE = {
    "data.data_dir", "model.factory", "resources.device", "resources.cpus_per_trial", "resources.gpus_per_trial",
    "resources.max_concurrent", "train.precision",
}  # fmt: skip
_LENGTH = {"search.num_samples", "search.time_budget"}  # as it goes on, as its space may, and as its winner is trained
# again, the settings of `SIZE`.


@dataclass(frozen=True, repr=False)
class Request:
    """What is to be done with a spec.

    Runs are given as a directory, its name in `runs_dir`, or `latest`.

    Raises:
        SpecError: a value is wrong, or two of them do not go together.
    """

    spec: SearchSpec = None  # type: ignore[assignment]  # by default a run's own, of a new one SearchSpec()
    _: KW_ONLY
    baseline: bool = False  # one training of the reference instead, judged on the test set
    confirm: bool | int = False  # then compare winner and reference with fresh seeds: so many; True: until it is clear
    resume: Path | str | None = None  # the run to continue, or with `confirm` to confirm as it is
    finalize: Path | str | None = None  # the run whose winner is to be trained for use
    trial: int | None = None  # ... or this trial of it
    warm_start: Sequence[Path | str] = ()  # earlier runs to learn from
    dry_run: bool = False  # print the plan and stop
    runs_dir: Path = RUNS
    address: str | None = None  # of a Ray cluster to join
    log: Sequence[str] = ()  # of LOGGERS
    command: str | None = None  # what a shell runs to have the same done

    def __repr__(self) -> str:
        return differences(self)

    def __post_init__(self) -> None:
        with self.in_its_words():
            self._settle()

    @contextmanager
    def in_its_words(self) -> Iterator[None]:
        """Errors in the block speak of arguments where Python asks, and of flags where a command line does."""
        try:
            yield
        except UserError as error:
            if self.command is None:
                error.args = (_with_arguments(str(error)),)
            raise

    def _settle(self) -> None:
        """Checks all and finds the runs that are meant."""
        self._settle_types()
        self._check_together()
        for name in ("resume", "finalize"):
            if run := getattr(self, name):
                object.__setattr__(self, name, found_run(run, self.runs_dir))
        if self.warm_start:
            object.__setattr__(self, "warm_start", [found_run(run, self.runs_dir) for run in self.warm_start])
        object.__setattr__(self, "spec", self._settled_spec())
        if self.spec.search.name == LATEST and not (self.resume or self.finalize):
            raise SpecError(f"a run cannot be called {LATEST}: that word means the run that was started last")

    def _settle_types(self) -> None:
        """What Python can be given otherwise than declared, as declared; SpecError where it cannot."""
        if not isinstance(self.spec, SearchSpec | None):
            raise SpecError(f"spec must be a SearchSpec, got {type(self.spec).__name__}")
        object.__setattr__(self, "runs_dir", Path(self.runs_dir))
        for name in ("warm_start", "log"):
            if isinstance(alone := getattr(self, name), str | Path):
                object.__setattr__(self, name, [alone])
        if not isinstance(self.confirm, bool):
            try:
                object.__setattr__(self, "confirm", operator.index(self.confirm))
            except TypeError:
                raise SpecError(f"--confirm must be a whole number, True or False, got {self.confirm!r}") from None

    def _settled_spec(self) -> SearchSpec:
        run = self.resume or self.finalize
        if run is None:
            return self.spec or SearchSpec()
        own = load_spec(own_spec_file(Path(run)))
        if self.spec is None:
            if own.model.factory is not None:
                raise SpecError(f"{run} uses a network of your own: give its spec, to allow it to be imported and run")
            return own
        goes_on = self.resume is not None and not self.confirm
        may_change = _MACHINE | (_LENGTH if goes_on else {*SIZE.values()} - {*own.space})
        _check_same_run(Path(run), own, self.spec, may_change, may_grow=goes_on)
        in_order = {**{name: self.spec.space[name] for name in own.space}, **self.spec.space}  # of the run's tables
        return replace(self.spec, space=in_order)

    def _check_together(self) -> None:
        """SpecError where one thing that is asked for does not go with another, or is not installed."""
        if type(self.confirm) is int and self.confirm < MIN_SEEDS:
            raise SpecError(f"--confirm must be at least {MIN_SEEDS} seeds, got {self.confirm}")
        if self.baseline and self.confirm:
            raise SpecError("--confirm needs the winner of a search: --baseline has none")
        if self.trial is not None and not self.finalize:
            raise SpecError("--trial goes with --finalize: it names the trial to train")
        for name, apart in (
            ("resume", ("baseline", "finalize", "warm_start")),
            ("finalize", ("baseline", "confirm", "warm_start", "address", "log")),
            ("baseline", ("warm_start", "address", "log")),
        ):
            if getattr(self, name):
                for other in (other for other in apart if getattr(self, other)):
                    raise SpecError(f"--{other.replace('_', '-')} does not go with --{name}")
        if self.resume and self.confirm and (self.dry_run or self.log):
            raise SpecError(f"--{'log' if self.log else 'dry-run'} does not go with --resume and --confirm")
        for name in self.log:
            if name not in LOGGERS:
                raise SpecError(f"--log must be one of {', '.join(LOGGERS)}; got {name!r}")
            if importlib.util.find_spec(LOGGERS[name]) is None:
                raise SpecError(f"--log {name} needs a package: {to_install(_PACKAGES.get(name, LOGGERS[name]))}")

    @property
    def pairs(self) -> int | None:
        """Of seeds, to confirm with; None: until the verdict is clear."""
        return self.confirm if type(self.confirm) is int else None


def _with_arguments(message: str) -> str:
    """A message with the arguments of `Request` and of a spec's sections instead of flags; a command to run stays."""
    if "-m tune_resnet." in message:
        return message
    names = {flag_of(item): item.name for item in (*fields(SearchSpec), *fields(Request))}
    for section, kind in SECTIONS.items():
        for item in fields(kind):
            names[flag_of(item)] = f"{section}.{item.name}"
    return re.sub(r"--[a-z]+(?:-[a-z]+)*", lambda flag: names.get(flag[0], flag[0]), message)


def found_run(run: Path | str, runs_dir: Path) -> Path:
    """As `find.find_run`, but what it raises is a SpecError."""
    try:
        return find_run(run, runs_dir)
    except RecordError as error:
        raise SpecError(error) from None


def own_spec_file(run: Path) -> Path:
    """The file that says what a run is; SpecError where it is none that can be read."""
    path = RunDirectory(run).spec_toml
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe, say, would be waited for
        raise SpecError(f"cannot read {path}: not a regular file")
    return path


def _check_same_run(run: Path, own: SearchSpec, spec: SearchSpec, may_change: set[str], *, may_grow: bool) -> None:
    """SpecError where a run would become another."""
    if may_grow:
        check_grown(own, spec)
    elif own.space != spec.space:
        raise SpecError(f"the space of {run} cannot change here: --resume without --confirm widens it")
    if own.points_to_evaluate != spec.points_to_evaluate:
        raise SpecError(f"points_to_evaluate of {run} cannot change")
    for section, kind in SECTIONS.items():
        for item in fields(kind):
            before, now = (getattr(getattr(one, section), item.name) for one in (own, spec))
            if before != now and f"{section}.{item.name}" not in may_change:
                raise SpecError(f"{section}.{item.name} is {before} in {run}, and cannot become {now}")
