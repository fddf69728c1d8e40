"""Bars, corporate actions, quotes and option chains from Yahoo through ``yfinance``, with an outcome for every symbol.

How Yahoo is asked stands in ``yahoo_client``, how its answers become bars in ``yahoo_bars``.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cached_property, partial
from typing import Any, TypeVar

import pandas as pd

from atlas_pipeline.market.bars import BARS, CORPORATE_ACTIONS, empty
from atlas_pipeline.market.calendars import XNYS
from atlas_pipeline.market.errors import BrokenSchemaError, SourceUnavailableError
from atlas_pipeline.market.intervals import parse_interval
from atlas_pipeline.market.option_chain import OPTION_CHAIN
from atlas_pipeline.market.quotes import QUOTES
from atlas_pipeline.market.rate_budget import RateBudget
from atlas_pipeline.market.sources import Fetched, Outcome, require_known, within
from atlas_pipeline.market.yahoo_bars import INTERVALS, as_traded, requests_for
from atlas_pipeline.market.yahoo_client import RefusedRequestError, YahooClient, joined, retrying
from atlas_pipeline.market.yahoo_snapshots import SYMBOLS_A_REQUEST, chain_rows, quote_rows

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_Answer = TypeVar("_Answer")
_Retry = Callable[[Callable[[], Any]], Any]

# What a chart of another shape than yfinance reads makes it raise.
_UNREADABLE = (LookupError, TypeError, ValueError, AttributeError, BrokenSchemaError)


@dataclass(frozen=True)
class YahooSource:
    """Stocks, funds and indices by Yahoo's symbols (``AAPL``, ``^GSPC``), all of one exchange calendar.

    Intervals are 1m, 2m, 5m, 15m, 30m, 60m, 90m, 1h, 1d, 1wk, 1mo and 3mo. Yahoo keeps 1m bars for 30 days, 60m and
    1h bars for 730, the other bars within a session for 60. Its 5d bars are refused: they begin on the day of the
    request's start and go on in steps of five days, so that the same day is in another bar with every start.

    Of quotes and option chains Yahoo has no history, only what is on offer now; they are labelled by the instant at
    which the answer came.

    Attributes
    ----------
    tickers
        The symbols to fetch.
    interval
        Length of the bars.
    first
        Instant from which bars are wanted; a day means its midnight, without a time zone UTC.
    calendar
        Exchange whose sessions the bars belong to, ISO 10383.
    endpoint
        Address of a server that answers in Yahoo's place: a caching proxy, recorded answers. No other is asked then.
    requests_per_second
        The rate budget; None sets no pace. Yahoo publishes no limit and refuses for hours; two a second is careful.
    concurrency
        Requests under way at once.
    attempts
        Requests before one is given up, with exponential backoff and jitter between them.
    timeout
        Seconds a request may take.
    delay_minutes
        Minutes by which intraday data may lag behind the exchange; younger bars could be of a part of their trades.
    session
        A ``curl_cffi`` session to use, with a proxy for instance; it belongs to this source from here on.
    sleep, now
        How to wait and what time it is.

    Raises
    ------
    ValueError
        Where an option cannot work.
    """

    tickers: tuple[str, ...]
    interval: str = "1d"
    first: datetime = datetime(2000, 1, 1, tzinfo=UTC)
    calendar: str = XNYS
    endpoint: str | None = None
    requests_per_second: float | None = 2.0
    concurrency: int = 8
    attempts: int = 5
    timeout: float = 30.0
    delay_minutes: float = 15.0
    session: Any = field(default=None, repr=False)
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC), repr=False)

    name = "yahoo"
    live = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "tickers", tuple(self.tickers))
        object.__setattr__(self, "first", _instant(self.first))
        if self.interval == "5d":
            raise ValueError(
                "interval='5d': Yahoo counts these bars from the start of each request, so no day has one bar of its "
                "own; fetch 1d and resample it to 5d"
            )
        if self.interval not in INTERVALS:
            raise ValueError(f"interval={self.interval!r}: Yahoo has no such bars; use one of {', '.join(INTERVALS)}")
        for option in ("concurrency", "attempts"):
            if getattr(self, option) < 1:
                raise ValueError(f"{option}={getattr(self, option)}: use 1 or more")

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols to fetch."""
        return self.tickers

    def range(self) -> tuple[datetime, datetime]:
        """From ``first`` to now."""
        return self.first, self.now()

    def fetch(self, symbols: Sequence[str], start: datetime, end: datetime) -> Iterator[Fetched]:
        """Ask for each symbol by itself, several at once, and give the answers as they come in.

        After as many symbols in a row as are under way at once were refused as one request too many, through all
        attempts, the others are not asked for any more: they are rate-limited too.

        Parameters
        ----------
        symbols
            Some of ``tickers``.
        start, end
            ``start <= available_at < end``; what is not complete by now is no bar yet and is left out.

        Raises
        ------
        UnknownSymbolError
            Where a symbol is not one of ``tickers``.
        """
        require_known(self.name, symbols, self.tickers)
        refused = 0
        waiting = list(reversed(symbols))
        for fetched in self._each(waiting, partial(self._fetch_one, client=self._client, start=start, end=end)):
            yield fetched
            refused = refused + 1 if fetched.outcome is Outcome.RATE_LIMITED else 0
            if refused >= self.concurrency and waiting:
                logger.warning("yahoo refused %d symbols in a row; %d are not asked for", refused, len(waiting))
                while waiting:
                    detail = f"not asked for: Yahoo refused {refused} symbols before it in a row"
                    yield _without_bars(waiting.pop(), Outcome.RATE_LIMITED, detail)

    def bars(self, symbols: Sequence[str], start: datetime, end: datetime) -> pd.DataFrame:
        """Bars of the symbols that could be read; the others are logged, and told apart by ``fetch``.

        Raises
        ------
        SourceUnavailableError
            Where no symbol could be read.
        """
        return self._readable(symbols, start, end)[0]

    def corporate_actions(self, symbols: Sequence[str], start: datetime, end: datetime) -> pd.DataFrame:
        """Fetch splits and dividends with an ex-date in the range; raises as ``bars`` does."""
        return self._readable(symbols, start, end)[1]

    def quotes(self, symbols: Sequence[str], start: datetime, end: datetime) -> pd.DataFrame:
        """Quotes of this instant, many symbols a request; no row where it does not lie in the range.

        Sizes are as Yahoo gives them: of US stocks in round lots.

        Raises
        ------
        SourceUnavailableError
            Where no request was answered.
        """
        require_known(self.name, symbols, self.tickers)
        rows = [empty(QUOTES)]
        if start <= self.now() < end:
            chunks = [tuple(symbols[i : i + SYMBOLS_A_REQUEST]) for i in range(0, len(symbols), SYMBOLS_A_REQUEST)]
            rows += self._snapshots(chunks, self._quotes_of)
        return within(pd.concat(rows, ignore_index=True), start, end)

    def option_chain(self, symbols: Sequence[str], start: datetime, end: datetime) -> pd.DataFrame:
        """Chains of this instant, all expiries; no row where it does not lie in the range.

        All expiries of an underlying are labelled by the instant at which the last one came: by then the chain was
        known. Yahoo has no sizes.

        Raises
        ------
        SourceUnavailableError
            Where no chain could be read.
        """
        require_known(self.name, symbols, self.tickers)
        rows = [empty(OPTION_CHAIN)]
        if start <= self.now() < end:
            rows += self._snapshots([(symbol,) for symbol in symbols], self._chain_of)
        return within(pd.concat(rows, ignore_index=True), start, end)

    @cached_property
    def _client(self) -> YahooClient:
        budget = RateBudget(self.requests_per_second, self.sleep)
        return YahooClient(budget, self.timeout, self.endpoint, self.session)

    def _each(self, waiting: list[_T], ask: Callable[[_T, _Retry], _Answer]) -> Iterator[_Answer]:
        """Do ``ask`` for all that wait, last one first, a few at once and never further ahead than is used."""
        stopped = threading.Event()
        retry: _Retry = partial(retrying, attempts=self.attempts, sleep=self.sleep, stopped=stopped)
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="yahoo")
        try:
            under_way: set[Future[_Answer]] = set()
            while waiting or under_way:
                while waiting and len(under_way) < self.concurrency:
                    under_way.add(pool.submit(ask, waiting.pop(), retry))
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _snapshots(self, wanted: list[tuple[str, ...]], ask: Callable[..., pd.DataFrame]) -> list[pd.DataFrame]:
        from yfinance.exceptions import YFException

        def try_one(symbols: tuple[str, ...], retry: _Retry) -> pd.DataFrame | str:
            try:
                return ask(self._client, symbols, retry)
            except (RefusedRequestError, YFException, OSError, *_UNREADABLE) as error:
                return f"{', '.join(symbols)}: {_named(error)}"

        answers = list(self._each(wanted[::-1], try_one))
        lost = [answer for answer in answers if isinstance(answer, str)]
        if lost and len(lost) == len(answers):
            raise SourceUnavailableError(f"yahoo gave nothing: {'; '.join(lost)}. Wait where rate-limited")
        if lost:
            logger.warning("yahoo gave nothing of %s", "; ".join(lost))
        return [answer for answer in answers if not isinstance(answer, str)]

    def _quotes_of(self, client: YahooClient, symbols: tuple[str, ...], retry: _Retry) -> pd.DataFrame:
        rows = quote_rows(retry(partial(client.quotes, list(symbols))), self.now())
        unknown = sorted(set(symbols) - set(rows["symbol"]))
        if unknown:
            logger.warning("yahoo has no quotes of %s", unknown)
        return rows

    def _chain_of(self, client: YahooClient, symbols: tuple[str, ...], retry: _Retry) -> pd.DataFrame:
        (underlying,) = symbols
        ticker = client.ticker(underlying)
        # The first answer names all expiries and holds the nearest.
        answers = [retry(ticker.option_chain)]
        if answers[0].calls is None:
            logger.warning("yahoo has no options on %s", underlying)
            return empty(OPTION_CHAIN)
        answers += [retry(partial(ticker.option_chain, expiry)) for expiry in ticker.options[1:]]
        return chain_rows(underlying, answers, self.now(), self.calendar)

    def _fetch_one(self, symbol: str, retry: _Retry, client: YahooClient, start: datetime, end: datetime) -> Fetched:
        from yfinance.exceptions import YFException, YFPricesMissingError, YFRateLimitError

        now = self.now()
        delay = timedelta(minutes=self.delay_minutes if parse_interval(self.interval).intraday else 0)
        cut = max(start, min(end, now - delay))
        requests, lost = requests_for(self.interval, start, now)
        if cut <= start or (lost and requests[0][0] >= cut):
            return _without_bars(symbol, Outcome.EMPTY, lost)
        ask = partial(client.chart, symbol, self.interval)
        try:
            charts = []
            for first, last in requests:
                try:
                    charts.append(retry(partial(ask, first, last)))
                except YFPricesMissingError as error:
                    lost = lost or str(error)
                except RefusedRequestError as error:
                    if not _says_no_data(error):
                        raise
                    lost = lost or error.description
            if not charts:
                return _without_bars(symbol, Outcome.EMPTY, lost)
            chart = joined(charts)
            bars, actions = as_traded(symbol, chart, self.interval, self.calendar)
        except YFRateLimitError as error:
            return _without_bars(symbol, Outcome.RATE_LIMITED, f"after {self.attempts} attempts: {error}")
        except RefusedRequestError as error:
            outcome = Outcome.UNKNOWN if error.status == 404 else Outcome.FAILED
            return _without_bars(symbol, outcome, str(error))
        except (YFException, OSError, json.JSONDecodeError) as error:
            return _without_bars(symbol, Outcome.FAILED, f"after {self.attempts} attempts: {_named(error)}")
        except _UNREADABLE as error:
            return _without_bars(
                symbol, Outcome.FAILED, f"Yahoo's answer has another shape than known: {_named(error)}"
            )
        bars, actions = within(bars, start, cut), within(actions, start, cut)
        if len(chart.capital_gains):
            lost = "; ".join(
                filter(None, (lost, f"{len(chart.capital_gains)} distributions of capital gains left out"))
            )
        outcome = Outcome.OK if len(bars) or len(actions) else Outcome.EMPTY
        return Fetched(symbol, outcome, bars, actions, lost)

    def _readable(self, symbols: Sequence[str], start: datetime, end: datetime) -> tuple[pd.DataFrame, pd.DataFrame]:
        answers = list(self.fetch(symbols, start, end))
        lost = {one.symbol: f"{one.outcome} ({one.detail})" for one in answers if one.outcome is not Outcome.OK}
        if answers and all(one.outcome not in (Outcome.OK, Outcome.EMPTY) for one in answers):
            raise SourceUnavailableError(
                f"yahoo gave nothing: {lost}. Wait where rate-limited, else check symbols and network"
            )
        if lost:
            logger.warning("yahoo gave no bars of %s", lost)
        return (
            pd.concat([empty(BARS), *(one.bars for one in answers)], ignore_index=True),
            pd.concat([empty(CORPORATE_ACTIONS), *(one.actions for one in answers)], ignore_index=True),
        )


def _says_no_data(error: RefusedRequestError) -> bool:
    """Whether Yahoo knows the symbol and has nothing in the range."""
    return "Data doesn't exist" in error.description or "data not available" in error.description


def _without_bars(symbol: str, outcome: Outcome, detail: str) -> Fetched:
    return Fetched(symbol, outcome, empty(BARS), empty(CORPORATE_ACTIONS), detail)


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _instant(moment: datetime | date | str) -> datetime:
    """Read an option as YAML gives it: an instant, a day, or text that says one."""
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
