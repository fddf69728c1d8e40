"""Going on from a memory: months and any parts of the bars equal one computation; actions are booked once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_pipeline.features.compute import INDEX_AGE_LIMIT, compute_features, continue_features
from atlas_pipeline.features.memory import SeriesMemory
from atlas_pipeline.features.registry import FEATURES
from tests.features.markets import index_of, market_of, require_same

KEY = list(FEATURES.key)


def month_by_month(bars, actions, index, *, months=None, folder=None, least=False):
    """Compute one month after another; with ``folder`` through files, with ``least`` given no more than is needed."""
    memory, made = SeriesMemory.empty(), []
    for month in sorted(bars["month"].unique()) if months is None else months:
        own = bars[bars["month"] == month]
        known, published = actions, index
        if least:
            first = own["available_at"].astype("int64").min()
            known = actions[actions["available_at"].astype("int64") >= memory.last_priced.min(initial=first)]
            published = index[index["available_at"] >= own["available_at"].min() - INDEX_AGE_LIMIT]
        computed = continue_features(memory, own, known, volatility_index=published)
        memory = memory.updated(computed.memory)
        if folder is not None:
            memory.write(folder / month)
            memory = SeriesMemory.read(folder / month)
        made.append(computed)
    frame = pd.concat([each.frame for each in made], ignore_index=True)
    order = frame.sort_values(KEY, kind="stable").index
    return frame.loc[order], np.concatenate([each.ages for each in made])[order], memory


@pytest.mark.parametrize("seed", range(4))
def test_months_that_go_on_from_files_equal_one_computation(tmp_path, seed):
    bars, actions = market_of(seed)
    index = index_of(bars)
    whole = continue_features(SeriesMemory.empty(), bars, actions, volatility_index=index)
    assert (whole.frame["split"] != 1).any() and (whole.frame["dividend"] > 0).any()
    for least in (False, True):
        frame, ages, memory = month_by_month(bars, actions, index, folder=tmp_path, least=least)
        require_same(frame, whole.frame)
        np.testing.assert_array_equal(ages, whole.ages)
        assert memory.series == whole.memory.series
        for name in ("last_bar", "last_priced", "last_close", "ages", "averages", "history"):
            mine, theirs = getattr(memory, name), getattr(whole.memory, name)
            begun = np.ones(len(theirs), bool) if name != "history" else theirs.any(axis=(1, 2))
            np.testing.assert_array_equal(mine[begun], theirs[begun], err_msg=name)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), cuts=st.lists(st.integers(0, 199), max_size=8))
def test_any_parts_equal_one_computation(seed, cuts):
    bars, actions = market_of(seed)
    days = bars["session"].drop_duplicates().sort_values()
    parts = np.searchsorted(days.iloc[sorted(set(cuts))], bars["session"], side="right")
    bars = bars.assign(month=[f"{part:07d}" for part in parts])
    index = index_of(bars)
    frame, ages, _ = month_by_month(bars, actions, index)
    whole = continue_features(SeriesMemory.empty(), bars, actions, volatility_index=index)
    require_same(frame, whole.frame)
    np.testing.assert_array_equal(ages, whole.ages)


def test_a_month_of_the_bundled_bars_equals_the_same_rows(bundled_bars, features):
    for month in ("1999-01", "1999-02", "2008-10", "2018-12"):
        memory = continue_features(SeriesMemory.empty(), bundled_bars[bundled_bars["month"] < month]).memory
        mine = continue_features(memory, bundled_bars[bundled_bars["month"] == month]).frame
        require_same(mine, features[features["month"] == month])


def test_an_action_waits_for_the_next_close(make_bars, make_actions, walk):
    """A split on a month's last day, on which the close is missing, counts at the next month's first bar."""
    bars = make_bars(walk(80))
    bars.loc[30, "close"] = np.nan
    assert bars.loc[[30, 31], "month"].tolist() == ["2015-01", "2015-02"]
    actions = make_actions(("AAA", "2015-01-20", "split", 2.0), ("AAA", "2015-01-31", "split", 3.0))
    frame, _, _ = month_by_month(bars, actions, None)
    assert frame.loc[frame["split"] != 1, "available_at"].tolist() == bars["available_at"][[19, 31]].tolist()
    require_same(frame, compute_features(bars, actions))


def test_an_action_is_booked_once_at_a_bar_that_has_a_close_but_no_low(make_bars, make_actions, walk):
    bars = make_bars(walk(80))
    bars.loc[30, "low"] = np.nan
    actions = make_actions(("AAA", "2015-01-31", "split", 3.0))
    frame, _, _ = month_by_month(bars, actions, None)
    assert frame.loc[frame["split"] != 1, "available_at"].tolist() == [bars["available_at"][30]]
    require_same(frame, compute_features(bars, actions))


def test_what_was_paid_before_the_first_bar_nobody_held(make_bars, make_actions, walk):
    bars = make_bars(walk(40))
    bars.loc[0, "close"] = np.nan
    old = make_actions(("AAA", "2010-01-04", "split", 4.0), ("AAA", "2015-01-02", "dividend", 1.0))
    found = compute_features(bars, old)
    assert (found["split"] == 1.0).all()
    assert (found["dividend"] == 0.0).all()
    require_same(found, compute_features(bars))


def test_an_interval_that_begins_later_takes_no_older_action(make_bars, make_actions, walk):
    daily, hourly = make_bars(walk(80)), make_bars(walk(80, seed=1)).assign(interval="1h")[40:]
    actions = make_actions(("AAA", "2015-01-20", "split", 2.0), ("AAA", "2015-03-03", "dividend", 1.0))
    bars = pd.concat([daily, hourly])
    frame, _, _ = month_by_month(bars, actions, None)
    require_same(frame, compute_features(bars, actions))
    assert frame.loc[frame["interval"] == "1h", "split"].eq(1.0).all()
    assert frame.groupby("interval")["dividend"].sum().tolist() == [1.0, 1.0]
