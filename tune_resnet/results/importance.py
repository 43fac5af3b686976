"""Which hyperparameters mattered."""

from __future__ import annotations

import pandas as pd

from tune_resnet.hpo.ranking import best_trials
from tune_resnet.runs.load import RunFrames, accuracy_column

MIN_FOR_IMPORTANCE = 4  # finished trials


def importance(frames: RunFrames) -> pd.Series:
    """Each hyperparameter's share in what separates the best finished trials from the others, the largest first.

    The shares add up to 1. The index is the hyperparameter. Empty for fewer than four finished trials, or where
    accuracies or hyperparameters do not vary.
    """
    from tune_resnet.hpo.study import importances  # Optuna takes its time to be imported

    space, column = frames.spec.space, accuracy_column(frames)
    finished = best_trials(frames, len(frames.trials)).sort_values("trial")
    for name, domain in space.items():  # a spec edited by hand may no longer contain its trials
        finished = finished[finished[name].map(domain.holds).astype(bool)]
    shares: dict[str, float] = {}
    varies = finished[[column, *space]].nunique() > 1
    if len(finished) >= MIN_FOR_IMPORTANCE and varies[column] and varies[list(space)].any():
        shares = importances(finished.to_dict("records"), list(finished[column]), frames.spec)
    return pd.Series(shares, dtype="float64", name="importance").rename_axis("hyperparameter")
