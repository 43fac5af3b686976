"""Which hyperparameters separate a run's best trials from the others, by Optuna."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import optuna
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from tune_resnet.config.spec import SearchSpec
from tune_resnet.hpo.study import STUDY_NAME, maximizing_study
from tune_resnet.hpo.warm_start import distributions


def importances(trials: Sequence[Mapping[str, Any]], scores: Sequence[float], spec: SearchSpec) -> dict[str, float]:
    """Each hyperparameter's share in what separates the best of these trials from the others; they add up to 1.

    By Optuna's default evaluator, PED-ANOVA, which draws no random numbers. Each trial is in the space of the spec.
    """
    return optuna.importance.get_param_importances(_Known(spec, trials, scores))


class _Known(optuna.Study):
    """A study of finished trials, given as they are: Optuna's own copies each, which takes five times as long as all
    that is asked of them here."""

    def __init__(self, spec: SearchSpec, trials: Sequence[Mapping[str, Any]], scores: Sequence[float]) -> None:
        storage = InMemoryStorage()
        maximizing_study(study_name=STUDY_NAME, storage=storage)
        super().__init__(STUDY_NAME, storage)
        self._known = [
            FrozenTrial(
                number=number,
                trial_id=number,
                state=TrialState.COMPLETE,
                value=score,
                params={name: values[name] for name in found},
                distributions=found,
                datetime_start=None,
                datetime_complete=None,
                user_attrs={},
                system_attrs={},
                intermediate_values={},
            )
            for number, (values, score) in enumerate(zip(trials, scores, strict=True))
            for found in [distributions(spec, values)]
        ]

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        return self._known
