import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_pipeline.market.bars import CORPORATE_ACTIONS
from atlas_pipeline.market.price_factors import actions_from_factors

DAYS = pd.bdate_range("2015-02-02", periods=9, unit="us")  # no holiday among them


def rows(price_factor=1.0, split_factor=1.0, close=100.0, days=DAYS):
    sessions = pd.Series(days).astype("datetime64[us]")
    frame = pd.DataFrame({"symbol": "AAA", "session": sessions, "close": close})
    frame["price_factor"], frame["split_factor"] = price_factor, split_factor
    return frame.assign(available_at=(sessions + pd.Timedelta(hours=21)).dt.tz_localize("UTC"))


def found(frame):
    actions = actions_from_factors(frame, "XNYS")
    CORPORATE_ACTIONS.schema().validate(actions, lazy=True)
    return [(action.session, action.kind, action.value) for action in actions.itertuples()]


def steps(before, after, at):
    return np.where(np.arange(len(DAYS)) < at, before, after)


@pytest.mark.parametrize("ratio", [7.0, 2.0, 1.5, 1.25, 1.05, 4 / 3, 0.05, 1 / 3, 1 / 1500])
def test_rounded_factors_give_the_ratio_as_it_was_announced(ratio):
    factor = np.round(steps(1 / ratio, 1.0, 4) / 28, 8)
    assert found(rows(split_factor=factor)) == [(DAYS[4], "split", ratio)]


def test_a_ratio_that_no_small_fraction_meets_stays_as_it_is():
    assert found(rows(split_factor=steps(1 / 1.0461293, 1.0, 4))) == [(DAYS[4], "split", pytest.approx(1.0461293))]


@settings(max_examples=25, deadline=None)
@given(cash=st.integers(1, 90_000), close=st.integers(1_000, 90_000), later=st.floats(0.3, 1.0))
def test_cash_comes_back_from_factors_of_seven_decimals(cash, close, later):
    cash, close = cash / 10_000, close / 100
    after = round(later, 7)
    ((day, kind, value),) = found(rows(np.round(steps(after * (1 - cash / close), after, 5), 7), close=close))
    assert (day, kind) == (DAYS[5], "dividend")
    # Two factors, each off by half a unit of the seventh decimal, times the close.
    assert value == pytest.approx(cash, abs=2 * 5e-8 * close / after * 2)


def test_split_and_dividend_of_one_day():
    # One dollar a new share, two for one: two dollars off a close of 100 before.
    frame = rows(price_factor=steps(0.98, 1.0, 3), split_factor=steps(0.5, 1.0, 3))
    assert found(frame) == [(DAYS[3], "split", 2.0), (DAYS[3], "dividend", 1.0)]


def test_noise_in_the_factors_is_no_action():
    noise = np.random.default_rng(0).normal(0, 1, len(DAYS))
    assert found(rows(price_factor=0.9 + 1e-8 * noise, split_factor=7 * (1 + 1e-7 * noise))) == []
    single = np.float32(0.8613657) * np.ones(len(DAYS), np.float32)
    assert found(rows(price_factor=single)) == []


def test_a_change_across_a_hole_is_named_and_not_dated(caplog):
    frame = rows(price_factor=steps(0.98, 1.0, 5)).drop(index=[4]).reset_index(drop=True)
    with caplog.at_level(logging.WARNING):
        assert found(frame) == []
    assert "AAA: the factors change between 2015-02-05 and 2015-02-09, with 1 sessions" in caplog.text
    # A weekend and a holiday (Washington's birthday) are no hole.
    days = pd.to_datetime(["2015-02-13", "2015-02-17"])
    assert len(found(rows(price_factor=[0.98, 1.0], days=days))) == 1


def test_a_row_without_its_factor_or_close_leaves_a_hole():
    assert found(rows(price_factor=np.where(np.arange(9) == 4, np.nan, steps(0.98, 1.0, 5)))) == []
    assert found(rows(price_factor=steps(0.98, 1.0, 5), close=np.where(np.arange(9) == 4, 0.0, 100.0))) == []


def test_a_factor_that_falls_is_no_dividend(caplog):
    assert found(rows(price_factor=steps(1.0, 0.98, 5))) == []
    assert "price_factor falls on 2015-02-09" in caplog.text


def test_symbols_intervals_and_order_do_not_mix():
    own = rows(price_factor=steps(0.98, 1.0, 5))
    morning = own.assign(available_at=own["available_at"] - pd.Timedelta(hours=2), close=50.0)
    other = rows(price_factor=0.5, split_factor=0.1).assign(symbol="BBB")
    shuffled = pd.concat([other, morning, own]).sample(frac=1, random_state=0)
    # The last close of the day before counts, not the morning's.
    assert found(shuffled) == [(DAYS[5], "dividend", 2.0)]


def test_one_factor_alone_is_enough():
    assert found(rows(split_factor=steps(0.5, 1.0, 3)).drop(columns="price_factor")) == [(DAYS[3], "split", 2.0)]
    assert found(rows(price_factor=steps(0.98, 1.0, 3)).drop(columns="split_factor")) == [(DAYS[3], "dividend", 2.0)]
