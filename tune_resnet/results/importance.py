"""Which hyperparameters mattered."""

from __future__ import annotations

import pandas as pd

from tune_resnet.hpo.ranking import best_trials
from tune_resnet.runs.load import RunFrames, accuracy_column

LEAST_FOR_IMPORTANCE = 4  # finished trials


def importance(frames: RunFrames) -> pd.Series:
    """Each hyperparameter's share in what separates the best finished trials from the others, the largest first.

    Optuna's default evaluator (PED-ANOVA, which draws no random numbers); the shares add up to 1. The index is the
    hyperparameter. Empty for fewer than four finished trials, or where accuracies or hyperparameters do not vary.
    """
    import optuna

    space, column = frames.spec.space, accuracy_column(frames)
    finished = best_trials(frames, len(frames.trials)).sort_values("trial")
    for name, domain in space.items():  # a spec edited by hand may no longer contain its trials
        finished = finished[finished[name].between(domain.low, domain.high)]
    shares: dict[str, float] = {}
    varies = finished[[column, *space]].nunique() > 1
    if len(finished) >= LEAST_FOR_IMPORTANCE and varies[column] and varies[list(space)].any():
        distributions: dict[str, optuna.distributions.BaseDistribution] = {
            name: optuna.distributions.FloatDistribution(domain.low, domain.high, log=domain.log)
            for name, domain in space.items()
        }
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(direction="maximize")
        study.add_trials(
            optuna.trial.create_trial(
                params={name: row[name] for name in space}, distributions=distributions, value=row[column]
            )
            for row in finished.to_dict("records")
        )
        shares = optuna.importance.get_param_importances(study)
    return pd.Series(shares, dtype="float64", name="importance").rename_axis("hyperparameter")
