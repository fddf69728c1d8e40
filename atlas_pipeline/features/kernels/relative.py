"""The trailing volatility of a block of bars and the features in multiples of it; declared in ``features.relative``."""

from __future__ import annotations

import math

import numpy as np

from atlas_pipeline.compiled import compiled
from atlas_pipeline.features.relative import MOMENTUM_PERIOD, VOLUME_WINDOW

Array = np.ndarray

_LN100 = math.log(100.0)
RESOLUTION = 1e-30
"""Variance of log returns below which there is none: prices of 53 bits cannot move by less than 1e-16."""

if VOLUME_WINDOW != 20:
    raise ValueError("the kernel's window of volumes is 20 rows")


@compiled(error_model="numpy")
def volatility_of_block(variance: Array, volatility: Array) -> None:
    """Compute the trailing volatility in percent.

    Parameters
    ----------
    variance : float64[n]
        EWMA of squared log returns.
    volatility : float[n]
        Where it goes, percent per bar.
    """
    for row in range(len(variance)):
        volatility[row] = 100.0 * math.sqrt(variance[row])


@compiled(error_model="numpy")
def relative_of_block(
    variance: Array,
    fast: Array,
    log_close: Array,
    log_range: Array,
    gap: Array,
    volume_share: Array,
    logarithms: Array,
    out: Array,
) -> None:
    """Compute the eight features of a block, in the order in which they are declared.

    A close that has not moved for long has no volatility to measure by: what is a multiple of it is undefined, not
    infinite.

    Parameters
    ----------
    variance, fast : float64[n]
        EWMA of squared log returns, at the two decays.
    log_close : float64[MOMENTUM_PERIOD + n]
        Logarithms of closes, beginning before the block.
    log_range, gap, volume_share : float64[n]
        ln(H / L), ln(O / C before), (V − mean) / (V + mean).
    logarithms : float64[2, n or more]
        Logarithms of ``variance`` and ``fast``; NaN where they are zero.
    out : float[8, n or more]
        Where the features go.
    """
    rows = len(variance)
    now, before, earlier = log_close[MOMENTUM_PERIOD:], log_close[MOMENTUM_PERIOD - 1 :], log_close[:rows]
    scaled, absolute, extent, jump = out[0, :rows], out[1, :rows], out[2, :rows], out[3, :rows]
    trend, shown, ratio, level = out[4, :rows], out[5, :rows], out[6, :rows], out[7, :rows]
    slow_logarithm, fast_logarithm = logarithms[0, :rows], logarithms[1, :rows]
    period = math.sqrt(MOMENTUM_PERIOD)
    for row in range(rows):
        volatility = math.sqrt(variance[row]) if variance[row] > RESOLUTION else np.nan
        value = (now[row] - before[row]) / volatility
        scaled[row] = value
        absolute[row] = abs(value)
        extent[row] = log_range[row] / volatility
        jump[row] = gap[row] / volatility
        trend[row] = (now[row] - earlier[row]) / (volatility * period)
        shown[row] = volume_share[row]
        there = variance[row] > RESOLUTION
        level[row] = _LN100 + 0.5 * slow_logarithm[row] if there else np.nan
        there = there and fast[row] > RESOLUTION
        ratio[row] = 0.5 * (fast_logarithm[row] - slow_logarithm[row]) if there else np.nan
