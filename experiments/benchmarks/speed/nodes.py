"""What 200 trials at once cost the driver: a large cluster, as far as one machine can be one.

    python -m experiments.benchmarks.speed.nodes --out experiments/results/benchmarks

One node says that it has 200 CPUs, and each trial, whose training takes no time, has a process of its own. Starting so
many on a few cores takes minutes and is no affair of the driver's, so that its time a report is that of the later half
of the reports. `scale.py` says what is searched; it is not part of `make bench`.
"""

from __future__ import annotations

from functools import partial

from experiments.benchmarks.speed.goals import Benchmark, Goal, alone, options
from experiments.benchmarks.speed.scale import TRIALS, Cost, cost_of, in_new_process, our_search

NODES = 200


def cost_at_once() -> Cost:
    """Of one search with NODES trials at once."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": NODES, "include_dashboard": False})
    try:
        return cost_of(partial(our_search, concurrent=NODES), "random", cluster.address)
    finally:
        cluster.shutdown()


def main() -> None:
    arguments = options(__doc__).parse_args()
    with Benchmark("nodes", arguments.out) as benchmark:
        cost = in_new_process(cost_at_once)
        times = sorted(cost.reported)
        later = times[len(times) // 2 :]
        wall = 1000 * (later[-1] - later[0]) / (len(later) - 1)
        benchmark.sample(f"{NODES} at once", reports=len(times), wall_ms=wall, cpu_ms=cost.cpu_milliseconds)
        name = f"driver, {TRIALS:,} trials, {NODES} at once: time a report"
        benchmark.row(alone(name, [wall], unit="ms", goal=Goal(at_most=12)))
        benchmark.row(alone(f"{name}, CPU", [cost.cpu_milliseconds], unit="ms", goal=Goal(at_most=12)))


if __name__ == "__main__":
    main()
