"""The market's means: by hand, whatever the order, and of nothing later."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from atlas_pipeline.features.compute import compute_features
from atlas_pipeline.features.cross_section import MARKET, market_means
from atlas_pipeline.features.model_inputs import set_columns, table_columns
from atlas_pipeline.features.registry import REGISTRY
from atlas_pipeline.market.simulated import SimulatedSource
from atlas_pipeline.windows.panel_of_bars import panel_of_bars

NAMES = set_columns("market")


@pytest.fixture(scope="module")
def bars() -> pd.DataFrame:
    source = SimulatedSource(["A", "B", "C"])
    first, last = source.range()
    rows = source.bars(source.symbols, first, last).groupby("symbol").head(300)
    # B misses a day.
    return rows.drop(rows[rows["symbol"] == "B"].index[250]).reset_index(drop=True)


def rows_of(values: dict[tuple[str, str, int], float]) -> pd.DataFrame:
    keys = [{"symbol": s, "interval": i, "available_at": pd.Timestamp(day, unit="D")} for s, i, day in values]
    return pd.DataFrame(keys).assign(trend_1=np.array(list(values.values()), np.float32))


def test_a_mean_is_over_the_series_of_the_instant_and_interval_that_have_a_value():
    rows = rows_of(
        {
            ("A", "1d", 1): 1.0,
            ("B", "1d", 1): 4.0,
            ("A", "1h", 1): 100.0,
            ("A", "1d", 2): np.nan,
            ("B", "1d", 2): 7.0,
            ("A", "1d", 3): np.nan,
        }
    )
    means = market_means(rows, ["market_trend_1"])["market_trend_1"]
    np.testing.assert_array_equal(means, np.array([2.5, 2.5, 100.0, 7.0, 7.0, np.nan], np.float32))
    assert means.dtype == np.float32


def test_means_have_the_same_bits_in_any_order(bars):
    rows = compute_features(bars)
    means = market_means(rows, NAMES)
    shuffled = rows.sample(frac=1.0, random_state=1)
    pd.testing.assert_frame_equal(market_means(shuffled, NAMES).sort_index(), means, check_exact=True)


def test_a_panel_s_columns_are_the_means_of_its_others(bars):
    sources = table_columns(NAMES)
    assert sources == tuple(feature.inputs[0] for feature in MARKET.values()) and set(sources) <= set(REGISTRY)
    panel = panel_of_bars(bars, [*sources, *NAMES])
    values, moments = panel.values.astype(np.float64), panel.available_at
    at = np.flatnonzero(moments == moments[panel.symbol == 0][250])
    assert len(at) == 2
    for row in (at, np.flatnonzero(moments == moments[299])):
        expected = np.nanmean(values[row, : len(sources)], axis=0)
        np.testing.assert_allclose(values[row, len(sources) :], np.tile(expected, (len(row), 1)), rtol=1e-6)
    # The market alone is read without its sources in the panel.
    np.testing.assert_array_equal(panel_of_bars(bars, NAMES).values, panel.select(NAMES).values)


def test_no_row_changes_with_what_any_series_does_later(bars):
    instant = bars["available_at"].sort_values().iloc[700]
    later = bars["available_at"] > instant
    altered = bars.copy()
    altered.loc[later, ["open", "high", "low", "close"]] *= 1.7
    whole, other, cut = (panel_of_bars(each, NAMES) for each in (bars, altered, bars[~later]))
    known = whole.available_at <= cut.available_at.max()
    np.testing.assert_array_equal(whole.values[known], cut.values)
    np.testing.assert_array_equal(whole.values[known], other.values[known])
    assert not np.array_equal(whole.values, other.values, equal_nan=True)
