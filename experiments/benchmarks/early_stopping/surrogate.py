"""A surrogate of training: whole learning curves of any configuration, learnt from the recorded ones."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.model_selection import GroupKFold
from threadpoolctl import threadpool_limits

from experiments.benchmarks.early_stopping.curves import design
from tune_resnet.config.space import Choices, Domain, Space
from tune_resnet.config.spec import SearchSpec

OUTPUTS = ("val_accuracy", "val_loss", "train_loss", "ema33_val_accuracy")  # those of them that a table has
COMPONENTS = 8  # 4 to 12 are equally good; a process per output and epoch predicts the worst corners less well
LENGTHS = (0.3, 20)  # length scales, of the space's width: a shorter one would learn the noise of 64 configurations
MIN_REPEATED = 4  # configurations with several seeds, below which seed noise is taken from the fit's residuals
FOLDS = 10
_SEARCHED = 2**16  # configurations among which the optimum is
_NOISE_DRAWS = 300


class Surrogate:
    """Curves of any configuration: a smooth mean, and seed noise that is correlated over epochs and outputs.

    The logarithms of losses and the logits of accuracies, at all epochs, are projected on their leading principal
    components. Each component is a Gaussian process over the hyperparameters, each on its scale, a choice as one-hot
    columns, with a Matern 5/2 kernel, a length scale per column and white noise (Rasmussen and Williams, "Gaussian
    Processes for Machine Learning", 2006, equations 2.25 and 4.17; its parameters by 5.8).

    Args:
        runs: rows of the table that curves.py or regimes.py records, as `comparable_runs` gives them. Those that failed
            are left out: where training diverges, the surrogate is too friendly.
        spec: what they were recorded with.
    """

    def __init__(self, runs: pd.DataFrame, spec: SearchSpec) -> None:
        self.spec = spec
        self.epochs = int(runs["epoch"].max())
        self.outputs = _outputs(runs)
        wide = runs.pivot(index=["configuration", "seed"], columns="epoch", values=self.outputs).dropna()
        lines = wide.apply(lambda column: _line(column.name[0], column))
        hyperparameters = runs.groupby(["configuration", "seed"])[list(spec.space)].first()
        points = unit_points(hyperparameters.loc[lines.index].to_dict("records"), spec.space)
        self._centre, self._spread = lines.mean().to_numpy(), lines.std().to_numpy()
        standard = lines.sub(self._centre).div(self._spread)
        _, strengths, directions = np.linalg.svd(standard, full_matrices=False)
        scales = strengths[:COMPONENTS, None] / np.sqrt(len(standard))  # a component's standard deviation
        self._directions = directions[:COMPONENTS] * scales
        scores = standard.to_numpy() @ (directions[:COMPONENTS] / scales).T
        self._processes = [_fitted(points, score) for score in scores.T]
        self._noise = _noise(standard, standard.sub(self._standard_mean(points)))

    def curve(self, configuration: Mapping[str, Any], seed: int | tuple[int, ...] | None) -> dict[str, np.ndarray]:
        """A training run: each output's values after epochs 1, 2, ... Equal seeds have equal noise, None has none."""
        standard = self._standard_mean(self._point(configuration))[0]
        if seed is not None:
            standard = standard + np.random.default_rng(seed).standard_normal(len(self._noise)) @ self._noise
        lines = (standard * self._spread + self._centre).reshape(len(self.outputs), self.epochs)
        return {name: _from_line(name, line) for name, line in zip(self.outputs, lines, strict=True)}

    def quality(self, configuration: Mapping[str, Any]) -> float:
        """The true quality: validation accuracy after the last epoch without seed noise, in [0, 1]."""
        return float(self._qualities(self._point(configuration))[0])

    @cached_property
    def optimum(self) -> float:
        """The highest true quality in the space, in [0, 1]."""
        return float(self._qualities(unit_points(design(_SEARCHED, self.spec), self.spec.space)).max())

    def _point(self, configuration: Mapping[str, Any]) -> np.ndarray:
        return unit_points([configuration], self.spec.space)

    def _qualities(self, points: np.ndarray) -> np.ndarray:
        last = (self.outputs.index("val_accuracy") + 1) * self.epochs - 1
        return np.asarray(expit(self._standard_mean(points)[:, last] * self._spread[last] + self._centre[last]))

    def _standard_mean(self, points: np.ndarray) -> np.ndarray:
        """Points of the unit cube -> standardised lines, (points, outputs x epochs)."""
        return np.asarray(np.column_stack([process.predict(points) for process in self._processes]) @ self._directions)


def comparable_runs(curves: pd.DataFrame) -> pd.DataFrame:
    """The rows of all runs of the longest cycle, with outputs as if all of them had one seed, the average one.

    A seed's weights and order of images shift the curves of all configurations alike, the training loss of the first
    epoch by 5%. Trials of one search share a seed, so that none has an advantage from it.
    """
    runs = curves[curves["total_epochs"].eq(curves["total_epochs"].max())]
    lines = pd.DataFrame({name: _line(name, runs[name]) for name in _outputs(runs)})
    of_configuration = lines.groupby([runs["configuration"], runs["epoch"]])
    deviations = (lines - of_configuration.transform("mean"))[of_configuration.transform("size") > 1]
    effects = deviations.reindex(lines.index).groupby([runs["seed"], runs["epoch"]]).transform("mean").fillna(0)
    return runs.assign(**{name: _from_line(name, (lines - effects)[name].to_numpy()) for name in _outputs(runs)})


def cross_validate(runs: pd.DataFrame, spec: SearchSpec) -> pd.DataFrame:
    """How well the surrogate predicts `comparable_runs` of configurations that it has not seen.

    Returns:
        One row per output and epoch: the correlations `pearson` and `spearman` of its mean with what was recorded;
        `rmse`, of which seed noise is a part; and `noise`, the surrogate's own standard deviation of that noise at the
        reference. The last two are in the output's own unit.
    """
    folds = GroupKFold(FOLDS, shuffle=True, random_state=0).split(runs, groups=runs["configuration"])
    predicted = pd.concat([_predictions(Surrogate(runs.iloc[train], spec), runs.iloc[test]) for train, test in folds])
    both = runs.merge(predicted, on=["configuration", "epoch"], suffixes=("", "_predicted"))
    surrogate = Surrogate(runs, spec)
    drawn = pd.concat([_table(surrogate, spec.reference, seed) for seed in range(_NOISE_DRAWS)])
    noise = drawn.groupby("epoch")[surrogate.outputs].std()
    return pd.DataFrame(
        [
            {"output": name, "epoch": epoch}
            | _agreement(rows[name], rows[f"{name}_predicted"])
            | {"noise": noise[name].loc[epoch]}
            for name in surrogate.outputs
            for epoch, rows in both.groupby("epoch")
        ]
    )


def _outputs(runs: pd.DataFrame) -> list[str]:
    return [name for name in OUTPUTS if name in runs]


def _predictions(surrogate: Surrogate, runs: pd.DataFrame) -> pd.DataFrame:
    """The surrogate's means for the configurations of these runs."""
    configurations: dict[Any, dict[Any, Any]] = (
        runs.groupby("configuration")[list(surrogate.spec.space)].first().to_dict("index")
    )
    return pd.concat([_table(surrogate, row).assign(configuration=number) for number, row in configurations.items()])


def _table(surrogate: Surrogate, configuration: Mapping[str, Any], seed: int | None = None) -> pd.DataFrame:
    return pd.DataFrame(surrogate.curve(configuration, seed)).assign(epoch=range(1, surrogate.epochs + 1))


def _agreement(recorded: pd.Series, predicted: pd.Series) -> dict[str, float]:
    return {
        "pearson": recorded.corr(predicted),
        "spearman": recorded.rank().corr(predicted.rank()),
        "rmse": float(np.sqrt(((recorded - predicted) ** 2).mean())),
    }


def _noise(standard: pd.DataFrame, residuals: pd.DataFrame) -> np.ndarray:
    """Rows whose sum, each times an independent standard normal number, is a draw of seed noise.

    They are the runs' deviations from their configuration's mean where enough configurations have several seeds. Else
    they are the fit's residuals, which lack what the fit took for signal and hold what it missed.
    """
    repeated = standard[standard.groupby("configuration").transform("size") > 1]
    configurations, seeds = (repeated.index.unique(level) for level in ("configuration", "seed"))
    if len(configurations) < MIN_REPEATED:
        return np.asarray(residuals / np.sqrt(len(residuals)))
    freedom = len(repeated) - len(configurations) - (len(seeds) - 1)  # means of configurations and of seeds are known
    return np.asarray((repeated - repeated.groupby("configuration").transform("mean")) / np.sqrt(freedom))


def _fitted(points: np.ndarray, score: np.ndarray) -> GaussianProcessRegressor:
    smooth = ConstantKernel(1, (0.05, 100)) * Matern([0.5] * points.shape[1], LENGTHS, nu=2.5)
    process = GaussianProcessRegressor(smooth + WhiteKernel(0.1, (1e-3, 2)))
    with warnings.catch_warnings(), threadpool_limits(1):  # small matrices: more threads take longer
        warnings.simplefilter("ignore", ConvergenceWarning)  # parameters that end at their bounds: those are meant
        return process.fit(points, score)


def unit_points(configurations: Sequence[Mapping[Any, Any]], space: Space) -> np.ndarray:
    """(configurations, columns): the space in the unit cube, a column for each interval, on its scale, and for each of
    the values that there are to choose from."""
    return np.array([[at for name in space for at in _columns(space[name], row[name])] for row in configurations])


def _columns(domain: Domain | Choices, value: Any) -> list[float]:
    if isinstance(domain, Choices):
        return [float(choice == value) for choice in domain.choices]
    return [domain.share(value)]


def _line(name: str, values: pd.Series) -> pd.Series:
    """From an output's own scale to the whole real line."""
    return pd.Series(logit(values) if name.endswith("accuracy") else np.log(values))


def _from_line(name: str, values: np.ndarray) -> np.ndarray:
    return np.asarray(expit(values) if name.endswith("accuracy") else np.exp(values))
