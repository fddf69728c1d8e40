from datetime import UTC, date, datetime

import pandas as pd
import pytest

from atlas_pipeline.market.calendars import session_closes, sessions


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
