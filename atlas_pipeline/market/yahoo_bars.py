"""From Yahoo's charts to bars as traded: which requests a range takes, when bars are complete, what splits undo.

Yahoo labels a bar by its start and publishes all prices divided by every split up to the request. Here bars get the
instant at which they are complete, and prices, volumes and dividends become those of their day again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from atlas_pipeline.market.calendars import session_closes, sessions
from atlas_pipeline.market.quarantine import month_of
from atlas_pipeline.market.yahoo_client import Chart

MINUTES = {"1m": 1, "2m": 2, "5m": 5, "15m": 15, "30m": 30, "60m": 60, "90m": 90, "1h": 60}
"""Lengths of the bars within a session."""

PERIODS = {"1wk": pd.DateOffset(weeks=1), "1mo": pd.DateOffset(months=1), "3mo": pd.DateOffset(months=3)}
"""Lengths of the bars of several sessions."""

INTERVALS = (*MINUTES, "1d", *PERIODS)

LOOKBACK = {
    **{interval: timedelta(days=60) for interval in MINUTES},
    "1m": timedelta(days=30),
    "60m": timedelta(days=730),
    "1h": timedelta(days=730),
}
"""How far back Yahoo keeps the bars of a session; the others go back to the first."""

# Yahoo gives at most eight days of minutes a request.
_LONGEST_REQUEST = {"1m": timedelta(days=7)}
_DAY = timedelta(days=1)
_PRICES = {"Open": "open", "High": "high", "Low": "low", "Close": "close"}


def requests_for(interval: str, start: datetime, now: datetime) -> tuple[list[tuple[datetime, datetime]], str]:
    """Plan the requests for all bars that become available from ``start`` on.

    They reach to now, not to the end that is wanted: the splits since are needed to undo Yahoo's adjustment. Their
    bounds are midnights of UTC, so that no bar is cut in two and the same question is the same request all day.

    Parameters
    ----------
    interval
        One of ``INTERVALS``.
    start
        First ``available_at`` that is wanted.
    now
        The time it is.

    Returns
    -------
    list of tuple
        Start and end of each request.
    str
        What Yahoo no longer has of the range; empty where nothing is lost.
    """
    # A day more at both ends: a session may open on the day before its UTC date, and a split that takes effect
    # today is undone from before the opening.
    until = _midnight(now) + 2 * _DAY
    first = _midnight(start) - _DAY
    lost = ""
    if interval in PERIODS:
        label = pd.Timestamp(first).tz_localize(None)
        weekly = interval == "1wk"
        first = (label - timedelta(days=label.weekday()) if weekly else label.to_period("Q").start_time).to_pydatetime()
        first = first.replace(tzinfo=UTC)
    if interval in LOOKBACK:
        # An hour to spare, in which requests may wait for their turn.
        earliest = _midnight(now - LOOKBACK[interval] + timedelta(hours=1)) + _DAY
        if start < earliest:
            days = LOOKBACK[interval].days
            lost = f"Yahoo keeps {interval} bars for {days} days: there are none before {earliest.isoformat()}"
        first = max(first, earliest)
    step = _LONGEST_REQUEST.get(interval, until - first)
    bounds = []
    while first < until:
        bounds.append((first, min(first + step, until)))
        first += step
    return bounds, lost


def _midnight(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def as_traded(symbol: str, chart: Chart, interval: str, calendar: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Bars and corporate actions as they were on their day, from Yahoo's split-adjusted answer.

    A row without any price is Yahoo's placeholder for a time in which nothing was traded, and no bar. A row
    outside the session stays, labelled by its start and length, for validation to judge. A bar of several
    sessions is given in the shares of its last one.

    Parameters
    ----------
    symbol
        The symbol of all rows.
    chart
        Yahoo's answer, with all splits from its first row up to now.
    interval
        One of ``INTERVALS``.
    calendar
        The exchange whose sessions the bars belong to.

    Returns
    -------
    tuple of pandas.DataFrame
        Rows of ``BARS``, incomplete ones included, and of ``CORPORATE_ACTIONS``.

    Notes
    -----
    ``yfinance`` turns a missing volume into 0, which cannot be told from a volume of 0.
    """
    prices = chart.rows[list(_PRICES)].to_numpy(dtype="float64")
    traded = ~np.isnan(prices).all(axis=1)
    prices = prices[traded]
    volume = chart.rows["Volume"].to_numpy(dtype="float64")[traded]
    index = pd.DatetimeIndex(chart.rows.index).as_unit("us")
    local = index.tz_localize(None).to_numpy()[traded].astype("datetime64[D]")
    splits, dividends = _by_day(chart.splits, np.multiply), _by_day(chart.dividends, np.add)
    known_days = np.concatenate([local, splits[0], dividends[0], [np.datetime64("now", "D")]])
    schedule = _schedule(calendar, known_days.min().astype("datetime64[Y]").astype(int) + 1970)
    day, available_at = _completed(index.asi8[traded], local, interval, schedule)
    later = _later_splits(day, splits)
    bars = pd.DataFrame(
        {
            "symbol": _repeated(symbol, len(day)),
            "interval": _repeated(interval, len(day)),
            "available_at": _instants(available_at),
            "session": day.astype("datetime64[us]"),
            **{name: prices[:, i] * later for i, name in enumerate(_PRICES.values())},
            # Shares are whole: what Yahoo rounded after multiplying comes back exactly.
            "volume": np.where(later == 1, volume, np.rint(volume / later)),
        }
    )
    bars["month"] = month_of(bars["available_at"])
    return bars, _actions(symbol, splits, dividends, schedule)


