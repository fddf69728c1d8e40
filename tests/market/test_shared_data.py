"""Real files of several vendors, read by a mapping of columns alone."""

import logging
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
import yaml

from atlas_pipeline.market.bars import BARS, CORPORATE_ACTIONS
from atlas_pipeline.market.calendars import sessions
from atlas_pipeline.market.files import FilesSource
from atlas_pipeline.market.option_chain import OPTION_CHAIN, validate_option_chain
from atlas_pipeline.market.quotes import QUOTES, validate_quotes
from atlas_pipeline.market.universe import Universe
from atlas_pipeline.market.validation import validate_bars

ALWAYS = (datetime(1980, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC))
OPTIONS = """
bars:
  - {path: daily.parquet, columns: {session: date}}
  - {path: vix_daily.csv, columns: {session: DATE, open: OPEN, high: HIGH, low: LOW, close: CLOSE}, calendar: XCBF}
quotes: {path: quotes_minute.parquet, columns: {available_at: ts}}
option_chain: {path: options_chain.parquet, columns: {session: date}}
"""
SYMBOLS = """
- SPY
- AAPL
- QQQ
- {symbol: EEM, listed: 2003-04-11, kind: etf}
- {symbol: EEM.1998, ticker: EEM, delisted: 2002-12-31}
- {symbol: VIX, ticker: vix_daily, kind: index, calendar: XCBF}
"""


@pytest.fixture(scope="module")
def source(shared_data):
    options = yaml.safe_load(OPTIONS)
    for files in [*options["bars"], options["quotes"], options["option_chain"]]:
        files["path"] = shared_data / files["path"]
    return FilesSource(**options)


@pytest.fixture(scope="module")
def actions(source):
    return source.corporate_actions(source.symbols, *ALWAYS)


def test_every_bar_is_read_and_judged(source):
    bars = source.bars(source.symbols, *ALWAYS)
    bars = bars[bars["symbol"] != "vix_daily"]
    assert len(bars) == 43_698
    outcome = validate_bars(bars, sessions(bars["session"].min(), bars["session"].max()))
    assert len(outcome.bars) + len(outcome.quarantined) == len(bars)
    BARS.schema().validate(outcome.bars, lazy=True)
    found = set(zip(outcome.quarantined["symbol"], outcome.quarantined["session"].dt.strftime("%F"), strict=True))
    # Three lows a tenth of the day's other prices, AIG's 1:20 and AAPL's 7:1 split without corporate actions,
    # and EEM's ticker, which was another company's before.
    assert found >= {("AAPL", "2009-09-21"), ("AAPL", "2014-06-09"), ("AIG", "2009-07-01"), ("EEM", "2003-04-11")}
    assert len(found) < 10


def test_corporate_actions_explain_the_splits(source, actions):
    bars = source.bars(["AAPL", "AIG"], *ALWAYS)
    days = sessions(bars["session"].min(), bars["session"].max())
    refused = validate_bars(bars, days, actions=actions).quarantined
    assert not refused["session"].dt.strftime("%F").isin(["2014-06-09", "2009-07-01"]).any()


def test_all_splits_and_no_other(actions):
    CORPORATE_ACTIONS.schema().validate(actions, lazy=True)
    splits = actions[actions["kind"] == "split"]
    assert set(zip(splits["symbol"], splits["session"].dt.strftime("%F"), splits["value"], strict=True)) == {
        ("AAPL", "2000-06-21", 2.0), ("AAPL", "2005-02-28", 2.0), ("AAPL", "2014-06-09", 7.0),
        ("AAPL", "2020-08-31", 4.0), ("AIG", "1998-08-03", 1.5), ("AIG", "1999-08-02", 1.25),
        ("AIG", "2000-07-31", 1.5), ("AIG", "2009-07-01", 0.05), ("BAC", "2004-08-30", 2.0), ("EEM", "2005-06-09", 3.0),
        ("EEM", "2008-07-24", 3.0), ("IBM", "1999-05-27", 2.0), ("IWM", "2005-06-09", 2.0), ("QQQ", "2000-03-20", 2.0),
    }  # fmt: skip


