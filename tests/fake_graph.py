"""CUDA graphs without a GPU: what a block did to tensors is noted, and done again to the same tensors.

As with a real graph, what a replay reads and writes are the tensors of the recording, wherever they are in memory;
numbers and decisions of Python are those of the recording. Recording itself leaves all tensors as they were.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tune_resnet.training import loop
from tune_resnet.training.cuda_graph import room_for_recording

_DECISIONS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero")


class FakeGraph(TorchDispatchMode):
    """In place of torch.cuda.CUDAGraph."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[tuple[Any, Any, Any, list[Tensor | None]]] = []
        self.before: dict[int, tuple[Tensor, Tensor]] = {}  # by address: what was there before the recording
        self.made: set[int] = set()  # addresses
        self.numbers = torch.get_rng_state()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = operation.overloadpacket.__name__
        if name in _DECISIONS:
            raise RuntimeError(f"{name} in a recording")
        given = _tensors((args, kwargs))
        for tensor in given:
            if _address(tensor) not in self.made and _address(tensor) not in self.before:
                whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
                self.before[_address(tensor)] = whole, whole.clone()
        result = operation(*args, **kwargs)
        known = {_address(tensor) for tensor in given}
        fresh = [tensor if _address(tensor) not in known else None for tensor in _tensors(result)]
        self.made |= {_address(tensor) for tensor in fresh if tensor is not None}
        self.operations.append((operation, args, kwargs, fresh))  # keeps all tensors: no address is used twice
        return result

    def take_back(self) -> None:
        """Undoes what recording has done."""
        for whole, content in self.before.values():
            whole.copy_(content)
        torch.set_rng_state(self.numbers)

    @torch.no_grad()
    def replay(self) -> None:
        for operation, args, kwargs, fresh in self.operations:
            for tensor, value in zip(fresh, _tensors(operation(*args, **kwargs)), strict=True):
                if tensor is not None:
                    tensor.copy_(value)


@contextmanager
def _recording(graph: FakeGraph, stream: object) -> Iterator[None]:
    """In place of torch.cuda.graph."""
    with graph:
        yield
    graph.take_back()


def use_fake_graphs(patch: pytest.MonkeyPatch) -> None:
    """From now on, trainings on the CPU record their steps."""
    patch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    patch.setattr(torch.cuda, "graph", _recording)
    patch.setattr(torch.cuda, "current_stream", lambda: None)
    patch.setattr(loop, "room_for_recording", lambda spec, device: room_for_recording(spec, torch.device("cuda")))


def _tensors(values: object) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
