"""Features of the quotes of one symbol; what they mean stands in ``features.microstructure``.

Lengths and bounds are arguments: machine code kept on disk would not see a constant change in another module.
"""

from __future__ import annotations

import numpy as np

from atlas_pipeline.compiled import compiled
from atlas_pipeline.features.kernels.elementary import logarithm
from atlas_pipeline.features.kernels.windows import window_sum

Array = np.ndarray

# Rows worked off together: all their columns stay in the cache.
_BLOCK = 2048

_BID, _BID_SIZE, _ASK, _ASK_SIZE = range(4)

# Rows of the result, named as the features are.
(
    _MID,
    _MICROPRICE,
    _EFFECTIVE_SPREAD,
    _ORDER_IMBALANCE,
    _QUOTED_SPREAD,
    _MID_RETURN,
    _ORDER_FLOW_IMBALANCE,
    _EFFECTIVE_SPREAD_MEAN,
    _ORDER_IMBALANCE_MEAN,
    _QUOTED_SPREAD_MEAN,
    _QUOTED_SPREAD_RATIO,
    _DEPTH_RATIO,
    _ORDER_FLOW_IMBALANCE_SUM,
    _ORDER_FLOW_IMBALANCE_RELATIVE,
    _MID_VOLATILITY,
    _MICROPRICE_MOMENTUM,
    _FEATURES,
) = range(17)


@compiled(error_model="numpy")
def _count_ages(times: Array, quotes: Array, gap: int, smallest: float, largest: float, ages: Array) -> None:
    """Count the quotes that belong together up to each row and with it; 0 where the row holds none."""
    age = 0
    for row in range(len(times)):
        bid, bid_size = quotes[_BID, row], quotes[_BID_SIZE, row]
        ask, ask_size = quotes[_ASK, row], quotes[_ASK_SIZE, row]
        if not (
            smallest <= bid < ask <= largest and smallest <= bid_size <= largest and smallest <= ask_size <= largest
        ):
            age = 0
        elif age > 0 and times[row] - times[row - 1] > gap:
            age = 1
        else:
            age += 1
        ages[row] = age


@compiled(error_model="numpy")
def _each_quote(quotes: Array, depth: Array, out: Array) -> None:
    bid, bid_size, ask, ask_size = quotes
    for row in range(len(depth)):
        mid = 0.5 * (bid[row] + ask[row])
        imbalance = (bid_size[row] - ask_size[row]) / (bid_size[row] + ask_size[row])
        # microprice − mid = imbalance · (ask − bid) / 2: this way round the deviation keeps its digits.
        deviation = imbalance * (0.5 * (ask[row] - bid[row]))
        out[_MID, row] = mid
        out[_MICROPRICE, row] = mid + deviation
        out[_EFFECTIVE_SPREAD, row] = deviation / mid
        out[_ORDER_IMBALANCE, row] = imbalance
        out[_QUOTED_SPREAD, row] = (ask[row] - bid[row]) / mid
        depth[row] = 0.5 * (bid_size[row] + ask_size[row])


@compiled(error_model="numpy")
def _flow(quotes: Array, out: Array) -> None:
    """Contribution of each change of quotes to the order flow imbalance; the first row has none."""
    bid, bid_size, ask, ask_size = quotes
    out[0] = np.nan
    for row in range(1, len(out)):
        demand = (bid_size[row] if bid[row] >= bid[row - 1] else 0.0) - (
            bid_size[row - 1] if bid[row] <= bid[row - 1] else 0.0
        )
        supply = (ask_size[row] if ask[row] <= ask[row - 1] else 0.0) - (
            ask_size[row - 1] if ask[row] >= ask[row - 1] else 0.0
        )
        out[row] = demand - supply


@compiled(error_model="numpy")
def _log_change(prices: Array, lag: int, ratio: Array, out: Array) -> None:
    """Logarithm of each price over the one ``lag`` rows before; NaN where one of them is zero."""
    ratio[:lag] = np.nan
    for row in range(lag, len(prices)):
        ratio[row] = prices[row] / prices[row - lag] if prices[row - lag] > 0.0 else np.nan
    logarithm(ratio, out)


