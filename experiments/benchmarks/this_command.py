"""How the benchmark that runs now was started."""

from __future__ import annotations

import sys


def this_module() -> str:
    """The module that `python -m` runs."""
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec else sys.argv[0]


def this_command() -> str:
    """The command line, for a record."""
    return " ".join(["python -m", this_module(), *sys.argv[1:]])