def test_dividends_are_those_that_were_paid(actions):
    dividends = actions[actions["kind"] == "dividend"].set_index(["symbol", "session"])["value"]
    apple = dividends["AAPL"]
    # Apple's first since 1995, on a Thursday; $3.29 a share, then seven shares for one, then 47 cents.
    assert apple.index[0] == pd.Timestamp("2012-08-09")
    assert apple["2012-08-01":"2014-09-01"].tolist() == [2.65] * 3 + [3.05] * 4 + [3.29, 0.47]
    assert apple["2020-08-07"] == 0.82
    assert apple["2020-11-06"] == 0.205
    spider = dividends["SPY"]
    assert spider.groupby(spider.index.year).size().loc[1999:2020].drop(2004).unique().tolist() == [4]
    assert spider["2004"].index.strftime("%m-%d").tolist() == ["03-19", "06-18", "09-17", "11-15", "12-17"]
    assert spider["2012-12-21"] == 1.022
    assert dividends["BAC"]["2009-03-04"] == 0.01


def test_actions_give_back_the_vendors_adjusted_prices(shared_data, actions):
    daily = pd.read_parquet(shared_data / "daily.parquet")
    for symbol, own in daily[~daily["symbol"].isin(["QQQ", "EEM"])].groupby("symbol"):
        own = own.reset_index(drop=True)
        later = np.ones(len(own))
        for action in actions[actions["symbol"] == symbol].itertuples():
            day = int(np.flatnonzero(own["date"] == action.session)[0])
            paid = 1 - action.value / own["close"][day - 1]
            later[:day] *= 1 / action.value if action.kind == "split" else paid
        # Lean rounds at every step of its chain of factors: AIG's splits alone are off by 1e-5.
        np.testing.assert_allclose(
            later, own["price_factor"] * own["split_factor"] / own["split_factor"].iloc[-1], 2e-5
        )


def test_an_action_in_the_hole_of_qqq_is_not_invented(shared_data, caplog):
    own = FilesSource({"path": shared_data / "daily.parquet", "columns": {"session": "date"}})
    with caplog.at_level(logging.WARNING):
        actions = own.corporate_actions(["QQQ"], *ALWAYS)
    assert not actions["session"].between("2004-11-30", "2011-03-23").any()
    assert "QQQ: the factors change between 2004-11-30 and 2011-03-23, with 1588 sessions" in caplog.text
    assert len(caplog.records) == 1


def test_the_universe_keeps_two_securities_apart_and_a_hole_open(source):
    universe = Universe.parse(yaml.safe_load(SYMBOLS))
    answers = {answer.symbol: answer for answer in universe.fetch(source, *ALWAYS)}
    assert set(answers) == set(universe.symbols)
    eem, other = answers["EEM"].bars, answers["EEM.1998"].bars
    assert (len(eem) + len(other), len(other)) == (5_245, 722)
    assert eem["session"].min() == pd.Timestamp("2003-04-11")
    assert other["session"].max() == pd.Timestamp("2002-12-05")
    assert set(other["symbol"]) == {"EEM.1998"}
    assert other["close"].max() < 20 < 80 < eem["close"].iloc[:100].min()
    assert answers["EEM.1998"].actions.empty
    qqq = answers["QQQ"].bars
    outcome = validate_bars(qqq, sessions(qqq["session"].min(), qqq["session"].max()))
    assert len(outcome.bars) == 3_964
    assert sessions(date(2004, 12, 1), date(2011, 3, 22))["session"].isin(qqq["session"]).sum() == 0
    assert universe.members(datetime(2003, 1, 6, tzinfo=UTC)) == ("SPY", "AAPL", "QQQ", "VIX")
    assert universe.members(datetime(2002, 12, 31, 21, tzinfo=UTC)) == ("SPY", "AAPL", "QQQ", "EEM.1998", "VIX")


