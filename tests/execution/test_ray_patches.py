"""Ray still needs what is patched in it."""

from __future__ import annotations

import inspect

from ray.exceptions import OutOfMemoryError, RayActorError

from tune_resnet.execution.ray_patches import MODULES, patched_ray


def test_ray_tune_still_does_not_expect_a_process_that_ran_out_of_memory() -> None:
    assert not issubclass(OutOfMemoryError, RayActorError)
    for module in MODULES:
        assert "OutOfMemoryError" not in inspect.getsource(module)


def test_it_is_expected_in_the_block_only() -> None:
    with patched_ray():
        assert all(module.RayActorError == (RayActorError, OutOfMemoryError) for module in MODULES)
    assert all(module.RayActorError is RayActorError for module in MODULES)
