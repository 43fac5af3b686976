"""What final accuracy a configuration is likely to have: learnt from every trial, also from those stopped early.

A single final accuracy is noisy: with another seed it differs by more than good configurations differ from each other.
The training loss after a few epochs has far less noise, and there are more of them, but it is not what is wanted. So
one Gaussian process learns how the early loss depends on the hyperparameters, and a second one what the final error
adds to a multiple of that (Kennedy and O'Hagan, "Predicting the output from a complex computer code when fast
approximations are available", Biometrika 2000; in the recursive form of Le Gratiet and Garnier, 2014). Both errors are
on a log scale, where the multiple is about 1: what halves the early loss halves the final error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from tune_resnet.space import Domain

Floats = NDArray[np.float64]

LEAST_FINISHED = 4  # trials, below which the best as measured is as good a choice as any
_OFFSET = 1e-3  # added to an error before its logarithm, so that the last few images are not everything
_REACH = 3  # interquartile ranges below the median: what is worse counts as so bad, else one failure outweighs all
_FAR = 0.5  # on the log scale, the least that a diverged trial is below the median, and a perfect one may be above it
_MOST = 200  # trials that a process learns from: its time grows with their third power
_SHARE = 4  # of so many, one in this many teaches a process its parameters, which is what takes the time
_PRIOR_SLOPE, _PRIOR_TRIALS = 1, 4  # the multiple expected, and how many trials with the usual spread that counts


class Estimate:
    """Estimated final accuracy over the unit cube of hyperparameters.

    Args:
        points: (trials, hyperparameters), as `unit_points` has them.
        early: (trials,) training loss after the first rung's epoch; NaN where it is not known, infinite where training
            diverged.
        final: (trials,) accuracy after the last epoch, in [0, 1]; NaN where it is not known. At least one is.
    """

    def __init__(self, points: Floats, early: Floats, final: Floats) -> None:
        if np.isnan(early).all():
            early = np.ones_like(early)  # it says nothing
        seen, finished = ~np.isnan(early), ~np.isnan(final)
        signal = _clipped(-np.log(early[seen] + _OFFSET))
        quality = _clipped(-np.log(1 - final[finished] + _OFFSET), above=True)
        used = _most_telling(signal)
        self._early = _Process(points[seen][used], signal[used], amplitude=1, noise=0.02)
        expected = self._early.mean_and_deviation(points[finished])[0]
        self._centre, self._level = expected.mean(), quality.mean()
        away, prior = expected - self._centre, _PRIOR_TRIALS * signal.var() + 1e-12
        slope = (away @ (quality - self._level) + prior * _PRIOR_SLOPE) / (away @ away + prior)
        self._slope = max(slope, 0.0)
        rest = quality - self._level - self._slope * away
        used = _most_telling(expected)  # not by the measured quality: that would choose the lucky ones
        self._rest = _Process(points[finished][used], rest[used], amplitude=0.5, noise=0.3)

    def mean_and_deviation(self, points: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation, without the noise of a single training, of -log(error): higher is better."""
        early, early_deviation = self._early.mean_and_deviation(points)
        rest, rest_deviation = self._rest.mean_and_deviation(points)
        mean = self._level + self._slope * (early - self._centre) + rest
        return mean, np.hypot(self._slope * early_deviation, rest_deviation)

    def accuracy(self, points: Floats) -> Floats:
        """The mean as an accuracy, in [0, 1]."""
        return np.clip(1 + _OFFSET - np.exp(-self.mean_and_deviation(points)[0]), 0, 1)


def estimated_accuracy(points: Floats, early: Floats, final: Floats) -> Floats:
    """Of each trial that has finished, what its configuration's accuracy is likely to be; NaN for the others.

    This is what a winner is chosen by: the highest of many noisy figures owes its place to noise in good part. Fewer
    than four finished trials are left as they were measured. Arguments as of `Estimate`.
    """
    finished = ~np.isnan(final)
    estimated = final.copy()
    if finished.sum() >= LEAST_FINISHED and not np.isnan(early).all():
        # Rounded, so that equal configurations stay equal: a sum's last digits depend on the machine's threads.
        estimated[finished] = np.round(Estimate(points, early, final).accuracy(points[finished]), 9)
    return estimated


