"""One command that trains: what is asked for, its images, its run directory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from tune_resnet._files import write_whole
from tune_resnet._text import say, shown_path, to_run
from tune_resnet.commands.request import Request, own_spec_file
from tune_resnet.config.hyperparameters import ARGUMENT
from tune_resnet.config.sections import flags_of
from tune_resnet.config.spec import SearchSpec
from tune_resnet.config.toml import load_spec
from tune_resnet.errors import RecordError
from tune_resnet.runs.directory import BASELINE, FINAL, RunDirectory
from tune_resnet.runs.tables import SIZE

if TYPE_CHECKING:
    from tune_resnet.data.types import Dataset
    from tune_resnet.hpo.plan import Plan
    from tune_resnet.runs.resume import History


@dataclass(frozen=True)
class End:
    """How it has ended: the exit code of a command, and the run directory (None: there is none)."""

    exit_code: int
    path: Path | None = None


@dataclass(frozen=True)
class Job:
    """One command that trains. A run that goes on has a `history`, and its lock is held."""

    request: Request
    spec: SearchSpec
    console: Console
    started: float  # Unix time
    kind: str  # `search`, `baseline` or `final`
    path: Path  # of the run directory, which a new run gets when all is ready for it
    history: History | None = None

    @property
    def env(self) -> Mapping[str, Any]:
        """What a run that goes on says of itself; nothing of a new one."""
        return self.history.env if self.history else {}

    @contextmanager
    def directory(
        self, plan: Plan, dataset: Dataset, warm_start: str | None = None, **about: int
    ) -> Iterator[RunDirectory]:
        """The run directory for the time of the block, with what is known before the first trial, `about` included; for
        this command alone. `warm_start`: what earlier runs give, as JSON."""
        from tune_resnet.runs.environment import describe_environment

        here, run = describe_environment(), RunDirectory(self.path)
        command = self.request.command or to_run("search", *self.flags(run))
        # The precision as it was asked for: where the run goes on, another may suit.
        spec = replace(self.spec, points_to_evaluate=plan.spec.points_to_evaluate, resources=plan.spec.resources)
        if self.history is not None:
            began = {"started_at": self.started, "git_commit": here["git_commit"], "command": command}
            again = {**began, **plan.machine()}
            run.write_env({**self.env, "resumed": [*self.env.get("resumed", []), again]})
            write_whole(run.spec_toml, spec.to_toml())
            yield run
            return
        env = {
            **here,
            "command": command,
            "kind": self.kind,
            **plan.about(),
            "dataset": dataset.name,
            "dataset_fingerprint": dataset.fingerprint,
            "test_set": dataset.has_test_set,
            "own_validation_images": 0 if dataset.val is None else len(dataset.val),
            "started_at": self.started,
            **about,
        }
        if self.kind == FINAL:
            _make_room(self.path, self.console)
        run = RunDirectory.create(self.path, spec, env, warm_start)
        with run.lock():
            yield run

    def flags(self, run: RunDirectory) -> list[str]:
        """What has the same done on a command line, for what Python asks for."""
        asked = self.request
        if asked.finalize is not None:
            own = load_spec(own_spec_file(Path(asked.finalize)))
            size = {name: self.spec.value(name) for name in SIZE.values() if name not in own.space}
            size = {name: value for name, value in size.items() if value != own.value(name)}
            what = ["--finalize", str(shown_path(Path(asked.finalize))), *flags_of(size)]
            what += [] if asked.trial is None else ["--trial", str(asked.trial)]
        elif self.history is not None:
            what = ["--resume", str(run.shown_path)]
        else:
            what = ["--baseline"] if self.kind == BASELINE else []
            what += ["--experiment", str(shown_path(run.spec_toml))]
            what += ["--warm-start", *map(str, asked.warm_start)] if asked.warm_start else []
        return [*what, *self.spec.model.flag]


def _make_room(path: Path, console: Console) -> None:
    """Moves a final training of another trial or size aside; RecordError where a command is at work in it."""
    if not path.exists():
        return
    from tune_resnet.runs.load import load_frames

    before = RunDirectory(path)
    name = f"final-trial-{load_frames(before.path).env.get('trial')}"
    names = (f"{name}-{number}" if number > 1 else name for number in count(1))
    aside = next(path for path in map(before.path.with_name, names) if not path.exists())
    with before.lock():
        before.path.rename(aside)
    say(console, f"the final training from before is now in {shown_path(aside)}")


def images_of(spec: SearchSpec, run: Path | None = None, fingerprint: str | None = None) -> Dataset:
    """The images of a spec; the user's own network is tried on their classes, also at the bounds of its arguments.

    Raises:
        UserError: they are not there, or the network does not fit; RecordError: they are not those with the
            `fingerprint` (None: any will do), as which the `run` knows them.
    """
    from tune_resnet.data.load import load_dataset

    dataset = load_dataset(spec.data)
    if fingerprint not in (None, dataset.fingerprint):
        raise RecordError(f"the images are not those of {run} (env.json: dataset_fingerprint)")
    if spec.model.factory is not None:
        from tune_resnet.training.model import check_network

        varied = [
            {name: spec.kind(name)(end)}
            for name, domain in spec.space.items()
            if name.startswith(ARGUMENT)
            for end in domain.ends
        ]
        for values in [{}, *varied]:
            check_network(spec.configured(values).model, len(dataset.classes), spec.data.image_size)
    return dataset
