"""Where a run took place: what env.json says so that its figures can be judged and had again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("tune_resnet", "torch", "torchvision", "ray", "optuna", "numpy", "pandas")


def describe_environment() -> dict[str, Any]:
    """Versions, host, cores, git commit of this package's source (None outside a checkout) and the command line."""
    return {
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "git_commit": _git_commit(),
        "command": " ".join(["python -m tune_resnet.search", *sys.argv[1:]]),
    }


def _git_commit() -> str | None:
    """The commit, with `-dirty` after it where tracked files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        answer = subprocess.run(git, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
