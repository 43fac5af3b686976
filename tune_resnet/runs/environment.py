"""Where a run took place: what env.json says so that its figures can be judged and had again."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("tune_resnet", "torch", "torchvision", "ray", "optuna", "numpy", "pandas")


def describe_environment() -> dict[str, Any]:
    """Versions, host, cores, git commit of this package's source (None outside a checkout)."""
    return {
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "git_commit": _git_commit(),
    }


def this_process() -> str:
    """`host:process`, as a run's tables name a worker."""
    return f"{platform.node()}:{os.getpid()}"


def _git_commit() -> str | None:
    """The commit, with `-dirty` after it where tracked files differ from it; recorded results are not source."""
    if _git("ls-files", "--", Path(__file__).name) is None:  # installed within a checkout of something else
        return None
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)experiments/results")
    return f"{commit}-dirty" if commit and changes else commit


def _git(*arguments: str) -> str | None:
    """What git prints; None where there is no git, no checkout or nothing to print."""
    git = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        answer = subprocess.run(git, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
