"""Ray still needs what is patched in it."""

from __future__ import annotations

import inspect
import pickle

import pytest
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune import registry

from tune_resnet.execution.ray_patches import MODULES, patched_ray


def test_ray_tune_still_does_not_expect_a_process_that_ran_out_of_memory() -> None:
    assert not issubclass(OutOfMemoryError, RayActorError)
    for module in MODULES:
        assert "OutOfMemoryError" not in inspect.getsource(module)


def test_it_is_expected_in_the_block_only() -> None:
    with patched_ray():
        assert all(module.RayActorError == (RayActorError, OutOfMemoryError) for module in MODULES)
    assert all(module.RayActorError is RayActorError for module in MODULES)


def test_ray_tune_still_asks_its_cluster_each_time_what_a_trials_class_is(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []
    answers: list[bytes | None] = [None]

    def answer(key: bytes) -> bytes | None:
        asked.append(key)
        return answers[0]

    monkeypatch.setattr(registry, "_internal_kv_initialized", lambda: True)
    monkeypatch.setattr(registry, "_internal_kv_get", answer)
    known = registry._global_registry
    for _ in range(3):
        assert not known.contains(registry.TRAINABLE_CLASS, "it")
    assert len(asked) == 3
    with patched_ray():
        assert not known.contains(registry.TRAINABLE_CLASS, "it")  # not registered yet
        answers[0] = pickle.dumps("the class")
        for _ in range(3):
            assert known.contains(registry.TRAINABLE_CLASS, "it")
            assert known.get(registry.TRAINABLE_CLASS, "it") == "the class"
    assert len(asked) == 3 + 3
    assert known.contains(registry.TRAINABLE_CLASS, "it")
    assert len(asked) == 3 + 3 + 1
