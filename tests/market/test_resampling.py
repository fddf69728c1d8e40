from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_pipeline.market.bars import BARS, CORPORATE_ACTIONS
from atlas_pipeline.market.calendars import bar_grid, sessions
from atlas_pipeline.market.quarantine import conform
from atlas_pipeline.market.resampling import IN_PROGRESS, INCOMPLETE, RESAMPLED_BARS, reads_from, resample

SINCE_1970 = sessions(date(1970, 1, 1), date(2017, 12, 31))["session"]
LATER = datetime(2030, 1, 1, tzinfo=UTC)


def bars_of(days: pd.DataFrame, interval: str, symbol: str = "AAA", seed: int = 0) -> pd.DataFrame:
    """A bar for every instant of the grid, with whole prices so that sums and quotients are exact."""
    grid = bar_grid(days, interval)
    random = np.random.default_rng(seed)
    prices = np.sort(random.integers(100, 1000, (len(grid), 4)).astype("float64"), axis=1)
    middle = random.permuted(prices[:, 1:3], axis=1)
    volume = random.integers(0, 1000, len(grid)).astype("float64")
    return conform(
        grid.assign(
            symbol=symbol,
            interval=interval,
            open=middle[:, 0],
            high=prices[:, 3],
            low=prices[:, 0],
            close=middle[:, 1],
            volume=np.where(random.random(len(grid)) < 0.02, np.nan, volume),
        ),
        BARS,
    )


def splits_of(*rows: tuple[str, str, float]) -> pd.DataFrame:
    days = pd.Series([pd.Timestamp(day) for _, day, _ in rows]).astype("datetime64[us]")
    frame = pd.DataFrame(
        {
            "symbol": [symbol for symbol, _, _ in rows],
            "available_at": (days + timedelta(hours=14, minutes=30)).dt.tz_localize("UTC"),
            "session": days,
            "kind": "split",
            "value": [value for *_, value in rows],
        }
    )
    return conform(frame, CORPORATE_ACTIONS)


