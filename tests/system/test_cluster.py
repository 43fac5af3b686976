"""Ray for one command, and searches on several nodes, which are all on this machine here."""

from __future__ import annotations

import ipaddress
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import ray
import yaml
from factories import ROOT
from faults import Broken, Fault, Injected, each_trial_is_as_alone, table

from tune_resnet.execution.cluster import ClusterError, ray_cluster, session_folder
from tune_resnet.runs.tables import FINISHED

CLUSTERS = ROOT / "experiments" / "cluster"


USE_RAY = "import os, tune_resnet.execution.cluster as c\nwith c.ray_cluster(None): {}"


def descendants(process: int) -> list[int]:
    """Ids of all processes that a process has started, and these in turn; zombies too."""
    parents: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            parents.setdefault(int(status.read_text().rpartition(")")[2].split()[1]), []).append(
                int(status.parent.name)
            )
    found = list(parents.get(process, []))
    for child in found:
        found += parents.get(child, [])
    return found


def listening_addresses(processes: list[int]) -> set[str]:
    """The local addresses on which processes accept TCP connections."""
    sockets = set()
    for process in processes:
        for file in Path(f"/proc/{process}/fd").glob("*"):
            with suppress(OSError):
                sockets.add(os.readlink(file))
    found = set()
    for table_of in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table_of}").read_text().splitlines()[1:]:
            cells = line.split()
            if cells[3] == "0A" and f"socket:[{cells[9]}]" in sockets:
                found.add(address_of(cells[1].partition(":")[0]))
    return found


def address_of(text: str) -> str:
    """An address as the kernel writes it: words of four bytes, the last byte first."""
    words = [bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8)]
    address = ipaddress.ip_address(b"".join(words))
    return str(getattr(address, "ipv4_mapped", None) or address)


@pytest.fixture
def sessions(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for Ray's sessions whose name is short enough for a socket's path."""
    folder = Path("/tmp") / f"s{os.getpid()}"
    folder.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    yield folder
    assert list(folder.iterdir()) == []
    folder.rmdir()


@pytest.mark.slow
def test_a_local_ray_is_reached_from_this_machine_only_and_leaves_nothing(sessions: Path) -> None:
    killed = [sys.executable, "-c", USE_RAY.format("os.kill(os.getpid(), 9)")]
    assert subprocess.run(killed, check=False).returncode == -signal.SIGKILL
    (left,) = sessions.iterdir()
    before = set(os.listdir("/dev/shm"))
    waiting = [sys.executable, "-c", USE_RAY.format("print(flush=True), input()")]
    with subprocess.Popen(waiting, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert not left.exists()  # what the killed process left is gone
        started = descendants(process.pid)
        assert listening_addresses([process.pid, *started]) == {"127.0.0.1"}
        process.communicate("\n")
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{number}").exists() for number in started):
        assert time.monotonic() < deadline, "a process is left"
        time.sleep(0.1)
    assert set(os.listdir("/dev/shm")) <= before


def test_only_sessions_that_nobody_uses_are_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    for name in ("tune_resnet-left", "tune_resnet-notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "tune_resnet-left" / "in-use").touch()
    (tmp_path / "tune_resnet-notes" / "mine.txt").touch()  # a folder of the user's own
    with session_folder() as first, session_folder() as second:
        assert set(tmp_path.iterdir()) == {first, second, tmp_path / "tune_resnet-notes"}
    assert (tmp_path / "tune_resnet-notes" / "mine.txt").exists()


def test_a_ray_of_ones_own_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "shutdown", lambda: pytest.fail("it is shut down"))
    with pytest.raises(ClusterError, match="Ray runs in this process already"), ray_cluster(None):
        pass


class Nodes:
    """A head without CPUs, and nodes with one each."""

    def __init__(self, count: int) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}, shutdown_at_exit=False
        )
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(count)]

    def kill(self, position: int) -> None:
        self.cluster.remove_node(self.nodes.pop(position), allow_graceful=False)

    def shutdown(self) -> None:
        self.cluster.shutdown()
        ray.shutdown()


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    found = Nodes(3)
    yield found
    found.shutdown()


@pytest.mark.faults
def test_a_node_that_dies_costs_what_its_trials_had_not_saved(
    nodes: Nodes, tmp_path: Path, matrix: list[Injected]
) -> None:
    search = Broken(tmp_path / "it", samples=8, epochs=40, concurrent=3)
    process = search.start("--address", nodes.cluster.address)
    for wanted in (20, 120):
        deadline = time.monotonic() + 120
        while search.epochs_done() < wanted:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        before = search.record()
        nodes.kill(0)
        search.note("node killed", f"after {wanted} epochs", before)
    output, errors = process.communicate(timeout=240)
    assert (process.returncode, errors) == (0, ""), output + errors
    search.consistent()
    assert {row["state"] for row in table(search.path / "trials.csv")} == {FINISHED}
    each_trial_is_as_alone(search.path)
    for fault in search.injected:
        fault.survived = True
    matrix += search.injected


@pytest.mark.faults
def test_nodes_that_die_inside_an_epoch(nodes: Nodes, tmp_path: Path, matrix: list[Injected]) -> None:
    faults: list[Fault] = [("node killed", 1, 4, 2, 1), ("node killed", 4, 2, 1, 1)]
    search = Broken(tmp_path / "it", samples=6, epochs=8, concurrent=3, faults=faults)
    output = search.finish("--address", nodes.cluster.address)
    search.consistent()
    each_trial_is_as_alone(search.path)
    assert output.count("is tried again") >= len(faults)
    for kind, trial, epoch, step, times in faults:
        assert search.happened(kind, trial, epoch, step, times) == 1
        matrix += [Injected(f"search, inside an epoch: {kind}", f"{trial}, epoch {epoch}, step {step}", survived=True)]


def test_the_configuration_for_rays_cluster_launcher_is_valid() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((CLUSTERS / "aws.yaml").read_text())
    validate_config(prepare_config(config))


def test_the_manifest_for_kuberay_names_what_kuberay_knows() -> None:
    job = yaml.safe_load((CLUSTERS / "kuberay.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == ray.__version__
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        (container,) = group["template"]["spec"]["containers"]
        assert container["volumeMounts"] == [{"name": "shared", "mountPath": "/shared"}]
