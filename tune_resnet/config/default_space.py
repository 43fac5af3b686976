"""What a search varies, and what it tries first, where nothing says it."""

from __future__ import annotations

from dataclasses import replace

from tune_resnet.config.sections import SCHEDULES, TrainSpec
from tune_resnet.config.space import Choices, Domain, Point, Space

# Rate, decay and clip alone, as benchmarks have it and most recorded tables.
NARROW_SPACE = {
    "max_lr": Domain(low=1e-3, high=1e-1, log=True),
    "weight_decay": Domain(low=1e-6, high=1e-2, log=True),
    "grad_clip": Domain(low=1e-2, high=1.0, log=True),
}
SMALLEST_BATCH = 8  # images: batch norm needs some


def default_space(train: TrainSpec) -> Space:
    """What is varied where nothing says it, with the reference's values inside: the learning rate, the decay and the
    clip, and what short trainings gain most from (experiments/FINDING.md). What the reference has off stays off, and
    what it has settings of its own for stays as it is."""
    space: dict[str, Domain | Choices] = {
        name: _around(domain, getattr(train, name)) for name, domain in NARROW_SPACE.items() if getattr(train, name)
    }
    # Four sizes: a GPU records the steps of each anew, and among hundreds TPE takes three times as long to propose.
    batches = [size for share in (8, 4, 2, 1) if (size := round(train.batch_size / share)) >= SMALLEST_BATCH]
    if len(batches) > 1:
        space["batch_size"] = Choices(choices=tuple(batches))
    if train.momentum_at_peak is None:
        space["momentum"] = _around(Domain(low=0.8, high=0.98, log=False), train.momentum)
    if train.crop_padding:
        space["crop_padding"] = _around(Domain(low=0, high=4, log=False), train.crop_padding)
    if train.peak_at is None and train.final_div_factor is None:
        space["schedule"] = Choices(choices=SCHEDULES)
    return space


def _around(domain: Domain, value: float) -> Domain:
    """The domain, or as much more as has this value in it."""
    return replace(domain, low=min(domain.low, value), high=max(domain.high, value))


# Chosen by experiments/benchmarks/early_stopping/points.py, but for `linear` and for the first one, whose smaller batch
# is better still on most images: experiments/FINDING.md. In the narrow space the first two are the reference.
_WIDER: Point = {"batch_size": "x0.5", "momentum": 0.85, "crop_padding": 1, "schedule": "linear"}
POINTS_TO_EVALUATE: tuple[Point, ...] = (
    {**_WIDER, "batch_size": "x0.25"},
    _WIDER,
    {"max_lr": 0.0087, "weight_decay": 0.0014, "grad_clip": 0.91, **_WIDER},
    {"max_lr": 0.008, "weight_decay": 0.0081, "grad_clip": 0.023, **_WIDER},
    {"max_lr": 0.045, "weight_decay": 0.00019, "grad_clip": 0.95, **_WIDER},
    {"max_lr": 0.009, "weight_decay": 0.00052, "grad_clip": 0.94, **_WIDER},
)
