"""What Ray Tune 2.60 does not do right by itself. Each has a test that fails once Ray no longer needs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray.air.execution._internal import actor_manager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution import tune_controller
from ray.tune.registry import _global_registry

MODULES = (actor_manager, tune_controller)


@contextmanager
def patched_ray() -> Iterator[None]:
    """In the block, a process that Ray ends for want of memory is a failed trial like any other that dies, and Ray asks
    its cluster once what a trial's class is.

    Ray Tune does not expect that exception, and would end the whole search. It would ask five times a trial: a tenth of
    the driver's time.
    """
    for module in MODULES:
        module.RayActorError = (RayActorError, OutOfMemoryError)
    registry = vars(_global_registry)
    registry |= {name: _once(getattr(_global_registry, name)) for name in ("contains", "get")}
    try:
        yield
    finally:
        del registry["contains"], registry["get"]  # its class has its own
        for module in MODULES:
            module.RayActorError = RayActorError


def _once(ask: Callable[[str, str], Any]) -> Callable[[str, str], Any]:
    """The same, but what has been found is not asked for again."""
    found: dict[tuple[str, str], Any] = {}

    def asked(category: str, key: str) -> Any:
        answer = found.get((category, key)) or ask(category, key)
        if answer:
            found[category, key] = answer
        return answer

    return asked
