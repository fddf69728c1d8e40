"""The source with the real client against the local server: outcomes, faults, retries, splits, quotes and chains."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from atlas_pipeline.market.bars import BARS, CORPORATE_ACTIONS
from atlas_pipeline.market.errors import SourceUnavailableError, UnknownSymbolError
from atlas_pipeline.market.option_chain import OPTION_CHAIN, validate_option_chain
from atlas_pipeline.market.quotes import QUOTES, validate_quotes
from atlas_pipeline.market.sources import Fetched, Outcome
from atlas_pipeline.market.yahoo import YahooSource
from tests.yahoo_server import YahooServer

NOW = datetime(2024, 7, 10, 22, tzinfo=UTC)
START, END = datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC)
SYMBOLS = ("AAA", "BBB", "CCC")


@pytest.fixture
def server():
    with YahooServer(SYMBOLS, years=1, now=NOW, events=False) as server:
        yield server


def source(server, tickers=SYMBOLS, **options) -> YahooSource:
    defaults = {"requests_per_second": None, "sleep": lambda seconds: None, "now": lambda: server.market.now}
    return YahooSource(tickers, endpoint=server.endpoint, **{**defaults, **options})


def by_symbol(answers) -> dict[str, Fetched]:
    return {answer.symbol: answer for answer in answers}


def outcomes(answers) -> dict[str, Outcome]:
    return {answer.symbol: answer.outcome for answer in answers}


def traded(server, symbol: str, first: str, last: str) -> dict[str, np.ndarray]:
    market = server.market
    inside = (market.days >= np.datetime64(first)) & (market.days <= np.datetime64(last))
    return {name: values[inside] for name, values in market.traded(symbol).items()}


def test_daily_bars_are_what_was_traded_by_the_close_of_their_session(server):
    fetched = by_symbol(source(server).fetch(SYMBOLS, START, END))
    assert set(fetched) == set(SYMBOLS)
    for symbol, answer in fetched.items():
        assert answer.outcome is Outcome.OK and answer.detail == ""
        BARS.schema().validate(answer.bars, lazy=True)
        expected = traded(server, symbol, "2024-01-01", "2024-07-10")
        for name, values in expected.items():
            # Yahoo publishes single precision.
            np.testing.assert_allclose(answer.bars[name], values, rtol=2**-24)
    closes = fetched["AAA"].bars.set_index("session")["available_at"].dt.strftime("%H:%M")
    assert closes["2024-03-08":"2024-03-11"].to_list() == ["21:00", "20:00"]  # the clocks change in between
    assert closes["2024-07-03"] == "17:00"  # a half day


def test_one_request_a_symbol_and_one_crumb(server):
    list(source(server).fetch(SYMBOLS, START, END))
    assert sorted(server.asked()) == sorted(SYMBOLS)
    assert len(server.asked("getcrumb")) == 1
    assert [request.path for request in server.requests].count("/") == 1


def test_the_bar_of_a_session_in_progress_is_left_out(server):
    server.market.now = datetime(2024, 7, 10, 15, tzinfo=UTC)
    bars = source(server).bars(["AAA"], START, END)
    assert bars["session"].max() == pd.Timestamp(2024, 7, 9)


def test_a_range_is_half_open(server):
    close = datetime(2024, 6, 28, 20, tzinfo=UTC)
    yahoo = source(server)
    assert yahoo.bars(["AAA"], close, close + timedelta(microseconds=1))["session"].to_list() == [
        pd.Timestamp(close.date())
    ]
    assert yahoo.bars(["AAA"], close - timedelta(hours=1), close).empty


def test_faults_that_pass_are_tried_again_with_growing_jittered_pauses(server):
    pauses = []
    yahoo = source(server, ("AAA",), sleep=pauses.append)
    server.refuse("AAA", 503)
    server.truncate("AAA")
    server.truncate("AAA", connection=True)
    server.refuse("AAA", 500)
    assert outcomes(yahoo.fetch(["AAA"], START, END)) == {"AAA": Outcome.OK}
    assert len(server.asked()) == 5
    assert all(2**i <= pause <= 2**i + 1 for i, pause in enumerate(pauses))
    assert len(pauses) == 4


def test_a_burst_of_refusals_slows_the_whole_source_and_loses_nothing(server):
    pauses = []
    yahoo = source(server, sleep=pauses.append, requests_per_second=1000.0, concurrency=2)
    server.refuse("*", 429, times=4, retry_after=17)
    assert set(outcomes(yahoo.fetch(SYMBOLS, START, END)).values()) == {Outcome.OK}
    assert yahoo._client._budget.per_second < 1000.0
    assert max(pauses) > 16


def test_refused_through_all_attempts_is_rate_limited(server):
    server.refuse("BBB", 429, times=99)
    answers = by_symbol(source(server, attempts=3, concurrency=2).fetch(SYMBOLS, START, END))
    assert answers["BBB"].outcome is Outcome.RATE_LIMITED
    assert "3 attempts" in answers["BBB"].detail
    assert answers["BBB"].bars.empty
    assert (answers["AAA"].outcome, answers["CCC"].outcome) == (Outcome.OK, Outcome.OK)
    assert server.asked().count("BBB") == 3  # and none of yfinance's own repetitions beside


def test_a_source_that_refuses_everything_is_left_alone(server):
    symbols = tuple(f"X{i}" for i in range(30))
    server.refuse("*", 429, times=999)
    answers = by_symbol(source(server, symbols, attempts=2, concurrency=3).fetch(symbols, START, END))
    assert {answer.outcome for answer in answers.values()} == {Outcome.RATE_LIMITED}
    assert len(answers) == 30
    assert "not asked for" in answers["X29"].detail
    assert len(set(server.asked())) <= 6


def test_timeouts_fail_after_the_attempts_and_lose_no_other(server):
    server.hang("BBB", times=2)
    # Long enough for the others on a busy machine.
    answers = by_symbol(source(server, attempts=2, timeout=1.0).fetch(SYMBOLS, START, END))
    assert answers["BBB"].outcome is Outcome.FAILED
    assert "2 attempts" in answers["BBB"].detail and "Timeout" in answers["BBB"].detail
    assert (answers["AAA"].outcome, answers["CCC"].outcome) == (Outcome.OK, Outcome.OK)


def test_an_outage_fails_and_is_not_mistaken_for_an_empty_answer(server):
    server.refuse("AAA", 502, times=2)
    (answer,) = source(server, attempts=2).fetch(["AAA"], START, END)
    assert answer.outcome is Outcome.FAILED and "HTTP 502" in answer.detail


def test_nobody_there_is_a_failure():
    yahoo = YahooSource(("AAA",), endpoint="http://127.0.0.1:9", attempts=1, requests_per_second=None)
    (answer,) = yahoo.fetch(["AAA"], START, END)
    assert answer.outcome is Outcome.FAILED and "1 attempts" in answer.detail


def test_an_unknown_symbol_is_asked_for_once(server):
    (answer,) = source(server, ("NOSUCH",)).fetch(["NOSUCH"], START, END)
    assert answer.outcome is Outcome.UNKNOWN and "delisted" in answer.detail
    assert server.asked() == ["NOSUCH"]


def test_an_empty_answer_is_empty(server):
    server.empty("AAA")
    (answer,) = source(server).fetch(["AAA"], START, END)
    assert answer.outcome is Outcome.EMPTY and "no price data" in answer.detail


def test_a_range_without_bars_is_empty(server):
    saturday = datetime(2024, 6, 29, tzinfo=UTC)
    (answer,) = source(server).fetch(["AAA"], saturday, saturday + timedelta(days=1))
    assert answer.outcome is Outcome.EMPTY


def test_a_range_to_come_is_empty_and_not_asked_for(server):
    (answer,) = source(server).fetch(["AAA"], NOW + timedelta(days=1), END)
    assert answer.outcome is Outcome.EMPTY
    assert server.requests == []


def test_an_answer_of_another_shape_fails_and_says_so(server):
    server.flip_schema("AAA")
    answers = by_symbol(source(server).fetch(SYMBOLS, START, END))
    assert answers["AAA"].outcome is Outcome.FAILED
    assert "another shape" in answers["AAA"].detail and "volume" in answers["AAA"].detail
    assert server.asked().count("AAA") == 1
    assert answers["BBB"].outcome is Outcome.OK


def test_many_symbols_with_bad_ones_among_them():
    symbols = tuple(f"S{i:04d}" for i in range(40))
    with YahooServer(symbols, years=1, now=NOW) as server:
        server.refuse("S0011", 429, times=9)
        server.refuse("S0013", 500, times=9)
        server.truncate("S0017", times=9)
        server.empty("S0019")
        yahoo = source(server, (*symbols, "NOSUCH"), attempts=2)
        found = outcomes(yahoo.fetch((*symbols, "NOSUCH"), START, END))
    bad = {
        "S0011": Outcome.RATE_LIMITED,
        "S0013": Outcome.FAILED,
        "S0017": Outcome.FAILED,
        "S0019": Outcome.EMPTY,
        "NOSUCH": Outcome.UNKNOWN,
    }
    assert found == {**dict.fromkeys(symbols, Outcome.OK), **bad}


def test_answers_come_in_as_they_are_used_and_no_further_ahead(server):
    symbols = tuple(f"S{i:04d}" for i in range(40))
    with YahooServer(symbols, years=1, now=NOW) as server:
        answers = source(server, symbols, concurrency=2).fetch(symbols, START, END)
        next(answers)
        answers.close()
        assert len(server.asked()) <= 4


def test_bars_and_actions_log_what_is_lost_and_raise_where_nothing_is_left(server, caplog):
    server.refuse("AAA", 503, times=2)
    assert set(source(server, attempts=1).bars(SYMBOLS, START, END)["symbol"]) == {"BBB", "CCC"}
    assert "'AAA': 'failed" in caplog.text
    with pytest.raises(SourceUnavailableError, match=r"'AAA': 'failed.*503.*Wait"):
        source(server, attempts=1).corporate_actions(["AAA"], START, END)


def test_symbols_that_are_not_configured_are_refused(server):
    with pytest.raises(UnknownSymbolError, match="it has: AAA, BBB"):
        next(source(server, ("AAA", "BBB")).fetch(["MSFT"], START, END))
    with pytest.raises(UnknownSymbolError):
        source(server).quotes(["MSFT"], START, END)
    with pytest.raises(UnknownSymbolError):
        source(server).option_chain(["MSFT"], START, END)


# Splits, dividends, restated bars.


def test_prices_volumes_and_dividends_are_as_traded_on_their_day(server):
    server.market.split("AAA", "2024-06-10", 7)
    server.market.dividend("AAA", "2024-05-10", 3.29)
    server.market.dividend("AAA", "2024-06-20", 0.47)
    (answer,) = source(server).fetch(["AAA"], START, END)
    expected = traded(server, "AAA", "2024-01-01", "2024-07-10")
    closes = answer.bars.set_index("session")["close"]
    assert closes["2024-06-07"] / closes["2024-06-10"] > 5
    for name, values in expected.items():
        np.testing.assert_allclose(answer.bars[name], values, rtol=2**-23)
    # Whole shares come back exactly.
    np.testing.assert_array_equal(answer.bars["volume"], expected["volume"])
    CORPORATE_ACTIONS.schema().validate(answer.actions, lazy=True)
    values = answer.actions.set_index(["kind", "session"])["value"]
    assert values["split"].to_dict() == {pd.Timestamp(2024, 6, 10): 7.0}
    assert values["dividend"].to_dict() == {pd.Timestamp(2024, 5, 10): 3.29, pd.Timestamp(2024, 6, 20): 0.47}
    assert answer.actions["available_at"].dt.strftime("%H:%M").unique().tolist() == ["13:30"]


@pytest.mark.parametrize("interval", ["1h", "1d", "1wk", "1mo"])
def test_a_split_announced_later_changes_no_bar_and_adds_one_action(server, interval):
    server.market.split("AAA", "2024-04-08", 3, 2)
    server.market.dividend("AAA", "2024-03-08", 3.05)
    server.market.dividend("AAA", "2024-05-10", 1.594937)
    yahoo = source(server, ("AAA",), interval=interval)
    end = datetime(2024, 7, 1, tzinfo=UTC)
    (before,) = yahoo.fetch(["AAA"], START, end)
    server.market.now = datetime(2024, 7, 16, 22, tzinfo=UTC)
    server.market.split("AAA", "2024-07-16", 4)
    (after,) = yahoo.fetch(["AAA"], START, end)
    exact = ["available_at", "session", "volume"]
    pd.testing.assert_frame_equal(after.bars[exact], before.bars[exact])
    # Prices are single precision of the new shares now: their last bit differs, by no more than revisions allow.
    pd.testing.assert_frame_equal(after.bars, before.bars, check_exact=False, rtol=2**-23)
    # The second dividend had all of its six decimals before.
    pd.testing.assert_frame_equal(after.actions, before.actions, check_exact=False, atol=5e-6, rtol=0)
    (all_,) = yahoo.fetch(["AAA"], START, END)
    added = all_.actions[all_.actions["session"] > pd.Timestamp(2024, 7, 1)]
    assert added[["kind", "value"]].to_numpy().tolist() == [["split", 4.0]]


def test_a_split_of_today_is_undone_from_before_the_opening(server):
    server.market.split("AAA", "2024-07-11", 2)
    server.market.now = datetime(2024, 7, 11, 13, 30, tzinfo=UTC)
    yahoo = source(server, ("AAA",), now=lambda: datetime(2024, 7, 11, 12, tzinfo=UTC))
    bars = yahoo.bars(["AAA"], START, END)
    np.testing.assert_allclose(bars["close"], traded(server, "AAA", "2024-01-01", "2024-07-10")["close"], rtol=2**-23)


def test_a_restated_bar_is_seen_by_the_same_source(server):
    yahoo = source(server, ("AAA",))
    before = yahoo.bars(["AAA"], START, END).set_index("session")["close"]
    server.market.revise("AAA", "2024-02-01", close=12.34)
    after = yahoo.bars(["AAA"], START, END).set_index("session")["close"]
    assert (before != after).sum() == 1
    assert after["2024-02-01"] == pytest.approx(12.34)


# Quotes and chains.


def test_quotes_are_of_this_instant_and_many_a_request(server):
    quotes = source(server).quotes(SYMBOLS, START, END)
    QUOTES.schema().validate(quotes, lazy=True)
    assert validate_quotes(quotes)[1].empty
    assert set(quotes["symbol"]) == set(SYMBOLS)
    assert quotes["available_at"].eq(pd.Timestamp(NOW)).all()
    assert quotes.set_index("symbol").loc["AAA", "bid"] == pytest.approx(server.market.price("AAA") - 0.01)
    assert len(server.asked("quote")) == 1


def test_quotes_of_another_time_are_none_and_not_asked_for(server):
    assert source(server).quotes(SYMBOLS, START, NOW).empty
    assert source(server).option_chain(SYMBOLS, START, NOW).empty
    assert server.requests == []


def test_symbols_without_a_quote_lose_no_other(server, caplog):
    yahoo = source(server, (*SYMBOLS, "NOSUCH"))
    assert set(yahoo.quotes((*SYMBOLS, "NOSUCH"), START, END)["symbol"]) == set(SYMBOLS)
    assert "NOSUCH" in caplog.text


def test_quotes_are_tried_again_and_refused_in_the_end(server):
    server.refuse("quote", 503, times=2)
    assert len(source(server, attempts=3).quotes(SYMBOLS, START, END)) == 3
    server.refuse("quote", 429, times=3)
    with pytest.raises(SourceUnavailableError, match="YFRateLimitError"):
        source(server, attempts=3).quotes(SYMBOLS, START, END)


def test_chains_have_all_expiries_at_one_instant(server):
    chain = source(server).option_chain(["AAA", "BBB"], START, END)
    OPTION_CHAIN.schema().validate(chain, lazy=True)
    assert validate_option_chain(chain)[1].empty
    assert chain.groupby("underlying", observed=True)["expiry"].nunique().to_dict() == {"AAA": 4, "BBB": 4}
    assert chain["available_at"].eq(pd.Timestamp(NOW)).all()
    assert chain["session"].eq(pd.Timestamp(2024, 7, 10)).all()
    assert chain["expiry"].min() == pd.Timestamp(2024, 7, 12)
    assert chain[["bid_size", "ask_size"]].isna().all(axis=None)
    assert chain["volume"].isna().any() and chain["implied_volatility"].min() == 1e-5
    assert chain.groupby("underlying")["underlying_close"].first()["AAA"] == server.market.price("AAA")
    # The first answer names the expiries and holds the nearest: none is asked for twice.
    assert sorted(server.asked("options")) == ["AAA"] * 4 + ["BBB"] * 4


def test_out_of_hours_a_chain_is_of_the_last_session(server):
    server.market.now = datetime(2024, 7, 13, 12, tzinfo=UTC)
    chain = source(server).option_chain(["AAA"], START, END)
    assert chain["session"].eq(pd.Timestamp(2024, 7, 12)).all()


def test_underlyings_without_options_lose_no_other(server, caplog):
    yahoo = source(server, (*SYMBOLS, "NOSUCH"))
    assert set(yahoo.option_chain(["NOSUCH", "CCC"], START, END)["underlying"]) == {"CCC"}
    assert "NOSUCH" in caplog.text
    server.refuse("BBB", 500, times=9)
    assert set(yahoo.option_chain(["BBB", "CCC"], START, END)["underlying"]) == {"CCC"}
    assert "BBB: VendorDownError" in caplog.text


# Settings.


@pytest.mark.parametrize("first", ["2010-05-06", datetime(2010, 5, 6), datetime(2010, 5, 6).date()])
def test_the_first_instant_may_be_written_as_yaml_has_it(first):
    yahoo = YahooSource(["AAA"], first=first)
    assert yahoo.range()[0] == datetime(2010, 5, 6, tzinfo=UTC)
    assert yahoo.symbols == ("AAA",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": "5d"}, "fetch 1d and resample"),
        ({"interval": "7m"}, r"use one of 1m, 2m.*3mo"),
        ({"concurrency": 0}, "concurrency=0"),
        ({"attempts": 0}, "attempts=0"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        YahooSource(("AAA",), **options)
