"""What benchmarks on recorded tables have in common: their arguments, and what env.json says of them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.benchmarks.this_command import this_command
from tune_resnet._files import write_whole
from tune_resnet.config.default_space import NARROW_SPACE
from tune_resnet.config.spec import SearchSpec
from tune_resnet.config.toml import spec_from_tables
from tune_resnet.runs.environment import describe_environment


def tables(paths: list[Path]) -> dict[str, pd.DataFrame]:
    """The tables in these files, by the names of their folders."""
    return {path.parent.name: pd.read_parquet(path) for path in paths}


def spec_of(path: Path) -> SearchSpec:
    """What the table in this file was recorded with, its images aside: the env.json beside it says it."""
    env = json.loads((path.parent / "env.json").read_text())
    env.setdefault(
        "space", {name: domain.to_table() for name, domain in NARROW_SPACE.items()}
    )  # before there was a wider
    return spec_from_tables({name: env[name] for name in ("model", "train", "space")})


def images_of(path: Path) -> str:
    """Which images the table in this file was recorded on, by their fingerprint, whatever share of them."""
    return str(json.loads((path.parent / "env.json").read_text())["dataset_fingerprint"])


def options_of(document: str | None) -> argparse.Namespace:
    """`curves`, one file or more, and `out`, a folder, which is made."""
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", type=Path, nargs="+", required=True, help="each curves.parquet")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    return options


def environment() -> dict[str, Any]:
    """Machine, versions, commit and this process's command; to be called before results change the checkout."""
    return describe_environment() | {"command": this_command()}


def write_environment(folder: Path, env: Mapping[str, Any]) -> None:
    """Writes env.json."""
    write_whole(folder / "env.json", json.dumps(env, indent=2) + "\n")
