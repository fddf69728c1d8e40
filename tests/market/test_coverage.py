from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from atlas_pipeline.market.bars import BAR_COVERAGE, BARS, QUARANTINED_BARS, empty
from atlas_pipeline.market.calendars import bar_grid, sessions
from atlas_pipeline.market.coverage import bar_coverage
from atlas_pipeline.market.quarantine import conform

DAYS = sessions(date(2014, 12, 20), date(2015, 5, 10))
LATER = datetime(2030, 1, 1, tzinfo=UTC)


def count(bars: pd.DataFrame, **options) -> pd.DataFrame:
    given = {
        "quarantined": empty(QUARANTINED_BARS),
        "sessions": DAYS,
        "symbols": ["AAA"],
        "interval": "1d",
        "months": ["2015-01", "2015-02", "2015-03"],
        "now": LATER,
        "history": empty(BARS),
    }
    table = bar_coverage(bars, **{**given, **options})
    BAR_COVERAGE.schema().validate(table, lazy=True)
    return table


def refused(bars: pd.DataFrame) -> pd.DataFrame:
    return bars.assign(ordinal=0, reason="a price is missing")[list(QUARANTINED_BARS.names)]


def test_months_with_holes_and_refused_bars(make_bars):
    bars = make_bars(count=61)  # until March 31
    table = count(bars.drop(index=[3, 4, 19]), quarantined=refused(bars.iloc[[3]]))
    assert table["month"].tolist() == ["2015-01", "2015-02", "2015-03"]
    assert table["sessions"].tolist() == table["expected"].tolist() == [20, 19, 22]
    assert table["bars"].tolist() == [17, 19, 22]
    assert table["quarantined"].tolist() == [1, 0, 0]
    assert table["missing_sessions"].tolist() == [3, 0, 0]
    assert table["first_missing"].tolist()[0] == bars["session"][3]
    assert table["first_missing"].isna().tolist() == [False, True, True]
    assert table["last_close"].tolist() == bars["close"][[18, 38, 60]].tolist()
    assert table["last_bar"].tolist() == bars["available_at"][[18, 38, 60]].tolist()
    assert table["opens_judged"].tolist() == [16, 19, 22]


def test_only_what_has_closed_by_now_is_expected(make_bars):
    bars = make_bars(count=30)
    now = bars["available_at"][25]
    for instant, sessions_passed in ((now, 6), (now - timedelta(seconds=1), 5)):
        table = count(bars[:25], now=instant.to_pydatetime())
        assert table["sessions"].tolist() == [20, sessions_passed]
        assert table["missing_sessions"].tolist() == [0, sessions_passed - 5]


def test_a_symbol_is_expected_while_it_is_listed(make_bars):
    bars = make_bars(count=61)
    own = bars[25:50]
    listing = (bars["session"][25].date(), bars["session"][49].date())
    table = count(own, listings={"AAA": listing})
    assert table["month"].tolist() == ["2015-02", "2015-03"]
    assert table["sessions"].tolist() == table["bars"].tolist() == [14, 11]
    assert table["missing_sessions"].tolist() == [0, 0]
    open_ended = count(own, listings={"AAA": (listing[0], None)})
    assert open_ended["missing_sessions"].tolist() == [0, 11]
    assert count(own)["missing_sessions"].tolist() == [20, 5, 11]


def test_symbols_without_bars_have_rows_and_others_none(make_bars):
    table = count(make_bars("BBB"), symbols=["CCC", "AAA"], months=["2015-02"])
    assert table["symbol"].tolist() == ["AAA", "CCC"]
    assert table["bars"].tolist() == [0, 0]
    assert table["missing_sessions"].tolist() == [19, 19]
    assert table["last_bar"].isna().all() and table["last_close"].isna().all()


def test_stale_opens_are_counted_with_the_close_of_the_month_before(make_bars):
    bars = make_bars(count=61)
    stale = [5, 20, 21, 45]  # the second is the first bar of February
    bars.loc[stale, "open"] = bars["close"].shift()[stale] * (1 + 5e-5)
    assert count(bars)["stale_opens"].tolist() == [1, 2, 1]
    february = count(bars[20:39], months=["2015-02"], history=bars[19:20])
    assert february[["stale_opens", "opens_judged"]].to_numpy().tolist() == [[2, 19]]
    assert count(bars[20:39], months=["2015-02"])[["stale_opens", "opens_judged"]].to_numpy().tolist() == [[1, 18]]


