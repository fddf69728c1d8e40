"""Tests of one forecast's losses against another's: whether the difference is more than luck.

The losses are ``density``'s; which forecasts are compared is decided in ``forecast_table``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atlas_pipeline.training.calibration import Array

# Fewer differences than this say nothing about their own long-run variance.
MINIMUM_DIFFERENCES = 20


@dataclass(frozen=True)
class LossComparison:
    """Mean loss difference, its Diebold-Mariano statistic and two-sided p-value, and what they rest on.

    A negative ``mean`` favours the first forecast. ``statistic`` and ``p_value`` are NaN where there are fewer than
    ``MINIMUM_DIFFERENCES`` differences or these do not vary.
    """

    mean: float
    statistic: float
    p_value: float
    n: int
    lags: int


def diebold_mariano(difference: Array, horizon: int = 1) -> LossComparison:
    """Test whether two forecasts are equally good: that the mean of their loss differences is nought.

    Diebold and Mariano, Journal of Business and Economic Statistics 13, 1995, eq. 3, with the long-run variance of
    Newey and West (Econometrica 55, 1987: Bartlett kernel) at ``floor(4 (n / 100)^(2/9))`` lags, at least
    ``horizon - 1``; the statistic is corrected and held against Student's t of n - 1 degrees of freedom as in Harvey,
    Leybourne and Newbold, International Journal of Forecasting 13, 1997, eq. 9.

    Parameters
    ----------
    difference
        Loss of the first forecast minus that of the second, one a bar in order of time, float64 [n]. Of several
        series, pass ``mean_by_instant``: their differences at one instant are not independent.
    horizon
        Bars ahead.

    Raises
    ------
    ValueError
        Where a difference is not finite.
    """
    from scipy import stats

    n = len(difference)
    broken = np.flatnonzero(~np.isfinite(difference))
    if broken.size:
        raise ValueError(
            f"the loss difference at bar {broken[0]} is {difference[broken[0]]}: compare bars with two finite losses"
        )
    mean = float(difference.mean()) if n else math.nan
    lags = min(max(horizon - 1, int(4 * (n / 100) ** (2 / 9))), max(n - 1, 0))
    centred = difference - mean
    if n < MINIMUM_DIFFERENCES or np.abs(centred).max() <= 1e-12 * (1 + abs(mean)):
        return LossComparison(mean, math.nan, math.nan, n, lags)
    weights = 1 - np.arange(1, lags + 1) / (lags + 1)
    products = np.array([centred[lag:] @ centred[: n - lag] for lag in range(1, lags + 1)])
    variance = (centred @ centred + 2 * float(weights @ products)) / n
    correction = (n + 1 - 2 * horizon + horizon * (horizon - 1) / n) / n
    statistic = mean / math.sqrt(variance / n) * math.sqrt(correction)
    return LossComparison(mean, statistic, float(2 * stats.t.sf(abs(statistic), n - 1)), n, lags)


def mean_by_instant(difference: Array, instants: NDArray[np.generic]) -> Array:
    """Average the loss differences of several series at each instant, in order of time.

    What the series share at an instant thus stays one observation, and the test respects their correlation.

    Parameters
    ----------
    difference
        float64 [n], in any order.
    instants
        When each was forecast, [n].

    Returns
    -------
    float64 [distinct instants]
    """
    _, place, count = np.unique(instants, return_inverse=True, return_counts=True)
    return np.bincount(place, difference) / count
