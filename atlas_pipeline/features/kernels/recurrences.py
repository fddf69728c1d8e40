"""Averages with an exponential memory: of gains and losses, ranges, closes and squared returns, with their seeds.

All are advanced in one loop: each waits for its own last value, and the processor works on the others meanwhile. What
they remember is the whole memory of a series beside its last rows.
"""

from __future__ import annotations

import numpy as np

from atlas_pipeline.compiled import compiled
from atlas_pipeline.features.atlas8 import ATR_PERIOD, MACD_FAST, MACD_SLOW, RSI_PERIOD
from atlas_pipeline.features.kernels.elementary import multiply_add
from atlas_pipeline.features.relative import FAST_DECAY, VOLATILITY_SEED
from atlas_pipeline.features.technical import EMA_FAST, EMA_SLOW

Array = np.ndarray

MEMORY = ("rows", "gain", "loss", "range", "fast", "slow", "ema_fast", "ema_slow", "variance", "fast_variance")
"""What a series remembers: the rows since it began, and the averages, of which ``fast`` and ``slow`` are the MACD's."""
SEEDED = max(MACD_SLOW, VOLATILITY_SEED + 1)
"""Rows after which no average is a seed any more."""

_WILDER_RSI, _WILDER_ATR = 1.0 / RSI_PERIOD, 1.0 / ATR_PERIOD
_FAST, _SLOW = 2.0 / (MACD_FAST + 1), 2.0 / (MACD_SLOW + 1)
_EMA_FAST, _EMA_SLOW = 2.0 / (EMA_FAST + 1), 2.0 / (EMA_SLOW + 1)


@compiled(error_model="numpy", inline="always")
def move(high: float, low: float, close: float, previous: float) -> tuple[float, float, float]:
    """Compute rise, fall and true range of one bar, each divided by its Wilder period."""
    change = close - previous
    rise = change if change > 0.0 else 0.0
    upper = high if high > previous else previous
    lower = low if low < previous else previous
    return rise * _WILDER_RSI, (rise - change) * _WILDER_RSI, (upper - lower) * _WILDER_ATR


@compiled(error_model="numpy", inline="always")
def average(
    rise: float, fall: float, spread: float, fast: float, slow: float, moved: tuple[float, float, float], price: float
) -> tuple[float, float, float, float, float]:
    """Advance the averages of RSI, ATR and MACD by one bar, each with one rounding."""
    return (
        multiply_add(rise, 1.0 - _WILDER_RSI, moved[0]),
        multiply_add(fall, 1.0 - _WILDER_RSI, moved[1]),
        multiply_add(spread, 1.0 - _WILDER_ATR, moved[2]),
        multiply_add(fast, 1.0 - _FAST, price * _FAST),
        multiply_add(slow, 1.0 - _SLOW, price * _SLOW),
    )


@compiled(error_model="numpy")
def moves(high: Array, low: Array, close: Array, gain: Array, loss: Array, extent: Array) -> None:
    """Compute rise, fall and true range of every row but the first, each divided by its Wilder period.

    Parameters
    ----------
    high, low, close : float64[n + 1]
        Prices, of the row before as well.
    gain, loss, extent : float64[n]
        Where they go.
    """
    before, now, top, bottom = close[:-1], close[1:], high[1:], low[1:]
    for row in range(len(now)):
        gain[row], loss[row], extent[row] = move(top[row], bottom[row], now[row], before[row])


@compiled(error_model="numpy")
def indicators(memory: Array, close: Array, gain: Array, moved: Array, extent: Array, line: Array) -> None:
    """Advance the averages of RSI, ATR and MACD past their seeds.

    ``average[t] = average[t-1] * (1 - weight) + weight * value[t]``, with one rounding each.

    Parameters
    ----------
    memory : float64[len(MEMORY)]
        Advanced.
    close : float64[n]
        Closes.
    gain, moved, extent : float64[n]
        Rises, falls and true ranges over their periods; replaced by the average rise, the sum of the average rise and
        fall, and the average range.
    line : float64[n]
        The MACD line, in units of the close.
    """
    rise, fall, spread, fast, slow = memory[1], memory[2], memory[3], memory[4], memory[5]
    for row in range(len(close)):
        price = close[row]
        moves_now = gain[row], moved[row], extent[row]
        rise, fall, spread, fast, slow = average(rise, fall, spread, fast, slow, moves_now, price)
        gain[row] = rise
        moved[row] = rise + fall
        extent[row] = spread
        line[row] = fast - slow
    memory[1], memory[2], memory[3], memory[4], memory[5] = rise, fall, spread, fast, slow


