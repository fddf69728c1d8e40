import numpy as np
import pandas as pd
import pandera.errors
import pytest

from atlas_pipeline.market.bars import BARS, empty
from atlas_pipeline.market.quarantine import (
    ascending,
    duplicate_rules,
    key_codes,
    month_of,
    reasons_of,
    require_conforming,
    sort_by_key,
)


def test_reasons_are_joined_in_the_order_of_the_rules():
    rules = [("a", np.array([True, False, True])), ("b", np.array([True, False, False])), ("c", np.zeros(3, bool))]
    assert reasons_of(rules, 3).tolist() == ["a; b", "", "a"]


def test_rows_are_sorted_as_pandas_sorts_them_and_equals_keep_their_order(make_bars):
    bars = pd.concat([make_bars(symbol, count=20) for symbol in ("b", "Z", "a", "é")], ignore_index=True)
    bars = pd.concat([bars, bars[:10].assign(volume=1.0)], ignore_index=True).sample(frac=1, random_state=4)
    assert not ascending(key_codes(bars, BARS.key))
    sorted_ = sort_by_key(bars, BARS.key)
    expected = bars.sort_values(list(BARS.key), kind="stable", ignore_index=True)
    pd.testing.assert_frame_equal(sorted_, expected)
    assert ascending(key_codes(sorted_, BARS.key))
    assert not ascending(key_codes(sorted_, BARS.key), strictly=True)
    assert ascending(key_codes(sorted_.drop_duplicates(list(BARS.key)), BARS.key), strictly=True)
    assert ascending(key_codes(empty(BARS), BARS.key), strictly=True)


def test_duplicates_are_those_that_pandas_finds(make_bars):
    random = np.random.default_rng(2)
    bars = make_bars(count=40)
    extra = bars.iloc[random.integers(0, 40, 30)]
    frame = pd.concat([bars, extra.assign(volume=random.integers(0, 2, 30) + extra["volume"])], ignore_index=True)
    judged = random.random(len(frame)) < 0.8
    (_, copies), (_, conflicts) = duplicate_rules(frame, BARS.key, judged)
    good = frame[judged]
    repeated = good.duplicated()
    assert np.flatnonzero(copies).tolist() == good.index[repeated].tolist()
    distinct = good[~repeated]
    assert (
        np.flatnonzero(conflicts).tolist() == distinct.index[distinct.duplicated(list(BARS.key), keep=False)].tolist()
    )
    assert copies.any() and conflicts.any()


def test_months_of_instants_are_named_in_utc():
    instants = pd.Series(
        pd.to_datetime(["2014-12-31T23:59:59.999999", "2015-01-01", "1969-12-31T23:00"], utc=True, format="ISO8601"),
        index=[4, 5, 6],
    ).astype("datetime64[us, UTC]")
    expected = pd.Series(["2014-12", "2015-01", "1969-12"], index=instants.index, name="month", dtype="str")
    pd.testing.assert_series_equal(month_of(instants), expected)
    assert month_of(instants[:0]).empty


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda bars: bars.assign(close=-bars["close"]), "greater_than_or_equal_to"),
        (lambda bars: bars.assign(close=np.nan), "non-nullable"),
        (lambda bars: pd.concat([bars, bars[:1]], ignore_index=True), "not unique"),
        (lambda bars: bars.drop(columns="high"), "high"),
    ],
)
def test_what_the_table_forbids_is_refused_with_words(make_bars, change, message):
    require_conforming(make_bars().assign(volume=np.nan), BARS)
    with pytest.raises(pandera.errors.SchemaErrors, match=message):
        require_conforming(change(make_bars()), BARS)
