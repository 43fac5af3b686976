"""A search from Python: what the command does, in a notebook say."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from tune_resnet.commands.options import parse_options
from tune_resnet.commands.run import run_options
from tune_resnet.config.spec import TrainSpec
from tune_resnet.execution.interrupts import lasting_output
from tune_resnet.runs.load import RunFrames, load_run

REFERENCE = TrainSpec()  # the configuration that every result is compared with


class Search:
    """One command, not run yet. Settings are the command's flags with underscores: `Search(dataset="digits",
    num_samples=8)`, `Search("experiments/cifar10.toml", name="big")`, `Search(resume="runs/big", num_samples=64)`.

    Args:
        experiment: the TOML file to start from.
        settings: the value of each flag; several values as a list, True for a flag that takes none.

    Raises:
        SpecError: a setting is unknown or wrong.
    """

    def __init__(self, experiment: Path | str | None = None, **settings: Any) -> None:
        given = settings if experiment is None else {"experiment": experiment, **settings}
        self.options = parse_options([word for name, value in given.items() for word in _flag(name, value)])

    def run(self) -> RunFrames | None:
        """Runs it to its end; the run's tables, None after a dry run. Interrupted, it ends in order, and the tables say
        how far it came.

        Raises:
            UserError: something only the user can mend, as in the command.
        """
        with lasting_output():
            run = run_options(self.options, Console(highlight=False, markup=False), time.time()).run
        return load_run(run.path) if run else None


def _flag(name: str, value: Any) -> Sequence[str]:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag] if value else []
    return [flag, *map(str, value)] if isinstance(value, list | tuple) else [flag, str(value)]
