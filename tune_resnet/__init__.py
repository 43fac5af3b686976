"""Finds better hyperparameters than the reference for a ResNet9 on your images, and shows the proof.

spec = SearchSpec(data=DataSpec(dataset="digits"), search=BudgetSpec(num_samples=8))
run = Search(spec).run()  # a whole search; `load_run(path)` gives one that has been
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tune_resnet.commands.run import Search
    from tune_resnet.config.sections import (
        REFERENCE,
        BudgetSpec,
        DataSpec,
        ModelSpec,
        ResourceSpec,
        SchedulerSpec,
        TrainSpec,
    )
    from tune_resnet.config.space import Choices, Domain
    from tune_resnet.config.spec import SearchSpec
    from tune_resnet.config.toml import load_spec
    from tune_resnet.errors import UserError
    from tune_resnet.results.run import load_run

__all__ = [
    "REFERENCE", "BudgetSpec", "Choices", "DataSpec", "Domain", "ModelSpec", "ResourceSpec", "SchedulerSpec", "Search",
    "SearchSpec", "TrainSpec", "UserError", "load_run", "load_spec",
]  # fmt: skip
_HOMES = {
    "Search": "commands.run",
    "SearchSpec": "config.spec",
    "Choices": "config.space",
    "Domain": "config.space",
    "load_spec": "config.toml",
    "UserError": "errors",
    "load_run": "results.run",
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for, when it is: `--help` should not wait for pandas."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"tune_resnet.{_HOMES.get(name, 'config.sections')}"), name)


def __dir__() -> list[str]:
    return __all__
