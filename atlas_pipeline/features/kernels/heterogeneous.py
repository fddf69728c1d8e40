"""Means with exponential memories of the true range and of relative returns; declared in ``features.heterogeneous``."""

from __future__ import annotations

import math

import numpy as np

from atlas_pipeline.compiled import compiled
from atlas_pipeline.features.heterogeneous import RANGE_HALF_LIVES, TREND_HALF_LIVES
from atlas_pipeline.features.kernels.elementary import logarithm, multiply_add
from atlas_pipeline.features.kernels.relative import RESOLUTION
from atlas_pipeline.features.relative import VOLATILITY_SEED

Array = np.ndarray

RANGES = len(RANGE_HALF_LIVES)
FEATURES = RANGES + len(TREND_HALF_LIVES)
MEMORY = 2 * FEATURES
"""What a series remembers: each mean's weighted sum, then each mean's sum of weights."""

_DECAYS = 0.5 ** (1.0 / np.array([*RANGE_HALF_LIVES, *TREND_HALF_LIVES]))
_ROOTS = np.sqrt(np.array(TREND_HALF_LIVES, dtype=np.float64))
_PARKINSON = -0.5 * math.log(4.0 * math.log(2.0))


@compiled(error_model="numpy")
def heterogeneous_of_block(
    memory: Array, first: int, variance: Array, spread: Array, multiple: Array, work: Array, out: Array
) -> None:
    """Compute the features of a block, in the order in which they are declared.

    A row whose value is undefined lets all weights decay and adds none.

    Parameters
    ----------
    memory : float64[MEMORY]
        Advanced.
    first : int
        Rows of the series before these.
    variance : float64[n]
        EWMA of squared log returns.
    spread : float64[n]
        ln of the true range's upper over its lower end; the series' first is not read.
    multiple : float64[n]
        Relative returns; those of the volatility's seed are not read.
    work : float64[2, n or more]
        Overwritten.
    out : float64[FEATURES, n or more]
        Where the features go.
    """
    rows = len(variance)
    if first == 0:
        memory[:] = 0.0
    squares, level = work[0, :rows], work[1, :rows]
    logarithm(variance, level)
    for row in range(rows):
        squares[row] = spread[row] * spread[row]
    for number in range(FEATURES):
        decay, total, weight, made = _DECAYS[number], memory[number], memory[FEATURES + number], out[number, :rows]
        ranged = number < RANGES
        begin = 1 if ranged else VOLATILITY_SEED
        for row in range(rows):
            value = squares[row] if ranged else multiple[row]
            if first + row < begin or math.isnan(value):
                total, weight = total * decay, weight * decay
            else:
                total, weight = multiply_add(total, decay, value), multiply_add(weight, decay, 1.0)
            made[row] = total / weight
        memory[number], memory[FEATURES + number] = total, weight
    for number in range(RANGES):
        made = out[number, :rows]
        for row in range(rows):
            squares[row] = made[row]
        logarithm(squares, made)
        for row in range(rows):
            moves = squares[row] > RESOLUTION and variance[row] > RESOLUTION
            made[row] = _PARKINSON + 0.5 * (made[row] - level[row]) if moves else np.nan
    for number in range(FEATURES - RANGES):
        made = out[RANGES + number, :rows]
        for row in range(rows):
            made[row] *= _ROOTS[number]