@compiled(error_model="numpy")
def _block(
    times: Array,
    quotes: Array,
    first: int,
    window: int,
    gap: int,
    smallest: float,
    largest: float,
    warmups: Array,
    result: Array,
) -> None:
    rows = len(times)
    ages = np.empty(rows, dtype=np.int64)
    columns = np.empty((_FEATURES, rows))
    depth, mean_depth, work, halves = np.empty(rows), np.empty(rows), np.empty(rows), np.empty((2, rows))
    _count_ages(times, quotes, gap, smallest, largest, ages)
    _each_quote(quotes, depth, columns)
    _flow(quotes, columns[_ORDER_FLOW_IMBALANCE])
    _log_change(columns[_MID], 1, work, columns[_MID_RETURN])
    _log_change(columns[_MICROPRICE], window, work, columns[_MICROPRICE_MOMENTUM])

    window_sum(depth, window, halves, mean_depth)
    window_sum(columns[_EFFECTIVE_SPREAD], window, halves, columns[_EFFECTIVE_SPREAD_MEAN])
    window_sum(columns[_ORDER_IMBALANCE], window, halves, columns[_ORDER_IMBALANCE_MEAN])
    window_sum(columns[_QUOTED_SPREAD], window, halves, columns[_QUOTED_SPREAD_MEAN])
    window_sum(columns[_ORDER_FLOW_IMBALANCE], window, halves, columns[_ORDER_FLOW_IMBALANCE_SUM])
    for row in range(rows):
        work[row] = columns[_MID_RETURN, row] * columns[_MID_RETURN, row]
    window_sum(work, window, halves, columns[_MID_VOLATILITY])
    for row in range(rows):
        mean_depth[row] /= window
        columns[_EFFECTIVE_SPREAD_MEAN, row] /= window
        columns[_ORDER_IMBALANCE_MEAN, row] /= window
        columns[_QUOTED_SPREAD_MEAN, row] /= window
        columns[_ORDER_FLOW_IMBALANCE_RELATIVE, row] = columns[_ORDER_FLOW_IMBALANCE_SUM, row] / mean_depth[row]
        columns[_MID_VOLATILITY, row] = np.sqrt(columns[_MID_VOLATILITY, row] / window)
        work[row] = columns[_QUOTED_SPREAD, row] / columns[_QUOTED_SPREAD_MEAN, row]
    logarithm(work, columns[_QUOTED_SPREAD_RATIO])
    for row in range(rows):
        work[row] = depth[row] / mean_depth[row]
    logarithm(work, columns[_DEPTH_RATIO])

    for feature in range(_FEATURES):
        for row in range(first, rows):
            result[feature, row - first] = columns[feature, row] if ages[row] > warmups[feature] else np.nan


@compiled(error_model="numpy")
def microstructure(
    times: Array,
    quotes: Array,
    first: int,
    window: int,
    gap: int,
    smallest: float,
    largest: float,
    warmups: Array,
    result: Array,
) -> None:
    """Compute the features of one symbol's quotes from row ``first`` on; the rows before it are its memory.

    A window's sum is an expression of the window's own values along a fixed tree (``windows.window_sum``): it does not
    drift, a value is forgotten with its window, and a sum of 20 values is off by at most ``5 · 2**-53 · Σ|x|`` to first
    order, since none goes through more than 5 additions. A row needs the ``window`` rows before it and no more: given
    as many, or all since the last gap, any division of the rows into blocks gives the same bits.

    Parameters
    ----------
    times : int64[n]
        Microseconds since 1970, increasing.
    quotes : float64[4, n]
        Bid, bid size, ask, ask size.
    first : int
        First row wanted.
    window : int
        Quotes of the rolling forms.
    gap : int
        Longest time between two quotes that belong together, in microseconds.
    smallest, largest : float
        Prices and sizes beyond these are taken for missing.
    warmups : int64[features]
        Quotes at the beginning, after a longer gap, and after a quote that is none (missing, locked or crossed), at
        which each feature has no value.
    result : float64[features, n - first]
        Filled; NaN during warm-up, where a formula is undefined, and in the row of a quote that is none.
    """
    for begin in range(first, len(times), _BLOCK):
        end = min(begin + _BLOCK, len(times))
        start = max(begin - window, 0)
        _block(
            times[start:end],
            np.ascontiguousarray(quotes[:, start:end]),
            begin - start,
            window,
            gap,
            smallest,
            largest,
            warmups,
            result[:, begin - first : end - first],
        )
