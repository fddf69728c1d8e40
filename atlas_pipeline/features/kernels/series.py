"""From the bars of series to every feature of the registry: blocks, memories, warm-up, and many series at once.

The memory of a series is ``MEMORY`` and the heterogeneous means, which recur, and its last ``HISTORY`` rows, which its
windows reach back to. A series that begins, or begins anew after a missing bar, has neither: its history is filled with
its first row, and what is computed from that is withheld as warm-up.
"""

from __future__ import annotations

import numpy as np

from atlas_pipeline.compiled import compiled
from atlas_pipeline.features import relative, technical
from atlas_pipeline.features.heterogeneous import RANGE_HALF_LIVES, TREND_HALF_LIVES
from atlas_pipeline.features.kernels.atlas8 import HISTORY as ATLAS8_HISTORY
from atlas_pipeline.features.kernels.atlas8 import SCRATCH as ATLAS8_SCRATCH
from atlas_pipeline.features.kernels.atlas8 import atlas8_of_block
from atlas_pipeline.features.kernels.elementary import logarithm
from atlas_pipeline.features.kernels.heterogeneous import MEMORY as HETEROGENEOUS_MEMORY
from atlas_pipeline.features.kernels.heterogeneous import heterogeneous_of_block
from atlas_pipeline.features.kernels.inputs import CLOSE, HIGH, INDEX, INPUTS, LOW, OPEN, VOLUME
from atlas_pipeline.features.kernels.recurrences import MEMORY, exponential_averages, volatilities
from atlas_pipeline.features.kernels.relative import relative_of_block, volatility_of_block
from atlas_pipeline.features.kernels.technical import (
    averages_of_block,
    breakouts_of_block,
    index_of_block,
    log_ratios_of_block,
    ranges_of_block,
    ratios_of_block,
    returns_of_block,
    root_means_of_block,
    scores_of_block,
)
from atlas_pipeline.features.kernels.windows import moments_20, window_maximum
from atlas_pipeline.features.registry import REGISTRY

Array = np.ndarray

HISTORY = technical.YEAR
FACTOR = len(MEMORY) + HETEROGENEOUS_MEMORY
"""Place in a series' state of the factor that its prices are multiplied by; the factor of its shares comes next."""
STATE = FACTOR + 2

_NAMES = tuple(REGISTRY)
FEATURE_COUNT = len(_NAMES)
_WARMUP = np.array([feature.warmup for feature in REGISTRY.values()])
_IN_CURRENCY = np.array([feature.in_currency for feature in REGISTRY.values()])


def _rows(first: str, last: str) -> tuple[int, int]:
    return _NAMES.index(first), _NAMES.index(last) + 1


_SIGMA = _NAMES.index(relative.VOLATILITY.name)
_RELATIVE = _rows("relative_return", "log_volatility")
_HETEROGENEOUS = _rows(f"range_ratio_{RANGE_HALF_LIVES[0]}", f"trend_{TREND_HALF_LIVES[-1]}")
_AVERAGES = _rows("sma_20", "sma_200")
_EXPONENTIAL, _EXTREMA = _NAMES.index("ema_12"), _NAMES.index("rolling_high_20")
_BREAKOUT, _SIGNAL = _NAMES.index("breakout_20"), _NAMES.index("momentum_signal")
_RETURNS = _rows("return_1", "return_60")
_REALIZED, _REALIZED_20 = _NAMES.index("realized_volatility_5"), _NAMES.index("realized_volatility_20")
_RANGES = _rows("parkinson_20", "garman_klass_20")
_GAP, _VOLUME_SCORE = _NAMES.index("overnight_gap"), _NAMES.index("volume_zscore_20")
_HIGH_DISTANCE, _LOW_DISTANCE = _NAMES.index("distance_from_high_20"), _NAMES.index("distance_from_low_20")
_YEAR_DISTANCE = _NAMES.index("distance_from_high_252")
_OVER_SHORT, _OVER_LONG = _NAMES.index("close_over_sma_20"), _NAMES.index("close_over_sma_200")
_EMA_RATIO = _NAMES.index("ema_ratio")
_INDEX = _rows("vix", "volatility_premium")
_MOMENTUM = _NAMES.index("Momentum")
_LOGS = max(technical.VOLATILITY_WINDOWS[-1], technical.RETURN_HORIZONS[-1]) + 1
"""Rows before a block whose logarithms are needed."""
_FREE = 4
SCRATCH = max(ATLAS8_SCRATCH, _FREE + 14)


