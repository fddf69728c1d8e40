"""Averages, returns, ranges, breakouts and distances of a block of bars; declared in ``features.technical``."""

from __future__ import annotations

import math

import numpy as np

from atlas_pipeline.compiled import compiled
from atlas_pipeline.features.kernels.elementary import logarithm
from atlas_pipeline.features.kernels.windows import moments_100, window_sum
from atlas_pipeline.features.technical import (
    AVERAGE_WINDOWS,
    INDEX_AVERAGE_WINDOW,
    INDEX_SCORE_WINDOW,
    RANGE_WINDOW,
    RETURN_HORIZONS,
    VOLUME_WINDOW,
)

Array = np.ndarray

_LN2 = math.log(2.0)
_ROOT_YEAR = math.sqrt(252.0)
if (VOLUME_WINDOW, INDEX_SCORE_WINDOW) != (20, 100):
    raise ValueError("the kernel's windows of moments are 20 and 100 rows")


@compiled(error_model="numpy")
def averages_of_block(close: Array, rows: int, scratch: Array, out: Array) -> None:
    """Compute the simple averages of closes.

    Parameters
    ----------
    close : float64[m + n]
        Closes, beginning at least the longest window before the block.
    rows : int
        Rows of the block, n.
    scratch : float64[3, m + n or more]
        Overwritten.
    out : float[len(AVERAGE_WINDOWS), n or more]
        In units of the close.
    """
    every = len(close)
    for number in range(len(AVERAGE_WINDOWS)):
        window = AVERAGE_WINDOWS[number]
        total = scratch[2, :every]
        window_sum(close, window, scratch, total)
        _scale(total[every - rows :], 1.0 / window, out[number, :rows])


@compiled(error_model="numpy")
def _scale(values: Array, factor: float, out: Array) -> None:
    for row in range(len(out)):
        out[row] = values[row] * factor


@compiled(error_model="numpy")
def returns_of_block(log_close: Array, rows: int, out: Array) -> None:
    """Compute log returns over the horizons.

    Parameters
    ----------
    log_close : float64[m + n]
        Logarithms of closes, beginning at least the longest horizon before the block.
    rows : int
        Rows of the block, n.
    out : float[len(RETURN_HORIZONS), n or more]
        Where they go.
    """
    first = len(log_close) - rows
    now = log_close[first:]
    for number in range(len(RETURN_HORIZONS)):
        begin = first - RETURN_HORIZONS[number]
        _subtract(now, log_close[begin : begin + rows], out[number, :rows])


@compiled(error_model="numpy")
def _subtract(one: Array, other: Array, out: Array) -> None:
    for row in range(len(out)):
        out[row] = one[row] - other[row]


@compiled(error_model="numpy")
def root_means_of_block(squares: Array, window: int, factor: float, scratch: Array, out: Array) -> None:
    """Compute the root of ``factor`` times the mean of squares over a window.

    Parameters
    ----------
    squares : float64[m + n]
        Beginning at least ``window`` before the block.
    window : int
        Rows.
    factor : float
        Of the mean.
    scratch : float64[3, m + n or more]
        Overwritten.
    out : float[n]
        Where they go.
    """
    rows, every = len(out), len(squares)
    total = scratch[2, :every]
    window_sum(squares, window, scratch, total)
    recent = total[every - rows :]
    share = factor / window
    for row in range(rows):
        out[row] = math.sqrt(recent[row] * share)


@compiled(error_model="numpy")
def ranges_of_block(log_range: Array, log_body: Array, rows: int, work: Array, scratch: Array, out: Array) -> None:
    """Compute the volatilities of Parkinson and of Garman and Klass.

    Parameters
    ----------
    log_range, log_body : float64[m + n]
        ln(H / L) and ln(C / O), beginning at least the window before the block.
    rows : int
        Rows of the block, n.
    work : float64[2, m + n or more]
        Overwritten.
    scratch : float64[3, m + n or more]
        Overwritten.
    out : float[2, n or more]
        Log return per bar.
    """
    every = len(log_range)
    range_squares, mixed = work[0, :every], work[1, :every]
    for row in range(every):
        square = log_range[row] * log_range[row]
        range_squares[row] = square
        mixed[row] = 0.5 * square - (2.0 * _LN2 - 1.0) * log_body[row] * log_body[row]
    root_means_of_block(range_squares, RANGE_WINDOW, 0.25 / _LN2, scratch, out[0, :rows])
    root_means_of_block(mixed, RANGE_WINDOW, 1.0, scratch, out[1, :rows])