def period_name(day: pd.Timestamp, interval: str) -> object:
    """Which coarser bar a session is part of, by its date and in other words than the code's."""
    if interval.endswith("wk"):
        return (day - pd.Timestamp("1969-12-29")).days // 7 // int(interval[:-2])
    if interval.endswith("mo"):
        return (day.year, (day.month - 1) // int(interval[:-2]))
    if interval.endswith("y"):
        return day.year // int(interval[:-1])
    return int(SINCE_1970.searchsorted(day)) // int(interval[:-1])


def brute_force(
    bars: pd.DataFrame, interval: str, calendar_days: pd.DataFrame
) -> dict[tuple[str, pd.Timestamp], tuple]:
    """Coarser bars of whole sessions, row by row."""
    finer = bars["interval"].iloc[0]
    grid = bar_grid(calendar_days, finer)
    periods: dict[object, list[pd.Timestamp]] = {}
    for row in grid.itertuples():
        periods.setdefault(period_name(row.session, interval), []).append(row.available_at)
    names = list(periods)
    made = {}
    for symbol, own in bars.groupby("symbol"):
        rows = {row.available_at: row for row in own.itertuples()}
        # The calendar's own first and last period may be cut off.
        for name in names[1:-1]:
            if all(instant in rows for instant in periods[name]):
                inside = [rows[instant] for instant in periods[name]]
                made[symbol, periods[name][-1]] = (
                    inside[0].open,
                    max(row.high for row in inside),
                    min(row.low for row in inside),
                    inside[-1].close,
                    sum(row.volume for row in inside),
                )
    return made


def values_of(bars: pd.DataFrame) -> dict[tuple[str, pd.Timestamp], tuple]:
    return {
        (row.symbol, row.available_at): (row.open, row.high, row.low, row.close, row.volume)
        for row in bars.itertuples()
    }


@pytest.mark.parametrize("interval", ["2d", "3d", "5d", "1wk", "2wk", "1mo", "3mo"])
@pytest.mark.parametrize("finer", ["1d", "90m"])
def test_coarser_bars_are_what_brute_force_makes_of_whole_periods(finer, interval):
    wide = sessions(date(2014, 6, 1), date(2016, 6, 30))
    days = wide[wide["session"].between("2014-12-10", "2015-12-20")]
    bars = pd.concat([bars_of(days, finer), bars_of(days, finer, "BBB", 1)])
    bars = bars.sample(frac=0.995, random_state=3)
    made = resample(bars, interval, now=LATER)
    expected = brute_force(bars, interval, wide)
    found = values_of(made.bars)
    assert found.keys() == expected.keys() and found
    assert all(np.array_equal(found[key], expected[key], equal_nan=True) for key in expected)
    RESAMPLED_BARS.schema().validate(made.bars, lazy=True)
    assert made.bars["interval"].unique().tolist() == [interval]
    assert made.bars[list(BARS.key)].equals(made.bars[list(BARS.key)].sort_values(list(BARS.key)))


def test_intraday_bars_are_counted_from_the_opening_and_cut_at_the_close_of_half_days_and_across_summer_time():
    # Half days on November 27 and December 24; the clock changes on November 1.
    days = sessions(date(2015, 10, 28), date(2015, 12, 31))
    made = resample(bars_of(days, "5m"), "1h", now=LATER).bars
    assert made["available_at"].tolist() == bar_grid(days, "1h")["available_at"].tolist()
    half = made[made["session"] == "2015-11-27"]["available_at"].dt.tz_convert("America/New_York")
    assert half.dt.strftime("%H:%M").tolist() == ["10:30", "11:30", "12:30", "13:00"]
    opens = made.groupby("session")["available_at"].first().dt.tz_convert("America/New_York").dt.strftime("%H:%M")
    assert opens.unique().tolist() == ["10:30"]


def test_one_missing_minute_costs_the_bars_that_it_is_part_of_and_no_others():
    days = sessions(date(2015, 11, 23), date(2015, 11, 27))
    bars = bars_of(days, "1m")
    gap = bars["available_at"][777]
    cut = bars.drop(index=777)
    for interval, number in (("15m", 26 * 3 + 14), ("1h", 7 * 3 + 4), ("1d", 4)):
        made = resample(cut, interval, now=LATER)
        assert len(made.bars) == number - 1
        lost = made.left_out
        assert lost["reason"].tolist() == [INCOMPLETE]
        assert (lost["expected"] - lost["bars"]).tolist() == [1]
        assert lost["available_at"][0] >= gap
        whole = resample(bars, interval, now=LATER).bars
        kept = whole[whole["available_at"] != lost["available_at"][0]].reset_index(drop=True)
        pd.testing.assert_frame_equal(made.bars, kept)


def test_what_has_not_closed_is_in_progress_even_where_all_its_bars_seem_to_be_there():
    days = sessions(date(2015, 11, 2), date(2015, 11, 30))
    bars = bars_of(days, "1d")
    friday = days["available_at"][4]
    early = resample(bars, "1wk", now=friday - timedelta(seconds=1))
    assert early.bars.empty
    assert set(early.left_out["reason"]) == {IN_PROGRESS}
    assert resample(bars, "1wk", now=friday).bars["available_at"].tolist() == [friday]
    # The data stop on Wednesday: the week is not over because the data are.
    stopped = resample(bars[:3], "1wk", now=days["available_at"][2])
    assert stopped.bars.empty
    assert stopped.left_out[["bars", "expected", "reason"]].to_numpy().tolist() == [[3, 5, IN_PROGRESS]]


@settings(max_examples=25, deadline=None)
@given(
    interval=st.sampled_from(["2d", "3d", "1wk", "2wk", "1mo"]),
    begin=st.integers(0, 60),
    stop=st.integers(65, 120),
    cut=st.integers(0, 120),
)
def test_more_history_or_more_future_never_changes_a_bar(interval, begin, stop, cut):
    days = sessions(date(2015, 1, 2), date(2015, 6, 30))
    bars = bars_of(days, "1d")
    whole = values_of(resample(bars, interval, now=LATER).bars)
    part = values_of(resample(bars[begin:stop], interval, now=LATER).bars)
    assert all(np.array_equal(values, whole[key], equal_nan=True) for key, values in part.items())
    now = days["available_at"][cut]
    known = resample(bars[: cut + 1], interval, now=now).bars
    assert list(known["available_at"]) == [instant for _, instant in whole if instant <= now]


@pytest.mark.parametrize(
    ("finer", "interval"), [("1d", "2d"), ("1d", "2wk"), ("1d", "3mo"), ("1h", "1wk"), ("30m", "90m")]
)
def test_month_by_month_with_the_history_it_asks_for_is_the_same_as_all_at_once(finer, interval):
    days = sessions(date(2015, 1, 2), date(2015, 12, 31))
    bars = bars_of(days, finer).drop(index=[40])
    actions = splits_of(("AAA", "2015-03-05", 3.0), ("AAA", "2015-03-06", 0.1), ("AAA", "2015-08-03", 1.5))
    whole = resample(bars, interval, now=LATER, actions=actions)
    parts = []
    for month in range(1, 13):
        start = datetime(2015, month, 1, tzinfo=UTC)
        end = datetime(2015 + month // 12, month % 12 + 1, 1, tzinfo=UTC)
        read = bars[(bars["available_at"] >= reads_from(start, interval)) & (bars["available_at"] < end)]
        parts.append(resample(read, interval, now=LATER, actions=actions, start=start, end=end))
    pd.testing.assert_frame_equal(pd.concat([part.bars for part in parts], ignore_index=True), whole.bars)
    aside = pd.concat([part.left_out for part in parts], ignore_index=True)
    ended = whole.left_out[whole.left_out["available_at"] < "2016-01-01"]
    pd.testing.assert_frame_equal(aside, ended.reset_index(drop=True))


def test_a_split_inside_a_bar_puts_its_prices_into_the_units_of_its_last_session():
    days = sessions(date(2014, 6, 2), date(2014, 6, 20))
    bars = bars_of(days, "1d")
    bars["volume"] = 10.0
    actions = splits_of(("AAA", "2014-06-11", 7.0), ("BBB", "2014-06-10", 2.0), ("AAA", "2014-06-16", 5.0))
    made = resample(bars, "1wk", now=LATER, actions=actions).bars
    week = bars[5:10]
    adjusted = week[["open", "high", "low", "close"]].to_numpy() / np.array([7, 7, 1, 1, 1])[:, None]
    assert made.loc[1, ["open", "high", "low", "close"]].tolist() == [
        adjusted[0, 0], adjusted[:, 1].max(), adjusted[:, 2].min(), adjusted[4, 3]
    ]  # fmt: skip
    assert made["volume"].tolist() == [50.0, 7 * 20.0 + 30.0, 50.0]
    # The split of Monday 16 lies between two bars and changes neither; it is known to none before it.
    plain = resample(bars, "1wk", now=LATER).bars
    pd.testing.assert_frame_equal(made.loc[[0, 2]], plain.loc[[0, 2]])
    dividend = actions.assign(kind=pd.Series("dividend", index=actions.index, dtype="str"))
    pd.testing.assert_frame_equal(resample(bars, "1wk", now=LATER, actions=dividend).bars, plain)


def test_two_splits_inside_a_bar_and_one_on_a_day_without_a_bar():
    days = sessions(date(2014, 6, 2), date(2014, 6, 30))
    bars = bars_of(days, "1h")
    bars[["open", "high", "low", "close"]] = 60.0
    bars["volume"] = 1.0
    actions = splits_of(("AAA", "2014-06-05", 2.0), ("AAA", "2014-06-21", 3.0))  # the second a Saturday
    made = resample(bars, "1mo", now=LATER, actions=actions).bars
    per_session = bars.groupby("session").size()
    before, between = per_session[:"2014-06-04"].sum(), per_session["2014-06-05":"2014-06-20"].sum()
    after = per_session["2014-06-23":].sum()
    assert made[["open", "high", "low", "close"]].to_numpy().tolist() == [[10.0, 60.0, 10.0, 60.0]]
    assert made["volume"].tolist() == [6.0 * before + 3.0 * between + after]


def test_volume_is_null_where_one_finer_is_null():
    bars = bars_of(sessions(date(2015, 11, 2), date(2015, 11, 13)), "1d").assign(volume=1.0)
    bars.loc[2, "volume"] = np.nan
    assert resample(bars, "1wk", now=LATER).bars["volume"].tolist() == pytest.approx([np.nan, 5.0], nan_ok=True)


def test_sessions_are_counted_from_a_fixed_origin_and_weeks_from_a_fixed_monday():
    days = sessions(date(2015, 1, 2), date(2015, 3, 31))
    bars = bars_of(days, "1d")
    two = resample(bars, "2d", now=LATER).bars["session"].dt.strftime("%m-%d").tolist()
    assert two == resample(bars[1:], "2d", now=LATER).bars["session"].dt.strftime("%m-%d").tolist()[-len(two) :]
    fortnights = resample(bars, "2wk", now=LATER).bars["session"]
    assert ((fortnights - pd.Timestamp("1969-12-29")).dt.days // 7 % 2 == 1).all()


def test_where_trading_never_stops_and_where_it_rests_at_noon():
    round_the_clock = sessions(date(2024, 2, 26), date(2024, 3, 3), "24/7")
    bars = bars_of(round_the_clock, "1h")
    assert len(bars) == 7 * 24
    made = resample(bars, "1d", now=LATER, calendar="24/7").bars
    assert made["available_at"].tolist() == round_the_clock["available_at"].tolist()
    assert len(resample(bars, "1wk", now=LATER, calendar="24/7").bars) == 1
    assert reads_from(datetime(2024, 3, 1, tzinfo=UTC), "1d", "24/7") == datetime(2024, 2, 29, tzinfo=UTC)
    hong_kong = sessions(date(2024, 2, 26), date(2024, 3, 1), "XHKG")
    hours = resample(bars_of(hong_kong, "15m"), "1h", now=LATER, calendar="XHKG").bars
    local = hours["available_at"].dt.tz_convert("Asia/Hong_Kong").dt.strftime("%H:%M")
    assert local.head(6).tolist() == ["10:30", "11:30", "12:00", "14:00", "15:00", "16:00"]


def test_what_cannot_be_made_is_refused():
    days = sessions(date(2015, 11, 23), date(2015, 11, 25))
    bars = bars_of(days, "1h")
    with pytest.raises(ValueError, match="90m bars are not made of several whole 1h bars"):
        resample(bars, "90m", now=LATER)
    with pytest.raises(ValueError, match="1h bars are not made of several"):
        resample(bars, "1h", now=LATER)
    with pytest.raises(ValueError, match="one interval at a time"):
        resample(pd.concat([bars, bars_of(days, "1d")]), "1wk", now=LATER)
    with pytest.raises(ValueError, match=r"now=.* has no time zone"):
        resample(bars, "1d", now=datetime(2015, 12, 1))
    with pytest.raises(ValueError, match=r"1 bars, the first AAA at 2015-11-23 15:30:00\+00:00: stands twice"):
        resample(pd.concat([bars, bars[:1]]), "1d", now=LATER)
    shifted = bars.assign(available_at=bars["available_at"] + timedelta(minutes=1))
    with pytest.raises(ValueError, match=r"21 bars, the first .* is no end of a 1h bar"):
        resample(shifted, "1d", now=LATER)
    none = resample(bars[:0], "1d", now=LATER)
    assert none.bars.empty and none.left_out.empty
    RESAMPLED_BARS.schema().validate(none.bars)