@compiled(error_model="numpy")
def features_of_block(memory: Array, decay: float, inputs: Array, rows: int, scratch: Array, out: Array) -> None:
    """Compute every feature of a block of one series, in the order of the registry.

    Parameters
    ----------
    memory : float64[STATE]
        Of the series before the block; advanced.
    decay : float
        Of the trailing volatility.
    inputs : float64[len(INPUTS), HISTORY + n or more]
        Beginning ``HISTORY`` rows before the block. Prices are positive; open, volume and index may be NaN.
    rows : int
        Rows of the block, n.
    scratch : float64[SCRATCH, HISTORY + n or more]
        Overwritten.
    out : float64[FEATURE_COUNT, n or more]
        Where they go; NaN during warm-up and where a formula is undefined.
    """
    first, every, near = int(memory[0]), HISTORY + rows, HISTORY - ATLAS8_HISTORY
    high, low, close = inputs[HIGH, near:every], inputs[LOW, near:every], inputs[CLOSE, near:every]
    atlas8_of_block(memory, high, low, close, scratch, out, 0)
    price = inputs[CLOSE, HISTORY:every]
    exponential_averages(memory, first, price, out[_EXPONENTIAL, :rows], out[_EXPONENTIAL + 1, :rows])
    _averages_and_extrema(inputs, rows, scratch, out)
    _returns_and_ranges(memory, decay, inputs, rows, scratch, out)
    index, realized = inputs[INDEX, :every], out[_REALIZED_20, :rows]
    index_of_block(index, realized, rows, scratch[:2], scratch[2:6], out[_INDEX[0] : _INDEX[1]])
    for row in range(rows):
        out[_SIGNAL, row] = 1.0 if out[_MOMENTUM, row] > 0.0 else 0.0
    for number in range(FEATURE_COUNT):
        out[number, : min(max(_WARMUP[number] - first, 0), rows)] = np.nan
    out[_SIGNAL, : min(max(_WARMUP[_MOMENTUM] - first, 0), rows)] = -1.0
    memory[0] += rows


@compiled(error_model="numpy")
def _averages_and_extrema(inputs: Array, rows: int, scratch: Array, out: Array) -> None:
    every = HISTORY + rows
    high, low, close = inputs[HIGH, :every], inputs[LOW, :every], inputs[CLOSE, :every]
    price = close[HISTORY:]
    free, highest, lowest, negative = scratch[:_FREE], scratch[4, :every], scratch[5, :every], scratch[6, :every]
    averages_of_block(close, rows, free, out[_AVERAGES[0] : _AVERAGES[1]])
    ratios_of_block(price, out[_AVERAGES[0], :rows], out[_OVER_SHORT, :rows])
    ratios_of_block(price, out[_AVERAGES[1] - 1, :rows], out[_OVER_LONG, :rows])
    ratios_of_block(out[_EXPONENTIAL, :rows], out[_EXPONENTIAL + 1, :rows], out[_EMA_RATIO, :rows])

    window_maximum(high, technical.YEAR, free, highest)
    log_ratios_of_block(price, highest[HISTORY:], free, out[_YEAR_DISTANCE, :rows])
    window_maximum(high, technical.EXTREMA_WINDOW, free, highest)
    for row in range(every):
        negative[row] = -low[row]
    window_maximum(negative, technical.EXTREMA_WINDOW, free, lowest)
    for row in range(every):
        lowest[row] = -lowest[row]
    out[_EXTREMA, :rows], out[_EXTREMA + 1, :rows] = highest[HISTORY:], lowest[HISTORY:]
    last = every - 1
    breakouts_of_block(price, highest[HISTORY - 1 : last], lowest[HISTORY - 1 : last], out[_BREAKOUT, :rows])
    log_ratios_of_block(price, highest[HISTORY:], free, out[_HIGH_DISTANCE, :rows])
    log_ratios_of_block(price, lowest[HISTORY:], free, out[_LOW_DISTANCE, :rows])


