"""Actions fall on their bars, factors never move, and a series as of an instant knows nothing later."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_pipeline.market.adjustment import CorporateActionError, actions_by_bar, as_of, forward_factors
from atlas_pipeline.market.bars import BARS, CORPORATE_ACTIONS, empty
from atlas_pipeline.market.quarantine import conform


def bars_of(close: list[float], symbol: str = "A", interval: str = "1d", start: str = "2015-01-01") -> pd.DataFrame:
    """One bar a day, complete at 21:00 UTC."""
    days = pd.date_range(start, periods=len(close), freq="D", unit="us")
    prices = np.asarray(close, dtype="float64")
    frame = pd.DataFrame(
        {
            "symbol": symbol,
            "interval": interval,
            "session": days,
            "available_at": (days + pd.Timedelta(hours=21)).tz_localize("UTC"),
            **dict.fromkeys(("open", "high", "low", "close"), prices),
            "volume": 700.0,
        }
    )
    return conform(frame, BARS)


def placed(bars: pd.DataFrame, actions: pd.DataFrame) -> tuple[list[float], list[float]]:
    split, dividend = actions_by_bar(bars, actions)
    return split.tolist(), dividend.tolist()


def test_an_action_falls_on_the_bar_of_its_ex_date(make_actions):
    actions = make_actions(("A", "2015-01-03", "dividend", 0.5), ("A", "2015-01-02", "split", 7.0))
    assert placed(bars_of([70, 10, 9, 9]), actions) == ([1, 7, 1, 1], [0, 0, 0.5, 0])


def test_several_on_one_day_are_one_event_with_the_split_first(make_actions):
    """A dividend is cash on each share that trades on its day: those after the split."""
    actions = make_actions(
        ("A", "2015-01-02", "dividend", 0.25),
        ("A", "2015-01-02", "split", 2.0),
        ("A", "2015-01-02", "dividend", 0.75),
    )
    assert placed(bars_of([20, 9, 9]), actions) == ([1, 2, 1], [0, 1.0, 0])


def test_days_without_a_bar_fall_on_the_next_in_their_order(make_actions):
    """0.6 a share, then three for one: 0.2 on each share held at the next bar; then one for two doubles it."""
    bars = bars_of([30, 0, 0, 0, 0, 14])
    holed = bars.drop(index=[1, 2, 3, 4]).reset_index(drop=True)
    actions = make_actions(
        ("A", "2015-01-02", "dividend", 0.6),
        ("A", "2015-01-03", "split", 3.0),
        ("A", "2015-01-05", "split", 0.5),
        ("A", "2015-01-06", "dividend", 1.0),
    )
    split, dividend = actions_by_bar(holed, actions)
    np.testing.assert_allclose(split, [1, 1.5], rtol=1e-15)
    np.testing.assert_allclose(dividend, [0, 0.6 / 1.5 + 1.0], rtol=1e-15)
    # A bar whose close is no price cannot say what a dividend is worth: it goes to the next that can.
    np.testing.assert_array_equal(actions_by_bar(bars, actions)[0], [1, 1, 1, 1, 1, 1.5])


@pytest.mark.parametrize("earlier", [3.0, 7.0, 1.1])
def test_no_bit_of_a_dividend_depends_on_the_splits_of_years_before(make_actions, earlier):
    """Who goes on from a later bar does not know them."""
    bars = bars_of([30, 30 / earlier, 0, 0, 10, 10])
    own = [("A", f"2015-01-{day:02d}", kind, value) for day, kind, value in ((3, "dividend", 0.7), (4, "split", 0.1))]
    alone = actions_by_bar(bars, make_actions(*own))
    after = actions_by_bar(bars, make_actions(("A", "2015-01-02", "split", earlier), *own))
    assert alone[1].tolist() == after[1].tolist() == [0, 0, 0, 0, 0.7 / 0.1, 0]


def test_actions_before_the_first_bar_and_after_the_last_move_nothing(make_actions):
    bars = bars_of([10, 11, 12])
    before = make_actions(("A", "2014-06-01", "split", 2.0), ("A", "2014-07-01", "dividend", 99.0))
    split, dividend = actions_by_bar(bars, before)
    np.testing.assert_array_equal(forward_factors(bars["close"].to_numpy(), split, dividend), [1, 1, 1])
    assert placed(bars, make_actions(("A", "2015-01-04", "split", 2.0))) == ([1, 1, 1], [0, 0, 0])


def test_an_action_known_when_a_bar_is_complete_belongs_to_the_next(make_actions):
    actions = make_actions(("A", "2015-01-02", "split", 2.0))
    actions["available_at"] = bars_of([1, 1])["available_at"].iloc[1]
    assert placed(bars_of([10, 10, 5]), actions) == ([1, 1, 2], [0, 0, 0])


def test_each_symbol_and_interval_has_its_own(make_actions):
    bars = pd.concat([bars_of([8, 4], "B"), bars_of([9, 9]), bars_of([8, 4], "B", "2d")])
    shuffled = bars.iloc[[2, 4, 0, 5, 3, 1]]
    split, _ = actions_by_bar(
        shuffled, make_actions(("B", "2015-01-02", "split", 2.0), ("Z", "2015-01-02", "split", 3))
    )
    assert split.tolist() == [1, 1, 1, 2, 1, 2]


def test_nothing_without_actions_or_bars(make_actions):
    bars = bars_of([1, 2])
    assert placed(bars, empty(CORPORATE_ACTIONS)) == ([1, 1], [0, 0])
    assert placed(bars[:0], make_actions(("A", "2015-01-02", "split", 2.0))) == ([], [])
    pd.testing.assert_frame_equal(as_of(bars, empty(CORPORATE_ACTIONS), datetime(2016, 1, 1, tzinfo=UTC)), bars)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (
            "dividend",
            10.0,
            r"A: dividend of 10.0 on 2015-01-02 is no smaller .*, 10.0 before and 9.0 after: .* currency",
        ),
        ("dividend", 0.0, "A: dividend of 0.0 on 2015-01-02: .* positive and finite"),
        ("split", -2.0, "A: split of -2.0"),
        ("split", float("inf"), "A: split of inf"),
        ("merger", 1.0, "A: merger of 1.0 .* kinds are split and dividend"),
    ],
)
def test_what_cannot_be_is_named(make_actions, kind, value, message):
    with pytest.raises(CorporateActionError, match=message):
        actions_by_bar(bars_of([10, 9, 9]), make_actions(("A", "2015-01-02", kind, value)))


def test_a_dividend_is_compared_with_the_price_of_the_same_shares(make_actions):
    both = make_actions(("A", "2015-01-02", "split", 10.0), ("A", "2015-01-02", "dividend", 4.0))
    with pytest.raises(CorporateActionError, match=r"3\.0 before"):
        actions_by_bar(bars_of([30, 3]), both)
    liquidation = make_actions(("A", "2015-01-02", "dividend", 9.0))
    assert placed(bars_of([10, 1]), liquidation) == ([1, 1], [0, 9])


def test_a_split_is_no_return_and_a_dividend_is_one(make_actions):
    close = np.array([100.0, 50.0, 48.0, 96.0])
    split, dividend = np.array([1, 2, 1, 0.5]), np.array([0, 0, 3.0, 0])
    index = close * forward_factors(close, split, dividend)
    np.testing.assert_allclose(index / index[0], [1, 1, (48 + 3) / 50, (48 + 3) / 50], rtol=1e-15)


ACTION = st.tuples(
    st.integers(0, 12),
    st.sampled_from(["split", "dividend"]),
    st.sampled_from([0.1, 0.5, 1.5, 2.0, 7.0]),
    st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ACTION, max_size=8), st.lists(st.floats(-0.1, 0.1), min_size=1, max_size=10), st.integers(0, 11))
def test_no_factor_moves_with_the_future_and_as_of_is_their_quotient(make_actions, drawn, returns, now):
    close = 100 * np.exp(np.cumsum(returns))
    bars = bars_of(close.tolist())
    value = {"split": lambda v: v, "dividend": lambda v: v / 10}
    actions = make_actions(*(("A", f"2015-01-{day + 1:02d}", kind, value[kind](size)) for day, kind, size, _ in drawn))
    full = forward_factors(close, *actions_by_bar(bars, actions))
    instant = pd.Timestamp("2015-01-01 21:00", tz="UTC") + pd.Timedelta(days=now)
    past = bars[bars["available_at"] <= instant]
    known = forward_factors(
        past["close"].to_numpy(), *actions_by_bar(past, actions[actions["available_at"] <= instant])
    )
    np.testing.assert_array_equal(known, full[: len(past)])
    seen = as_of(bars, actions, instant.to_pydatetime())
    # A product of at most eight factors, and a quotient.
    np.testing.assert_allclose(seen["close"], past["close"] * known / known[-1], rtol=1e-14)
    assert seen["close"].iat[-1] == past["close"].iat[-1]
    split, _ = actions_by_bar(past, actions[actions["available_at"] <= instant])
    later = [np.prod(split[bar + 1 :]) for bar in range(len(past))]
    np.testing.assert_allclose(seen["volume"], 700 * np.array(later), rtol=1e-14)


def test_as_of_needs_an_instant_with_a_zone():
    with pytest.raises(ValueError, match="no time zone"):
        as_of(bars_of([1]), empty(CORPORATE_ACTIONS), datetime(2015, 1, 1))


def test_bars_without_their_columns_are_refused(make_actions):
    with pytest.raises(ValueError, match=r"lack the columns \['interval'\]"):
        actions_by_bar(bars_of([1]).drop(columns="interval"), make_actions(("A", "2015-01-02", "split", 2.0)))


def test_real_prices_times_forward_factors_are_the_vendor_s_adjusted_prices(make_actions, shared_data):
    """Eight US symbols, 1998 to 2021, whose vendor (Lean) reinvests a dividend at the close before less itself.

    A step of its adjusted close is ``p / (p' - d)``, where a total return is ``(p + d) / p'``.
    """
    daily = pd.read_parquet(shared_data / "daily.parquet")
    paid = 0
    for symbol, own in daily.groupby("symbol"):
        rows = own.sort_values("date").reset_index(drop=True)
        close, days = rows["close"].to_numpy(), rows["date"].astype("datetime64[us]")
        splits, payouts = rows["split_factor"].to_numpy(), rows["price_factor"].to_numpy()
        ratio, payout = np.r_[1, splits[1:] / splits[:-1]], np.r_[1, payouts[1:] / payouts[:-1]]
        ratio = np.where(abs(ratio - 1) > 1e-4, ratio, 1.0)
        cash = np.r_[0, close[:-1]] * (1 - 1 / payout) / ratio
        actions = make_actions(
            *((symbol, days[bar], "split", ratio[bar]) for bar in np.flatnonzero(ratio != 1)),
            *((symbol, days[bar], "dividend", cash[bar]) for bar in np.flatnonzero(cash > 0)),
        )
        frame = bars_of(close.tolist(), symbol)
        frame["available_at"] = (days + pd.Timedelta(hours=21)).dt.tz_localize("UTC")
        split, dividend = actions_by_bar(frame, actions)
        vendor = np.diff(np.log(close * payouts * splits))
        before = close[:-1] / split[1:]
        # What is below 1e-4 of a split factor is rounding of the vendor, and left aside above.
        np.testing.assert_allclose(np.log(close[1:] / (before - dividend[1:])), vendor, rtol=0, atol=2e-5)
        step = np.diff(np.log(close * forward_factors(close, split, dividend)))
        share = dividend[1:] / before
        # To first order the two differ by the dividend's share of the price times the move of the price.
        differ = share * abs(before - close[1:]) / close[1:] + share**2
        assert (abs(step - vendor) <= differ + 2e-5).all(), symbol
        paid += int((dividend > 0).sum())
    assert paid > 400
