"""Labels of every interval, half days, lookback limits and what Yahoo's rows leave out, with the real client."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from atlas_pipeline.market.bars import BARS
from atlas_pipeline.market.sources import Outcome
from atlas_pipeline.market.yahoo import YahooSource
from atlas_pipeline.market.yahoo_bars import LOOKBACK, MINUTES, as_traded, requests_for
from atlas_pipeline.market.yahoo_client import Chart
from tests.yahoo_server import YahooServer

NOW = datetime(2024, 7, 10, 15, 7, tzinfo=UTC)
END = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def server():
    with YahooServer(("AAA",), years=3, now=NOW, events=False) as server:
        yield server


def fetch(server, interval: str, start: datetime, end: datetime = END, now: datetime = NOW, delay_minutes: float = 0):
    options = {"endpoint": server.endpoint, "requests_per_second": None, "delay_minutes": delay_minutes}
    yahoo = YahooSource(("AAA",), interval, **options, now=lambda: now)
    (answer,) = yahoo.fetch(["AAA"], start, end)
    return answer


@pytest.mark.parametrize("interval", list(MINUTES))
def test_bars_of_a_session_are_labelled_by_their_end_or_the_close(server, interval):
    answer = fetch(server, interval, datetime(2024, 7, 2, 20, 0, 1, tzinfo=UTC))
    assert answer.outcome is Outcome.OK
    BARS.schema().validate(answer.bars, lazy=True)
    assert answer.bars["interval"].eq(interval).all()
    length = timedelta(minutes=MINUTES[interval])

    def expected(opens: datetime, closes: datetime) -> list[datetime]:
        count = -(-(closes - opens) // length)
        return [min(opens + i * length, closes) for i in range(1, count + 1)]

    by_day = answer.bars.groupby("session")["available_at"].apply(list)
    half = datetime(2024, 7, 3, 13, 30, tzinfo=UTC), datetime(2024, 7, 3, 17, tzinfo=UTC)
    whole = datetime(2024, 7, 5, 13, 30, tzinfo=UTC), datetime(2024, 7, 5, 20, tzinfo=UTC)
    assert by_day[pd.Timestamp(2024, 7, 3)] == expected(*half)
    assert by_day[pd.Timestamp(2024, 7, 5)] == expected(*whole)
    # The session in progress: what is complete by now, and no more.
    today = expected(datetime(2024, 7, 10, 13, 30, tzinfo=UTC), datetime(2024, 7, 10, 20, tzinfo=UTC))
    assert by_day[pd.Timestamp(2024, 7, 10)] == [at for at in today if at < NOW]
    assert pd.Timestamp(2024, 7, 4) not in by_day.index


@pytest.mark.parametrize("delay", [0, 15, 40])
def test_a_bar_that_delayed_data_cannot_have_finished_is_no_bar_yet(server, delay):
    start = datetime(2024, 7, 9, 12, tzinfo=UTC)
    bars = fetch(server, "5m", start, delay_minutes=delay).bars
    assert NOW - timedelta(minutes=delay + 5) <= bars["available_at"].max() < NOW - timedelta(minutes=delay)
    assert len(fetch(server, "1d", start, delay_minutes=delay).bars) == 1, "daily bars do not wait"


def test_bars_of_a_session_add_up_to_its_day(server):
    start = datetime(2024, 6, 17, tzinfo=UTC)
    daily = fetch(server, "1d", start).bars.set_index("session")
    for interval in MINUTES:
        bars = fetch(server, interval, start).bars
        bars = bars[bars["session"] < pd.Timestamp(2024, 7, 10)].groupby("session")
        together = bars.agg({"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"})
        pd.testing.assert_frame_equal(together, daily[list(together)], check_exact=False, rtol=1e-6)


@pytest.mark.parametrize(
    ("interval", "last"),
    [
        ("1wk", ["2024-06-21", "2024-06-28", "2024-07-05"]),
        ("1mo", ["2024-04-30", "2024-05-31", "2024-06-28"]),
        ("3mo", ["2023-12-29", "2024-03-28", "2024-06-28"]),  # Good Friday is the 29th of March
    ],
)
def test_longer_bars_are_labelled_by_the_close_of_their_last_session(server, interval, last):
    bars = fetch(server, interval, datetime(2023, 1, 1, tzinfo=UTC)).bars
    BARS.schema().validate(bars, lazy=True)
    assert bars["session"].tail(3).dt.strftime("%Y-%m-%d").to_list() == last
    assert bars["available_at"].tail(3).dt.strftime("%Y-%m-%d").to_list() == last
    # They are whole: the first one too, though it is asked for from its middle.
    daily = fetch(server, "1d", datetime(2022, 1, 1, tzinfo=UTC)).bars.set_index("session")
    bounds = [pd.Timestamp(2022, 12, 31), *bars["session"]]
    for row, (before, day) in enumerate(pairwise(bounds)):
        inside = daily[(daily.index > before) & (daily.index <= day)]
        if row or interval != "1wk":
            assert bars["high"][row] == inside["high"].max()
            assert bars["volume"][row] == inside["volume"].sum()


def test_a_week_asked_for_from_its_middle_is_whole(server):
    week = fetch(server, "1wk", datetime(2024, 6, 27, tzinfo=UTC), datetime(2024, 7, 1, tzinfo=UTC)).bars
    daily = fetch(server, "1d", datetime(2024, 6, 24, tzinfo=UTC), datetime(2024, 7, 1, tzinfo=UTC)).bars
    assert len(daily) == 5
    assert week[["open", "close"]].to_numpy().tolist() == [[daily["open"].iloc[0], daily["close"].iloc[-1]]]


def test_a_week_with_a_listing_in_its_middle_ends_on_friday():
    days = pd.DatetimeIndex(["2024-06-05", "2024-06-10", "2024-06-17"]).tz_localize("America/New_York")
    values = dict.fromkeys(("Open", "High", "Low", "Close"), 10.0)
    none = pd.Series(dtype="float64", index=pd.DatetimeIndex([]).tz_localize("UTC"))
    bars, _ = as_traded(
        "NEW", Chart(pd.DataFrame({**values, "Volume": 1}, index=days), none, none, none), "1wk", "XNYS"
    )
    assert bars["session"].dt.strftime("%m-%d").to_list() == ["06-07", "06-14", "06-21"]


def test_the_end_of_the_lookback_is_said_and_nothing_beyond_is_asked_for(server):
    for interval, reach in LOOKBACK.items():
        before = len(server.requests)
        answer = fetch(server, interval, datetime(2022, 1, 3, tzinfo=UTC), datetime(2022, 2, 1, tzinfo=UTC))
        assert answer.outcome is Outcome.EMPTY
        assert f"Yahoo keeps {interval} bars for {reach.days} days" in answer.detail
        assert len(server.requests) == before


@pytest.mark.parametrize("interval", list(LOOKBACK))
def test_a_range_that_begins_beyond_the_lookback_is_read_as_far_as_it_goes(server, interval):
    answer = fetch(server, interval, datetime(2022, 1, 3, tzinfo=UTC))
    assert answer.outcome is Outcome.OK
    first = answer.bars["available_at"].iloc[0]
    # A day is lost to whole days, and weekends and holidays may follow it.
    assert timedelta(0) <= first - (NOW - LOOKBACK[interval]) < timedelta(days=5)
    assert f"before {first:%Y-%m}" in answer.detail


def test_minutes_are_asked_for_in_weeks_without_a_gap():
    requests, lost = requests_for("1m", NOW - timedelta(days=29), NOW)
    assert lost == ""
    assert max(last - first for first, last in requests) <= timedelta(days=8)
    assert all(last == first for (_, last), (first, _) in pairwise(requests))
    assert requests[0][0] <= NOW - timedelta(days=29) and requests[-1][1] > NOW


@pytest.mark.parametrize("interval", ["1d", "1wk", "1h"])
def test_the_same_question_is_the_same_request_all_day(interval):
    start = NOW - timedelta(days=100)
    later = NOW + timedelta(hours=5)
    assert requests_for(interval, start, NOW) == requests_for(interval, start + timedelta(hours=1), later)


def test_placeholders_are_no_bars(server):
    nothing = datetime(2024, 7, 5, 14, 30, tzinfo=UTC)
    with YahooServer(("AAA",), years=1, now=NOW, events=False) as server:
        server.market.blank("AAA", nothing)
        bars = fetch(server, "5m", datetime(2024, 7, 5, tzinfo=UTC), datetime(2024, 7, 6, tzinfo=UTC)).bars
    assert len(bars) == 77
    assert nothing + timedelta(minutes=5) not in bars["available_at"].to_list()


def test_exchanges_elsewhere_have_their_own_sessions():
    days = pd.DatetimeIndex(["2024-07-05", "2024-07-08"]).tz_localize("Asia/Tokyo")
    rows = pd.DataFrame({**dict.fromkeys(("Open", "High", "Low", "Close"), 10.0), "Volume": 1}, index=days)
    none = pd.Series(dtype="float64", index=pd.DatetimeIndex([]).tz_localize("UTC"))
    bars, _ = as_traded("7203.T", Chart(rows, none, none, none), "1d", "XTKS")
    assert bars["available_at"].dt.strftime("%m-%d %H:%M").to_list() == ["07-05 06:00", "07-08 06:00"]


def test_rows_that_lack_some_prices_or_lie_outside_the_session_are_left_to_validation():
    starts = pd.DatetimeIndex(["2024-07-05 09:25", "2024-07-05 09:30", "2024-07-06 12:00"]).tz_localize(
        "America/New_York"
    )
    rows = pd.DataFrame({"Open": [1.0, np.nan, 3.0], "High": 4.0, "Low": 1.0, "Close": 2.0, "Volume": 5}, index=starts)
    none = pd.Series(dtype="float64", index=pd.DatetimeIndex([]).tz_localize("UTC"))
    bars, _ = as_traded("AAA", Chart(rows, none, none, none), "5m", "XNYS")
    assert bars["available_at"].dt.strftime("%m-%d %H:%M").to_list() == ["07-05 13:30", "07-05 13:35", "07-06 16:05"]
    assert bars["session"].dt.strftime("%m-%d").to_list() == ["07-05", "07-05", "07-06"]
    assert np.isnan(bars["open"][1])