def unit_points(configurations: Sequence[Mapping[Any, Any]], space: Mapping[str, Domain]) -> Floats:
    """(configurations, hyperparameters): the space as the unit cube, on a log scale where its domain says so."""
    return np.array([[domain.share(row[name]) for name, domain in space.items()] for row in configurations])


class _Process:
    """A Gaussian process over standardised values: Matern 5/2, a length scale per dimension, white noise."""

    _LENGTH, _BOUNDS = 0.6, (1e-7, 1e4)
    _LEAST_SPREAD = 0.015  # of values: what varies less is noise

    def __init__(self, points: Floats, values: Floats, amplitude: float, noise: float) -> None:
        lengths = [self._LENGTH] * points.shape[1]
        smooth = ConstantKernel(amplitude, self._BOUNDS) * Matern(lengths, self._BOUNDS, nu=2.5)
        self._mean, self._spread = values.mean(), max(values.std(), self._LEAST_SPREAD)
        standard = (values - self._mean) / self._spread
        share = _SHARE if len(points) >= _MOST else 1
        self._fitted = _PosteriorMode(smooth + WhiteKernel(noise, self._BOUNDS)).fit(points[::share], standard[::share])
        if share > 1:
            self._fitted = GaussianProcessRegressor(self._fitted.kernel_, optimizer=None).fit(points, standard)

    def mean_and_deviation(self, points: Floats) -> tuple[Floats, Floats]:
        mean, deviation = self._fitted.predict(points, return_std=True)
        noise = np.exp(self._fitted.kernel_.theta[-1])  # scikit-learn's deviation is that of another noisy value
        smooth = np.sqrt(np.maximum(deviation**2 - noise, 1e-12))
        return self._mean + self._spread * mean, self._spread * smooth


class _PosteriorMode(GaussianProcessRegressor):  # type: ignore[misc]
    """Its parameters have the highest posterior density under log-normal priors around the kernel it is given: of few
    points, the likelihood alone makes too much. Rasmussen and Williams, "Gaussian Processes for Machine Learning",
    2006, section 5.2."""

    _AMPLITUDE, _LENGTH, _NOISE = 0.7, 0.5, 1.0  # standard deviations of the logarithms

    def log_marginal_likelihood(self, theta: Any = None, eval_gradient: bool = False, clone_kernel: bool = True) -> Any:
        """What `fit` maximises, here with the prior added."""
        found = super().log_marginal_likelihood(theta, eval_gradient, clone_kernel)
        if theta is None:
            return found
        deviations = np.array([self._AMPLITUDE, *[self._LENGTH] * (len(theta) - 2), self._NOISE])
        away = (theta - self.kernel.theta) / deviations
        penalty = 0.5 * away @ away
        return (found[0] - penalty, found[1] - away / deviations) if eval_gradient else found - penalty


def _most_telling(signal: Floats) -> NDArray[np.intp]:
    """Which values to learn from: all, or the highest half of `_MOST` and, to know where not to look, the lowest."""
    order = np.argsort(signal, kind="stable")
    if len(order) > _MOST:
        order = np.concatenate([order[: _MOST // 2], order[-(_MOST // 2) :]])
    return np.asarray(np.sort(order))


def _clipped(values: Floats, above: bool = False) -> Floats:
    """Values without outliers below and, if asked for, above; see `_REACH` and `_FAR`."""
    known = values[np.isfinite(values)]
    if not len(known):
        return np.zeros_like(values)
    low, middle, high = np.quantile(known, [0.25, 0.5, 0.75])
    reach = _REACH * (high - low)
    far = max(reach, _FAR)
    clipped = np.clip(values, middle - reach, middle + far if above else np.inf)
    return np.where(np.isneginf(values), middle - far, clipped)