def test_the_bundled_series_print_the_close_before_as_open(bundled_bars):
    days = sessions(date(1998, 12, 20), date(2019, 1, 10))
    months = [str(month) for month in pd.period_range("1999-01", "2018-12", freq="M")]
    table = count(bundled_bars, sessions=days, symbols=["SP500", "NASDAQ"], months=months)
    assert len(table) == 480
    assert (table["bars"] == table["expected"]).all()
    of_index = table[table["symbol"] == "SP500"]
    early = of_index["month"] < "2007"
    shares = [own["stale_opens"].sum() / own["opens_judged"].sum() for own in (of_index[early], of_index[~early])]
    assert [round(share, 2) for share in shares] == [0.96, 0.21]


def intraday(days: pd.DataFrame, interval: str) -> pd.DataFrame:
    prices = dict.fromkeys(("open", "high", "low", "close"), 100.0)
    return conform(bar_grid(days, interval).assign(symbol="AAA", interval=interval, volume=1.0, **prices), BARS)


def test_intraday_bars_are_counted_by_the_grid_half_days_included():
    days = sessions(date(2015, 10, 25), date(2015, 12, 5))
    bars = intraday(days, "1h")
    options = {"sessions": days, "interval": "1h", "months": ["2015-11"], "now": LATER}
    november = bars[bars["month"] == "2015-11"]
    table = count(bars, **options)
    assert table[["sessions", "expected", "bars"]].to_numpy().tolist() == [[20, 19 * 7 + 4, 19 * 7 + 4]]
    assert table["opens_judged"].tolist() == [20]
    lost = november.index[[0, 1, *range(7, 14)]]  # two bars of the first session, all of the second
    table = count(bars.drop(index=lost), **options)
    assert (table["expected"] - table["bars"]).tolist() == [9]
    assert table["missing_sessions"].tolist() == [1]
    # In the middle of a session its bars so far are expected, the session is not yet.
    noon = datetime(2015, 11, 3, 17, tzinfo=UTC)
    table = count(bars[bars["available_at"] <= noon], **{**options, "now": noon})
    assert table[["sessions", "expected", "bars"]].to_numpy().tolist() == [[1, 7 + 2, 7 + 2]]
    # Bars of another interval are none of these.
    assert count(bars.assign(interval="5m"), **options)["bars"].tolist() == [0]


def test_weekly_bars_and_trading_that_never_stops():
    weekly = intraday(DAYS, "1wk")
    table = count(weekly.drop(index=weekly.index[[3]]), interval="1wk")
    assert table["expected"].sum() == (weekly["month"].isin(["2015-01", "2015-02", "2015-03"])).sum()
    assert table["missing_sessions"].sum() == 1
    days = sessions(date(2024, 1, 25), date(2024, 3, 5), "24/7")
    table = count(intraday(days, "1d"), sessions=days, months=["2024-02"])
    # The session of February 29 is over in March, that of January 31 in February.
    assert table[["sessions", "expected", "bars", "missing_sessions"]].to_numpy().tolist() == [[29, 29, 29, 0]]


def test_counts_are_those_of_a_loop(make_bars):
    random = np.random.default_rng(3)
    bars = pd.concat([make_bars(f"S{number}", seed=number) for number in range(6)], ignore_index=True)
    bars = bars.drop(index=random.choice(len(bars), 120, replace=False))
    spans = {f"S{number}": (date(2015, 1, 5 + number), date(2015, 3, 10 + number)) for number in range(5)}
    now = datetime(2015, 3, 16, 20, tzinfo=UTC)
    table = count(bars, symbols=[f"S{number}" for number in range(6)], listings=spans, now=now)
    for row in table.itertuples():
        first, last = spans.get(row.symbol, (date.min, date.max))
        due = [
            day.session
            for day in DAYS.itertuples()
            if day.session.strftime("%Y-%m") == row.month
            and first <= day.session.date() <= last
            and day.available_at <= now
        ]
        own = bars[bars["symbol"] == row.symbol]
        missing = [day for day in due if day not in set(own["session"])]
        assert (row.sessions, row.expected, row.missing_sessions) == (len(due), len(due), len(missing))
        assert row.first_missing == missing[0] if missing else pd.isna(row.first_missing)
        assert row.bars == (own["month"] == row.month).sum()


def test_sessions_that_leave_out_a_month_and_a_now_without_a_zone_are_refused(make_bars):
    with pytest.raises(ValueError, match=r"no sessions in 2015-06, 2015-07: pass calendars\.sessions"):
        count(make_bars(), months=["2015-03", "2015-06", "2015-07"])
    with pytest.raises(ValueError, match=r"now=.* has no time zone"):
        count(make_bars(), now=datetime(2015, 1, 1))
