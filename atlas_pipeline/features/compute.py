"""From bars to the feature matrix, symbol by symbol.

Averages with an exponential memory reach back to the first bar, so that a month's features equal those of a
full recomputation only when the whole history before the month is read; it is small, and ``compute_features``
expects it.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd

from atlas_pipeline.config import DataSettings
from atlas_pipeline.features import registry
from atlas_pipeline.features.registry import FEATURES, REGISTRY
from atlas_pipeline.market.adjustment import actions_by_bar, forward_factors
from atlas_pipeline.market.bars import CORPORATE_ACTIONS, empty

_NEEDED = ("symbol", "interval", "available_at", "month", "high", "low", "close")


def compute_features(
    bars: pd.DataFrame,
    actions: pd.DataFrame | None = None,
    *,
    volatility_decay: float = DataSettings.volatility_decay,
) -> pd.DataFrame:
    """Compute every feature of the registry for every bar.

    Row t is what the formulas give on the bars up to t, back-adjusted as of t: no split or dividend moves a price, and
    no later one changes the row. It is computed in one pass, on prices times forward factors, which only grow at the
    end; what is in currency is divided by the factor of its own bar.

    A bar whose high, low or close is missing, infinite or not positive has no features, and all of them begin
    anew after it, with their warm-up: nothing is filled or carried over.

    Parameters
    ----------
    bars
        Rows of ``BARS``, the whole history of each symbol up to the last bar wanted, in any order of symbols;
        within a symbol and interval ``available_at`` increases.
    actions
        Rows of ``CORPORATE_ACTIONS`` of that history; None where there are none, as of indices.
    volatility_decay
        Decay of ``volatility_ewma``.

    Returns
    -------
    pandas.DataFrame
        Rows of ``FEATURES``, one a bar, sorted by its key; features are NaN during warm-up and where a formula is
        undefined.

    Raises
    ------
    ValueError
        Where a column is missing, or times of a symbol do not increase.
    CorporateActionError
        Where an action cannot be; see ``actions_by_bar``.
    """
    missing = [name for name in _NEEDED if name not in bars.columns]
    if missing:
        raise ValueError(f"bars lack the columns {missing}: pass rows of the table 'bars'")
    series = bars.groupby(["symbol", "interval"], sort=True).ngroup().to_numpy()
    order = np.argsort(series, kind="stable")
    ordered, series = bars.iloc[order], series[order]
    times = ordered["available_at"].to_numpy(dtype="datetime64[us]").astype("int64")
    back = np.flatnonzero((np.diff(times) <= 0) & (series[1:] == series[:-1]))
    if len(back):
        culprit = ordered.iloc[back[0] + 1]
        raise ValueError(
            f"bars of {culprit['symbol']!r} ({culprit['interval']}) do not increase in time at "
            f"{culprit['available_at']}: sort them and remove duplicates"
        )
    split, dividend = actions_by_bar(ordered, empty(CORPORATE_ACTIONS) if actions is None else actions)
    values = np.full((len(REGISTRY), len(ordered)), np.nan)
    prices = ordered[["high", "low", "close"]].to_numpy(dtype="float64")
    for begin, end in pairwise(np.flatnonzero(np.diff(series, prepend=-1, append=-1))):
        for first, last in _complete_runs(prices[begin:end]):
            run = slice(begin + first, begin + last)
            factor = forward_factors(prices[run, 2], split[run], dividend[run])
            high, low, close = (column * factor for column in prices[run].T)
            columns = _features_of_run(high, low, close, volatility_decay)
            for number, (feature, column) in enumerate(zip(REGISTRY.values(), columns, strict=True)):
                values[number, run] = column / factor if feature.in_currency else column
    keys = ordered[["symbol", "interval", "available_at", "month"]].reset_index(drop=True)
    computed = pd.DataFrame(values.T, columns=list(REGISTRY)).assign(split=split, dividend=dividend)
    return pd.concat([keys, computed], axis=1)[list(FEATURES.names)]


def _complete_runs(prices: np.ndarray) -> list[tuple[int, int]]:
    """Begin and end of each run of rows whose prices are all finite and positive."""
    usable = (np.isfinite(prices) & (prices > 0)).all(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate(([False], usable, [False])).astype(np.int8)))
    return [(int(begin), int(end)) for begin, end in zip(edges[::2], edges[1::2], strict=True)]


def _features_of_run(
    high: np.ndarray, low: np.ndarray, close: np.ndarray, volatility_decay: float
) -> tuple[np.ndarray, ...]:
    """Columns in the order of the registry, of bars without a hole."""
    from atlas_pipeline.features import kernels

    logarithm = np.log(close)
    returns = _change(logarithm, 1)
    percent = 100.0 * returns
    rsi = kernels.rsi(close, registry.RSI_PERIOD)
    macd = kernels.macd(close, registry.MACD_FAST, registry.MACD_SLOW, registry.MACD_SIGNAL)
    middle, deviation = kernels.rolling_moments(close, registry.BAND_WINDOW)
    ranges = kernels.true_range(high, low, close)
    atr = kernels.average_true_range(ranges, registry.ATR_PERIOD)
    # The first bar has no return: the window begins at the second.
    volatility = np.full(len(close), np.nan)
    volatility[1:] = kernels.rolling_moments(returns[1:], registry.VOLATILITY_WINDOW)[1]
    momentum = _change(close, registry.MOMENTUM_PERIOD)
    sigma = kernels.ewma_volatility(percent, volatility_decay, registry.VOLATILITY_SEED)
    fast = kernels.ewma_volatility(percent, registry.FAST_DECAY, registry.VOLATILITY_SEED)
    # A close that never moved has no volatility to measure by: what is a multiple of it is undefined, not
    # infinite.
    unit = np.where(sigma > 0.0, sigma, np.nan)
    band = 2.0 * registry.BAND_WIDTH * deviation
    position = np.where(band > 0.0, 0.5 + np.divide(close - middle, np.where(band > 0.0, band, 1.0)), 0.5)
    position[np.isnan(deviation)] = np.nan
    period = registry.MOMENTUM_PERIOD
    return (
        close,
        rsi,
        macd,
        position,
        atr,
        volatility,
        100.0 * _relative_change(close, registry.ROC_PERIOD),
        momentum,
        sigma,
        percent / unit,
        (rsi - 50.0) / 50.0,
        100.0 * macd / (close * unit),
        2.0 * position - 1.0,
        np.log1p(100.0 * ranges / (_lag(close, 1) * unit)),
        np.log(unit),
        np.log(np.where(fast > 0.0, fast, np.nan) / unit),
        100.0 * _change(logarithm, period) / (unit * np.sqrt(period)),
    )


def _lag(values: np.ndarray, bars: int) -> np.ndarray:
    lagged = np.full(len(values), np.nan)
    lagged[bars:] = values[:-bars] if bars < len(values) else values[:0]
    return lagged


def _change(values: np.ndarray, bars: int) -> np.ndarray:
    return values - _lag(values, bars)


def _relative_change(values: np.ndarray, bars: int) -> np.ndarray:
    return values / _lag(values, bars) - 1.0
