"""Means with exponential memories against pandas, over holes and stretches without motion."""

import math

import numpy as np
import pandas as pd

from atlas_pipeline.features.heterogeneous import HETEROGENEOUS, RANGE_HALF_LIVES, TREND_HALF_LIVES, WARMUP
from tests.features.kernels.blocks import columns, real_rows, rows_of

NAMES = [feature.name for feature in HETEROGENEOUS]


def test_they_are_the_weighted_means_of_pandas(bundled_bars):
    inputs = real_rows(bundled_bars[bundled_bars["symbol"] == "NASDAQ"])
    _, high, low, close = (pd.Series(row) for row in inputs[:4])
    found = columns(inputs)
    before = close.shift()
    squares = (100 * np.log(np.maximum(high, before) / np.minimum(low, before))) ** 2 / (4 * math.log(2))
    squares[0] = np.nan
    for half_life in RANGE_HALF_LIVES:
        mean = squares.ewm(halflife=half_life).mean()
        expected = 0.5 * np.log(mean / found["volatility_ewma"] ** 2)
        np.testing.assert_allclose(found[f"range_ratio_{half_life}"][WARMUP:], expected[WARMUP:], atol=1e-10)
    for half_life in TREND_HALF_LIVES:
        expected = math.sqrt(half_life) * pd.Series(found["relative_return"]).ewm(halflife=half_life).mean()
        np.testing.assert_allclose(found[f"trend_{half_life}"][WARMUP:], expected[WARMUP:], atol=1e-10)


def test_a_stretch_without_motion_passes_without_trace():
    """While nothing moves there is no ratio; afterwards the weights of the stretch are not in the means."""
    random = np.random.default_rng(0)
    close = 100 * np.exp(np.cumsum(0.01 * random.standard_normal(3_000)))
    close[500:2_500] = close[499]
    found = columns(rows_of(close, spread=0.0))
    assert np.isnan([found[name][2_000:2_499] for name in NAMES[: len(RANGE_HALF_LIVES)]]).all()
    assert np.isfinite([found[name][2_700:] for name in NAMES]).all()
    assert np.nanmax(np.abs([found[name] for name in NAMES])) < 60


def test_a_fall_lowers_the_trend_and_range_follows_volatility():
    close = np.concatenate([100 + np.sin(np.arange(300.0)), 101 * 0.99 ** np.arange(1.0, 21.0)])
    found = columns(rows_of(close, spread=0.001))
    for half_life in TREND_HALF_LIVES:
        assert found[f"trend_{half_life}"][-1] < found[f"trend_{half_life}"][-21] - 0.3
