from datetime import UTC, date, datetime

import pandas as pd
import pytest

from atlas_pipeline.market.calendars import bar_grid, session_closes, sessions, sessions_around, time_zone


@pytest.mark.parametrize("symbol", ["SP500", "NASDAQ"])
def test_all_5031_sessions_match_the_exchange(bundled_bars, symbol):
    own = bundled_bars[bundled_bars["symbol"] == symbol].reset_index(drop=True)
    expected = sessions(own["session"].min(), own["session"].max())
    assert len(own) == 5031
    pd.testing.assert_series_equal(own["session"], expected["session"])
    pd.testing.assert_series_equal(own["available_at"], expected["available_at"])


def test_half_days_and_summer_time():
    days = sessions(date(2015, 11, 25), date(2015, 11, 30)).set_index("session")
    assert days.index.strftime("%d").tolist() == ["25", "27", "30"]
    assert days.loc["2015-11-27", "available_at"] == datetime(2015, 11, 27, 18, tzinfo=UTC)
    assert days.loc["2015-11-30", "available_at"] == datetime(2015, 11, 30, 21, tzinfo=UTC)
    summer = sessions(date(2015, 7, 1), date(2015, 7, 1))
    assert summer["available_at"][0] == datetime(2015, 7, 1, 20, tzinfo=UTC)
    assert summer["opens_at"][0] == datetime(2015, 7, 1, 13, 30, tzinfo=UTC)


def test_dates_beyond_the_packages_own_range_and_empty_ranges():
    assert len(sessions(date(1985, 1, 1), date(1985, 12, 31))) == 252
    assert len(sessions(date(2039, 12, 1), date(2040, 1, 31))) > 35
    assert sessions(date(2015, 1, 3), date(2015, 1, 4)).empty


def test_a_range_back_to_front_is_refused():
    with pytest.raises(ValueError, match="lies before"):
        sessions(date(2015, 2, 1), date(2015, 1, 1))


def test_days_without_trading_are_labelled_so_that_they_can_be_judged():
    closes = session_closes(pd.Series(pd.to_datetime(["2015-11-27", "2015-11-28"])))
    assert closes.tolist() == [datetime(2015, 11, 27, 18, tzinfo=UTC), datetime(2015, 11, 28, 21, tzinfo=UTC)]


def test_sessions_are_numbered_from_one_origin_whatever_is_asked_for():
    assert sessions(date(1970, 1, 1), date(1970, 1, 5))["ordinal"].tolist() == [0, 1]
    assert sessions(date(1969, 12, 31), date(1969, 12, 31))["ordinal"].tolist() == [-1]
    long = sessions(date(1999, 1, 1), date(2020, 12, 31)).set_index("session")["ordinal"]
    assert long.diff().dropna().eq(1).all()
    month = sessions(date(2015, 3, 1), date(2015, 3, 31)).set_index("session")["ordinal"]
    assert month.equals(long[month.index])
    # A range beyond the usual one builds another calendar, with the same numbers.
    assert sessions(date(1935, 1, 1), date(2015, 3, 31)).set_index("session")["ordinal"][month.index].equals(month)


def test_a_calendar_is_built_once_and_its_rows_are_the_callers_own():
    first = sessions(date(2015, 3, 1), date(2015, 3, 31))
    first["session"] = pd.Timestamp(0)
    assert sessions(date(2015, 3, 1), date(2015, 3, 31))["session"].is_unique
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("exchange_calendars.get_calendar", None)  # whatever asks for a calendar now fails
        for year in range(1960, 2040):
            assert len(sessions(date(year, 1, 1), date(year, 12, 31))) > 230


def test_days_whose_holidays_nobody_knows_are_refused():
    with pytest.raises(ValueError, match=r"XTKS from 1990-01-01 .* knows its holidays from 1997-01-01 to always only"):
        sessions(date(1990, 1, 1), date(1990, 12, 31), "XTKS")
    # What lies around a range ends where the knowledge ends.
    around = sessions_around(date(1997, 1, 6), date(1997, 1, 10), "1mo", "XTKS")
    assert around["session"].iloc[0] == pd.Timestamp("1997-01-06")
    assert around["session"].iloc[-1] > pd.Timestamp("1997-02-28")


