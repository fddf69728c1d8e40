"""The eight classic indicators of the next bar: the streaming twin of ``kernels.atlas8``, bit for bit.

Where a block adds up its windows anew from the closes, this keeps the sums of the last blocks of four in rings, so that
a bar costs some hundred operations. All formulas are those of the block's loops.
"""

from __future__ import annotations

import numpy as np

from atlas_pipeline.compiled import compiled
from atlas_pipeline.features.atlas8 import ATLAS8, ROC_PERIOD
from atlas_pipeline.features.kernels.atlas8 import band_position, deviation, strength
from atlas_pipeline.features.kernels.elementary import log
from atlas_pipeline.features.kernels.recurrences import MEMORY, SEEDED, average, move, seed_indicators
from atlas_pipeline.features.kernels.windows import between_five, moments_of_four

Array = np.ndarray

_RING = 32
_LAST = _RING - 1
_CLOSE, _TOTAL, _SQUARES, _RETURN, _RETURN_TOTAL, _RETURN_SQUARES = range(16, 16 + 6 * _RING, _RING)
_LOG, _SEEDING = len(MEMORY), 16 + 6 * _RING
STEP_STATE = _SEEDING + 5
"""Length of a series' state: the memory of its recurrences, the last logarithm, and rings of 32 bars."""
_WARMUP = np.array([feature.warmup for feature in ATLAS8])
_LONGEST_WARMUP = int(_WARMUP.max())

if len(MEMORY) >= 16:
    raise ValueError("the rings begin at the 16th place of the state")


@compiled(error_model="numpy", nogil=True)
def step_atlas8(state: Array, high: float, low: float, close: float, out: Array) -> None:
    """Take the next bar of a series and compute its eight features.

    Parameters
    ----------
    state : float64[STEP_STATE]
        Zeros for a series that begins; advanced. All there is to save.
    high, low, close : float
        Finite, positive prices.
    out : float32 or float64 [8]
        The features, in the order in which they are declared; NaN during warm-up.
    """
    age = int(state[0])
    place = age & _LAST
    logarithm = log(close)
    if age == 0:
        state[_CLOSE : _CLOSE + _RING] = close
        state[_LOG] = logarithm
    previous = state[_CLOSE + ((place - 1) & _LAST)]
    gain, loss, extent = move(high, low, close, previous)
    if age < SEEDED:
        young = state[_SEEDING:]
        young[0], young[1], young[2], young[3] = close, gain, loss, extent
        seed_indicators(state, age, young[:1], young[1:2], young[2:3], young[3:4], young[4:5])
        rise, fall, spread, fast, slow = state[1], state[2], state[3], state[4], state[5]
    else:
        rise, fall, spread, fast, slow = average(
            state[1], state[2], state[3], state[4], state[5], (gain, loss, extent), close
        )
        state[1], state[2], state[3], state[4], state[5] = rise, fall, spread, fast, slow
    state[_CLOSE + place] = close
    state[_RETURN + place] = logarithm - state[_LOG]
    state[_LOG] = logarithm
    total, squares = _moments(state, _CLOSE, _TOTAL, _SQUARES, place)
    _, return_squares = _moments(state, _RETURN, _RETURN_TOTAL, _RETURN_SQUARES, place)
    lagged = state[_CLOSE + ((place - ROC_PERIOD) & _LAST)]
    out[0] = close
    out[1] = strength(rise, rise + fall)
    out[2] = fast - slow
    out[3] = band_position(close, total, squares)
    out[4] = spread
    out[5] = deviation(return_squares)
    out[6] = 100.0 * (close / lagged - 1.0)
    out[7] = close - lagged
    if age < _LONGEST_WARMUP:
        for number in range(8):
            if age < _WARMUP[number]:
                out[number] = np.nan
    state[0] += 1.0


@compiled(error_model="numpy", inline="always")
def _moments(state: Array, values: int, totals: int, squares: int, place: int) -> tuple[float, float]:
    """Sum the last 20 values of a ring, and the squares of their distances from their mean."""
    one, two, three = (place - 1) & _LAST, (place - 2) & _LAST, (place - 3) & _LAST
    total, square = moments_of_four(
        state[values + three], state[values + two], state[values + one], state[values + place]
    )
    state[totals + place], state[squares + place] = total, square
    a, b, c, d = (place - 16) & _LAST, (place - 12) & _LAST, (place - 8) & _LAST, (place - 4) & _LAST
    every, between = between_five(state[totals + a], state[totals + b], state[totals + c], state[totals + d], total)
    within = state[squares + a] + state[squares + b] + state[squares + c] + state[squares + d] + square
    return every, within + 0.25 * between