def _repeated(text: str, count: int) -> Any:
    return pd.array([text], dtype="str").repeat(count)


def _instants(microseconds: np.ndarray) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(microseconds.view("datetime64[us]")).tz_localize("UTC")


_Events = tuple[np.ndarray, np.ndarray]
"""Days (``datetime64[D]``), rising and each once, and the values of the events on them."""


def _later_splits(day: np.ndarray, splits: _Events) -> np.ndarray:
    """Shares of today for one share of each day: a bar of the ex-date is in new shares already."""
    days, ratios = splits
    products = np.append(np.cumprod(ratios[::-1])[::-1], 1.0)
    return products[np.searchsorted(days, day, side="right")]


def _by_day(events: pd.Series, together: np.ufunc) -> _Events:
    """Events by their local date; several of one day are made one."""
    days = pd.DatetimeIndex(events.index).tz_localize(None).to_numpy().astype("datetime64[D]")
    order = np.argsort(days, kind="stable")
    days, values = days[order], events.to_numpy()[order]
    first = np.flatnonzero(days[1:] != days[:-1]) + 1
    first = np.append(0, first) if len(days) else first
    return days[first], together.reduceat(values, first) if len(days) else values


def _actions(symbol: str, splits: _Events, dividends: _Events, schedule: _Schedule) -> pd.DataFrame:
    paid_on, paid = dividends
    later = _later_splits(paid_on, splits)
    # Yahoo divides a dividend by the splits since and rounds to six decimals: no more of it can be had back, and the
    # rest would change with every split to come.
    scale = 10.0 ** (6 - np.ceil(np.log10(later)).clip(0))
    cash = np.where(later == 1, paid, np.rint(paid * later * scale) / scale)
    day = np.concatenate([paid_on, splits[0]])
    at, known = schedule.find(day)
    actions = pd.DataFrame(
        {
            "symbol": _repeated(symbol, len(day)),
            "available_at": _instants(np.where(known, schedule.opens[at], schedule.closes_of(day))),
            "session": day.astype("datetime64[us]"),
            "kind": pd.array(["dividend"] * len(paid_on) + ["split"] * len(splits[0]), dtype="str"),
            "value": np.concatenate([cash, splits[1]]),
        }
    )
    actions["month"] = month_of(actions["available_at"])
    return actions


@dataclass(frozen=True)
class _Schedule:
    """Sessions of an exchange: days (``datetime64[D]``), openings and closes (microseconds since 1970)."""

    calendar: str
    days: np.ndarray
    opens: np.ndarray
    closes: np.ndarray

    def find(self, day: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where each day stands, and whether it is a session at all."""
        at = np.searchsorted(self.days, day).clip(max=len(self.days) - 1)
        return at, self.days[at] == day

    def closes_of(self, day: np.ndarray) -> np.ndarray:
        """When daily bars of these days are complete, sessions or not (microseconds since 1970)."""
        at, known = self.find(day)
        instants = self.closes[at]
        if not known.all():
            others = session_closes(pd.Series(day[~known].astype("datetime64[us]")), self.calendar)
            instants[~known] = pd.DatetimeIndex(others).asi8
        return instants


@lru_cache(maxsize=64)
def _schedule(calendar: str, first_year: int) -> _Schedule:
    """All sessions from a year on; not from the first, since some exchanges are known for recent years only."""
    table = sessions(datetime(first_year, 1, 1), datetime.now(UTC) + timedelta(days=366), calendar)
    opens, closes = (pd.DatetimeIndex(table[name]).asi8 for name in ("opens_at", "available_at"))
    return _Schedule(calendar, table["session"].to_numpy().astype("datetime64[D]"), opens, closes)


def _completed(
    starts: np.ndarray, local: np.ndarray, interval: str, schedule: _Schedule
) -> tuple[np.ndarray, np.ndarray]:
    """Session (``datetime64[D]``) and completion (microseconds) of bars by their start and its local day."""
    days, opens, closes = schedule.days, schedule.opens, schedule.closes
    if interval in MINUTES:
        end = starts + MINUTES[interval] * 60_000_000
        at = (np.searchsorted(opens, starts, side="right") - 1).clip(min=0)
        inside = (starts >= opens[at]) & (starts < closes[at])
        return np.where(inside, days[at], local), np.where(inside, np.minimum(end, closes[at]), end)
    if interval in PERIODS:
        # Up to the next row where that comes first: after a listing in mid-week, rows go on from Monday.
        ends = (pd.DatetimeIndex(local.astype("datetime64[s]")) + PERIODS[interval]).to_numpy().astype("datetime64[D]")
        ends = np.minimum(ends, np.append(local[1:], np.datetime64("9999-01-01")))[: len(ends)]
        last = days[(np.searchsorted(days, ends) - 1).clip(min=0)]
        local = np.where(last >= local, last, local)
    return local, schedule.closes_of(local)
