"""Kernels against TA-Lib where it has the indicator, and against slow references that follow the definition."""

import math
import statistics
from fractions import Fraction

import numpy as np
import pytest
import talib
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_pipeline.features import kernels

# TA-Lib itself sums without care; on prices of one magnitude both agree far better than this.
TOLERANCE = 1e-9

SERIES = st.one_of(
    st.lists(st.floats(1e-3, 1e5), min_size=0, max_size=120),
    st.lists(st.sampled_from([99.0, 100.0, 101.0]), min_size=0, max_size=120),
    st.builds(lambda value, count: [value] * count, st.sampled_from([1e-12, 1.0, 1e12]), st.integers(0, 80)),
    st.lists(st.floats(1e-150, 1e-140), min_size=0, max_size=60),
    st.lists(st.floats(1e100, 1e110), min_size=0, max_size=60),
).map(lambda values: np.array(values, dtype="float64"))
FAST = settings(max_examples=60, deadline=None)


def same(mine, theirs, scale=1.0):
    mine, theirs = np.asarray(mine, dtype="float64"), np.asarray(theirs, dtype="float64")
    np.testing.assert_array_equal(np.isnan(mine), np.isnan(theirs))
    np.testing.assert_allclose(mine, theirs, rtol=TOLERANCE, atol=TOLERANCE * scale)


@pytest.mark.parametrize("symbol", ["SP500", "NASDAQ"])
def test_equal_to_talib_on_real_bars(bundled_bars, symbol):
    own = bundled_bars[bundled_bars["symbol"] == symbol]
    high, low, close = (own[name].to_numpy() for name in ("high", "low", "close"))
    returns = np.diff(np.log(close))
    same(kernels.rsi(close, 14), talib.RSI(close, 14))
    same(kernels.macd(close, 12, 26, 9), talib.MACD(close, 12, 26, 9)[0])
    ranges = kernels.true_range(high, low, close)
    same(ranges, talib.TRANGE(high, low, close))
    same(kernels.average_true_range(ranges, 14), talib.ATR(high, low, close, 14))
    mean, deviation = kernels.rolling_moments(close, 20)
    upper, middle, lower = talib.BBANDS(close, 20, 2, 2)
    same(mean, middle)
    same(mean + 2 * deviation, upper)
    same(mean - 2 * deviation, lower)
    same(kernels.rolling_moments(returns, 20)[1], talib.STDDEV(returns, 20, 1))


@pytest.mark.parametrize("count", [0, 1, 2, 13, 14, 15, 20, 21, 25, 26, 33, 34, 35, 60])
def test_equal_to_talib_on_short_series(walk, count):
    close = walk(count, seed=count)
    same(kernels.rsi(close, 14), talib.RSI(close, 14) if count else [])
    same(kernels.macd(close, 12, 26, 9), talib.MACD(close, 12, 26, 9)[0] if count else [])
    ranges = kernels.true_range(close * 1.01, close * 0.98, close)
    same(kernels.average_true_range(ranges, 14), talib.ATR(close * 1.01, close * 0.98, close, 14) if count else [])
    same(kernels.rolling_moments(close, 20)[0], talib.SMA(close, 20) if count else [])


@pytest.mark.parametrize(("fast", "slow", "signal"), [(2, 3, 2), (5, 35, 5), (12, 26, 2), (3, 10, 16)])
def test_macd_seeds_as_talib_for_other_spans(walk, fast, slow, signal):
    close = walk()
    same(kernels.macd(close, fast, slow, signal), talib.MACD(close, fast, slow, signal)[0])


def reference_rsi(close, period):
    result = [math.nan] * len(close)
    gain = loss = 0.0
    for row in range(1, len(close)):
        change = close[row] - close[row - 1]
        rise, fall = max(change, 0.0), max(-change, 0.0)
        if row <= period:
            gain, loss = gain + rise / period, loss + fall / period
        else:
            gain += (rise - gain) / period
            loss += (fall - loss) / period
        if row >= period:
            result[row] = 50.0 if gain + loss == 0 else 100.0 - 100.0 / (1.0 + gain / loss) if loss else 100.0
    return result


@FAST
@given(SERIES, st.integers(2, 20))
def test_rsi_follows_its_definition(close, period):
    mine = kernels.rsi(close, period)
    same(mine, reference_rsi(close, period), scale=100.0)
    assert ((mine >= 0) & (mine <= 100) | np.isnan(mine)).all()


