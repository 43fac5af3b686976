"""The one-cycle schedule, of the learning rate and of the momentum, as pure functions of the optimizer step."""

from __future__ import annotations

import math

from tune_resnet.config.sections import FINAL_DIV_FACTOR, PEAK_AT, TrainSpec


def rate_at(train: TrainSpec, step: int, total_steps: int) -> float:
    """The learning rate of one optimizer step of a one-cycle schedule (L. Smith and N. Topin, "Super-Convergence",
    2017, arXiv:1708.07120).

    It rises from `max_lr / div_factor` at step 0 to `max_lr`, then falls to `max_lr / final_div_factor` at the last
    step. `linear-exponential` rises linearly over half of the steps and falls exponentially to `max_lr / 25`; `linear`
    does so and falls linearly to 0; `cosine` is the shape of `torch.optim.lr_scheduler.OneCycleLR` with its defaults:
    30% of the steps rising, both parts half a cosine, down to `max_lr / (25 * 10^4)`.

    Args:
        train: the configuration.
        step: 0 to total_steps - 1; ValueError where it is not.
        total_steps: optimizer steps in the whole run, at least 1.
    """
    rises, share = _place(train, step, total_steps)
    peak = train.max_lr
    start, end = peak / train.div_factor, peak / (train.final_div_factor or FINAL_DIV_FACTOR[train.schedule])
    if train.schedule == "linear-exponential" and not rises:
        return float(peak * (end / peak) ** share)
    return _between(start, peak, share, train.schedule) if rises else _between(peak, end, share, train.schedule)


def momentum_at(train: TrainSpec, step: int, total_steps: int) -> float:
    """The momentum of one step: `momentum` at both ends, `momentum_at_peak` where the rate has its peak (None: the same
    throughout), in between as OneCycleLR has it."""
    if train.momentum_at_peak is None:
        return train.momentum
    rises, share = _place(train, step, total_steps)
    return _between(train.momentum, train.momentum_at_peak, share if rises else 1 - share, train.schedule)


def _place(train: TrainSpec, step: int, total_steps: int) -> tuple[bool, float]:
    """Whether the rate rises at a step, and how far it has come on its way up or down, in [0, 1]."""
    if not 0 <= step < total_steps:
        raise ValueError(f"step must be in [0, {total_steps}), got {step}")
    peak = (PEAK_AT[train.schedule] if train.peak_at is None else train.peak_at) * total_steps
    peak = max(peak - 1, 0.0) if train.schedule == "cosine" else math.floor(peak)  # the former as in PyTorch
    if step <= peak:
        return True, _share(step, 0, peak)
    return False, _share(step, peak, total_steps - 1)


def _share(step: float, first: float, last: float) -> float:
    """How far `step` is from `first` to `last`, in [0, 1]; 1 where they coincide."""
    return (step - first) / (last - first) if last > first else 1.0


def _between(start: float, end: float, share: float, shape: str) -> float:
    if shape == "cosine":
        return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
    return start + (end - start) * share