@pytest.mark.parametrize(
    ("interval", "whole", "half"),
    [
        ("1h", ["10:30", "11:30", "12:30", "13:30", "14:30", "15:30", "16:00"], ["10:30", "11:30", "12:30", "13:00"]),
        ("90m", ["11:00", "12:30", "14:00", "15:30", "16:00"], ["11:00", "12:30", "13:00"]),
        ("4h", ["13:30", "16:00"], ["13:00"]),
        ("12h", ["16:00"], ["13:00"]),
        ("1d", ["16:00"], ["13:00"]),
    ],
)
def test_bars_are_counted_from_the_opening_and_cut_at_the_close(interval, whole, half):
    grid = bar_grid(sessions(date(2015, 11, 25), date(2015, 11, 27)), interval)
    local = grid["available_at"].dt.tz_convert("America/New_York").dt.strftime("%H:%M")
    assert local[grid["session"] == "2015-11-25"].tolist() == whole
    assert local[grid["session"] == "2015-11-27"].tolist() == half


def test_minutes_of_a_year_lie_in_their_sessions():
    days = sessions(date(2015, 1, 1), date(2015, 12, 31))
    grid = bar_grid(days, "1m").merge(days.rename(columns={"available_at": "closes_at"}), on="session")
    assert len(grid) == 390 * 250 + 210 * 2
    assert grid["available_at"].is_monotonic_increasing and grid["available_at"].is_unique
    assert ((grid["available_at"] > grid["opens_at"]) & (grid["available_at"] <= grid["closes_at"])).all()
    assert grid.groupby("session")["available_at"].last().eq(days.set_index("session")["available_at"]).all()


def test_weeks_months_and_years_end_with_their_last_session_once_the_next_has_begun():
    days = sessions(date(2015, 3, 25), date(2015, 4, 13))
    ends = bar_grid(days, "1wk")["session"].dt.strftime("%m-%d").tolist()
    assert ends == ["03-27", "04-02", "04-10"]  # April 3 was Good Friday
    assert bar_grid(days[:-1], "1wk")["session"].dt.strftime("%m-%d").tolist() == ["03-27", "04-02"]
    assert bar_grid(days, "1mo")["session"].dt.strftime("%m-%d").tolist() == ["03-31"]
    assert bar_grid(days, "3mo")["session"].dt.strftime("%m-%d").tolist() == ["03-31"]
    years = sessions(date(2013, 6, 1), date(2016, 2, 1))
    assert bar_grid(years, "1y")["session"].dt.strftime("%F").tolist() == ["2013-12-31", "2014-12-31", "2015-12-31"]
    # Two sessions are whole with the second, whatever follows.
    two = bar_grid(days, "2d")["session"]
    assert two.tolist() == days.loc[days["ordinal"] % 2 == 1, "session"].tolist()


def test_exchanges_that_rest_at_noon_never_close_or_open_the_evening_before():
    tokyo = sessions(date(2024, 3, 4), date(2024, 3, 4), "XTKS")
    local = bar_grid(tokyo, "1h")["available_at"].dt.tz_convert("Asia/Tokyo").dt.strftime("%H:%M").tolist()
    assert local == ["10:00", "11:00", "11:30", "13:30", "14:30", "15:00"]
    assert "break_starts_at" not in sessions(date(2024, 3, 4), date(2024, 3, 4))
    always = sessions(date(2024, 3, 1), date(2024, 3, 10), "24/7")
    assert len(bar_grid(always, "5m")) == 10 * 288
    assert len(bar_grid(always, "1wk")) == 1
    futures = sessions(date(2024, 3, 4), date(2024, 3, 8), "CMES")
    assert (futures["opens_at"].dt.strftime("%F") < futures["session"].dt.strftime("%F")).all()
    assert len(bar_grid(futures, "1h")) > 5 * 20
    assert bar_grid(always[:0], "5m").empty and bar_grid(always[:0], "1wk").empty


def test_an_exchange_has_a_time_zone():
    assert time_zone() == "America/New_York"
    assert time_zone("XTKS") == "Asia/Tokyo"