@compiled(error_model="numpy")
def _returns_and_ranges(memory: Array, decay: float, inputs: Array, rows: int, scratch: Array, out: Array) -> None:
    every, begin = HISTORY + rows, HISTORY - _LOGS
    span = every - begin
    opening, high, low = inputs[OPEN, begin:every], inputs[HIGH, begin:every], inputs[LOW, begin:every]
    close, volume = inputs[CLOSE, begin:every], inputs[VOLUME, begin:every]
    free, work = scratch[:_FREE], scratch[_FREE : _FREE + 2]
    log_close, log_range, log_body = scratch[6, :span], scratch[7, :span], scratch[8, :span]
    returns, squares = scratch[9, :span], scratch[10, :span]
    gap, volume_ratio = scratch[11, :rows], scratch[12, :rows]
    variance, fast, total, deviations = scratch[13, :rows], scratch[14, :rows], scratch[15, :span], scratch[16, :span]
    spread = scratch[17, :rows]

    logarithm(close, log_close)
    log_ratios_of_block(high, low, free, log_range)
    log_ratios_of_block(close, opening, free, log_body)
    log_ratios_of_block(opening[_LOGS:], close[_LOGS - 1 : span - 1], free, gap)
    returns[0], squares[0] = 0.0, 0.0
    for row in range(1, span):
        returns[row] = log_close[row] - log_close[row - 1]
        squares[row] = returns[row] * returns[row]

    volatilities(memory, int(memory[0]), decay, returns[_LOGS:], variance, fast)
    volatility_of_block(variance, out[_SIGMA, :rows])
    moments_20(volume, free, total, deviations)
    window = technical.VOLUME_WINDOW
    scores_of_block(volume[_LOGS:], total[_LOGS:], deviations[_LOGS:], window, out[_VOLUME_SCORE, :rows])
    for row in range(rows):
        traded, average = volume[_LOGS + row], total[_LOGS + row] * (1.0 / window)
        volume_ratio[row] = (traded - average) / (traded + average) if average > 0.0 else np.nan
    logarithm(variance, work[0, :rows])
    logarithm(fast, work[1, :rows])
    earlier = log_close[_LOGS - relative.MOMENTUM_PERIOD :]
    multiples = out[_RELATIVE[0] : _RELATIVE[1]]
    relative_of_block(variance, fast, earlier, log_range[_LOGS:], gap, volume_ratio, work, multiples)
    upper, lower = total[:rows], deviations[:rows]
    for row in range(rows):
        before = close[_LOGS + row - 1]
        upper[row], lower[row] = max(high[_LOGS + row], before), min(low[_LOGS + row], before)
    log_ratios_of_block(upper, lower, free, spread)
    own = memory[len(MEMORY) : FACTOR]
    many = out[_HETEROGENEOUS[0] : _HETEROGENEOUS[1]]
    heterogeneous_of_block(own, int(memory[0]), variance, spread, multiples[0, :rows], work, many)
    out[_GAP, :rows] = gap
    returns_of_block(log_close, rows, out[_RETURNS[0] : _RETURNS[1]])
    for number in range(len(technical.VOLATILITY_WINDOWS)):
        realized = out[_REALIZED + number, :rows]
        root_means_of_block(squares, technical.VOLATILITY_WINDOWS[number], 1.0, free, realized)
    ranges_of_block(log_range, log_body, rows, work, free, out[_RANGES[0] : _RANGES[1]])


