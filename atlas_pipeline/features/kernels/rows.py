"""What there is of each bar: usable prices, an open, a volume, a volatility index, and since how many bars."""

from __future__ import annotations

import numpy as np

from atlas_pipeline.compiled import compiled
from atlas_pipeline.features.kernels.inputs import CLOSE, HIGH, INDEX, INPUTS, LOW, NEVER, OPEN, VOLUME

Array = np.ndarray


@compiled(error_model="numpy", nogil=True)
def judge_rows(
    bounds: Array,
    times: Array,
    longest_closure: int,
    inputs: Array,
    last_bar: Array,
    last_priced: Array,
    last_close: Array,
    last_ages: Array,
    usable: Array,
    begins_anew: Array,
    ages: Array,
) -> None:
    """Find what is missing, make it NaN, and count since when it is there.

    Parameters
    ----------
    bounds : int64[series + 1]
        Where each series' rows begin and end.
    times : int64[rows]
        Instants, microseconds.
    longest_closure : int
        Microseconds between two bars beyond which there is a hole.
    inputs : float64[len(INPUTS), rows]
        As traded; what is infinite, or a price that is not positive, becomes NaN. A volume of zero is a fact.
    last_bar, last_priced : int64[series]
        Instants of the last bar and of the last with a close, ``NEVER`` before the first; advanced.
    last_close : float64[series]
        That close; advanced.
    last_ages : int32[series, 4]
        Ages at the last bar; advanced.
    usable : bool[rows]
        Whether high, low and close are there.
    begins_anew : bool[rows]
        Whether there is no bar before, or a hole.
    ages : int32[rows, 4]
        Consecutive bars up to and with each that had usable prices and with them an open, a volume, an index.
    """
    for number in range(len(bounds) - 1):
        before = last_bar[number]
        prices, opens, volumes, indices = last_ages[number]
        for row in range(bounds[number], bounds[number + 1]):
            for kind in range(len(INPUTS)):
                value = inputs[kind, row]
                if not (np.isfinite(value) and (value > 0.0 or (kind == VOLUME and value == 0.0))):
                    inputs[kind, row] = np.nan
            now = times[row]
            anew = before == NEVER or now - before > longest_closure
            there = not (np.isnan(inputs[HIGH, row]) or np.isnan(inputs[LOW, row]) or np.isnan(inputs[CLOSE, row]))
            if anew or not there:
                prices, opens, volumes, indices = 0, 0, 0, 0
            if there:
                prices += 1
                opens = 0 if np.isnan(inputs[OPEN, row]) else opens + 1
                volumes = 0 if np.isnan(inputs[VOLUME, row]) else volumes + 1
                indices = 0 if np.isnan(inputs[INDEX, row]) else indices + 1
            if not np.isnan(inputs[CLOSE, row]):
                last_priced[number], last_close[number] = now, inputs[CLOSE, row]
            usable[row], begins_anew[row] = there, anew
            ages[row, 0], ages[row, 1], ages[row, 2], ages[row, 3] = prices, opens, volumes, indices
            before = now
        last_bar[number] = before
        last_ages[number, 0], last_ages[number, 1] = prices, opens
        last_ages[number, 2], last_ages[number, 3] = volumes, indices
