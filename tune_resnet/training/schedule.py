"""The one-cycle schedule, of the learning rate and of the momentum, as pure functions of the optimizer step."""

from __future__ import annotations

import math

from tune_resnet.config.sections import FINAL_DIV_FACTOR, PEAK_AT, TrainSpec


def one_cycle(
    step: int,
    total_steps: int,
    max_lr: float,
    *,
    shape: str = "linear-exponential",
    peak_at: float | None = None,
    div_factor: float = 25.0,
    final_div_factor: float | None = None,
) -> float:
    """The learning rate of one optimizer step of a one-cycle schedule (L. Smith and N. Topin, "Super-Convergence",
    2017, arXiv:1708.07120).

    It rises from `max_lr / div_factor` at step 0 to `max_lr`, then falls to `max_lr / final_div_factor` at the last
    step. `linear-exponential` rises linearly over half of the steps and falls exponentially to `max_lr / 25`; `linear`
    does so and falls linearly to 0; `cosine` is the shape of `torch.optim.lr_scheduler.OneCycleLR` with its defaults:
    30% of the steps rising, both parts half a cosine, down to `max_lr / (25 * 10^4)`.

    Args:
        step: 0 to total_steps - 1.
        total_steps: optimizer steps in the whole run, at least 1.
        max_lr: the peak learning rate, per optimizer step.
        peak_at: share of the steps up to the peak, in (0, 1); None: the shape's own.
        final_div_factor: relative to `max_lr`; None: the shape's own.

    Raises:
        ValueError: `step` or `total_steps` is out of range, or the shape is unknown.
    """
    rises, share = _place(step, total_steps, shape, peak_at)
    start, end = max_lr / div_factor, max_lr / (final_div_factor or FINAL_DIV_FACTOR[shape])
    if shape == "linear-exponential" and not rises:
        return float(max_lr * (end / max_lr) ** share)
    return _between(start, max_lr, share, shape) if rises else _between(max_lr, end, share, shape)


def cycled_momentum(
    step: int, total_steps: int, momentum: float, at_peak: float | None, *, shape: str, peak_at: float | None = None
) -> float:
    """The momentum of one optimizer step: `momentum` at both ends, `at_peak` where the rate has its peak (None: the
    same throughout), in between as OneCycleLR has it."""
    if at_peak is None:
        return momentum
    rises, share = _place(step, total_steps, shape, peak_at)
    return _between(momentum, at_peak, share if rises else 1 - share, shape)


def rate_at(train: TrainSpec, step: int, total_steps: int) -> float:
    """The learning rate of one step of a configuration."""
    return one_cycle(
        step, total_steps, train.max_lr, shape=train.schedule, peak_at=train.peak_at,
        div_factor=train.div_factor, final_div_factor=train.final_div_factor,
    )  # fmt: skip


def momentum_at(train: TrainSpec, step: int, total_steps: int) -> float:
    """The momentum of one step of a configuration."""
    return cycled_momentum(
        step, total_steps, train.momentum, train.momentum_at_peak, shape=train.schedule, peak_at=train.peak_at
    )


def _place(step: int, total_steps: int, shape: str, peak_at: float | None) -> tuple[bool, float]:
    """Whether the rate rises at a step, and how far it has come on its way up or down, in [0, 1]."""
    if not 0 <= step < total_steps:
        raise ValueError(f"step must be in [0, {total_steps}), got {step}")
    if shape not in PEAK_AT:
        raise ValueError(f"unknown schedule {shape!r}")
    peak = (PEAK_AT[shape] if peak_at is None else peak_at) * total_steps
    peak = max(peak - 1, 0.0) if shape == "cosine" else math.floor(peak)  # the former as in PyTorch
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