@compiled(error_model="numpy")
def seed_indicators(
    memory: Array, first: int, close: Array, gain: Array, moved: Array, extent: Array, line: Array
) -> None:
    """Do what ``indicators`` does, row by row, where an average is still a seed: a mean of the first values.

    Seeds are TA-Lib's: the first period changes, without bar 0, for Wilder's averages; the closes that end at bar
    ``slow - 1`` for both of the MACD.

    Parameters
    ----------
    memory, close, gain, moved, extent, line
        As in ``indicators``.
    first : int
        Rows of the series before these.
    """
    for row in range(len(close)):
        age, price = first + row, close[row]
        if age == 0:
            memory[1:6] = 0.0
            gain[0] = moved[0] = extent[0] = 0.0
        kept = 1.0 if age <= RSI_PERIOD else 1.0 - _WILDER_RSI
        memory[1] = multiply_add(memory[1], kept, gain[row])
        memory[2] = multiply_add(memory[2], kept, moved[row])
        memory[3] = multiply_add(memory[3], 1.0 if age <= ATR_PERIOD else 1.0 - _WILDER_ATR, extent[row])
        if age < MACD_SLOW:
            memory[4] += price / MACD_FAST if age >= MACD_SLOW - MACD_FAST else 0.0
            memory[5] += price / MACD_SLOW
        else:
            memory[4] = multiply_add(memory[4], 1.0 - _FAST, price * _FAST)
            memory[5] = multiply_add(memory[5], 1.0 - _SLOW, price * _SLOW)
        gain[row] = memory[1]
        moved[row] = memory[1] + memory[2]
        extent[row] = memory[3]
        line[row] = memory[4] - memory[5]


@compiled(error_model="numpy")
def volatilities(memory: Array, first: int, decay: float, returns: Array, variance: Array, fast: Array) -> None:
    """Advance the EWMA variances.

    Parameters
    ----------
    memory : float64[len(MEMORY)]
        Advanced.
    first : int
        Rows of the series before these.
    decay : float
        Weight of the past in ``variance``; ``fast`` has ``FAST_DECAY``.
    returns : float64[n]
        Log returns; the series' first is not read.
    variance, fast : float64[n]
        Where they go, in units of the squared returns.
    """
    slow_square, fast_square = memory[8], memory[9]
    for row in range(len(returns)):
        age, square = first + row, returns[row] * returns[row]
        if age == 0:
            slow_square, fast_square, square = 0.0, 0.0, 0.0
        if age <= VOLATILITY_SEED:
            slow_square += square * (1.0 / VOLATILITY_SEED)
            fast_square += square * (1.0 / VOLATILITY_SEED)
        else:
            slow_square = multiply_add(slow_square, decay, square * (1.0 - decay))
            fast_square = multiply_add(fast_square, FAST_DECAY, square * (1.0 - FAST_DECAY))
        variance[row], fast[row] = slow_square, fast_square
    memory[8], memory[9] = slow_square, fast_square


@compiled(error_model="numpy")
def exponential_averages(memory: Array, first: int, close: Array, fast: Array, slow: Array) -> None:
    """Advance the exponential averages of closes, each seeded with the mean of its first closes.

    Parameters
    ----------
    memory : float64[len(MEMORY)]
        Advanced.
    first : int
        Rows of the series before these.
    close : float64[n]
        Closes.
    fast, slow : float64[n]
        Where they go, in units of the close.
    """
    short, long = memory[6], memory[7]
    for row in range(len(close)):
        age, price = first + row, close[row]
        if age == 0:
            short, long = 0.0, 0.0
        if age < EMA_FAST:
            short += price * (1.0 / EMA_FAST)
        else:
            short = multiply_add(short, 1.0 - _EMA_FAST, price * _EMA_FAST)
        if age < EMA_SLOW:
            long += price * (1.0 / EMA_SLOW)
        else:
            long = multiply_add(long, 1.0 - _EMA_SLOW, price * _EMA_SLOW)
        fast[row], slow[row] = short, long
    memory[6], memory[7] = short, long
