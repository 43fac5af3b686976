"""Ray for the time of a block."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from tune_resnet._files import locked_folder
from tune_resnet._text import one_line
from tune_resnet.errors import UserError
from tune_resnet.execution.interrupts import restored_handlers, sighup_kept_from_children

_RAY_SETTINGS = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours also hears SIGTERM, and tells the caller which it was
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # we choose the loggers
    "RAY_AIR_NEW_OUTPUT": "0",  # no output of Ray's own
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's default of 2.6x on, and silences its warning
}
_FOLDER, _LOCK = "tune_resnet-", "in-use"  # of a session


class ClusterError(UserError):
    """Ray could not be started or joined."""


def set_ray_up(address: str | None) -> None:
    """Settings that Ray reads when it is imported for the first time, in this process and those it starts."""
    os.environ.update(_RAY_SETTINGS)
    if address is None:
        # On systems where this is off by default, a Ray that is to be alone listens on the loopback only.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"


@contextmanager
def ray_cluster(address: str | None) -> Iterator[None]:
    """Ray for the time of the block: a local one, of which nothing stays, or the cluster at `address`."""
    set_ray_up(address)
    import ray

    logging.getLogger("ray").setLevel(logging.CRITICAL)  # what fails is said by our own lines
    if ray.is_initialized():
        raise ClusterError("Ray runs in this process already: end it with ray.shutdown() first")
    with nullcontext() if address else session_folder() as folder:
        try:
            _start(address, {} if address else {"include_dashboard": False, "_temp_dir": str(folder)})
            yield
        finally:
            ray.shutdown()


def _start(address: str | None, settings: dict[str, Any]) -> None:
    """Starts Ray, or joins it. ClusterError where that fails."""
    import ray

    try:
        with restored_handlers(), sighup_kept_from_children():  # Ray answers SIGTERM itself, its processes none
            ray.init(address=address or "local", logging_level=logging.CRITICAL, log_to_driver=False, **settings)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"join the Ray cluster at {address}" if address else "start Ray"
        raise ClusterError(f"cannot {where}: {one_line(error)}") from None


def session_folder() -> AbstractContextManager[Path]:
    """A folder for Ray's sockets and logs. It is deleted at the end; those that killed processes left, at once."""
    root = Path(os.environ.get("RAY_TMPDIR") or "/tmp")  # as Ray itself; TMPDIR may be too long for a socket's path
    return locked_folder(root, _FOLDER, _LOCK)
