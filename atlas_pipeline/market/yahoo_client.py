"""How Yahoo is asked: the real ``yfinance`` over one session that is paced, bounded in time and never cached.

Which symbols, which ranges and what the answers mean is not known here.
"""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pandas as pd

from atlas_pipeline.market.rate_budget import RateBudget

_DATA_PATHS = ("/v7/", "/v8/")
_T = TypeVar("_T")


class RefusedRequestError(Exception):
    """Yahoo understood the request and answers it with an error of its own.

    Attributes
    ----------
    status
        The HTTP status.
    code, description
        What Yahoo says, ``Not Found`` and ``No data found, symbol may be delisted`` for instance.
    """

    def __init__(self, status: int, code: str, description: str) -> None:
        self.status, self.code, self.description = status, code, description
        super().__init__(f"HTTP {status} {code}: {description}")

    def __reduce__(self) -> tuple[type, tuple[int, str, str]]:
        return type(self), (self.status, self.code, self.description)


class VendorDownError(OSError):
    """Yahoo answers with a status of 500 and above: as with a network that is down, a later try may work."""


@dataclass(frozen=True)
class Chart:
    """Yahoo's answer about one symbol.

    Attributes
    ----------
    rows
        ``Open``, ``High``, ``Low``, ``Close``, ``Volume`` by the start of each bar, in the exchange's time zone.
    splits, dividends, capital_gains
        By the instant of the ex-date; dividends and gains a share of today.
    """

    rows: pd.DataFrame
    splits: pd.Series
    dividends: pd.Series
    capital_gains: pd.Series


class YahooClient:
    """One connection to Yahoo that many threads may use.

    ``yfinance`` keeps one process-wide store of session, cookie and crumb, which any other user of it replaces. This
    client has its own, as ``yfinance`` makes it, with three differences: every request, the ones for cookies
    included, goes through ``budget``; answers about the past are not cached, since a long-lived process would
    never see them restated; and no cookies are kept in the user's cache folder, where processes lock one another
    out.

    Parameters
    ----------
    budget
        Shared by all requests.
    timeout
        Seconds a request may take.
    endpoint
        Scheme, host and port (and path, if need be) to ask in Yahoo's place; None asks Yahoo.
    session
        A ``curl_cffi`` session, which belongs to this client from here on; by default one that looks like a browser's.
    """

    def __init__(self, budget: RateBudget, timeout: float, endpoint: str | None = None, session: Any = None) -> None:
        import yfinance.data

        # The client is written for an older pandas and warns at every call, of nothing that its user can change.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"yfinance\.")
        self._budget, self._timeout, self._endpoint = budget, timeout, endpoint
        self._session = _browser() if session is None else session
        self._send = self._session.request
        self._session.request = self._request
        # Around the metaclass that would hand out the process-wide instance.
        self._data = type.__call__(yfinance.data.YfData, session=self._session)
        # Kept in memory instead of a file: one cookie a client.
        self._data._load_cookie_curlCffi = lambda: False
        self._data._save_cookie_curlCffi = lambda: setattr(self._data, "_cookie", True)

    def _request(self, method: str, url: str, **options: Any) -> Any:
        """Send a request of ``yfinance``, paced, and raise what it would mistake for an answer."""
        if self._endpoint is not None:
            url, options["allow_redirects"] = self._redirected(url), False
        options["timeout"] = self._timeout
        self._budget.acquire()
        response = self._send(method, url, **options)
        status, path = response.status_code, urlsplit(url).path
        if status == 429:
            from yfinance.exceptions import YFRateLimitError

            self._budget.refused(_seconds(response.headers.get("Retry-After")))
            # At once: yfinance would first change its cookies and ask again.
            raise YFRateLimitError
        if status >= 500:
            raise VendorDownError(f"HTTP {status} from {urlsplit(url).netloc}{path}")
        self._budget.answered()
        # A crumb that is refused (401, 403) is renewed by yfinance.
        if status >= 400 and status not in (401, 403) and path.startswith(_DATA_PATHS):
            raise _refusal(response)
        return response

    def _redirected(self, url: str) -> str:
        asked, instead = urlsplit(url), urlsplit(self._endpoint or "")
        host = asked.hostname or ""
        if host != "yahoo.com" and not host.endswith(".yahoo.com"):
            raise RefusedRequestError(0, "Not Sent", f"{url} is not Yahoo's, and only {self._endpoint} may be asked")
        path = instead.path.rstrip("/") + (asked.path or "/")
        return asked._replace(scheme=instead.scheme, netloc=instead.netloc, path=path).geturl()

    def chart(self, symbol: str, interval: str, start: datetime, end: datetime) -> Chart:
        """Ask for the bars of a symbol that start in a range, and its splits and dividends in it."""
        import yfinance
        from yfinance.scrapers.history import PriceHistory

        # Errors are otherwise logged and turned into an empty frame, which reads as "no such bars".
        yfinance.config.debug.hide_exceptions = False
        answer = _ChartAnswer(self._data)
        # Not through ``Ticker``, which asks for the time zone first, with a request of its own or from a SQLite file
        # that processes share. The zone is used for dates without one only, and these have one.
        history = PriceHistory(answer, symbol, "UTC", session=self._session)
        rows = history.history(
            period=None,
            interval=interval,
            start=start,
            end=end,
            prepost=False,
            actions=True,
            auto_adjust=False,
            back_adjust=False,
            repair=False,
            keepna=True,
            rounding=False,
            timeout=self._timeout,
        )
        return Chart(
            rows,
            answer.events("splits", lambda split: split["numerator"] / split["denominator"]),
            answer.events("dividends", lambda dividend: dividend["amount"]),
            answer.events("capitalGains", lambda gain: gain["amount"]),
        )

    def quotes(self, symbols: list[str]) -> list[dict[str, Any]]:
        """Ask for the quotes of several symbols in one request; those that Yahoo does not know are left out."""
        answer = self._data.get_raw_json(
            "https://query1.finance.yahoo.com/v7/finance/quote",
            params={"symbols": ",".join(symbols), "formatted": "false", "lang": "en-US", "region": "US"},
            timeout=self._timeout,
        )
        return list(answer["quoteResponse"]["result"])

    def ticker(self, symbol: str) -> Any:
        """A ``yfinance.Ticker`` that asks through this client."""
        import yfinance

        ticker = yfinance.Ticker(symbol)
        ticker._data = self._data
        return ticker