def test_vix_is_labelled_no_earlier_than_it_is_published(source):
    bars = source.bars(["vix_daily"], *ALWAYS)
    assert len(bars) == 9_235
    assert bars["volume"].isna().all()
    stocks = sessions(bars["session"].min(), bars["session"].max()).set_index("session")["available_at"]
    delay = bars["available_at"] - bars["session"].map(stocks)
    # XCBF does not know the half days before Independence Day and Christmas: it labels them later, never earlier.
    assert delay.min() == timedelta(minutes=15)
    assert (delay > timedelta(minutes=15)).sum() < 50
    outcome = validate_bars(bars, sessions(bars["session"].min(), bars["session"].max(), "XCBF"))
    # Since 2022 the index has values of the night sessions of holidays.
    closed = outcome.quarantined["reason"].str.contains("does not trade")
    assert closed.sum() == 33
    assert len(outcome.quarantined) < 0.01 * len(bars)


def test_absurd_quotes_before_and_after_the_session_are_quarantined(source):
    quotes = source.quotes(["SPY", "IBM", "BAC", "AIG", "AAPL"], *ALWAYS)
    kept, refused = validate_quotes(quotes)
    assert len(kept) + len(refused) == len(quotes) == 18_217
    QUOTES.schema().validate(kept, lazy=True)
    counts = refused["reason"].value_counts().to_dict()
    assert counts == {"locked: bid equals ask": 204, "spread is above 2.0% of the mid": 80}
    minutes = refused["available_at"].dt.tz_convert("America/New_York")
    early, late = minutes.dt.strftime("%H:%M") < "09:30", minutes.dt.strftime("%H:%M") > "16:00"
    wide = refused["reason"].str.startswith("spread")
    assert ((wide & early).sum(), (wide & late).sum(), (wide & ~early & ~late).sum()) == (45, 35, 0)
    absurd = refused[(refused["bid"] == 175.0) & (refused["ask"] == 184.83)]
    assert absurd["available_at"].min() == datetime(2013, 10, 9, 8, tzinfo=UTC)
    # What is let in is a price: nothing further than 2% from its own mid, none moved by more than 2% but by the split.
    mids = (kept["bid"] + kept["ask"]).where(kept["available_at"] < "2014-06-09", kept["bid"] * 7 + kept["ask"] * 7)
    assert mids.groupby(kept["symbol"]).pct_change().abs().max() < 0.02
    # The file has none of these; planted in it they are refused as well.
    quotes.loc[[100, 200], "bid_size"] = 0.0
    quotes.loc[300, "bid"] = quotes.loc[300, "ask"] + 0.01
    planted = validate_quotes(quotes)[1]["reason"].value_counts()
    assert planted["a size is not positive"] == 2
    assert planted["crossed: bid is above ask"] == 1


def test_both_days_of_the_split_have_a_usable_chain(source):
    chain = source.option_chain(["AAPL"], *ALWAYS)
    kept, refused = validate_option_chain(chain)
    assert len(kept) == 4_532
    assert refused.empty
    OPTION_CHAIN.schema().validate(kept, lazy=True)
    assert kept["implied_volatility"].isna().all()
    assert timedelta(0) <= (kept["expiry"] - kept["session"]).min()
    before, after = (own for _, own in kept.groupby("available_at"))
    assert before["available_at"].iloc[0] == datetime(2014, 6, 6, 20, tzinfo=UTC)
    assert after["available_at"].iloc[0] == datetime(2014, 6, 9, 20, tzinfo=UTC)
    for own, rows, level in ((before, 2_352, 645.57), (after, 2_180, 93.70)):
        assert len(own) == rows
        assert (own["underlying_close"] == level).all()
        assert own["bid"].notna().mean() > 0.9
        assert own["strike"].min() < level < own["strike"].max()
    # A contract in hand before is seven at a seventh of the strike after: 560 becomes 80.
    assert {80.0, 92.14} <= set(after["strike"])
