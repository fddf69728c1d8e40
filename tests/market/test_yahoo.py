import json
import pickle
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from yfinance.exceptions import YFDataException, YFPricesMissingError, YFRateLimitError, YFTzMissingError

from atlas_pipeline.market.bars import BARS, CORPORATE_ACTIONS
from atlas_pipeline.market.errors import NotOfferedError, SourceUnavailableError, UnknownSymbolError
from atlas_pipeline.market.yahoo import Outcome, YahooSource, as_traded

START, END = datetime(2014, 6, 1, tzinfo=UTC), datetime(2014, 7, 1, tzinfo=UTC)
DAYS = pd.DatetimeIndex(["2014-06-05", "2014-06-06", "2014-06-09", "2014-06-10"]).tz_localize("America/New_York")


def answer(symbol: str = "AAPL", start: datetime = START) -> pd.DataFrame:
    """What Yahoo says after a 7:1 split: all prices in new shares."""
    close = np.array([647.35, 645.57, 93.70 * 7, 94.25 * 7]) / 7
    return pd.DataFrame(
        {
            "Open": close - 0.5,
            "High": close + 1,
            "Low": close - 1,
            "Close": close,
            "Adj Close": close * 0.9,
            "Volume": [700, 1400, 100, 200],
            "Dividends": [3.29 / 7, 0.0, 0.0, 0.47],
            "Stock Splits": [0.0, 0.0, 7.0, 0.0],
        },
        index=DAYS,
    )


def source(download, tickers=("AAPL", "IBM"), **options) -> YahooSource:
    return YahooSource(tickers, download=download, now=lambda: END, **{"sleep": lambda seconds: None, **options})


def test_prices_volumes_and_dividends_are_as_traded_on_their_day():
    bars, actions = as_traded("AAPL", answer())
    BARS.schema().validate(bars, lazy=True)
    CORPORATE_ACTIONS.schema().validate(actions, lazy=True)
    np.testing.assert_allclose(bars["close"], [647.35, 645.57, 93.70, 94.25])
    np.testing.assert_allclose(bars["volume"], [100, 200, 100, 200])
    assert bars["available_at"][0] == datetime(2014, 6, 5, 20, tzinfo=UTC)
    kinds = actions.set_index(["kind", "session"])["value"]
    assert kinds["split"].to_dict() == {pd.Timestamp("2014-06-09"): 7.0}
    np.testing.assert_allclose(kinds["dividend"], [3.29, 0.47])
    assert actions["available_at"].dt.strftime("%H:%M").unique().tolist() == ["13:30"]


def test_a_later_split_changes_nothing_that_was_read_before():
    before, _ = as_traded("AAPL", answer()[["Open", "High", "Low", "Close", "Volume", "Dividends", "Stock Splits"]])
    again = answer()
    again[["Open", "High", "Low", "Close", "Dividends"]] /= 4
    again["Volume"] *= 4
    later = pd.DataFrame({**{name: [25.0] for name in again.columns}, "Dividends": 0.0, "Stock Splits": 4.0})
    later.index = pd.DatetimeIndex(["2014-06-11"]).tz_localize("America/New_York")
    after, _ = as_traded("AAPL", pd.concat([again, later]))
    pd.testing.assert_frame_equal(after[:4], before, check_exact=False, rtol=1e-14)


def test_one_bad_symbol_loses_no_other():
    errors = {
        "LIMITED": YFRateLimitError(),
        "UNKNOWN": YFTzMissingError("UNKNOWN"),
        "EMPTY": YFPricesMissingError("EMPTY", ""),
        "DOWN": YFDataException("down"),
        "CUT": json.JSONDecodeError("truncated", "{", 1),
        "OFFLINE": ConnectionError("no network"),
    }

    def download(symbol, start):
        if symbol in errors:
            raise errors[symbol]
        return answer()

    fetched = source(download, ("AAPL", *errors, "IBM")).fetch(("AAPL", *errors, "IBM"), START, END)
    assert fetched.outcomes == {
        "AAPL": Outcome.OK,
        "LIMITED": Outcome.RATE_LIMITED,
        "UNKNOWN": Outcome.UNKNOWN,
        "EMPTY": Outcome.EMPTY,
        "DOWN": Outcome.FAILED,
        "CUT": Outcome.FAILED,
        "OFFLINE": Outcome.FAILED,
        "IBM": Outcome.OK,
    }
    assert fetched.bars["symbol"].value_counts().to_dict() == {"AAPL": 4, "IBM": 4}