@FAST
@given(SERIES, st.integers(2, 8), st.integers(9, 20), st.integers(2, 6))
def test_macd_follows_its_definition(close, fast, slow, signal):
    expected = np.full(len(close), math.nan)
    if len(close) >= slow:
        quick, calm = close[slow - fast : slow].sum() / fast, close[:slow].sum() / slow
        for row in range(slow - 1, len(close)):
            if row >= slow:
                quick = quick * (1 - 2 / (fast + 1)) + close[row] * 2 / (fast + 1)
                calm = calm * (1 - 2 / (slow + 1)) + close[row] * 2 / (slow + 1)
            if row >= slow + signal - 2:
                expected[row] = quick - calm
    # The line is a difference of two averages: its digits are those of the prices.
    same(kernels.macd(close, fast, slow, signal), expected, scale=close.max(initial=0.0))


@FAST
@given(SERIES, st.integers(2, 25))
def test_rolling_moments_keep_their_bound_at_every_level(values, window):
    mean, deviation = kernels.rolling_moments(values, window)
    assert len(mean) == len(deviation) == len(values)
    for row in range(len(values)):
        if row < window - 1:
            assert math.isnan(mean[row])
            assert math.isnan(deviation[row])
            continue
        exact = [Fraction(value) for value in values[row - window + 1 : row + 1]]
        center = sum(exact) / window
        variance = sum((value - center) ** 2 for value in exact) / window
        assert mean[row] == pytest.approx(float(center), rel=1e-13)
        # Squares of tiny values underflow to 0; elsewhere the documented bound, with room for the last rounding.
        spread = float(max(exact) - min(exact))
        if spread > 1e-150 and spread < 1e150:
            bound = 4 * window**2 * 2.0**-53
            assert deviation[row] ** 2 == pytest.approx(float(variance), rel=bound)


def test_rolling_moments_do_not_drift(walk):
    values = np.concatenate([[1e9, 3e9], walk(200_000), [1e9], walk(40, seed=1)])
    mean, deviation = kernels.rolling_moments(values, 20)
    assert mean[-1] == pytest.approx(statistics.fmean(values[-20:]), rel=1e-15)
    assert deviation[-1] == pytest.approx(statistics.pstdev(values[-20:]), rel=1e-13)
    # A running sum that adds and subtracts has lost these digits: the test can fail.
    running = np.cumsum(values)
    assert abs((running[-1] - running[-21]) / 20 / statistics.fmean(values[-20:]) - 1) > 1e-12


def test_a_constant_window_has_a_deviation_of_exactly_zero(walk):
    values = np.concatenate([walk(37), np.full(60, 123.456), walk(30)])
    deviation = kernels.rolling_moments(values, 20)[1]
    assert (deviation[56:97] == 0.0).all()
    assert deviation[55] > 0
    assert deviation[97] > 0


@FAST
@given(SERIES)
def test_true_range_follows_its_definition(close):
    high, low = close * 1.03, close * 0.99
    mine = kernels.true_range(high, low, close)
    for row in range(len(close)):
        if row == 0:
            assert math.isnan(mine[row])
        else:
            before = close[row - 1]
            expected = max(high[row] - low[row], abs(high[row] - before), abs(low[row] - before))
            assert mine[row] == expected
    smooth = kernels.average_true_range(mine, 5)
    if len(close) > 6:
        assert smooth[5] == pytest.approx(mine[1:6].mean(), rel=1e-12)
        assert smooth[6] == pytest.approx((4 * smooth[5] + mine[6]) / 5, rel=1e-12)
    assert np.isnan(smooth[:5]).all()


@FAST
@given(st.lists(st.floats(-10, 10), min_size=0, max_size=60), st.floats(0.5, 0.99), st.integers(1, 20))
def test_ewma_volatility_follows_its_definition(returns, decay, seed):
    returns = np.array([math.nan, *returns])
    mine = kernels.ewma_volatility(returns, decay, seed)
    for row in range(len(returns)):
        if row < seed:
            assert math.isnan(mine[row])
            continue
        weights = decay ** np.arange(row - seed - 1, -1, -1) * (1 - decay)
        variance = decay ** (row - seed) * np.mean(returns[1 : seed + 1] ** 2)
        variance += (weights * returns[seed + 1 : row + 1] ** 2).sum()
        assert mine[row] == pytest.approx(math.sqrt(variance), rel=1e-9, abs=1e-12)


def test_no_movement_is_the_middle_not_the_bottom():
    assert (kernels.rsi(np.full(30, 7.0), 14)[14:] == 50.0).all()
