"""Density forecasts as arrays, and the scores that judge them: likelihood, CRPS, coverage, PIT.

Everything is in the unit of the return (percent) and in float64. Other models' forecasts live in
``volatility_models``; pictures in ``plots``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
LEVELS = (0.5, 0.8, 0.95)


@dataclass(frozen=True, eq=False)
class DensityForecast:
    """Student-t densities, one a bar; where ``df`` is infinite, normal ones.

    Attributes
    ----------
    location, scale
        float64 [n], percent; the standard deviation is ``scale * sqrt(df / (df - 2))``.
    df
        float64 [n], degrees of freedom; ``inf`` for a normal density.
    """

    location: Array
    scale: Array
    df: Array

    def __len__(self) -> int:
        return len(self.location)

    def __getitem__(self, rows: NDArray[np.bool_] | NDArray[np.int64] | slice) -> DensityForecast:
        return DensityForecast(self.location[rows], self.scale[rows], self.df[rows])

    @property
    def standard_deviation(self) -> Array:
        """Standard deviation, float64 [n], percent; infinite where ``df`` is at most 2."""
        finite = np.where(np.isinf(self.df), 4.0, self.df)
        with np.errstate(divide="ignore", invalid="ignore"):
            inflation = np.where(finite > 2, finite / (finite - 2), np.inf)
        return self.scale * np.sqrt(np.where(np.isinf(self.df), 1.0, inflation))

    def interval(self, level: float) -> tuple[Array, Array]:
        """Lower and upper bound of the central interval that holds ``level`` of the probability, percent."""
        from scipy import stats

        half = stats.t.ppf(0.5 + level / 2, self.df) * self.scale
        return self.location - half, self.location + half


def nll(target: Array, forecast: DensityForecast) -> Array:
    """Negative log-likelihood of each outcome, nats, float64 [n]; the logarithmic score of Good (1952)."""
    from scipy import stats

    result: Array = -stats.t.logpdf(target, forecast.df, loc=forecast.location, scale=forecast.scale)
    return result


def crps(target: Array, forecast: DensityForecast) -> Array:
    """Continuous ranked probability score of each outcome, percent, float64 [n].

    The closed forms of Jordan, Krüger and Lerch, Journal of Statistical Software 90(12), 2019, appendix A
    (normal and Student's t), as scoringrules has them.
    """
    import scoringrules

    normal = np.isinf(forecast.df)
    z = (target - forecast.location) / forecast.scale
    score = np.empty_like(z)
    score[normal] = scoringrules.crps_normal(z[normal], 0.0, 1.0, backend="numpy")
    score[~normal] = scoringrules.crps_t(z[~normal], forecast.df[~normal], 0.0, 1.0, backend="numpy")
    return score * forecast.scale


def pit(target: Array, forecast: DensityForecast) -> Array:
    """Probability integral transform, float64 [n] in [0, 1]: uniform where the forecasts are right.

    Diebold, Gunther and Tay, International Economic Review 39, 1998, sec. 3.
    """
    from scipy import stats

    result: Array = stats.t.cdf(target, forecast.df, loc=forecast.location, scale=forecast.scale)
    return result


def coverage(transform: Array, level: float) -> float:
    """Share of outcomes inside the central interval of this probability, from their PIT."""
    return float(np.mean(np.abs(transform - 0.5) <= level / 2))


def scores(target: Array, forecast: DensityForecast) -> dict[str, float]:
    """Mean ``nll`` (nats), mean ``crps`` (percent), ``coverage_50``, ``_80``, ``_95`` (shares) and ``n``.

    Parameters
    ----------
    target
        Outcomes, percent, float64 [n].
    forecast
        Their densities, n of them.
    """
    transform = pit(target, forecast)
    return {
        "nll": float(nll(target, forecast).mean()),
        "crps": float(crps(target, forecast).mean()),
        **{f"coverage_{level * 100:.0f}": coverage(transform, level) for level in LEVELS},
        "n": float(len(target)),
    }
