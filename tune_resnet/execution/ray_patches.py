"""What Ray Tune 2.60 does not do right by itself. Each has a test that fails once Ray no longer needs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ray.air.execution._internal import actor_manager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution import tune_controller

MODULES = (actor_manager, tune_controller)


@contextmanager
def patched_ray() -> Iterator[None]:
    """In the block, a process that Ray ends for want of memory is a failed trial like any other that dies.

    Ray Tune does not expect that exception, and would end the whole search.
    """
    for module in MODULES:
        module.RayActorError = (RayActorError, OutOfMemoryError)
    try:
        yield
    finally:
        for module in MODULES:
            module.RayActorError = RayActorError
