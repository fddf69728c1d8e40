"""Indicators in compiled loops: float64, one pass over the bars, no window re-read for a row.

Each function takes finite, positive input and gives NaN only for its own warm-up; ``compute`` cuts series at
missing bars. Where TA-Lib has the indicator the result is TA-Lib's, seeds included. A value depends on its
own and earlier rows only, and on the row the input begins with: seeds and window blocks are counted from
there.

Numba compiles on the first call and keeps the machine code on disk; ``fastmath`` stays off, since it assumes
away NaN and the order of additions.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

Array = np.ndarray


@njit(cache=True)
def rsi(close: Array, period: int) -> Array:
    """Compute the relative strength index with Wilder's smoothing.

    Averages are seeded with the mean of the first ``period`` changes (Wilder, New Concepts in Technical
    Trading Systems, 1978, sec. VI). Without any movement gains and losses are equal and the index is 50;
    TA-Lib says 0.

    Parameters
    ----------
    close : float64[n]
        Closes.
    period : int
        Bars of the smoothing.

    Returns
    -------
    float64[n]
        0 to 100; NaN in the first ``period`` rows.
    """
    rows = len(close)
    result = np.full(rows, np.nan)
    if rows <= period:
        return result
    gain = 0.0
    loss = 0.0
    for row in range(1, period + 1):
        change = close[row] - close[row - 1]
        if change > 0.0:
            gain += change
        else:
            loss -= change
    gain /= period
    loss /= period
    result[period] = 100.0 * gain / (gain + loss) if gain + loss > 0.0 else 50.0
    for row in range(period + 1, rows):
        change = close[row] - close[row - 1]
        gain = (gain * (period - 1) + max(change, 0.0)) / period
        loss = (loss * (period - 1) + max(-change, 0.0)) / period
        result[row] = 100.0 * gain / (gain + loss) if gain + loss > 0.0 else 50.0
    return result


@njit(cache=True)
def macd(close: Array, fast: int, slow: int, signal: int) -> Array:
    """Compute the MACD line: the fast exponential average less the slow one.

    Both averages are seeded with a simple mean that ends at bar ``slow - 1``, as TA-Lib does, and the first
    ``signal - 1`` values of the line, which seed TA-Lib's signal, are withheld as it withholds them (Appel,
    Technical Analysis: Power Tools for Active Investors, 2005, ch. 8).

    Parameters
    ----------
    close : float64[n]
        Closes.
    fast, slow, signal : int
        Spans of the averages and of the signal.

    Returns
    -------
    float64[n]
        In units of the close; NaN in the first ``slow + signal - 2`` rows.
    """
    rows = len(close)
    result = np.full(rows, np.nan)
    if rows < slow:
        return result
    slow_mean = 0.0
    for row in range(slow):
        slow_mean += close[row]
    slow_mean /= slow
    fast_mean = 0.0
    for row in range(slow - fast, slow):
        fast_mean += close[row]
    fast_mean /= fast
    fast_weight = 2.0 / (fast + 1)
    slow_weight = 2.0 / (slow + 1)
    first = slow + signal - 2
    if first == slow - 1:
        result[first] = fast_mean - slow_mean
    for row in range(slow, rows):
        fast_mean += (close[row] - fast_mean) * fast_weight
        slow_mean += (close[row] - slow_mean) * slow_weight
        if row >= first:
            result[row] = fast_mean - slow_mean
    return result


@njit(cache=True)
def true_range(high: Array, low: Array, close: Array) -> Array:
    """Compute the true range: the widest of high less low and of their distances from the previous close.

    Bar 0 has no previous close and none (Wilder, 1978, sec. III).

    Parameters
    ----------
    high, low, close : float64[n]
        Prices.

    Returns
    -------
    float64[n]
        In units of the price; NaN in row 0.
    """
    rows = len(close)
    result = np.full(rows, np.nan)
    for row in range(1, rows):
        result[row] = max(high[row], close[row - 1]) - min(low[row], close[row - 1])
    return result


@njit(cache=True)
def average_true_range(ranges: Array, period: int) -> Array:
    """Smooth true ranges by Wilder's average, seeded with the mean of the first ``period`` of them.

    Parameters
    ----------
    ranges : float64[n]
        ``true_range``; row 0 is not read.
    period : int
        Bars of the smoothing.

    Returns
    -------
    float64[n]
        In units of the price; NaN in the first ``period`` rows (Wilder, 1978, sec. III).
    """
    rows = len(ranges)
    result = np.full(rows, np.nan)
    if rows <= period:
        return result
    mean = 0.0
    for row in range(1, period + 1):
        mean += ranges[row]
    mean /= period
    result[period] = mean
    for row in range(period + 1, rows):
        mean = (mean * (period - 1) + ranges[row]) / period
        result[row] = mean
    return result


@njit(cache=True)
def rolling_moments(values: Array, window: int) -> tuple[Array, Array]:
    """Compute mean and standard deviation (``ddof`` 0) of the last ``window`` values.

    A sum that adds the new and subtracts the old value drifts without bound. Here rows are cut in blocks of
    ``window``: a window is the end of one block, whose sums are taken backwards once, and the beginning of
    the next, whose sums are taken forwards. Each row costs a constant number of additions, and none is ever
    undone. Values are counted from the first of the newer block, which lies in every window read with it, so
    that a constant window has a deviation of exactly 0 and the relative error of the variance stays below
    about ``2 * window**2 * 2**-53`` whatever the level.

    Parameters
    ----------
    values : float64[n]
        Finite values.
    window : int
        Rows of the window, at least 2.

    Returns
    -------
    tuple of float64[n]
        Mean and deviation in units of ``values``; NaN in the first ``window - 1`` rows.
    """
    rows = len(values)
    mean = np.full(rows, np.nan)
    deviation = np.full(rows, np.nan)
    older_sum = np.zeros(window + 1)
    older_square = np.zeros(window + 1)
    for begin in range(0, rows, window):
        origin = values[begin]
        if begin > 0:
            for back in range(1, window):
                difference = values[begin - back] - origin
                older_sum[back] = older_sum[back - 1] + difference
                older_square[back] = older_square[back - 1] + difference * difference
        newer_sum = 0.0
        newer_square = 0.0
        for row in range(begin, min(begin + window, rows)):
            difference = values[row] - origin
            newer_sum += difference
            newer_square += difference * difference
            if row >= window - 1:
                back = window - 1 - (row - begin)
                center = (newer_sum + older_sum[back]) / window
                square = (newer_square + older_square[back]) / window
                mean[row] = origin + center
                deviation[row] = math.sqrt(max(square - center * center, 0.0))
    return mean, deviation


@njit(cache=True)
def ewma_volatility(returns: Array, decay: float, seed: int) -> Array:
    """Compute the exponentially weighted volatility of returns whose mean is taken as zero.

    ``variance[t] = decay * variance[t-1] + (1 - decay) * returns[t]**2`` (RiskMetrics Technical Document, 4th
    ed., 1996, eq. 5.3), seeded with the mean square of the first ``seed`` returns. Row t includes the return
    of bar t.

    Parameters
    ----------
    returns : float64[n]
        Returns; row 0 has none and is not read.
    decay : float
        Weight of the past, between 0 and 1.
    seed : int
        Returns of the seed.

    Returns
    -------
    float64[n]
        In units of ``returns``; NaN in the first ``seed`` rows.
    """
    rows = len(returns)
    result = np.full(rows, np.nan)
    if rows <= seed:
        return result
    variance = 0.0
    for row in range(1, seed + 1):
        variance += returns[row] * returns[row]
    variance /= seed
    result[seed] = math.sqrt(variance)
    for row in range(seed + 1, rows):
        variance = decay * variance + (1.0 - decay) * returns[row] * returns[row]
        result[row] = math.sqrt(variance)
    return result
