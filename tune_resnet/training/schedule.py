"""The one-cycle learning rate as a pure function of the optimizer step."""

from __future__ import annotations

import math

_COSINE_RISE = 0.3  # share of the steps that torch's OneCycleLR spends rising, by default


def one_cycle(
    step: int,
    total_steps: int,
    max_lr: float,
    *,
    shape: str = "linear-exponential",
    div_factor: float = 25.0,
    final_div_factor: float | None = None,
) -> float:
    """The learning rate of one optimizer step of a one-cycle schedule.

    `linear-exponential` rises linearly from `max_lr / div_factor` at step 0 to `max_lr` at step `total_steps // 2`,
    then falls exponentially to `max_lr / final_div_factor` (default 25) at the last step. `cosine` is the shape of
    `torch.optim.lr_scheduler.OneCycleLR`: 30% of the steps rising, both parts half a cosine (L. Smith and N. Topin,
    "Super-Convergence", 2017, arXiv:1708.07120); its `final_div_factor`, here too relative to `max_lr`, defaults to
    torch's 25 * 10^4.

    Args:
        step: 0 to total_steps - 1.
        total_steps: optimizer steps in the whole run, at least 1.
        max_lr: the peak learning rate, per optimizer step.

    Raises:
        ValueError: `step` or `total_steps` is out of range, or the shape is unknown.
    """
    if not 0 <= step < total_steps:
        raise ValueError(f"step must be in [0, {total_steps}), got {step}")
    start = max_lr / div_factor
    if shape == "linear-exponential":
        peak, end = total_steps // 2, max_lr / (final_div_factor or 25.0)
        if step <= peak:
            return start + (max_lr - start) * _share(step, 0, peak)
        return float(max_lr * (end / max_lr) ** _share(step, peak, total_steps - 1))
    if shape == "cosine":
        top, end = max(_COSINE_RISE * total_steps - 1, 0.0), max_lr / (final_div_factor or 25e4)
        if step <= top:
            return _cosine(start, max_lr, _share(step, 0, top))
        return _cosine(max_lr, end, _share(step, top, total_steps - 1))
    raise ValueError(f"unknown schedule {shape!r}")


def _share(step: float, first: float, last: float) -> float:
    """How far `step` is from `first` to `last`, in [0, 1]; 1 where they coincide."""
    return (step - first) / (last - first) if last > first else 1.0


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