class _ChartAnswer:
    """Stands between ``PriceHistory`` and its store, and takes the events of a chart aside.

    ``yfinance`` would file them under bars, where weeks and months lose their ex-dates; it gives up an answer in which
    one lies beyond the rows; and it spends more time on it than on the bars. Nothing is cached here, whatever the
    range: a process that lives long would never see the past restated.
    """

    def __init__(self, data: Any) -> None:
        self._data = data
        self._events: dict[str, Any] = {}
        self._zone = "UTC"

    def get(self, url: str, params: dict[str, Any], timeout: float) -> _ChartAnswer:
        self._response = self._data.get(url=url, params=params, timeout=timeout)
        return self

    cache_get = get

    @property
    def text(self) -> str:
        return str(self._response.text)

    def json(self) -> Any:
        answer = self._response.json()
        for result in answer["chart"]["result"] or []:
            self._events = result.pop("events", {})
            self._zone = result["meta"]["exchangeTimezoneName"]
        return answer

    def events(self, kind: str, value: Callable[[dict[str, Any]], float]) -> pd.Series:
        """Events of a kind by the instant of their ex-date."""
        found = self._events.get(kind, {}).values()
        index = pd.to_datetime([event["date"] for event in found], unit="s", utc=True).tz_convert(self._zone)
        return pd.Series([value(event) for event in found], index=index, dtype="float64")


def retrying(ask: Callable[[], _T], attempts: int, sleep: Callable[[float], None], stopped: threading.Event) -> _T:
    """Ask until there is an answer, with exponential backoff and jitter where another try may help.

    It may on rate limits, statuses of 500 and above, timeouts, network errors (``curl_cffi``'s are OSErrors) and
    truncated answers; not once ``stopped`` is set.

    Raises
    ------
    Exception
        That of the last attempt.
    """
    from tenacity import (
        Retrying,
        retry_if_exception_type,
        stop_after_attempt,
        stop_when_event_set,
        wait_exponential_jitter,
    )
    from yfinance.exceptions import YFDataException, YFRateLimitError

    transient = (YFRateLimitError, YFDataException, OSError, json.JSONDecodeError)
    return Retrying(
        retry=retry_if_exception_type(transient),
        stop=stop_after_attempt(attempts) | stop_when_event_set(stopped),
        wait=wait_exponential_jitter(initial=1, max=60),
        sleep=sleep,
        reraise=True,
    )(ask)


def joined(charts: list[Chart]) -> Chart:
    """One chart of several requests in the order of their ranges; where rows overlap, the later answer counts."""
    if len(charts) == 1:
        return charts[0]

    def once(parts: list[Any]) -> Any:
        whole = pd.concat([part for part in parts if len(part)] or parts[:1])
        return whole[~whole.index.duplicated(keep="last")].sort_index()

    return replace(
        charts[0],
        **{name: once([getattr(chart, name) for chart in charts]) for name in Chart.__dataclass_fields__},
    )


def _browser() -> Any:
    from curl_cffi.requests import Session

    return Session(impersonate="chrome")


def _seconds(retry_after: str | None) -> float | None:
    # The header may be a date as well, which Yahoo does not send.
    return float(retry_after) if retry_after and retry_after.strip().isdigit() else None


def _refusal(response: Any) -> RefusedRequestError:
    try:
        (answer,) = response.json().values()
        error = answer["error"]
        return RefusedRequestError(response.status_code, str(error["code"]), str(error["description"]))
    except (ValueError, AttributeError, LookupError, TypeError):
        return RefusedRequestError(response.status_code, "without Yahoo's explanation", response.text[:200])
