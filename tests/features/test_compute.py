"""Frames in, frames out: series kept apart, months that go on from a memory, ages, the index as published."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_pipeline.config import Config
from atlas_pipeline.features import compute
from atlas_pipeline.features.compute import INDEX_AGE_LIMIT, compute_atlas8, compute_features, continue_features
from atlas_pipeline.features.memory import SeriesMemory
from atlas_pipeline.features.model_inputs import set_columns
from atlas_pipeline.features.registry import FEATURES, REGISTRY, SETS
from atlas_pipeline.features.schema import validate_features
from atlas_pipeline.market.bars import BARS, empty
from atlas_pipeline.market.calendars import LONGEST_CLOSURE
from tests.features.kernels.blocks import features_in_blocks, real_rows
from tests.features.markets import index_of, market_of, require_same

NAMES = list(REGISTRY)
KEY = list(FEATURES.key)
OF_THE_INDEX = ["vix", "vix_return", "vix_over_sma_20", "vix_zscore_100", "volatility_premium"]


# The registry


def test_the_registry_declares_every_feature_once():
    # DuckDB's column names ignore case.
    assert len({name.lower() for name in FEATURES.names}) == len(FEATURES.names)
    for name, feature in REGISTRY.items():
        assert feature.name == name
        assert all((feature.formula, feature.source, feature.unit, feature.inputs)), name
        known = {"open", "high", "low", "close", "volume", "volatility_index", *NAMES}
        assert set(feature.inputs) <= known, name
    assert {name: len(columns) for name, columns in SETS.items()} == {
        "atlas8": 8, "technical": 26, "a20": 20, "a25": 25, "relative": 8, "heterogeneous": 13,
    }  # fmt: skip
    for columns in SETS.values():
        assert len(set(columns)) == len(columns)
        assert set(columns) <= set(NAMES)
    assert {name for columns in SETS.values() for name in columns} | {"volatility_ewma"} == set(NAMES)
    assert len(set_columns(Config().features)) == Config().feature_size == 8


def test_the_columns_are_those_of_the_table(features):
    assert list(features.columns) == list(FEATURES.names)
    assert {features[name].dtype for name in NAMES} == {np.dtype("float32")}
    require_same(validate_features(features), features)


def test_the_warm_up_is_the_number_of_rows_without_a_value(make_bars, walk):
    bars = make_bars(walk(400)).assign(volume=np.arange(1.0, 401.0))
    found = compute_features(bars, volatility_index=index_of(bars))
    for name, feature in REGISTRY.items():
        valid = found[name].notna().to_numpy()
        assert not valid[: feature.warmup].any(), name
        assert valid[feature.warmup :].all(), name
    assert (found["momentum_signal"][: REGISTRY["Momentum"].warmup] == -1.0).all()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    volatility=st.sampled_from([0.0, 1e-6, 0.01, 0.05]),
    scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e30]),
    spread=st.sampled_from([0.0, 0.01, 0.5]),
)
def test_no_value_leaves_its_limits(seed, volatility, scale, spread):
    found = compute_features(*market_of(seed, volatility=volatility, scale=scale, spread=spread))
    for name, feature in REGISTRY.items():
        values = found[name].dropna()
        assert np.isfinite(values).all(), name
        assert feature.minimum is None or (values >= feature.minimum).all(), (name, values.min())
        assert feature.maximum is None or (values <= feature.maximum).all(), (name, values.max())


def test_names_can_be_looked_up_without_numba_or_torch():
    code = (
        "import sys; from atlas_pipeline.features import registry, schema, coverage, causality, compute, stream; "
        "found = {'numba', 'torch', 'pandera', 'arch'} & set(sys.modules); assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# One computation


@pytest.mark.parametrize("symbol", ["SP500", "NASDAQ"])
def test_stored_values_are_the_kernels_rounded_once(bundled_bars, features, symbol):
    expected = features_in_blocks(real_rows(bundled_bars[bundled_bars["symbol"] == symbol])).astype(np.float32)
    found = features.loc[features["symbol"] == symbol, NAMES].to_numpy().T
    np.testing.assert_array_equal(found, expected)


def test_the_decay_is_a_setting(bundled_bars, features):
    other = compute_features(bundled_bars, volatility_decay=0.5)
    unlike = {name for name in NAMES if not other[name].equals(features[name])}
    assert unlike == {"volatility_ewma", *SETS["relative"], *SETS["heterogeneous"]} - {"volume_ratio"}


def test_series_do_not_touch_each_other(bundled_bars, features):
    own = bundled_bars["symbol"] == "NASDAQ"
    require_same(compute_features(bundled_bars[own]), features[features["symbol"] == "NASDAQ"])
    require_same(compute_features(pd.concat([bundled_bars[own], bundled_bars[~own]])), features)
    require_same(compute_features(bundled_bars.sort_values("available_at", kind="stable")), features)
    hourly = compute_features(pd.concat([bundled_bars, bundled_bars[own].assign(interval="1h")]))
    require_same(hourly[hourly["interval"] == "1d"], features)
    assert list(hourly[KEY].itertuples(index=False)) == sorted(hourly[KEY].itertuples(index=False))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, -3.0])
@pytest.mark.parametrize("column", ["high", "low", "close"])
def test_a_missing_price_begins_every_feature_anew(make_bars, walk, bad, column):
    bars = make_bars(walk(160))
    bars.loc[70, column] = bad
    found = compute_features(bars)
    assert found.loc[70, NAMES].drop("momentum_signal").isna().all()
    assert found.loc[70, "momentum_signal"] == -1.0
    for part in (slice(0, 70), slice(71, 160)):
        require_same(compute_features(bars[part]), found[part])


@pytest.mark.parametrize("bad", [np.inf, 0.0, -3.0])
def test_an_impossible_open_volume_or_index_is_a_missing_one(make_bars, walk, bad):
    bars = make_bars(walk(160)).assign(volume=np.arange(1.0, 161.0))
    index = index_of(bars)
    for column in ("open", "volume", "close"):
        if (column, bad) == ("volume", 0.0):
            continue
        found = []
        for value in (bad, np.nan):
            frame = index if column == "close" else bars
            altered = frame.assign(**{column: frame[column].where(np.arange(len(frame)) != 70, value)})
            given = (bars, altered) if column == "close" else (altered, index)
            found.append(compute_features(given[0], volatility_index=given[1]))
        require_same(*found)
        assert found[0].isna().sum().sum() > compute_features(bars, volatility_index=index).isna().sum().sum()


@pytest.mark.parametrize(("longer", "begins"), [(timedelta(0), False), (timedelta(microseconds=1), True)])
def test_a_hole_begins_every_feature_anew(make_bars, walk, longer, begins):
    bars = make_bars(walk(160))
    later = bars["available_at"] + (LONGEST_CLOSURE - timedelta(days=1) + longer)
    bars["available_at"] = bars["available_at"].where(bars.index < 70, later)
    found = compute_features(bars)
    alone = compute_features(bars[70:])
    assert found["Close"].notna().all()
    assert found[70:].reset_index(drop=True).equals(alone) is begins


@pytest.mark.parametrize("count", [0, 1, 2, 10, 11, 20, 21, 34, 253])
def test_short_series(make_bars, walk, count):
    bars = make_bars(walk(count)).assign(volume=np.arange(1.0, count + 1))
    found = compute_features(bars, volatility_index=index_of(bars))
    assert len(found) == count
    validate_features(found)
    for name, feature in REGISTRY.items():
        expected = count if name == "momentum_signal" else max(0, count - feature.warmup)
        assert int(found[name].notna().sum()) == expected, name


def test_nothing_given_is_changed(make_actions):
    bars, actions = market_of(0)
    index = index_of(bars)
    memory = continue_features(SeriesMemory.empty(), bars[bars["month"] < "2015-03"]).memory
    later = bars[bars["month"] >= "2015-03"]
    given = (later, actions, index)
    before = [frame.copy(deep=True) for frame in given]
    remembered = {name: value.copy() for name, value in vars(memory).items() if isinstance(value, np.ndarray)}
    continue_features(memory, later, actions, volatility_index=index)
    for frame, copy in zip(given, before, strict=True):
        pd.testing.assert_frame_equal(frame, copy, check_exact=True)
    for name, value in remembered.items():
        np.testing.assert_array_equal(getattr(memory, name), value)


def test_unusable_bars_are_refused(make_bars, walk):
    bars = make_bars(walk(30))
    with pytest.raises(ValueError, match=r"lack the columns \['high'\]"):
        compute_features(bars.drop(columns="high"))
    with pytest.raises(ValueError, match=r"'AAA' \(1d\) do not increase in time at 2015-01-04"):
        compute_features(pd.concat([bars[:4], bars[3:]]))
    with pytest.raises(ValueError, match="sort them"):
        compute_features(bars[::-1])


@pytest.mark.parametrize("first", [0, 9])
def test_a_bar_not_later_than_the_memory_is_refused(make_bars, walk, first):
    bars = make_bars(walk(30))
    memory = continue_features(SeriesMemory.empty(), bars[:10]).memory
    with pytest.raises(ValueError, match=r"'AAA' \(1d\) do not increase .* leave out what was computed before"):
        continue_features(memory, bars[first:])
    # Of another symbol, or interval, it is the first.
    assert len(continue_features(memory, bars[first:].assign(interval="1h")).frame) == 30 - first


def test_processors_share_the_series_and_change_no_bit(monkeypatch):
    bars, actions = market_of(3)
    index = index_of(bars)
    monkeypatch.setattr(compute.os, "sched_getaffinity", lambda process: set(range(3)), raising=False)
    made, shares = [], []
    balanced = compute._balanced
    monkeypatch.setattr(compute, "_balanced", lambda *given: shares.append(balanced(*given)) or shares[-1])
    for rows in (10**9, 1):
        monkeypatch.setattr(compute, "_PARALLEL_ROWS", rows)
        made.append(continue_features(SeriesMemory.empty(), bars, actions, volatility_index=index))
    assert [len(edges) - 1 for edges in shares] == [1, 3]
    require_same(made[0].frame, made[1].frame)
    np.testing.assert_array_equal(made[0].ages, made[1].ages)
    for name in ("averages", "history"):
        np.testing.assert_array_equal(getattr(made[0].memory, name), getattr(made[1].memory, name))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=12), st.integers(1, 5))
def test_processors_get_whole_series_each_once(lengths, groups):
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    edges = compute._balanced(bounds, groups)
    assert edges[0] == 0
    assert edges[-1] == len(lengths)
    assert edges == sorted(set(edges))
    assert len(edges) - 1 <= groups


def test_no_bars_are_no_features():
    made = continue_features(SeriesMemory.empty(), empty(BARS))
    assert list(made.frame.columns) == list(FEATURES.names)
    assert len(made.frame) == len(made.memory.series) == 0
    assert made.ages.shape == (0, 4)


# Ages


def slow_ages(bars: pd.DataFrame, index: pd.DataFrame | None) -> np.ndarray:
    """Consecutive rows with usable prices, an open, a volume and an index, counted row by row."""
    ages = np.zeros((len(bars), 4), np.int32)
    now, series, last = [0, 0, 0, 0], None, None
    for row, bar in enumerate(bars.itertuples()):
        if (bar.symbol, bar.interval) != series or bar.available_at - last > LONGEST_CLOSURE:
            now = [0, 0, 0, 0]
        series, last = (bar.symbol, bar.interval), bar.available_at
        known = [] if index is None else index[index["available_at"] <= bar.available_at].tail(1).itertuples()
        published = [each.close for each in known if bar.available_at - each.available_at <= INDEX_AGE_LIMIT]
        prices = all(np.isfinite(price) and price > 0 for price in (bar.high, bar.low, bar.close))
        there = (
            prices,
            prices and np.isfinite(bar.open) and bar.open > 0,
            prices and np.isfinite(bar.volume) and bar.volume >= 0,
            prices and any(np.isfinite(value) and value > 0 for value in published),
        )
        now = [age + 1 if present else 0 for age, present in zip(now, there, strict=True)]
        ages[row] = now
    return ages


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("with_index", [False, True])
def test_ages_are_counted_row_by_row(seed, with_index):
    bars, actions = market_of(seed)
    index = index_of(bars) if with_index else None
    made = continue_features(SeriesMemory.empty(), bars, actions, volatility_index=index)
    assert made.ages.dtype == np.int32
    np.testing.assert_array_equal(made.ages, slow_ages(bars.sort_values(KEY), index))


# The volatility index


def published(*rows: tuple[str, float]) -> pd.DataFrame:
    instants = pd.to_datetime([instant for instant, _ in rows], utc=True, format="ISO8601").as_unit("us")
    return pd.DataFrame({"available_at": instants, "close": [value for _, value in rows]})


def test_the_index_is_joined_as_published(make_bars, walk):
    bars = make_bars(walk(16))
    index = published(
        ("2015-01-02 21:00", 11.0),
        ("2015-01-03 21:00:00.000001", 12.0),
        ("2015-01-05 20:59", 13.0),
        ("2015-01-06 20:00", np.nan),
        ("2015-01-08 21:00", 14.0),
    )
    found = compute_features(bars, volatility_index=index)["vix"].to_numpy()
    # As of 21:00 of the first day, the second, and so on; the last is known for seven days and no longer.
    expected = [np.nan, 11, 11, 12, 13, np.nan, np.nan, *[14] * 8, np.nan]
    np.testing.assert_array_equal(found, np.array(expected, np.float32))


def test_the_index_ages_to_the_microsecond(make_bars, walk):
    bars = make_bars(walk(1))
    instant = bars["available_at"].iloc[0] - INDEX_AGE_LIMIT
    for published_at, expected in ((instant, 20.0), (instant - timedelta(microseconds=1), np.nan)):
        index = pd.DataFrame({"available_at": [published_at], "close": [20.0]})
        found = compute_features(bars, volatility_index=index)["vix"].to_numpy()
        np.testing.assert_array_equal(found, [expected])


def test_without_an_index_only_its_own_columns_are_missing(make_bars, walk):
    bars = make_bars(walk(160)).assign(volume=np.arange(1.0, 161.0))
    known, unknown = compute_features(bars, volatility_index=index_of(bars)), compute_features(bars)
    assert unknown[OF_THE_INDEX].isna().all(axis=None)
    require_same(known.drop(columns=OF_THE_INDEX), unknown.drop(columns=OF_THE_INDEX))
    require_same(compute_features(bars, volatility_index=published()), unknown)


def test_an_unsorted_index_is_refused(make_bars, walk):
    for days in (("2015-01-03", "2015-01-02"), ("2015-01-02", "2015-01-02")):
        with pytest.raises(ValueError, match="index does not increase in time"):
            compute_features(make_bars(walk(5)), volatility_index=published(*((day, 10.0) for day in days)))


def test_the_eight_alone_are_the_columns_of_all(make_bars, walk):
    bars = make_bars(walk(3_000))
    found = compute_atlas8(bars["high"], bars["low"], bars["close"])
    expected = compute_features(bars)[list(SETS["atlas8"])].to_numpy().T
    np.testing.assert_array_equal(found, expected)
    for bad in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="a price in rows 2048 to 2999 is missing, infinite or not positive"):
            compute_atlas8(bars["high"], bars["low"].replace(bars["low"][2_500], bad), bars["close"])
    with pytest.raises(ValueError, match=r"have \[2999, 3000, 3000\] rows"):
        compute_atlas8(bars["high"][1:], bars["low"], bars["close"])
