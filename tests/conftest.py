"""What several tests share: few, small, real images, and a Ray."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults import FAULTS, Injected, add_to_record, recorded_tests, summary

from tune_resnet.config.sections import DataSpec
from tune_resnet.data.load import load_dataset
from tune_resnet.data.split import search_split
from tune_resnet.data.types import Dataset, Split
from tune_resnet.execution.cluster import set_ray_up
from tune_resnet.search import main
from tune_resnet.training.speed import Speed


@pytest.fixture(autouse=True)
def no_user_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests neither read nor fill the cache folder of whoever runs them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session", autouse=True)
def no_wait_for_the_disk() -> Iterator[None]:
    """In this process, nothing waits until what it has written would survive a power cut: thousands of small files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def closed_terminals_are_noticed() -> None:
    """Tests close terminals, which whatever is started by nohup ignores, and so do the processes that it starts."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_dataset(DataSpec(dataset="digits"))


@pytest.fixture(scope="session")
def split(digits: Dataset) -> Split:
    """180 training and 20 validation images."""
    return search_split(digits, DataSpec(dataset="digits", limit_train=200))


@pytest.fixture(scope="session")
def few(digits: Dataset) -> Split:
    """30 training and 10 validation images, for half precision, which a CPU is slow at."""
    return search_split(digits, DataSpec(dataset="digits", limit_train=40))


@pytest.fixture(scope="session")
def cluster() -> Iterator[list[str]]:
    """The flags with which a command joins a Ray with 1 CPU: half as long as one that starts a Ray of its own, and as
    each process of a trial takes seconds to import PyTorch, one trial at a time is done sooner than two at once."""
    set_ray_up("")
    from ray._private.authentication import authentication_token_setup as authentication
    from ray._private.utils import get_ray_address_file
    from ray.cluster_utils import Cluster

    authentication.enable_token_auth_by_default()  # as a local Ray does it
    authentication.ensure_token_if_auth_enabled(None, create_token_if_missing=True)
    Path(get_ray_address_file(None)).parent.mkdir(parents=True, exist_ok=True)  # the fixture may be Ray's first here
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # its name must be short enough for a socket's path
    head = {"num_cpus": 1, "num_gpus": 0, "include_dashboard": False, "temp_dir": folder}
    cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
    yield ["--address", cluster.address]
    cluster.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def on_cluster(cluster: list[str]) -> Callable[..., int]:
    """`python -m tune_resnet.search`, called in this process, on that Ray, with a pace that is not measured: that would
    take one more process."""

    def command(*arguments: object) -> int:
        pace = Speed(device_name="a CPU", precision="fp32", images_per_second=1000.0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tune_resnet.execution.resources._measure", lambda spec, data: pace)
            return main([*map(str, arguments), *cluster])

    return command


@pytest.fixture(scope="session")
def photos() -> Path:
    """The folder with the CIFAR-10 photographs."""
    folder = os.environ.get("TUNE_RESNET_PHOTOS")
    if not folder:
        pytest.skip("TUNE_RESNET_PHOTOS does not name the folder of the CIFAR-10 photographs")
    return Path(folder)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record-faults",
        type=Path,
        metavar="FILE.csv",
        help="adds what is injected; tests that are in it are left out",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if file := config.getoption("--record-faults"):
        done = recorded_tests(file)
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in done])
        items[:] = [item for item in items if item.nodeid not in done]


@pytest.fixture
def matrix(request: pytest.FixtureRequest) -> Iterator[list[Injected]]:
    """Collects the faults that a test's searches have survived: it adds them at its end."""
    injected: list[Injected] = []
    yield injected
    request.config.stash.setdefault(FAULTS, []).extend(injected)
    if injected and (file := request.config.getoption("--record-faults")):
        add_to_record(file, request.node.nodeid, injected)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The faults that the searches of this test run have survived."""
    if injected := config.stash.get(FAULTS, []):
        terminalreporter.section("faults")
        terminalreporter.write_line(summary(injected))
