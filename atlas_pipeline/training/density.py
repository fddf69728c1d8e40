"""Density forecasts as arrays, and the scores that judge them: likelihood, CRPS, PIT, sharpness.

Everything is in the unit of the return (percent) and in float64. What is asked of the PIT stands in ``calibration``,
other models' forecasts in ``volatility_models``, tests between two forecasts in ``comparison``; pictures in ``plots``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atlas_pipeline.training.calibration import LEVELS, Array, calibration_error, coverage


@dataclass(frozen=True, eq=False)
class DensityForecast:
    """Two-piece Student-t densities, one a bar; where ``df`` is infinite, two-piece normal ones.

    With z = (y - location) / scale the density is ``t(z / (1 + sign(z) skew), df) / scale``: Hansen, International
    Economic Review 35, 1994, eq. 10, up to location and scale. The share ``(1 - skew) / 2`` lies below the location,
    which is the mode; with ``skew`` 0 it is Student's t.

    Attributes
    ----------
    location, scale
        float64 [n], percent; mode, and scale of the Student's t from which both sides are made.
    df
        float64 [n], degrees of freedom; ``inf`` for a normal density.
    skew
        float64 [n] between -1 and 1; zeros where it is not given.
    """

    location: Array
    scale: Array
    df: Array
    skew: Array = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.skew is None:
            object.__setattr__(self, "skew", np.zeros(len(self.location)))

    @classmethod
    def of_moments(cls, mean: Array, standard_deviation: Array, df: float, skew: float = 0.0) -> DensityForecast:
        """Make the densities of one shape that have these means and standard deviations (percent, [n]); df above 2."""
        n = len(mean)
        standard = cls(np.zeros(n), np.ones(n), np.full(n, df), np.full(n, skew))
        scale = standard_deviation / standard.standard_deviation
        return cls(mean - scale * standard.mean, scale, standard.df, standard.skew)

    def __len__(self) -> int:
        return len(self.location)

    def __getitem__(self, rows: NDArray[np.bool_] | NDArray[np.int64] | slice) -> DensityForecast:
        return DensityForecast(self.location[rows], self.scale[rows], self.df[rows], self.skew[rows])

    @property
    def mean(self) -> Array:
        """Mean, float64 [n], percent; it differs from the location where there is skew, and needs ``df`` above 1."""
        return self.location + self.scale * 2 * self.skew * _mean_magnitude(self.df)

    @property
    def median(self) -> Array:
        """Median, float64 [n], percent."""
        return self.quantile(0.5)

    @property
    def standard_deviation(self) -> Array:
        """Standard deviation, float64 [n], percent; infinite where ``df`` is at most 2."""
        heavy = self.df <= 2
        finite = np.where(np.isinf(self.df) | heavy, 4.0, self.df)
        variance = np.where(np.isinf(self.df), 1.0, finite / (finite - 2))
        shift = 2 * self.skew * _mean_magnitude(np.where(heavy, 4.0, self.df))
        return self.scale * np.where(heavy, np.inf, np.sqrt(variance * (1 + 3 * self.skew**2) - shift**2))

    def quantile(self, probability: float | Array) -> Array:
        """Return that is not reached with this probability (one for all bars, or [n]), percent, float64 [n]."""
        from scipy import stats

        left = np.asarray(probability) < (1 - self.skew) / 2
        width = np.where(left, 1 - self.skew, 1 + self.skew)
        within = np.where(left, probability, probability + self.skew) / width
        result: Array = self.location + self.scale * width * stats.t.ppf(within, self.df)
        return result

    def interval(self, level: float | Array) -> tuple[Array, Array]:
        """Lower and upper bound of the central interval that holds ``level`` (or [n] levels) of the probability.

        Percent; as much probability lies below it as above. A level of 1 is the whole line.
        """
        return self.quantile(0.5 - level / 2), self.quantile(0.5 + level / 2)


def nll(target: Array, forecast: DensityForecast) -> Array:
    """Negative log-likelihood of each outcome, nats, float64 [n]; the logarithmic score of Good (1952)."""
    from scipy import stats

    z, width = _sides(target, forecast)
    result: Array = np.log(forecast.scale) - stats.t.logpdf(z / width, forecast.df)
    return result


def pit(target: Array, forecast: DensityForecast) -> Array:
    """Probability integral transform, float64 [n] in [0, 1]: uniform where the forecasts are right.

    Diebold, Gunther and Tay, International Economic Review 39, 1998, sec. 3.
    """
    from scipy import stats

    z, width = _sides(target, forecast)
    below = width * stats.t.cdf(z / width, forecast.df)
    result: Array = np.where(z < 0, below, below - forecast.skew)
    return result


def crps(target: Array, forecast: DensityForecast) -> Array:
    """Continuous ranked probability score of each outcome, percent, float64 [n]; needs ``df`` above 1.

    ``E|X - y| - E|X - X'| / 2`` (Gneiting and Raftery, Journal of the American Statistical Association 102, 2007,
    eq. 21), both in closed form: the partial means of Student's t on either side of the mode give the first, and
    ``g (1 + 3 skew²) - 2 skew² E|t|`` is the second, g being that of the symmetric density (Jordan, Krüger and Lerch,
    Journal of Statistical Software 90(12), 2019, appendix A, has it and the symmetric score).
    """
    from scipy import special, stats

    z, width = _sides(target, forecast)
    df, skew = forecast.df, forecast.skew
    normal = np.isinf(df)
    finite = np.where(normal, 4.0, df)
    u = z / width
    # E[t; t < u], the partial mean of the symmetric density, is minus this.
    tail = stats.t.pdf(u, df) * np.where(normal, 1.0, (finite + u**2) / (finite - 1))
    mean = 2 * skew * _mean_magnitude(df)
    partial = np.where(z < 0, 0.0, mean) - width**2 * tail
    half_difference = np.where(
        normal,
        1 / np.sqrt(np.pi),
        2 * np.sqrt(finite) / (finite - 1) * special.beta(0.5, finite - 0.5) / special.beta(0.5, finite / 2) ** 2,
    )
    spread = half_difference * (1 + 3 * skew**2) - skew * mean
    result: Array = forecast.scale * (z * (2 * pit(target, forecast) - 1) - 2 * partial + mean - spread)
    return result


def sharpness(forecast: DensityForecast, level: float) -> float:
    """Mean width of the central intervals of this probability, percent: the narrower, the sharper.

    Gneiting, Balabdaoui and Raftery, Journal of the Royal Statistical Society B 69, 2007, sec. 3.3.
    """
    low, high = forecast.interval(level)
    return float(np.mean(high - low))


def scores(target: Array, forecast: DensityForecast) -> dict[str, float]:
    """Mean scores of these forecasts.

    Parameters
    ----------
    target
        Outcomes, percent, float64 [n].
    forecast
        Their densities, n of them.

    Returns
    -------
    dict
        ``nll`` (nats), ``crps`` (percent), ``mae`` of the median (percent), ``coverage_50``, ``_80``, ``_95``
        (shares), ``width_50``, ``_80``, ``_95`` (percent), ``calibration_error`` (probability) and ``n``.
    """
    transform = pit(target, forecast)
    return {
        "nll": float(nll(target, forecast).mean()),
        "crps": float(crps(target, forecast).mean()),
        "mae": float(np.abs(target - forecast.median).mean()),
        **{f"coverage_{level * 100:.0f}": coverage(transform, level) for level in LEVELS},
        **{f"width_{level * 100:.0f}": sharpness(forecast, level) for level in LEVELS},
        "calibration_error": calibration_error(transform),
        "n": float(len(target)),
    }


def _sides(target: Array, forecast: DensityForecast) -> tuple[Array, Array]:
    z = (target - forecast.location) / forecast.scale
    return z, np.where(z < 0, 1 - forecast.skew, 1 + forecast.skew)


def _mean_magnitude(df: Array) -> Array:
    """E|t| of Student's t of unit scale, [n]; of a normal variable where ``df`` is infinite."""
    from scipy import special

    normal = np.isinf(df)
    finite = np.where(normal, 4.0, df)
    student = 2 * np.sqrt(finite) / (finite - 1) / special.beta(0.5, finite / 2)
    result: Array = np.where(normal, np.sqrt(2 / np.pi), student)
    return result
