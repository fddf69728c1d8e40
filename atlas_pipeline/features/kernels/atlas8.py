"""The eight classic indicators of a block of bars, in one pass over memory; declared in ``features.atlas8``."""

from __future__ import annotations

import math

import numpy as np

from atlas_pipeline.compiled import compiled
from atlas_pipeline.features.atlas8 import (
    ATLAS8,
    BAND_WIDTH,
    BAND_WINDOW,
    MOMENTUM_PERIOD,
    ROC_PERIOD,
    VOLATILITY_WINDOW,
)
from atlas_pipeline.features.kernels.elementary import logarithm
from atlas_pipeline.features.kernels.recurrences import SEEDED, indicators, moves, seed_indicators
from atlas_pipeline.features.kernels.windows import moments_20

Array = np.ndarray

if (BAND_WINDOW, VOLATILITY_WINDOW) != (20, 20) or ROC_PERIOD != MOMENTUM_PERIOD:
    raise ValueError("the kernel's windows are 20 rows, and ROC and Momentum share their period")

HISTORY = 1 + VOLATILITY_WINDOW
"""Rows that are read before the first of a block."""
SCRATCH = 12
BLOCK = 1024
"""Rows whose intermediate values stay in the processor's second cache."""
_WARMUP = np.array([feature.warmup for feature in ATLAS8])


@compiled(error_model="numpy")
def atlas8_of_block(
    memory: Array, high: Array, low: Array, close: Array, scratch: Array, out: Array, begin: int
) -> None:
    """Compute the eight features of a block, in the order in which they are declared.

    Parameters
    ----------
    memory : float64[len(MEMORY)]
        Of the series before the block; advanced, but for the count of its rows.
    high, low, close : float64[HISTORY + n]
        Prices, beginning ``HISTORY`` rows before the block; where a series has fewer, any positive numbers.
    scratch : float64[SCRATCH, HISTORY + n or more]
        Overwritten.
    out : float32 or float64 [8 or more, begin + n or more]
        Where the features go; rows of the series that are younger than a feature's warm-up get meaningless numbers.
    begin : int
        Column of ``out`` where the block begins.
    """
    every = len(close)
    rows, first = every - HISTORY, int(memory[0])
    price, end = close[HISTORY:], begin + rows

    logarithms, returns = scratch[0, :every], scratch[1, 1:every]
    logarithm(close, logarithms)
    _changes(logarithms, returns)
    mean, squares, return_squares = scratch[2, :every], scratch[3, :every], scratch[5, 1:every]
    moments_20(close, scratch[6:8], mean, squares)
    moments_20(returns, scratch[6:8], scratch[4, 1:every], return_squares)

    gain, moved, extent, line = scratch[8, :rows], scratch[9, :rows], scratch[10, :rows], scratch[11, :rows]
    moves(high[HISTORY - 1 :], low[HISTORY - 1 :], close[HISTORY - 1 :], gain, moved, extent)
    young = min(max(SEEDED - first, 0), rows)
    if young:
        seed_indicators(memory, first, price[:young], gain[:young], moved[:young], extent[:young], line[:young])
    indicators(memory, price[young:], gain[young:], moved[young:], extent[young:], line[young:])

    _finish_recurrences(gain, moved, line, extent, out[1, begin:end], out[2, begin:end], out[4, begin:end])
    moments = mean[HISTORY:], squares[HISTORY:], return_squares[HISTORY - 1 :]
    _finish_moments(price, *moments, out[3, begin:end], out[5, begin:end])
    lagged = close[HISTORY - ROC_PERIOD : every - ROC_PERIOD]
    _finish_changes(price, lagged, out[0, begin:end], out[6, begin:end], out[7, begin:end])


@compiled(error_model="numpy", inline="always")
def strength(gain: float, moved: float) -> float:
    """Compute the RSI from the average rise and the average rise and fall together."""
    return 100.0 * (gain / moved) if moved > 0.0 else 50.0


