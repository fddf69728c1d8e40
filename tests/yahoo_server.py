"""A local server that speaks Yahoo's chart, quote and options endpoints, with faults on demand and a request log.

In a test::

    with YahooServer(["AAA", "BBB"], now=now) as server:
        server.refuse("AAA", 429, times=2)
        YahooSource(("AAA", "BBB"), endpoint=server.endpoint, requests_per_second=None)

As a process, which prints its address: ``python -m tests.yahoo_server --symbols 500 --years 20``. The log is served at
``/requests``. What is answered stands in ``yahoo_market``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import threading
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import numpy as np

from tests.yahoo_market import LOOKBACK_DAYS, MINUTES, NEW_YORK, MadeUpMarket

CRUMB = "local.crumb"
RANGE_DAYS = {"1d": 1, "5d": 7, "1mo": 31, "3mo": 92, "6mo": 183, "1y": 366, "2y": 731, "5y": 1827, "10y": 3653}


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    path: str
    query: dict[str, str]

    @property
    def subject(self) -> str:
        """What faults are scripted by: a chart's or chain's symbol, else the last part of the path."""
        return unquote(self.path.rpartition("/")[2])


@dataclass(frozen=True)
class Answer:
    """Status, body and headers; ``promised`` says a longer body than is sent before the connection is cut."""

    body: bytes
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    promised: int = 0


class YahooServer:
    """Serves on a loopback port between ``__enter__`` and ``__exit__``.

    Parameters
    ----------
    symbols
        Their names, or how many (``S0000`` and on).
    years
        Calendar years of daily history before the one of ``now``.
    now
        What time it is at Yahoo; real time as of the start by default. A test may move ``market.now``.
    events
        Whether symbols have splits and dividends of their own accord.
    """

    def __init__(
        self,
        symbols: int | Sequence[str] = ("AAA", "BBB", "CCC"),
        years: int = 3,
        now: datetime | None = None,
        events: bool = True,
        port: int = 0,
    ) -> None:
        names = tuple(f"S{i:04d}" for i in range(symbols)) if isinstance(symbols, int) else tuple(symbols)
        self.market = MadeUpMarket(names, years, now or datetime.now(UTC), events)
        self.requests: list[Request] = []
        self._faults: dict[str, deque[tuple[str, dict[str, Any]]]] = defaultdict(deque)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._bodies: dict[tuple[object, ...], bytes] = {}
        self._columns: dict[tuple[object, ...], Any] = {}
        handler = type("BoundHandler", (_Handler,), {"yahoo": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._http.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> YahooServer:
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._http.shutdown()
        self._http.server_close()

    # What a test may ask for.

    def asked(self, kind: str = "chart") -> list[str]:
        """Subjects of the requests of a kind (``chart``, ``quote``, ``options``, ``getcrumb``), in order."""
        return [request.subject for request in self.requests if f"/{kind}" in request.path]

    def refuse(self, subject: str, status: int, times: int = 1, retry_after: float | None = None) -> None:
        """Answer the next requests with this status: 429, 500, 503 and so on. ``*`` means any subject."""
        self._script(subject, "status", times, status=status, retry_after=retry_after)

    def hang(self, subject: str, times: int = 1) -> None:
        """Accept the next requests and never answer them."""
        self._script(subject, "hang", times)

    def truncate(self, subject: str, times: int = 1, connection: bool = False) -> None:
        """Answer with half of the JSON, as a whole answer or by cutting the connection."""
        self._script(subject, "truncate", times, connection=connection)

    def empty(self, subject: str, times: int = 1) -> None:
        """Answer the next charts without any row."""
        self._script(subject, "empty", times)

    def flip_schema(self, subject: str, times: int = 1) -> None:
        """Answer the next charts with columns of other names."""
        self._script(subject, "flip", times)

    def _script(self, subject: str, kind: str, times: int, **options: Any) -> None:
        with self._lock:
            self._faults[subject].extend([(kind, options)] * times)

    def _fault(self, request: Request) -> tuple[str, dict[str, Any]]:
        with self._lock:
            for subject in (request.subject, "*"):
                if self._faults[subject] and request.path.startswith(("/v1/", "/v7/", "/v8/")):
                    return self._faults[subject].popleft()
        return "", {}

    # What is answered.

    def answer(self, request: Request) -> Answer | None:
        """Answer a request; None where the connection is to hang."""
        if request.path == "/requests":
            return _json([asdict(one) for one in self.requests])
        with self._lock:
            self.requests.append(request)
        fault, options = self._fault(request)
        if fault == "hang":
            self._closing.wait()
            return None
        if fault == "status":
            after = options["retry_after"]
            headers = () if after is None else (("Retry-After", str(after)),)
            return Answer(b"Edge: Too Many Requests", options["status"], headers)
        answer = self._route(request, fault)
        if fault == "truncate":
            half = answer.body[: len(answer.body) // 2]
            return Answer(half, promised=len(answer.body) if options["connection"] else 0)
        return answer

    def _route(self, request: Request, fault: str) -> Answer:
        if request.path == "/":
            return Answer(b"", 404, (("Set-Cookie", "A3=d=local; Path=/; Max-Age=31536000"),))
        if request.path == "/v1/test/getcrumb":
            return Answer(CRUMB.encode())
        if request.path.startswith("/v8/finance/chart/"):
            return self._chart(request.subject, request.query, fault)
        if request.path.startswith("/v7/"):
            if request.query.get("crumb") != CRUMB:
                return _json({"finance": _error("Unauthorized", "Invalid Crumb")}, 401)
            if request.path == "/v7/finance/quote":
                return self._quote(request.query["symbols"].split(","))
            return self._options(request.subject, request.query)
        return Answer(b"", 404)

    def _chart(self, symbol: str, query: dict[str, str], fault: str) -> Answer:
        if symbol not in self.market.symbols:
            return _json({"chart": _error("Not Found", "No data found, symbol may be delisted")}, 404)
        now, interval = int(self.market.now.timestamp()), query["interval"]
        if "range" in query:
            reach = RANGE_DAYS.get(query["range"], 40_000)
            first, last = now - 86400 * reach, now + 1
        else:
            first, last = int(query["period1"]), int(query["period2"])
        refusal = _beyond(interval, first, last, now)
        if refusal:
            return _json({"chart": _error("Unprocessable Entity", refusal)}, 422)
        return Answer(self._chart_body(symbol, interval, first, last, fault))

    def _chart_body(self, symbol: str, interval: str, first: int, last: int, fault: str) -> bytes:
        instrument = self.market.instrument(symbol)
        state = (symbol, interval, self.market.now, str(instrument))
        with self._lock:
            if self._columns.get((symbol, interval), (None,))[0] != state[2:]:
                rows = self.market.chart(symbol, interval)
                self._columns[symbol, interval] = (state[2:], rows)
            rows = self._columns[symbol, interval][1]
        begin, stop = np.searchsorted(rows.starts, [first, last])
        rows = rows.cut(0, 0) if fault == "empty" else rows.cut(begin, stop)
        events = self.market.events_between(symbol, first, last)
        # One body for all requests of the same rows: clients put the current second into their queries.
        key = (*state[:2], fault, int(begin), int(stop), state[3], str(events))
        if key not in self._bodies:
            self._bodies[key] = _chart_json(self.market, symbol, interval, rows, events, fault)
        return self._bodies[key]

    def _quote(self, symbols: Iterable[str]) -> Answer:
        found = [_quote_of(self.market, symbol) for symbol in symbols if symbol in self.market.symbols]
        return _json({"quoteResponse": {"result": found, "error": None}})

    def _options(self, symbol: str, query: dict[str, str]) -> Answer:
        if symbol not in self.market.symbols:
            return _json({"optionChain": {"result": [], "error": None}})
        dates = self.market.expiries()
        expiry = int(query.get("date", dates[0]))
        price = self.market.price(symbol)
        strikes = [round(price * level, 1) for level in (0.8, 0.9, 1.0, 1.1, 1.2)]
        result = {
            "underlyingSymbol": symbol,
            "expirationDates": dates,
            "strikes": strikes,
            "hasMiniOptions": False,
            "quote": _quote_of(self.market, symbol),
            "options": [
                {
                    "expirationDate": expiry,
                    "hasMiniOptions": False,
                    "calls": [_contract(self.market, symbol, expiry, "C", strike, price) for strike in strikes],
                    "puts": [_contract(self.market, symbol, expiry, "P", strike, price) for strike in strikes],
                }
            ],
        }
        return _json({"optionChain": {"result": [result], "error": None}})


class _Handler(BaseHTTPRequestHandler):
    yahoo: YahooServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 20

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        answer = self.yahoo.answer(Request(url.path or "/", dict(parse_qsl(url.query))))
        if answer is None:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(answer.promised or len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)
        self.close_connection = self.close_connection or bool(answer.promised)

    def log_message(self, *_: object) -> None:
        """Say nothing: the log is kept as data."""

    def handle(self) -> None:
        # A client that tests timeouts goes away.
        with contextlib.suppress(ConnectionError, TimeoutError):
            super().handle()


def _json(content: object, status: int = 200) -> Answer:
    return Answer(json.dumps(content, separators=(",", ":")).encode(), status)


def _error(code: str, description: str) -> dict[str, object]:
    return {"result": None, "error": {"code": code, "description": description}}


def _beyond(interval: str, first: int, last: int, now: int) -> str:
    days = LOOKBACK_DAYS.get(interval)
    asked = f"{interval} data not available for startTime={first} and endTime={last}."
    if days and now - first > days * 86400:
        return f"{asked} The requested range must be within the last {days} days."
    if interval == "1m" and last - first > 8 * 86400:
        return f"{asked} Only 8 days worth of 1m granularity data are allowed to be fetched per request."
    return ""


def _chart_json(
    market: MadeUpMarket, symbol: str, interval: str, rows: Any, events: dict[str, Any], fault: str
) -> bytes:
    blanks = [position for position, start in enumerate(rows.starts) if start in market.instrument(symbol).blanks]
    columns: dict[str, list[float | None]] = {name: array.tolist() for name, array in rows.values.items()}
    columns["volume"] = [round(value) for value in rows.values["volume"].tolist()]
    for name in columns:
        for position in blanks:
            columns[name][position] = None
    quote: dict[str, Any] = {name if fault != "flip" else f"{name}Price": values for name, values in columns.items()}
    day = int(np.searchsorted(market.opens, market.now.timestamp(), side="right")) - 1
    meta: dict[str, Any] = {
        "currency": "USD",
        "symbol": symbol,
        "exchangeName": "NMS",
        "instrumentType": "EQUITY",
        "firstTradeDate": int(market.opens[0]),
        "regularMarketTime": min(int(market.now.timestamp()), int(market.closes[day])),
        "gmtoffset": -18000,
        "timezone": "EST",
        "exchangeTimezoneName": NEW_YORK.key,
        "regularMarketPrice": market.price(symbol),
        "priceHint": 2,
        "currentTradingPeriod": {name: _period(market, day) for name in ("pre", "regular", "post")},
        "dataGranularity": interval,
        "range": "",
        "validRanges": ["1d", "5d", "1mo", "3mo", "6mo", "1y", "2y", "5y", "10y", "ytd", "max"],
    }
    if interval in MINUTES:
        sessions = sorted(set(np.searchsorted(market.opens, rows.starts, side="right") - 1)) or [day]
        meta["tradingPeriods"] = [[_period(market, session)] for session in sessions]
    result: dict[str, Any] = {"meta": meta}
    if len(rows.starts):
        result["timestamp"] = rows.starts.tolist()
        if events:
            result["events"] = events
    result["indicators"] = {"quote": [quote if len(rows.starts) else {}]}
    if interval not in MINUTES:
        adjusted = {"adjclose": columns["close"]} if len(rows.starts) else {}
        result["indicators"]["adjclose"] = [adjusted]
    return _json({"chart": {"result": [result], "error": None}}).body


def _period(market: MadeUpMarket, day: int) -> dict[str, object]:
    start, end = int(market.opens[day]), int(market.closes[day])
    return {"timezone": "EST", "start": start, "end": end, "gmtoffset": -18000}


def _quote_of(market: MadeUpMarket, symbol: str) -> dict[str, object]:
    price = market.price(symbol)
    return {
        "symbol": symbol,
        "quoteType": "EQUITY",
        "currency": "USD",
        "regularMarketPrice": price,
        "regularMarketTime": int(market.now.timestamp()),
        "bid": round(price - 0.01, 2),
        "ask": round(price + 0.01, 2),
        "bidSize": 4,
        "askSize": 7,
    }


def _contract(
    market: MadeUpMarket, symbol: str, expiry: int, right: str, strike: float, price: float
) -> dict[str, object]:
    worth = max(price - strike if right == "C" else strike - price, 0.0)
    day = datetime.fromtimestamp(expiry, UTC)
    contract: dict[str, object] = {
        "contractSymbol": f"{symbol}{day:%y%m%d}{right}{round(strike * 1000):08d}",
        "strike": strike,
        "currency": "USD",
        "lastPrice": round(worth + 0.5, 2),
        "change": 0.0,
        "percentChange": 0.0,
        "openInterest": 100,
        "bid": round(worth + 0.4, 2),
        "ask": round(worth + 0.6, 2),
        "contractSize": "REGULAR",
        "expiration": expiry,
        "lastTradeDate": int(market.now.timestamp()) - 3600,
        "impliedVolatility": 0.25 if worth else 1e-5,
        "inTheMoney": worth > 0,
    }
    # Yahoo leaves the volume out where a contract was not traded in the session.
    return contract | ({"volume": 12} if worth else {})


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--symbols", type=int, default=500)
    parser.add_argument("--years", type=int, default=20)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--now", type=datetime.fromisoformat, help="with an offset; the real time by default")
    parser.add_argument("--prerender", action="store_true", help="make all daily charts before the address is printed")
    chosen = parser.parse_args()
    with YahooServer(chosen.symbols, chosen.years, chosen.now, port=chosen.port) as server:
        if chosen.prerender:
            for symbol in server.market.symbols:
                server._chart_body(symbol, "1d", 0, 1 << 40, "")
        print(server.endpoint, flush=True)  # noqa: T201
        threading.Event().wait()


if __name__ == "__main__":
    main()
