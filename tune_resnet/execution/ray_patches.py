"""What Ray Tune does not do right by itself."""

from __future__ import annotations

from ray.air.execution._internal import actor_manager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution import tune_controller

# A process that Ray ends for want of memory is a failed trial like any other that dies. Ray Tune 2.60 does not expect
# its exception, and would end the whole search.
for module in (actor_manager, tune_controller):
    module.RayActorError = (RayActorError, OutOfMemoryError)
