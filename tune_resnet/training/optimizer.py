"""The optimizers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd


class Optimizer(ABC):
    """What the two have in common: parameters and a state that stays where it is in memory.

    Args:
        parameters: what to update; each has a gradient whenever `step` is called.
        lr: the learning rate, a scalar on the parameters' device that may change between steps.
    """

    _step_supports_amp_scaling = True  # tells PyTorch's gradient scaler to leave `found_inf` to the kernel

    momentum = 0.9  # may change between steps as well

    def __init__(self, parameters: Iterable[Tensor], lr: Tensor) -> None:
        self.parameters, self.lr = list(parameters), lr
        self.param_groups = [{"params": self.parameters}]  # where the gradient scaler finds the gradients
        self.state: dict[str, list[Tensor]] = {}

    @property
    def gradients(self) -> list[Tensor]:
        return [cast(Tensor, parameter.grad) for parameter in self.parameters]

    @abstractmethod
    def step(self) -> None:
        """Updates the parameters; not by a gradient that the scaler found to be infinite."""

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def reset(self) -> None:
        """Forgets all steps, in place: a recorded step knows these tensors by their address."""
        for tensors in self.state.values():
            for tensor in tensors:
                tensor.zero_()

    def state_dict(self) -> dict[str, list[Tensor]]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the values of another's, in place; where they do not fit, an error of some kind."""
        for name, tensors in self.state.items():
            for tensor, loaded in zip(tensors, state[name], strict=True):
                if loaded.shape != tensor.shape:
                    raise ValueError("the optimizer's state is of other parameters")
                tensor.copy_(loaded)


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015) with PyTorch's fused kernel and its defaults, without decay; `momentum` is beta1.

    `torch.optim.Adam` does the same, but imports PyTorch's compiler on its way: 1.5 s and 150 MB in each process.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: Tensor) -> None:
        super().__init__(parameters, lr)
        self.state = {
            "steps": [torch.zeros((), device=parameter.device) for parameter in self.parameters],
            "exp_avgs": [torch.zeros_like(parameter) for parameter in self.parameters],
            "exp_avg_sqs": [torch.zeros_like(parameter) for parameter in self.parameters],
        }

    @torch.no_grad()
    def step(self) -> None:
        adam(
            self.parameters,
            self.gradients,
            self.state["exp_avgs"],
            self.state["exp_avg_sqs"],
            [],
            self.state["steps"],
            fused=True,
            capturable=self.lr.is_cuda,
            found_inf=getattr(self, "found_inf", None),
            amsgrad=False,
            beta1=self.momentum,
            beta2=0.999,
            lr=self.lr,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )


class Sgd(Optimizer):
    """Stochastic gradient descent with Nesterov's momentum (Sutskever et al., 2013), by PyTorch's fused kernel."""

    def __init__(self, parameters: Iterable[Tensor], lr: Tensor) -> None:
        super().__init__(parameters, lr)
        self.state = {"momentum_buffers": [torch.zeros_like(parameter) for parameter in self.parameters]}

    @torch.no_grad()
    def step(self) -> None:
        sgd(
            self.parameters,
            self.gradients,
            list(self.state["momentum_buffers"]),
            fused=True,
            found_inf=getattr(self, "found_inf", None),
            weight_decay=0.0,
            momentum=self.momentum,
            lr=self.lr,
            dampening=0.0,
            nesterov=True,
            maximize=False,
        )


OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "sgd": Sgd}


@torch.no_grad()
def clip_and_decay(optimizer: Optimizer, clip: Tensor, decay: Tensor, *, decoupled: bool) -> None:
    """Clips the gradients by value, to [-`clip`, `clip`], then decays the weights: as L2 in the gradient or `decoupled`
    from it (Loshchilov and Hutter, 2019). Both numbers are scalars on the parameters' device."""
    parameters, gradients = optimizer.parameters, optimizer.gradients
    if clip.is_cuda:
        _clip_and_decay_together(parameters, gradients, clip, decay, 1 - optimizer.lr * decay if decoupled else None)
        return
    for parameter, gradient in zip(parameters, gradients, strict=True):
        gradient.clamp_(-clip, clip)
        if decoupled:
            parameter.mul_(1 - optimizer.lr * decay)
        else:
            gradient.addcmul_(parameter, decay)


def _clip_and_decay_together(
    parameters: list[Tensor], gradients: list[Tensor], clip: Tensor, decay: Tensor, kept: Tensor | None
) -> None:
    """The same with a few kernels for all tensors in place of three for each. They take bounds from the CPU only: hence
    gradients in units of `clip`. `kept`: the share of the weights that decoupled decay leaves."""
    torch._foreach_div_(gradients, clip)
    torch._foreach_clamp_min_(gradients, -1.0)
    torch._foreach_clamp_max_(gradients, 1.0)
    torch._foreach_mul_(gradients, clip)
    if kept is None:
        torch._foreach_add_(gradients, torch._foreach_mul(parameters, decay))
    else:
        torch._foreach_mul_(parameters, kept)


def gradient_scaler(precision: str, device: torch.device) -> Any:
    """PyTorch's, which does nothing but in fp16.

    Any: it is declared to want PyTorch's own optimizers, but takes any that has what it looks at.
    """
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    scaler.scale(torch.zeros((), device=device))  # makes its tensors, which a recorded step must not
    return scaler


def reset_scaler(scaler: Any) -> None:
    """Lets a scaler begin anew, in place: a recorded step knows its tensors by their address."""
    first = torch.amp.GradScaler("cpu", enabled=scaler.is_enabled()).state_dict()
    scaler.load_state_dict(first)
    if first:
        scaler.update(first["scale"])  # forgets a step that an error has broken off
