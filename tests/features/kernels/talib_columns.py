"""The columns that TA-Lib defines, computed by TA-Lib, and how close to them a kernel must be."""

from __future__ import annotations

import math

import numpy as np
import talib

from tests.features.kernels.blocks import SCALES, rows_of

Array = np.ndarray
TOLERANCE = 1e-9
"""Of the largest price so far, for prices and differences of prices: TA-Lib adds and subtracts in running sums, whose
error is that of the largest values they held. Absolute where the unit is no price."""


def talib_columns(inputs: Array) -> dict[str, Array]:
    """What TA-Lib gives for rows of inputs; where it says 0 because nothing moved, RSI is 50.

    TA-Lib takes whatever is below 1e-14 for zero, so it is given prices near 1: times a power of two, which changes no
    digit.
    """
    count = inputs.shape[1]
    if count == 0:
        return {}
    scale = 2.0 ** -math.frexp(inputs[3, 0])[1]
    high, low, close = (np.ascontiguousarray(row) * scale for row in inputs[1:4])
    returns = np.concatenate([[math.nan], np.diff(np.log(close))])
    still = np.concatenate([[0.0], np.abs(np.diff(close)).cumsum()]) == 0.0
    rsi = talib.RSI(close, 14)
    upper, _, lower = talib.BBANDS(close, 20, 2.0, 2.0)
    return {
        "Close": inputs[3],
        "RSI": np.where(still & ~np.isnan(rsi), 50.0, rsi),
        "MACD": talib.MACD(close, 12, 26, 9)[0] / scale,
        "lower": lower / scale,
        "upper": upper / scale,
        "ATR": talib.ATR(high, low, close, 14) / scale,
        "Volatility": talib.STDDEV(returns, 20, 1.0),
        "ROC": talib.ROC(close, 10),
        "Momentum": talib.MOM(close, 10) / scale,
        "sma_20": talib.SMA(close, 20) / scale,
        "sma_50": talib.SMA(close, 50) / scale,
        "sma_200": talib.SMA(close, 200) / scale,
        "ema_12": talib.EMA(close, 12) / scale,
        "ema_26": talib.EMA(close, 26) / scale,
        "rolling_high_20": talib.MAX(high, 20) / scale,
        "rolling_low_20": talib.MIN(low, 20) / scale,
        "distance_from_high_252": np.log(close / talib.MAX(high, 252)),
    }


def require_equal(mine: Array, theirs: Array, scale: Array | float = 1.0) -> None:
    """Same NaN, and within the tolerance of the scale, which is the largest price so far or 1."""
    np.testing.assert_array_equal(np.isnan(mine), np.isnan(theirs))
    assert (np.abs(mine - theirs) <= TOLERANCE * scale)[~np.isnan(theirs)].all()


def drawn(kind: str, scale: float, count: int = 300, seed: int = 0) -> Array:
    """A walk, a walk of ticks that stands still, rises and falls by the same, a wild one, or a constant."""
    random = np.random.default_rng(seed)
    volatility = {"walk": 0.01, "ticks": 0.004, "wild": 0.3, "constant": 0.0}[kind]
    close = np.exp(volatility * random.normal(size=count).cumsum())
    if kind == "ticks":
        close = np.round(close, 2)
    return rows_of(close * scale, spread=0.0 if kind == "constant" else 0.003)


KINDS = ("walk", "ticks", "wild", "constant")
LEVELS = SCALES