def test_transient_errors_are_tried_again_with_growing_pauses():
    pauses, calls = [], []

    def download(symbol, start):
        calls.append(symbol)
        if len(calls) < 4:
            raise YFRateLimitError
        return answer()

    fetched = source(download, sleep=pauses.append).fetch(["AAPL"], START, END)
    assert fetched.outcomes == {"AAPL": Outcome.OK}
    assert len(pauses) == 3
    assert all(2**i <= pause <= 2**i + 1 for i, pause in enumerate(pauses))


def test_an_unknown_symbol_is_asked_for_once():
    calls = []

    def download(symbol, start):
        calls.append(symbol)
        raise YFTzMissingError(symbol)

    source(download).fetch(["AAPL"], START, END)
    assert calls == ["AAPL"]


def test_a_bar_that_is_not_complete_yet_is_no_bar():
    noon = datetime(2014, 6, 10, 16, tzinfo=UTC)
    live = YahooSource(("AAPL",), download=lambda symbol, start: answer(), now=lambda: noon)
    bars = live.bars(["AAPL"], START, END)
    assert bars["session"].max() == pd.Timestamp("2014-06-09")
    assert live.range() == (live.first, noon)


def test_rows_without_prices_are_kept_for_validation():
    holed = answer()
    holed.iloc[1, :6] = np.nan
    bars = source(lambda symbol, start: holed).bars(["AAPL"], START, END)
    assert len(bars) == 4
    assert np.isnan(bars["close"][1])


def test_nothing_at_all_is_an_error_and_something_is_a_warning(caplog):
    def download(symbol, start):
        if symbol == "AAPL":
            raise YFRateLimitError
        return answer()

    assert set(source(download).bars(["AAPL", "IBM"], START, END)["symbol"]) == {"IBM"}
    assert "AAPL" in caplog.text
    with pytest.raises(SourceUnavailableError, match=r"'AAPL': 'rate_limited'.*Wait"):
        source(download).bars(["AAPL"], START, END)


def test_an_empty_month_is_no_error():
    bars = source(lambda symbol, start: answer()).bars(["AAPL"], END - timedelta(days=2), END)
    assert bars.empty


def test_other_requests_are_refused():
    yahoo = source(lambda symbol, start: answer())
    with pytest.raises(UnknownSymbolError, match="it has: AAPL, IBM"):
        yahoo.bars(["MSFT"], START, END)
    with pytest.raises(NotOfferedError, match="use the files source"):
        yahoo.quotes(["AAPL"], START, END)
    with pytest.raises(NotOfferedError):
        yahoo.option_chain(["AAPL"], START, END)


def test_every_argument_of_yfinance_is_pinned(monkeypatch):
    import inspect

    import yfinance
    from yfinance.scrapers.history import PriceHistory

    seen = {}

    class Ticker:
        def __init__(self, symbol, session=None):
            seen.update(symbol=symbol, session=session)

        def history(self, **arguments):
            seen["arguments"] = arguments
            return answer()

    known = set(inspect.signature(PriceHistory.history).parameters) - {"self", "raise_errors"}
    monkeypatch.setattr(yfinance, "Ticker", Ticker)
    YahooSource(("AAPL",), session="a session", now=lambda: END).bars(["AAPL"], START, END)
    assert seen["session"] == "a session"
    arguments = seen["arguments"]
    assert set(arguments) == known
    assert (arguments["auto_adjust"], arguments["actions"], arguments["repair"]) == (False, True, False)
    assert arguments["keepna"] is True
    assert yfinance.config.debug.hide_exceptions is False


@pytest.mark.parametrize("error", [UnknownSymbolError("s", ["a"], ["b"]), NotOfferedError("s", "quotes", "do this")])
def test_errors_survive_a_process_boundary(error):
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
