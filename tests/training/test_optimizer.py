"""The optimizer beside PyTorch's own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tune_resnet.training.optimizer import Adam, Sgd, _clip_and_decay_together, clip_and_decay


def parameters() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in ((4, 3), (5,), (2, 3, 1, 1))]


def descend(optimizer: Adam | Sgd | torch.optim.Optimizer, weights: list[Tensor], steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        sum((weight**2).sum() for weight in weights).backward()  # type: ignore[union-attr]
        optimizer.step()


def test_it_does_what_torch_does_bit_for_bit() -> None:
    lr = torch.tensor(0.05)
    ours, theirs = parameters(), parameters()
    ours_optimizer, theirs_optimizer = Adam(ours, lr), torch.optim.Adam(theirs, lr=lr, fused=True)
    for rate in (0.05, 0.5, 0.0):
        lr.fill_(rate)
        descend(ours_optimizer, ours, 3)
        descend(theirs_optimizer, theirs, 3)
        assert all(torch.equal(mine, other) for mine, other in zip(ours, theirs, strict=True))


def test_sgd_does_what_torch_does_bit_for_bit_while_rate_and_momentum_change() -> None:
    lr = torch.tensor(0.05)
    ours, theirs = parameters(), parameters()
    ours_optimizer = Sgd(ours, lr)
    theirs_optimizer = torch.optim.SGD(theirs, lr=lr, momentum=0.9, nesterov=True, fused=True)
    for rate, momentum in ((0.05, 0.9), (0.5, 0.8), (0.0, 0.95)):
        lr.fill_(rate)
        ours_optimizer.momentum = theirs_optimizer.param_groups[0]["momentum"] = momentum
        descend(ours_optimizer, ours, 3)
        descend(theirs_optimizer, theirs, 3)
        assert all(torch.equal(mine, other) for mine, other in zip(ours, theirs, strict=True))


def test_a_state_goes_on_where_it_was_taken_and_reset_begins_anew() -> None:
    lr = torch.tensor(0.05)
    first, second = parameters(), parameters()
    one, other = Adam(first, lr), Adam(second, lr)
    descend(one, first, 4)
    descend(other, second, 2)
    state = {name: [tensor.clone() for tensor in tensors] for name, tensors in other.state_dict().items()}
    descend(other, second, 1)
    other.reset()
    assert not any(tensor.any() for tensors in other.state.values() for tensor in tensors)
    other.load_state_dict(state)
    with torch.no_grad():
        for weight, fresh in zip(second, parameters(), strict=True):
            weight.copy_(fresh)
    descend(Adam(second, lr), second, 2)
    descend(other, second, 2)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(first, second, strict=True))


@pytest.mark.parametrize("decoupled", [False, True])
def test_all_tensors_together_are_clipped_and_decayed_as_one_by_one(decoupled: bool) -> None:
    """What a GPU does and what a CPU does, both on the CPU here; the last digit may differ."""
    clip, decay, lr = torch.tensor(0.1), torch.tensor(0.02), torch.tensor(0.5)
    ours, theirs = Adam(parameters(), lr), Adam(parameters(), lr)
    for optimizer in (ours, theirs):
        for weight in optimizer.parameters:
            weight.grad = 0.3 * weight.detach().clone()
        optimizer.gradients[1][:3] = torch.tensor([torch.inf, -torch.inf, torch.nan])
    clip_and_decay(ours, clip, decay, decoupled=decoupled)
    with torch.no_grad():
        kept = 1 - lr * decay if decoupled else None
        _clip_and_decay_together(theirs.parameters, theirs.gradients, clip, decay, kept)
    for mine, other in zip(ours.parameters + ours.gradients, theirs.parameters + theirs.gradients, strict=True):
        torch.testing.assert_close(mine, other, equal_nan=True)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state.pop("steps"),
        lambda state: state["exp_avgs"].pop(),
        lambda state: state["exp_avg_sqs"].__setitem__(0, torch.zeros(())),
    ],
)
def test_a_state_that_does_not_fit_is_an_error(spoil: Callable[[dict[str, Any]], object]) -> None:
    optimizer = Adam(parameters(), torch.tensor(0.1))
    state = {name: list(tensors) for name, tensors in optimizer.state_dict().items()}
    spoil(state)
    with pytest.raises((KeyError, ValueError)):
        optimizer.load_state_dict(state)


def test_a_step_does_not_import_the_compiler() -> None:
    code = """
import sys, torch
from tune_resnet.training.optimizer import Adam, Sgd
weight = torch.ones(3, requires_grad=True)
optimizer = Adam([weight], torch.tensor(0.1))
weight.sum().backward()
optimizer.step()
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"
