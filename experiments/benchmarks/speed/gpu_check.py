"""All that only a GPU can tell, in at most ten minutes: each goal met or missed.

    python -m experiments.benchmarks.speed.gpu_check --out DIR --data-dir CIFAR-10
    python -m experiments.benchmarks.speed.gpu_check --out DIR    # baseline and searches on digits, which are few

The parts run one after another, the most important first, each in a process of its own. One that fails or takes too
long costs itself only. Files in DIR, written as they come:

    NAME.json     of a part: how it ended, its seconds, its figures
    NAME.txt      of a part: all that it said
    report.md     every goal

Without a GPU it rehearses on the CPU with small sizes, and no goal is judged.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks.speed.goals import Goal, options
from tune_resnet._files import write_whole

SECONDS = 570.0  # for all parts
_LEAST = 10.0  # seconds; with fewer left no part begins
_TO_END = 15.0  # seconds that a part has to end in order, past its limit
AT_FULL_SIZE = "accuracy of the reference, 50,000 images to train on"
PARTS = "experiments.benchmarks.speed.gpu_parts"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One process: its name in `gpu_parts`, the most seconds it may take, its figures that have a goal, with units."""

    name: str
    limit: float
    goals: dict[str, tuple[Goal, str]]


_YES = (Goal(at_least=1), "(1: yes)")
_FIT = (Goal(at_most=60), "s")
CHECKS = (
    Part(name="product", limit=40, goals={}),
    Part(name="equality", limit=60, goals={"recorded equals direct": _YES}),
    Part(
        name="epochs",
        limit=90,
        goals={
            "epoch with evaluation, share of the 8192-cubed bf16 product": (Goal(at_least=0.45), ""),
            "8 epochs of the reference": (Goal(at_most=4), "s"),
            "step recorded as a CUDA graph": _YES,
            "gain of the graph, direct over recorded": (Goal(at_least=1), ""),
        },
    ),
    Part(name="baseline", limit=80, goals={AT_FULL_SIZE: (Goal(at_least=0.85), "")}),
    Part(
        name="search",
        limit=130,
        goals={"search of 32 samples": _FIT, "gap between trials, median": (Goal(at_most=0.15), "s")},
    ),
    Part(name="budget", limit=90, goals={"search with a time budget, over the budget": (Goal(at_most=10), "s")}),
    Part(name="fp16", limit=45, goals={"fp16 trains": _YES, "fp16 step recorded as a CUDA graph": _YES}),
    Part(name="unrecordable", limit=45, goals={"a step that waits is trained directly": _YES}),
    Part(name="out_of_memory", limit=45, goals={"training goes on after running out of memory": _YES}),
    Part(name="half", limit=110, goals={"search of 32 samples, half a GPU each": _FIT}),
    Part(name="quarter", limit=110, goals={"search of 32 samples, a quarter each": _FIT}),
)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--data-dir", type=Path, help="your images, in train/CLASS/ and test/CLASS/; else digits")
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    measured, ends = torch.cuda.is_available(), time.monotonic() + SECONDS
    results: dict[str, dict[str, Any]] = {}
    for part in CHECKS:
        command = [sys.executable, "-m", PARTS, part.name, "--out", str(out)]
        if arguments.data_dir:
            command += ["--data-dir", str(arguments.data_dir.absolute())]
        results[part.name] = run_part(part, command, out, min(part.limit, ends - time.monotonic()))
        print(f"{part.name}: {results[part.name]['ended']} after {results[part.name]['seconds']:.0f} s", flush=True)
        write_whole(out / "report.md", report(results, measured))
    print(f"\n{report(results, measured)}")


def run_part(part: Part, command: list[str], out: Path, limit: float) -> dict[str, Any]:
    """How one part ended, its seconds and figures: also written to its JSON, which the part itself begins."""
    path = out / f"{part.name}.json"
    path.unlink(missing_ok=True)
    started = time.monotonic()
    ended = "left out: no time" if limit < _LEAST else _ended(command, out / f"{part.name}.txt", limit)
    figures = json.loads(path.read_text()) if path.exists() else {}
    result = {"ended": ended, "seconds": round(time.monotonic() - started, 1), "figures": figures}
    write_whole(path, json.dumps(result, indent=2) + "\n")
    return result


def _ended(command: list[str], log: Path, limit: float) -> str:
    """Runs a command with all that it starts, for `limit` seconds at most."""
    search_path = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])  # for Ray's workers
    with log.open("w") as said:
        process = subprocess.Popen(
            command,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": search_path},
        )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            _end(process)
            return f"stopped at its limit of {limit:.0f} s"
    return "done" if code == 0 else f"failed, see {log.name}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Asks a process and what it started to end; after a while they have to."""
    os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_TO_END)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def report(results: dict[str, dict[str, Any]], measured: bool) -> str:
    """Every goal as a Markdown table, then how each part ended and all other figures; parts not run are left out."""
    lines = ["| part | what | found | goal |", "| --- | --- | --- | --- |"]
    others = []
    for part in CHECKS:
        if part.name not in results:
            continue
        figures, ended = results[part.name]["figures"], results[part.name]["ended"]
        for what, (goal, unit) in part.goals.items():
            value = figures.get(what)
            found = ended if value is None else f"{value:.4g} {unit}".strip()
            verdict = "met" if value is not None and goal.met_by(value) else "missed"
            if value is None and ended == "done":
                verdict = "not measured"  # as at full size, with fewer images
            lines.append(
                f"| {part.name} | {what} | {found} | {goal}: {verdict if measured else 'not measured: no GPU'} |"
            )
        others.append(f"- {part.name}: {ended}, {results[part.name]['seconds']:.0f} s")
        others += [f"- {part.name}: {what}: {value}" for what, value in figures.items() if what not in part.goals]
    return "\n".join([*lines, "", *others, ""])


if __name__ == "__main__":
    main()
