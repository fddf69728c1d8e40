"""One bar at a time, saved and read again on the way: the bits of the whole series."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from atlas_pipeline.features.compute import INDEX_AGE_LIMIT, compute_features, continue_features
from atlas_pipeline.features.memory import SeriesMemory
from atlas_pipeline.features.registry import REGISTRY
from atlas_pipeline.features.stream import FeatureStream, stream_features
from tests.features.markets import index_of, market_of

NAMES = list(REGISTRY)
BAR = {"open": 10.0, "high": 11.0, "low": 9.0, "close": 10.5, "volume": 3.0}
INSTANT = datetime(2015, 1, 1, 21, tzinfo=UTC)


def known_index(index, instant):
    """What a caller knows of the index at an instant."""
    last = index[index["available_at"] <= instant].tail(1)
    fresh = len(last) and instant - last["available_at"].iloc[0] <= INDEX_AGE_LIMIT
    return float(last["close"].iloc[0]) if fresh else float("nan")


def given_to(stream, bar, booked, index):
    prices = {name: getattr(bar, name) for name in BAR}
    return stream.update(
        bar.available_at.to_pydatetime(),
        **prices,
        split=booked.split,
        dividend=booked.dividend,
        volatility_index=known_index(index, bar.available_at),
    )


@pytest.mark.parametrize("seed", range(2))
def test_bars_one_by_one_equal_the_whole_series_also_through_files(tmp_path, seed):
    bars, actions = market_of(seed)
    index = index_of(bars)
    whole = continue_features(SeriesMemory.empty(), bars, actions, volatility_index=index)
    for (symbol, interval), own in bars.groupby(["symbol", "interval"]):
        place = ((whole.frame["symbol"] == symbol) & (whole.frame["interval"] == interval)).to_numpy()
        expected = whole.frame[place]
        stream = FeatureStream(symbol, interval)
        found, ages = [], []
        for row, (bar, booked) in enumerate(zip(own.itertuples(), expected.itertuples(), strict=True)):
            if row in (1, 19, 20, 64, 65, 150):
                stream.memory.write(tmp_path / "memory")
                stream = FeatureStream(symbol, interval, SeriesMemory.read(tmp_path / "memory"))
            found.append(given_to(stream, bar, booked, index))
            ages.append(stream.memory.ages[0].copy())
        np.testing.assert_array_equal(np.array(found), expected[NAMES].to_numpy())
        assert found[0].dtype == np.float32
        np.testing.assert_array_equal(np.array(ages), whole.ages[place])
        remembered = whole.memory.of([(symbol, interval)])
        for name in ("last_bar", "last_priced", "last_close", "ages", "averages", "history"):
            np.testing.assert_array_equal(getattr(stream.memory, name), getattr(remembered, name), err_msg=name)


@pytest.mark.parametrize("seed", range(2))
def test_a_stream_goes_on_from_a_batch_and_a_batch_from_a_stream(seed):
    bars, actions = market_of(seed)
    index = index_of(bars)
    bars = bars[bars["symbol"] == "HOLES"]
    whole = compute_features(bars, actions, volatility_index=index)
    first, second, third = bars[:70], bars[70:110], bars[110:]
    memory = continue_features(SeriesMemory.empty(), first, actions, volatility_index=index).memory
    stream = FeatureStream("HOLES", memory=memory)
    found = [
        given_to(stream, bar, booked, index)
        for bar, booked in zip(second.itertuples(), whole[70:110].itertuples(), strict=True)
    ]
    np.testing.assert_array_equal(np.array(found), whole.loc[70:109, NAMES].to_numpy())
    rest = continue_features(stream.memory, third, actions, volatility_index=index).frame
    pd.testing.assert_frame_equal(rest, whole[110:].reset_index(drop=True), check_exact=True)


def test_a_stream_of_whole_frames_equals_the_batch():
    bars, actions = market_of(5)
    index = index_of(bars)
    pd.testing.assert_frame_equal(
        stream_features(bars, actions, volatility_index=index, volatility_decay=0.9),
        compute_features(bars, actions, volatility_index=index, volatility_decay=0.9),
        check_exact=True,
    )


def test_the_decay_is_the_one_that_is_given(make_bars, walk):
    bars = make_bars(walk(60))
    for decay in (0.94, 0.5):
        stream = FeatureStream("AAA", memory=SeriesMemory.empty(volatility_decay=decay))
        expected = compute_features(bars, volatility_decay=decay)
        for bar in bars.itertuples():
            found = stream.update(bar.available_at.to_pydatetime(), **{name: getattr(bar, name) for name in BAR})
        np.testing.assert_array_equal(found, expected[NAMES].to_numpy()[-1])


@pytest.mark.parametrize("missing", ["high", "low", "close"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_missing_price_begins_the_stream_anew(missing, bad):
    stream, fresh = FeatureStream("AAA"), FeatureStream("AAA")
    for day in range(40):
        stream.update(INSTANT + timedelta(days=day), **BAR)
    gone = stream.update(INSTANT + timedelta(days=40), **{**BAR, missing: bad})
    assert np.isnan(np.delete(gone, NAMES.index("momentum_signal"))).all()
    for day in range(41, 70):
        one, other = (each.update(INSTANT + timedelta(days=day), **BAR) for each in (stream, fresh))
        np.testing.assert_array_equal(one, other)
    assert np.isfinite(one[NAMES.index("sma_20")])


def test_a_memory_that_is_given_is_not_changed():
    first = FeatureStream("AAA")
    first.update(INSTANT, **BAR)
    memory = first.memory
    FeatureStream("AAA", memory=memory).update(INSTANT + timedelta(days=1), **BAR)
    assert memory.last_bar[0] == (INSTANT - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert memory.averages[0, 0] == 1
    # Of another series it knows nothing.
    other = FeatureStream("BBB", memory=memory)
    assert other.memory.averages[0, 0] == 0


def test_what_was_returned_stays():
    stream = FeatureStream("AAA")
    first = stream.update(INSTANT, **BAR)
    kept = first.copy()
    stream.update(INSTANT + timedelta(days=1), **{**BAR, "close": 20.0, "high": 21.0})
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("later", [timedelta(0), timedelta(microseconds=-1), timedelta(days=-9)])
def test_a_bar_that_is_not_later_is_refused(later):
    stream = FeatureStream("AAA", "5m")
    stream.update(INSTANT, **BAR)
    before = stream.memory.of(stream.memory.series)
    with pytest.raises(ValueError, match=r"\('AAA', '5m'\).*not later than the last, 2015-01-01 21:00.*in order"):
        stream.update(INSTANT + later, **BAR)
    np.testing.assert_array_equal(stream.memory.averages, before.averages)


@pytest.mark.parametrize(
    "impossible",
    [{"split": value} for value in (0.0, -2.0, float("nan"), float("inf"))]
    + [{"dividend": value} for value in (-0.1, float("nan"), float("inf"))],
)
def test_an_impossible_split_or_dividend_is_refused(impossible):
    stream = FeatureStream("AAA")
    stream.update(INSTANT, **BAR)
    with pytest.raises(ValueError, match=r"'AAA'.*split is a positive ratio"):
        stream.update(INSTANT + timedelta(days=1), **BAR, **impossible)
    stream.update(INSTANT + timedelta(days=1), **BAR)


def test_an_instant_without_a_time_zone_is_refused():
    with pytest.raises(ValueError, match="no time zone"):
        FeatureStream("AAA").update(datetime(2015, 1, 1, 21), **BAR)