@compiled(error_model="numpy", nogil=True)
def advance(
    states: Array,
    histories: Array,
    decay: float,
    bounds: Array,
    begins_anew: Array,
    usable: Array,
    split: Array,
    dividend: Array,
    inputs: Array,
    out: Array,
    block_rows: int,
) -> None:
    """Advance series by their next bars.

    Parameters
    ----------
    states : float64[series, STATE]
        Memories and factors; advanced. Zeros for a series that begins.
    histories : float64[series, len(INPUTS), HISTORY]
        Last rows of each series, adjusted; advanced.
    decay : float
        Of the trailing volatility.
    bounds : int64[series + 1]
        Where each series' rows begin and end.
    begins_anew : bool[rows]
        Whether a hole lies before a row.
    usable : bool[rows]
        Whether a row has a high, low and close; others have no features, and all begin anew after them.
    split, dividend : float64[rows]
        Of ``actions_by_bar``.
    inputs : float64[len(INPUTS), rows]
        As traded; NaN where missing.
    out : float32 or float64 [FEATURE_COUNT, rows]
        Where the features go; what is in currency, on the scale of its own bar.
    block_rows : int
        Rows of a block; the values do not depend on it.
    """
    longest = min(block_rows, bounds[-1] - bounds[0])
    block = np.empty((len(INPUTS), HISTORY + longest))
    scratch = np.empty((SCRATCH, HISTORY + longest))
    made = np.empty((FEATURE_COUNT, longest))
    factor = np.empty(longest)
    for number in range(len(bounds) - 1):
        state, history = states[number], histories[number]
        row, end = bounds[number], bounds[number + 1]
        while row < end:
            if not usable[row]:
                state[0] = 0.0
                out[:, row] = np.nan
                out[_SIGNAL, row] = -1.0
                row += 1
                continue
            if begins_anew[row]:
                state[0] = 0.0
            stop = row + 1
            while stop < end and stop - row < block_rows and usable[stop] and not begins_anew[stop]:
                stop += 1
            rows = stop - row
            _adjust(state, split[row:stop], dividend[row:stop], inputs, row, factor[:rows], block)
            if state[0] == 0.0:
                for kind in range(len(INPUTS)):
                    block[kind, :HISTORY] = block[kind, HISTORY]
            else:
                block[:, :HISTORY] = history
            features_of_block(state, decay, block, rows, scratch, made)
            _store(made, factor[:rows], out, row)
            history[:] = block[:, rows : rows + HISTORY]
            row = stop


@compiled(error_model="numpy")
def _adjust(
    state: Array, split: Array, dividend: Array, inputs: Array, begin: int, factors: Array, block: Array
) -> None:
    """Multiply prices by the forward factor (``market.adjustment.forward_factors``), divide volume by the splits."""
    rows = len(factors)
    factor, shares = state[FACTOR], state[FACTOR + 1]
    volume, adjusted = inputs[VOLUME, begin : begin + rows], block[VOLUME, HISTORY : HISTORY + rows]
    for row in range(rows):
        if factor == 0.0:
            factor, shares = 1.0, 1.0
        elif split[row] != 1.0 or dividend[row] != 0.0:
            factor *= split[row] * (1.0 + dividend[row] / inputs[CLOSE, begin + row])
            shares *= split[row]
        factors[row] = factor
        adjusted[row] = volume[row] / shares
    for kind in range(CLOSE + 1):
        traded, price = inputs[kind, begin : begin + rows], block[kind, HISTORY : HISTORY + rows]
        for row in range(rows):
            price[row] = traded[row] * factors[row]
    block[INDEX, HISTORY : HISTORY + rows] = inputs[INDEX, begin : begin + rows]
    state[FACTOR], state[FACTOR + 1] = factor, shares


@compiled(error_model="numpy")
def _store(made: Array, factor: Array, out: Array, begin: int) -> None:
    rows = len(factor)
    for number in range(FEATURE_COUNT):
        values, stored = made[number, :rows], out[number, begin : begin + rows]
        if _IN_CURRENCY[number]:
            for row in range(rows):
                stored[row] = values[row] / factor[row]
        else:
            for row in range(rows):
                stored[row] = values[row]
