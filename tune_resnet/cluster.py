"""Ray for the time of a block."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from tune_resnet.errors import UserError
from tune_resnet.text import one_line

_RAY_SETTINGS = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours also hears SIGTERM, and tells the caller which it was
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # we choose the loggers
    "RAY_AIR_NEW_OUTPUT": "0",  # no output of Ray's own
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's default of 2.6x on, and silences its warning
}


class ClusterError(UserError):
    """Ray could not be started or joined."""


@contextmanager
def ray_cluster(address: str | None) -> Iterator[None]:
    """Ray for the time of the block: a local one, or the cluster at `address`."""
    os.environ.update(_RAY_SETTINGS)
    logging.getLogger("ray").setLevel(logging.CRITICAL)  # what fails is said by our own lines
    local = {} if address else {"include_dashboard": False}
    try:
        ray.init(address=address or "local", logging_level=logging.CRITICAL, log_to_driver=False, **local)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"join the Ray cluster at {address}" if address else "start Ray"
        raise ClusterError(f"cannot {where}: {one_line(error)}") from None
    try:
        yield
    finally:
        ray.shutdown()
