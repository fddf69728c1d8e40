"""What the client does to yfinance, and that it asks nobody but the endpoint; the local server as a process."""

import inspect
import json
import subprocess
import sys
import urllib.request
from datetime import UTC, datetime

import pytest
import yfinance
from yfinance.data import YfData
from yfinance.scrapers.history import PriceHistory

from atlas_pipeline.market.sources import Outcome
from atlas_pipeline.market.yahoo import YahooSource
from atlas_pipeline.market.yahoo_client import RefusedRequestError
from tests.yahoo_server import YahooServer

NOW = datetime(2024, 7, 10, 22, tzinfo=UTC)
START, END = datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC)
OPTIONS = {"requests_per_second": None, "sleep": lambda seconds: None, "now": lambda: NOW}


@pytest.fixture
def server():
    with YahooServer(("AAA", "BBB"), years=1, now=NOW, events=False) as server:
        yield server


@pytest.fixture
def yahoo(server) -> YahooSource:
    return YahooSource(("AAA", "BBB"), endpoint=server.endpoint, **OPTIONS)


def test_every_argument_of_yfinance_is_pinned(yahoo, monkeypatch):
    seen = {}
    real = PriceHistory.history

    def history(self, **arguments):
        seen.update(arguments)
        return real(self, **arguments)

    known = set(inspect.signature(real).parameters) - {"self", "raise_errors"}
    monkeypatch.setattr(PriceHistory, "history", history)
    yahoo.bars(["AAA"], START, END)
    assert set(seen) == known
    assert (seen["auto_adjust"], seen["back_adjust"], seen["actions"], seen["repair"]) == (False, False, True, False)
    assert (seen["prepost"], seen["keepna"], seen["rounding"], seen["period"]) == (False, True, False, None)
    assert yfinance.config.debug.hide_exceptions is False


def test_the_process_wide_client_of_yfinance_is_left_alone(yahoo):
    everybodys = YfData()
    session = everybodys._session
    yahoo.bars(["AAA"], START, END)
    yahoo.option_chain(["AAA"], START, END)
    assert YfData() is everybodys and everybodys._session is session
    assert everybodys._crumb is None


def test_only_yahoo_is_asked_and_only_at_the_endpoint(server, yahoo):
    client = yahoo._client
    with pytest.raises(RefusedRequestError, match=r"example\.com"):
        client._session.get("https://example.com/v8/finance/chart/AAA")
    with pytest.raises(RefusedRequestError, match=r"notyahoo\.com"):
        client._session.get("https://notyahoo.com/")
    assert server.requests == []


def test_a_crumb_that_expired_is_renewed(yahoo):
    yahoo._client._data._crumb = "old"
    assert len(yahoo.quotes(yahoo.symbols, START, END)) == 2


def test_a_crumb_that_is_refused_stops_no_chart(server, yahoo):
    server.refuse("getcrumb", 429)
    assert [answer.outcome for answer in yahoo.fetch(["AAA"], START, END)] == [Outcome.OK]


def test_the_server_runs_as_a_process_and_shows_its_log():
    command = [sys.executable, "-m", "tests.yahoo_server", "--symbols", "2", "--years", "1", "--now", NOW.isoformat()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            endpoint = process.stdout.readline().strip()
            yahoo = YahooSource(("S0000", "S0001"), endpoint=endpoint, **OPTIONS)
            assert {answer.outcome for answer in yahoo.fetch(yahoo.symbols, START, END)} == {Outcome.OK}
            with urllib.request.urlopen(f"{endpoint}/requests") as log:
                paths = [request["path"] for request in json.load(log)]
        finally:
            process.kill()
    assert sorted(paths)[2:] == ["/v8/finance/chart/S0000", "/v8/finance/chart/S0001"]