@compiled(error_model="numpy")
def scores_of_block(values: Array, total: Array, squares: Array, window: int, out: Array) -> None:
    """Compute standard scores: distances from the window's mean in its deviations; NaN where nothing moved.

    Parameters
    ----------
    values, total, squares : float64[n]
        Values, and the moments of the windows that end with them.
    window : int
        Rows.
    out : float[n]
        In deviations (ddof 0).
    """
    for row in range(len(out)):
        deviation = math.sqrt(squares[row] / window)
        distance = values[row] - total[row] / window
        out[row] = distance / deviation if deviation > 0.0 else np.nan


@compiled(error_model="numpy")
def breakouts_of_block(close: Array, highest: Array, lowest: Array, out: Array) -> None:
    """Say where closes leave the range of the rows before them.

    Parameters
    ----------
    close : float64[n]
        Closes.
    highest, lowest : float64[n]
        Extrema of the windows that end one row before.
    out : float[n]
        1 above, −1 below, 0 between.
    """
    for row in range(len(out)):
        out[row] = (1.0 if close[row] > highest[row] else 0.0) - (1.0 if close[row] < lowest[row] else 0.0)


@compiled(error_model="numpy")
def ratios_of_block(numerator: Array, denominator: Array, out: Array) -> None:
    """Compute ``numerator / denominator - 1``, float[n]."""
    for row in range(len(out)):
        out[row] = numerator[row] / denominator[row] - 1.0


@compiled(error_model="numpy")
def log_ratios_of_block(numerator: Array, denominator: Array, work: Array, out: Array) -> None:
    """Compute ``ln(numerator / denominator)``, float[n]; NaN where either is missing or not positive."""
    quotient, logarithms = work[0, : len(out)], work[1, : len(out)]
    for row in range(len(out)):
        quotient[row] = numerator[row] / denominator[row] if denominator[row] > 0.0 else np.nan
    logarithm(quotient, logarithms)
    out[:] = logarithms


@compiled(error_model="numpy")
def index_of_block(index: Array, realized: Array, rows: int, work: Array, scratch: Array, out: Array) -> None:
    """Compute the five features of the volatility index.

    Parameters
    ----------
    index : float64[m + n]
        As published at each row, percent per root year, beginning at least the longest window before the block.
    realized : float[n]
        ``realized_volatility_20``.
    rows : int
        Rows of the block, n.
    work : float64[2, m + n or more]
        Overwritten.
    scratch : float64[4, m + n or more]
        Overwritten.
    out : float[5, n or more]
        Where they go.
    """
    every = len(index)
    first = every - rows
    now, over_average = index[first:], out[2, :rows]
    out[0, :rows] = now
    log_ratios_of_block(now, index[first - 1 : every - 1], work, out[1, :rows])
    total, squares = work[0, :every], work[1, :every]
    window_sum(index, INDEX_AVERAGE_WINDOW, scratch, total)
    average = total[first:]
    for row in range(rows):
        over_average[row] = now[row] * INDEX_AVERAGE_WINDOW / average[row] - 1.0
    moments_100(index, scratch, total, squares)
    scores_of_block(now, total[first:], squares[first:], INDEX_SCORE_WINDOW, out[3, :rows])
    implied = work[0, :rows]
    for row in range(rows):
        implied[row] = realized[row] * (100.0 * _ROOT_YEAR)
    log_ratios_of_block(now, implied, scratch, out[4, :rows])