@compiled(error_model="numpy", inline="always")
def deviation(squares: float) -> float:
    """Compute the standard deviation of 20 values from the squares of their distances from their mean."""
    return math.sqrt(squares * (1.0 / BAND_WINDOW))


@compiled(error_model="numpy", inline="always")
def band_position(close: float, total: float, squares: float) -> float:
    """Compute where a close lies between the bands of its window."""
    band = 2.0 * BAND_WIDTH * deviation(squares)
    return 0.5 + (close - total * (1.0 / BAND_WINDOW)) / band if band > 0.0 else 0.5


@compiled(error_model="numpy")
def _changes(values: Array, out: Array) -> None:
    before, now = values[:-1], values[1:]
    for row in range(len(now)):
        out[row] = now[row] - before[row]


@compiled(error_model="numpy")
def _finish_recurrences(
    gain: Array, moved: Array, line: Array, extent: Array, rsi: Array, macd: Array, atr: Array
) -> None:
    for row in range(len(gain)):
        rsi[row] = strength(gain[row], moved[row])
        macd[row] = line[row]
        atr[row] = extent[row]


@compiled(error_model="numpy")
def _finish_moments(
    close: Array, total: Array, squares: Array, return_squares: Array, position: Array, volatility: Array
) -> None:
    for row in range(len(close)):
        position[row] = band_position(close[row], total[row], squares[row])
        volatility[row] = deviation(return_squares[row])


@compiled(error_model="numpy")
def _finish_changes(close: Array, lagged: Array, price: Array, roc: Array, momentum: Array) -> None:
    for row in range(len(close)):
        now, before = close[row], lagged[row]
        price[row] = now
        roc[row] = 100.0 * (now / before - 1.0)
        momentum[row] = now - before


@compiled(error_model="numpy", nogil=True)
def advance_atlas8(
    memory: Array, history: Array, high: Array, low: Array, close: Array, scratch: Array, out: Array
) -> int:
    """Advance one series, of which only the eight are wanted, by its next bars.

    Parameters
    ----------
    memory : float64[len(MEMORY)]
        Zeros for a series that begins; advanced.
    history : float64[3, HISTORY]
        High, low and close of the last rows; advanced.
    high, low, close : float64[n]
        Prices without a hole.
    scratch : float64[3 + SCRATCH, HISTORY + min(n, BLOCK) or more]
        Overwritten.
    out : float32 or float64 [8, n]
        Where the features go; NaN during warm-up.

    Returns
    -------
    int
        ``n``, or the first row of the block where a price is missing, infinite or not positive: there it stopped.
    """
    total = len(close)
    joined, free, begin = scratch[:3], scratch[3:], 0
    while begin < total:
        end = min(begin + BLOCK, total)
        rows = end - begin
        # While they are read anyway.
        if not (_usable(high[begin:end]) and _usable(low[begin:end]) and _usable(close[begin:end])):
            return begin
        if begin >= HISTORY:
            first = begin - HISTORY
            block = high[first:end], low[first:end], close[first:end]
        else:
            block = joined[0, : HISTORY + rows], joined[1, : HISTORY + rows], joined[2, : HISTORY + rows]
            for kind, prices in enumerate((high, low, close)):
                joined[kind, HISTORY : HISTORY + rows] = prices[begin:end]
                if memory[0] == 0.0:
                    history[kind] = prices[0]
                joined[kind, :HISTORY] = history[kind]
        atlas8_of_block(memory, *block, free, out, begin)
        age = int(memory[0])
        for number in range(8):
            out[number, begin : begin + min(max(_WARMUP[number] - age, 0), rows)] = np.nan
        memory[0] += rows
        for kind, prices in enumerate(block):
            history[kind] = prices[rows:]
        begin = end
    return total


@compiled(error_model="numpy")
def _usable(prices: Array) -> bool:
    bad = 0
    for row in range(len(prices)):
        bad += 0 if 0.0 < prices[row] < np.inf else 1
    return bad == 0
