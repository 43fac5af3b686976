"""Which hyperparameters mattered."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tune_resnet.hpo.ranking import finished_trials
from tune_resnet.runs.load import RunFrames, accuracy_column, once_per_run
from tune_resnet.runs.reading import records

MIN_FOR_IMPORTANCE = 15  # finished trials: of fewer, the shares are mostly chance
_RESAMPLES = 40
MAX_RESAMPLED = 1000  # finished trials: of more, the intervals have a few points, and would take their seconds
_LEVEL = 0.9


def importance(frames: RunFrames) -> pd.Series:
    """Each hyperparameter's share in what separates the best finished trials from the others, the largest first.

    The shares add up to 1. The index is the hyperparameter. Empty for fewer than `MIN_FOR_IMPORTANCE` finished trials,
    or where accuracies or hyperparameters do not vary.
    """
    return _shares(_finished(frames), frames)


@once_per_run
def importance_intervals(frames: RunFrames) -> pd.DataFrame:
    """`importance` as the column share, with low and high: the 90% bootstrap interval over the finished trials. NaN
    for more than `MAX_RESAMPLED` of these."""
    finished, shares = _finished(frames), importance(frames)
    found = pd.DataFrame({"share": shares, "low": np.nan, "high": np.nan})
    if shares.empty or len(finished) > MAX_RESAMPLED:
        return found
    draw = np.random.default_rng(0)
    resampled = [
        _shares(finished.iloc[draw.integers(len(finished), size=len(finished))], frames) for _ in range(_RESAMPLES)
    ]
    limits = pd.DataFrame(resampled).quantile([(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    # A resample has each trial twice or not at all: its shares may all lie on one side of the whole run's.
    return found.assign(
        low=np.minimum(limits.iloc[0].reindex(shares.index), shares),
        high=np.maximum(limits.iloc[1].reindex(shares.index), shares),
    )


def _finished(frames: RunFrames) -> pd.DataFrame:
    """The finished trials in the order of their numbers, without what a space edited by hand no longer contains."""
    finished = finished_trials(frames).sort_values("trial")
    for name, domain in frames.spec.space.items():
        finished = finished[finished[name].map(domain.holds).astype(bool)]
    return finished


def _shares(finished: pd.DataFrame, frames: RunFrames) -> pd.Series:
    from tune_resnet.hpo.importance import importances  # Optuna takes its time to be imported

    space, column = frames.spec.space, accuracy_column(frames)
    shares: dict[str, float] = {}
    varies = finished[[column, *space]].nunique() > 1
    if len(finished) >= MIN_FOR_IMPORTANCE and varies[column] and varies[list(space)].any():
        shares = importances(records(finished), list(finished[column]), frames.spec)
    return pd.Series(shares, dtype="float64", name="importance").rename_axis("hyperparameter")
