"""The sampler for small budgets, behind Optuna's interface: it proposes where `Estimate` expects the most.

SciPy and scikit-learn take a second to import: they are, by the first proposal that needs them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState
from threadpoolctl import threadpool_limits

from tune_resnet.space import Domain

if TYPE_CHECKING:
    from tune_resnet.estimate import Floats

EARLY = "early"  # user attribute of a study's trial: training loss after the first rung's epoch, infinite: it diverged

STARTUP_TRIALS = 4  # spread evenly over the space before the model proposes; more, until one of them has finished
_SPREAD_CANDIDATES = 600
_NEAR_CANDIDATES = ((300, 0.12), (60, 0.03))  # how many around the best, and how far (standard deviation in the cube)
_APART = 0.04  # length in the cube over which a running trial pushes proposals away


class MultiFidelitySampler(BaseSampler):
    """Expected improvement of the estimated final accuracy over the best estimate among finished trials (Jones et al.,
    "Efficient Global Optimization of Expensive Black-Box Functions", 1998), less where trials are running (after
    Gonzalez et al., "Batch Bayesian Optimization via Local Penalization", 2016).

    A proposal depends on the study, the trial's number and the seed alone, so a resumed study goes on as it would have.
    """

    def __init__(self, space: Mapping[str, Domain], seed: int) -> None:
        self.space = dict(space)
        self.seed = seed
        self._rest = RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {name: optuna_domain(domain) for name, domain in self.space.items()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        others = [
            other
            for other in study.get_trials(deepcopy=False)
            if other.number != trial.number and other.params.keys() >= self.space.keys()
        ]
        finished = any(other.state == TrialState.COMPLETE for other in others)
        with threadpool_limits(1):  # small matrices, and the trials need the cores
            share = (
                self._best(others, trial.number) if finished and len(others) >= STARTUP_TRIALS else self._even(trial)
            )
        return {name: domain.value(float(at)) for (name, domain), at in zip(self.space.items(), share, strict=True)}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Optuna asks this only for what is not in the space."""
        return self._rest.sample_independent(study, trial, param_name, param_distribution)

    def _even(self, trial: FrozenTrial) -> Floats:
        from scipy.stats import qmc

        sequence = qmc.Sobol(len(self.space), rng=self.seed)
        return np.asarray(sequence.fast_forward(trial.number).random(1)[0]) if trial.number else sequence.random(1)[0]

    def _best(self, trials: Sequence[FrozenTrial], number: int) -> Floats:
        from scipy.stats import norm

        from tune_resnet.estimate import Estimate

        points, early, final = observations(trials, self.space)
        running = np.array([trial.state == TrialState.RUNNING for trial in trials])
        estimate, finished = Estimate(points, early, final), points[~np.isnan(final)]
        reached = estimate.mean_and_deviation(finished)[0]
        candidates = self._candidates(finished[reached.argmax()], np.random.default_rng((self.seed, number)))
        mean, deviation = estimate.mean_and_deviation(candidates)
        improvement = (mean - reached.max()) / deviation
        expected = deviation * (improvement * norm.cdf(improvement) + norm.pdf(improvement))
        distances = np.linalg.norm(candidates[:, None] - points[None, running], axis=-1)
        expected = expected * np.prod(1 - np.exp(-0.5 * (distances / _APART) ** 2), axis=-1)
        return np.asarray(candidates[expected.argmax()])

    def _candidates(self, best: Floats, rng: np.random.Generator) -> Floats:
        near = [rng.normal(best, deviation, (count, len(best))) for count, deviation in _NEAR_CANDIDATES]
        inside = 1 - np.abs(1 - np.abs(np.vstack(near)) % 2)  # reflected: clipped ones would repeat a corner exactly
        return np.vstack([rng.random((_SPREAD_CANDIDATES, len(best))), inside])


def observations(trials: Sequence[FrozenTrial], space: Mapping[str, Domain]) -> tuple[Floats, Floats, Floats]:
    """What `Estimate` learns from: points, early losses and final accuracies of a study's trials."""
    from tune_resnet.estimate import unit_points

    points = unit_points([trial.params for trial in trials], space)
    early = np.array([trial.user_attrs.get(EARLY, math.nan) for trial in trials])
    final = np.array([trial.value if trial.state == TrialState.COMPLETE else math.nan for trial in trials])
    return points, early, final


def optuna_domain(domain: Domain) -> optuna.distributions.FloatDistribution:
    """A domain in Optuna's terms."""
    return optuna.distributions.FloatDistribution(domain.low, domain.high, log=domain.log)
