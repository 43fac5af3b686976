"""How long `search` takes to its first training step, beside a bare script that imports torch and starts Ray.

    python -m experiments.benchmarks.speed.start --out experiments/results/benchmarks

Both run alternately, each a process of its own, without data or bytecode that the other leaves. The bare script counts
from its process's start until `ray.init` has returned; the search until its first epoch begins, which is the first row
of epochs.csv: when it was written, less the seconds that the epoch took. `--dry-run`, which ends by itself, is compared
to the end of the bare script, `--help` to the same Python that does nothing.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments.benchmarks.speed.goals import Benchmark, Goal, options, paired

EXPERIMENT = Path(__file__).with_name("digits.toml")
SEARCH = [sys.executable, "-m", "tune_resnet.search"]
ON_DIGITS = [*SEARCH, "--experiment", str(EXPERIMENT)]
BARE = """
import time
import torch
import ray
ray.init(address="local", include_dashboard=False, log_to_driver=False)
print(time.time())
"""
LONGEST = 120.0  # seconds until a first epoch; whatever takes longer has failed
POLL_SECONDS = 0.05  # between two looks at epochs.csv; the row itself holds the time


def bare() -> tuple[float, float]:
    """Seconds of the bare script: until Ray was ready, and until it had ended."""
    started = time.time()
    done = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, timeout=LONGEST, check=True)
    return float(done.stdout.split()[-1]) - started, time.time() - started


def first_step(runs: Path) -> float:
    """Seconds from the start of the command to its first training step. The search is then ended, in order."""
    name = f"start-{time.time_ns()}"
    started = time.time()
    command = [*ON_DIGITS, "--runs-dir", str(runs), "--name", name]
    search = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while (began := first_epoch_began(runs / name / "epochs.csv")) is None:
            if search.poll() is not None or time.time() > started + LONGEST:
                raise RuntimeError(f"no epoch of {' '.join(command)}")
            time.sleep(POLL_SECONDS)
    finally:
        search.terminate()
        search.wait(LONGEST)
    return began - started


def first_epoch_began(path: Path) -> float | None:
    """When the first epoch in the file began (Unix time); None while there is none."""
    if not path.exists():
        return None
    with path.open(newline="") as lines:
        row = next(csv.DictReader(lines), None)
    return float(row["ended_at"]) - float(row["seconds"]) if row and row["ended_at"] else None


def seconds(command: list[str]) -> float:
    """Seconds that a command takes from start to end."""
    started = time.time()
    subprocess.run(command, capture_output=True, timeout=LONGEST, check=True)
    return time.time() - started


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--pairs", type=int, default=5, help="pairs of measurements")
    run(parser.parse_args())


def run(arguments: argparse.Namespace) -> None:
    with Benchmark("start", arguments.out) as benchmark, tempfile.TemporaryDirectory() as runs:
        first_step(Path(runs)), bare()  # reads the libraries from disk, once for both
        steps, dry, helps = [], [], []
        for _ in range(arguments.pairs):
            ready, ended = bare()
            steps.append((ready, first_step(Path(runs))))
            benchmark.sample("first training step", bare=steps[-1][0], ours=steps[-1][1])
            dry.append((ended, seconds([*ON_DIGITS, "--dry-run"])))
            benchmark.sample("--dry-run", bare=dry[-1][0], ours=dry[-1][1])
            helps.append((seconds([sys.executable, "-c", ""]), seconds([*SEARCH, "--help"])))
            benchmark.sample("--help", bare=helps[-1][0], ours=helps[-1][1])
        bare_script = "import torch, ray.init"
        benchmark.row(
            paired("search to first training step", steps, peer=bare_script, unit="s", goal=Goal(at_most=1.3))
        )
        benchmark.row(
            paired("search --dry-run, whole", dry, peer=f"{bare_script}, exit", unit="s", goal=Goal(at_most=1.5))
        )
        benchmark.row(paired("search --help, whole", helps, peer="python -c ''", unit="s", goal=Goal(at_most=10)))


if __name__ == "__main__":
    main()
