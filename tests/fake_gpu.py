"""A GPU that is not there: training on tensors that have shapes, types, strides and a device, but no values.

PyTorch checks devices, types and shapes of such tensors as on a GPU. `OnGpu` adds what only a GPU would show:
operations that make it wait or move data, and arguments that its fused kernels refuse. What it cannot show: numbers,
time, memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

from tune_resnet.config.sections import ModelSpec, TrainSpec
from tune_resnet.data.types import Split
from tune_resnet.training import loop
from tune_resnet.training.loop import TrainingRun
from tune_resnet.training.model import build_network

GPU = torch.device("cuda", 0)
# Their result's value or size depends on what is on the GPU, so that the CPU waits for it.
_WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal", "is_nonzero")
_COPIES = ("_to_copy", "copy_", "_copy_from")


class OnGpu(TorchDispatchMode):
    """Refuses what would make a GPU wait, and counts it where it is to be `allowed`."""

    def __init__(self, allowed: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.allowed = allowed
        self.to_cpu, self.to_gpu, self.waits = 0, 0, 0
        self.names: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = operation.overloadpacket.__name__
        self.names.append(name)
        if name.startswith(("_fused_adam", "_fused_sgd")):
            _check_fused(args, kwargs)
            return None
        if name == "_amp_foreach_non_finite_check_and_unscale_":
            _check_unscaling(*args)
            return None
        if name in _WAITING or (name == "index" and any(_is_mask(index) for index in args[1])):
            return self._wait(name, args)
        result = operation(*args, **kwargs)
        if name in _COPIES:
            source = args[1] if name == "copy_" else args[0]
            self._copied(name, source.device.type, result.device.type)
        return result

    def _wait(self, name: str, args: Any) -> float:
        assert self.allowed, f"{name} waits for the GPU"
        assert name == "_local_scalar_dense", f"{name}: a size that depends on values"
        self.waits += args[0].is_cuda
        return 1.0

    def _copied(self, name: str, source: str, target: str) -> None:
        if source != target:
            assert self.allowed, f"{name} from {source} to {target}"
            self.to_cpu += target == "cpu"
            self.to_gpu += target == "cuda"


def _is_mask(index: Tensor | None) -> bool:
    return index is not None and index.dtype in (torch.bool, torch.uint8)


def _check_fused(args: Any, kwargs: Any) -> None:
    """What PyTorch's fused optimizers check before they start a kernel: at::native::check_fast_path_restrictions, and
    that scalars are on the GPU."""
    parameters, *others = [group for group in args if isinstance(group, list) and group]
    assert len(parameters) > 1
    for group in others:
        assert len(group) == len(parameters)
        for tensor, parameter in zip(group, parameters, strict=True):
            assert (tensor.device, tensor.dtype) == (parameter.device, parameter.dtype)
            if tensor.dim():  # not a number of steps
                assert (tensor.shape, tensor.stride()) == (parameter.shape, parameter.stride())
    rate, found_inf = kwargs["lr"], kwargs.get("found_inf")
    for scalar in (rate,) if found_inf is None else (rate, found_inf):
        assert (scalar.device, scalar.dtype, scalar.numel()) == (GPU, torch.float32, 1)


def _check_unscaling(gradients: list[Tensor], found_inf: Tensor, inverse_scale: Tensor) -> None:
    assert {gradient.device for gradient in gradients} == {GPU}
    for scalar in (found_inf, inverse_scale):
        assert (scalar.device, scalar.dtype, scalar.numel()) == (GPU, torch.float32, 1)


def _fresh_network(spec: ModelSpec, classes: int, seed: int, device: torch.device) -> nn.Module:
    """PyTorch cannot move such parameters: it makes them where they are to be."""
    with unset_fake_temporarily():
        network = build_network(spec, classes)
        cast(Any, network).to(memory_format=torch.channels_last)
    for module in network.modules():
        for name, value in module._parameters.items():
            module._parameters[name] = None if value is None else nn.Parameter(_on_gpu(value))
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else _on_gpu(buffer)
    return network


def _on_gpu(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=GPU)


class _Generator(torch.Generator):
    """One that says it is the GPU's."""

    device = GPU

    def __new__(cls, device: object = None) -> _Generator:
        return super().__new__(cls)


def _backward(loss: Tensor) -> None:
    """Tensor.backward without PyTorch's engine, which wants a real GPU: each node of the graph, last first."""
    order: list[Any] = []
    _after(loss.grad_fn, order, set())
    arrived: dict[Any, dict[int, Tensor]] = {loss.grad_fn: {0: torch.ones_like(loss)}}
    with torch.no_grad():
        for node in reversed(order):
            gradients = arrived.pop(node)
            if hasattr(node, "variable"):
                _accumulate(node.variable, gradients[0])
                continue
            found = node(*(gradients.get(place) for place in range(max(gradients) + 1)))
            for (following, place), gradient in zip(
                node.next_functions, found if isinstance(found, tuple) else (found,), strict=True
            ):
                if following is not None and gradient is not None:
                    places = arrived.setdefault(following, {})
                    places[place] = places[place] + gradient if place in places else gradient


def _after(node: Any, order: list[Any], seen: set[Any]) -> None:
    """Adds to `order` a node and all that it leads to, each after those that it leads to."""
    if node in seen:
        return
    seen.add(node)
    for following, _ in node.next_functions:
        if following is not None:
            _after(following, order, seen)
    order.append(node)


def _accumulate(variable: Tensor, gradient: Tensor) -> None:
    """As the engine does: summed where it was expanded, with the strides of its parameter."""
    assert gradient.device == variable.device
    gradient = gradient.sum_to_size(variable.shape)
    if gradient.stride() != variable.stride():
        gradient = torch.empty_like(variable).copy_(gradient)
    variable.grad = gradient


@contextmanager
def fake_gpu() -> Iterator[None]:
    """Within, `cuda` is a GPU of which tensors have no values."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")  # to copy a network
        patch.setattr(torch, "Generator", _Generator)
        patch.setattr(torch.cuda, "Stream", lambda device: None)
        patch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 33, 1 << 33))
        patch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 1.0)
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
        patch.setattr(torch.Tensor, "backward", _backward)
        patch.setattr(loop, "fresh_network", _fresh_network)
        patch.setattr(loop, "seeded", lambda *of: nullcontext())
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield


def fake_run(spec: TrainSpec, split: Split, **settings: Any) -> TrainingRun:
    """A training whose steps are not recorded."""
    run = TrainingRun(spec, split, GPU, ModelSpec(width=4), **settings)
    run.recording = None
    return run
