"""Finds better hyperparameters than the reference for a ResNet9 on your images, and shows the proof.

From Python, `Search(dataset="digits", num_samples=8).run()` is a whole search, and `load_run(path)` the tables of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tune_resnet.commands.api import REFERENCE, Search
    from tune_resnet.runs.load import load_run

__all__ = ["REFERENCE", "Search", "load_run"]


def __getattr__(name: str) -> Any:
    """Imports what is asked for, when it is: `--help` should not wait for pandas."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tune_resnet.commands import api

    return getattr(api, name)
