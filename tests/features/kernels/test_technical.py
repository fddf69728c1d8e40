"""Averages and extrema against TA-Lib; what scores, ratios and breakouts say where there is nothing to divide by."""

import math

import numpy as np
import pytest

from atlas_pipeline.features.technical import A20, A25, TECHNICAL, VOLATILITY_INDEX
from tests.features.kernels.blocks import columns, real_rows, rows_of
from tests.features.kernels.talib_columns import KINDS, LEVELS, drawn, require_equal, talib_columns

IN_PRICES = ("sma_20", "sma_50", "sma_200", "ema_12", "ema_26", "rolling_high_20", "rolling_low_20")


def require_talibs(inputs):
    mine, theirs = columns(inputs), talib_columns(inputs)
    level = np.maximum.accumulate(inputs[1:4].max(axis=0))
    for name in IN_PRICES:
        require_equal(mine[name], theirs[name], level)
    require_equal(mine["distance_from_high_252"], theirs["distance_from_high_252"])


@pytest.mark.parametrize("symbol", ["SP500", "NASDAQ"])
def test_talibs_on_real_bars(bundled_bars, symbol):
    require_talibs(real_rows(bundled_bars[bundled_bars["symbol"] == symbol]))


@pytest.mark.parametrize("scale", LEVELS)
@pytest.mark.parametrize("kind", KINDS)
def test_talibs_at_any_level(kind, scale):
    require_talibs(drawn(kind, scale, 1500))


@pytest.mark.parametrize("kind", KINDS)
def test_talibs_of_any_length(kind):
    inputs = drawn(kind, 100.0)
    for count in range(1, 301):
        require_talibs(np.ascontiguousarray(inputs[:, :count]))


def test_the_tiers_are_as_long_as_their_names_say():
    assert len(A20) == len(set(A20)) == 20
    assert len(A25) == len(set(A25)) == 25
    assert A25[:20] == A20


def test_a_constant_has_no_scores_and_no_infinite_columns():
    found = columns(drawn("constant", 50.0, 300))
    for name in ("volume_zscore_20", "vix_zscore_100", "volatility_premium"):
        assert np.isnan(found[name]).all(), name
    for feature in (*TECHNICAL, *VOLATILITY_INDEX):
        assert not np.isinf(found[feature.name]).any(), feature.name
    for name in ("return_60", "parkinson_20", "garman_klass_20", "breakout_20", "distance_from_high_252"):
        assert (found[name][252:] == 0.0).all(), name
    # Means of a constant are rounded.
    for name in ("close_over_sma_20", "close_over_sma_200", "ema_ratio"):
        assert np.abs(found[name][252:]).max() < 1e-15, name


def test_a_breakout_leaves_the_range_of_the_bars_before():
    close = np.full(60, 100.0)
    close[30], close[45] = 103.0, 96.0
    inputs = rows_of(close, spread=0.01)
    inputs[0] = close
    inputs[1], inputs[2] = np.maximum(close, 101.0), np.minimum(close, 99.0)
    found = columns(inputs)["breakout_20"]
    assert np.isnan(found[:20]).all()
    assert np.flatnonzero(found == 1.0).tolist() == [30]
    assert np.flatnonzero(found == -1.0).tolist() == [45]
    # To touch the range is not to leave it.
    inputs[3, 40] = inputs[1, 40] = 103.0
    assert columns(inputs)["breakout_20"][40] == 0.0


def test_volumes_without_a_trade():
    inputs = rows_of(100 + np.arange(80.0), volume=np.where(np.arange(80) % 7 == 0, 0.0, 50.0))
    found = columns(inputs)
    assert (found["volume_ratio"][21::7] == -1.0).all()
    assert found["volume_zscore_20"][21] < -2
    inputs[4] = 0.0
    still = columns(inputs)
    assert np.isnan(still["volume_ratio"]).all()
    assert np.isnan(still["volume_zscore_20"]).all()


def test_a_missing_value_spoils_the_windows_that_hold_it():
    inputs = rows_of(100 * np.exp(np.random.default_rng(0).normal(0, 0.01, 400).cumsum()))
    inputs[4] = np.random.default_rng(1).integers(1, 100, 400)
    inputs[5] = 20 + np.random.default_rng(2).normal(size=400)
    whole = columns(inputs)
    spoilt = {
        0: {"overnight_gap": 1, "relative_gap": 1, "garman_klass_20": 20},
        4: {"volume_zscore_20": 20, "volume_ratio": 20},
        5: {"vix": 1, "vix_return": 2, "vix_over_sma_20": 20, "vix_zscore_100": 100, "volatility_premium": 1},
    }
    for kind, reach in spoilt.items():
        missing = inputs.copy()
        missing[kind, 250] = math.nan
        for name, values in columns(missing).items():
            expected = whole[name].copy()
            expected[250 : 250 + reach.get(name, 0)] = math.nan
            np.testing.assert_array_equal(values, expected, err_msg=name)
