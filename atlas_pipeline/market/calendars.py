"""When an exchange trades: its sessions, and when the bars of an interval are complete.

The instants come from ``exchange_calendars``, half days included; no rule about bars stands here.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from atlas_pipeline.market.intervals import Interval, parse_interval

XNYS = "XNYS"

LONGEST_CLOSURE = timedelta(days=14)
"""Twice the longest closure of the exchanges since 1945. Bars further apart have a hole between them."""

# Building an exchange's calendar costs a fifth of a second, however long it is: one spans all that is asked.
_FIRST_YEAR, _LAST_YEAR = 1950, 2049
_MINUTE = 60_000_000
# Days that a period of one unit fits into.
_DAYS = {"d": 2, "wk": 7, "mo": 31, "y": 366}
_INSTANT = "datetime64[us, UTC]"


@lru_cache(maxsize=16)
def _bounds(calendar: str) -> tuple[pd.Timestamp | None, pd.Timestamp | None]:
    import exchange_calendars

    kind = type(exchange_calendars.get_calendar(calendar))
    return kind.bound_min(), kind.bound_max()


@lru_cache(maxsize=16)
def _all_sessions(calendar: str, first_year: int, last_year: int) -> pd.DataFrame:
    """Sessions of these years, as far as the package knows the exchange."""
    import exchange_calendars

    earliest, latest = _bounds(calendar)
    start, end = pd.Timestamp(first_year, 1, 1), pd.Timestamp(last_year, 12, 31)
    known = exchange_calendars.get_calendar(
        calendar,
        start=start if earliest is None else max(start, earliest),
        end=end if latest is None else min(end, latest),
    )
    days = known.sessions.astype("datetime64[us]")
    instants = {"opens_at": known.opens, "available_at": known.closes}
    if known.break_starts.notna().any():
        instants |= {"break_starts_at": known.break_starts, "break_ends_at": known.break_ends}
    table = pd.DataFrame({"session": days})
    for name, at in instants.items():
        table[name] = at.astype(_INSTANT).array
    # The origin is a date and not the table's first row: a table with more years numbers its sessions alike.
    table["ordinal"] = np.arange(len(days)) - int(days.searchsorted(pd.Timestamp(1970, 1, 1)))
    return table


def microseconds(instants: pd.Series) -> NDArray[np.int64]:
    """Count the microseconds since 1970 (UTC) of instants or days; a missing one is the least integer."""
    return instants.to_numpy("datetime64[us]").astype("int64")


def microsecond(instant: datetime) -> int:
    """Count the microseconds since 1970 (UTC) of one instant with a time zone."""
    return (instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _day(instant: date | datetime | pd.Timestamp) -> pd.Timestamp:
    stamp = pd.Timestamp(instant)
    return (stamp.tz_convert("UTC").tz_localize(None) if stamp.tzinfo else stamp).normalize()


def sessions(start: date | datetime, end: date | datetime, calendar: str = XNYS) -> pd.DataFrame:
    """List the sessions of an exchange from the day of ``start`` to the day of ``end``, both included.

    Parameters
    ----------
    start, end
        Days, or instants whose UTC day counts.
    calendar
        ISO 10383 code known to ``exchange_calendars``.

    Returns
    -------
    pandas.DataFrame
        ``session`` (``datetime64[us]``), ``opens_at`` and ``available_at`` (``datetime64[us, UTC]``): the
        instants at which the session opens and closes; on exchanges that rest at noon ``break_starts_at`` and
        ``break_ends_at`` (null on days without); ``ordinal`` (int64), the session's number, counted from the
        exchange's first session in 1970 or, where it is known only later, its first. Sorted, one row a
        session; empty where no session lies between.

    Raises
    ------
    ValueError
        Where ``end`` lies before ``start``, or the exchange's holidays are not known over all of the range.
    """
    first, last = _day(start), _day(end)
    if last < first:
        raise ValueError(f"sessions end={last.date()} lies before start={first.date()}; swap them")
    earliest, latest = _bounds(calendar)
    if (earliest is not None and first < earliest) or (latest is not None and last > latest):
        raise ValueError(
            f"sessions of {calendar} from {first.date()} to {last.date()}: exchange_calendars knows its holidays "
            f"from {earliest.date() if earliest else 'ever'} to {latest.date() if latest else 'always'} only; "
            "ask for days in between, or bring the package up to date"
        )
    return _cut(first, last, calendar).copy(deep=False)


def sessions_around(start: date | datetime, end: date | datetime, interval: str, calendar: str = XNYS) -> pd.DataFrame:
    """List the sessions of ``sessions`` with at least one whole bar of an interval before them and one after.

    Where the package does not know so many, as many as it knows.

    Parameters
    ----------
    start, end, calendar
        As for ``sessions``.
    interval
        Such as ``5m``, ``1d`` or ``2wk``.
    """
    kind = parse_interval(interval)
    # A month more: no exchange has stayed closed for so long since 1914.
    margin = pd.Timedelta(days=31 + 2 * kind.count * _DAYS.get(kind.unit, 0))
    earliest, latest = _bounds(calendar)
    first, last = _day(start) - margin, _day(end) + margin
    return _cut(
        first if earliest is None else max(first, earliest), last if latest is None else min(last, latest), calendar
    ).copy(deep=False)


@lru_cache(maxsize=512)
def _cut(first: pd.Timestamp, last: pd.Timestamp, calendar: str) -> pd.DataFrame:
    known = _all_sessions(calendar, min(_FIRST_YEAR, first.year // 10 * 10), max(_LAST_YEAR, last.year // 10 * 10 + 9))
    days = known["session"].array
    begin, stop = int(days.searchsorted(first)), int(days.searchsorted(last, side="right"))
    return known.iloc[begin:stop].reset_index(drop=True)


@lru_cache(maxsize=16)
def time_zone(calendar: str = XNYS) -> str:
    """Name the time zone an exchange lives by, such as ``America/New_York``."""
    import exchange_calendars

    return str(exchange_calendars.get_calendar(calendar).tz)


def session_closes(days: pd.Series, calendar: str = XNYS) -> pd.Series:
    """Find the instant at which a daily bar of each day is complete.

    A day on which the exchange does not trade gets 16:00 in New York, so that the row stays and validation
    can say what is wrong with it.

    Parameters
    ----------
    days
        ``datetime64``, without time zone, none missing.
    calendar
        ISO 10383 code.

    Returns
    -------
    pandas.Series
        ``datetime64[us, UTC]`` with the same index.
    """
    wanted = days.dt.normalize().astype("datetime64[us]")
    usual = (wanted + timedelta(hours=16)).dt.tz_localize("America/New_York").dt.tz_convert("UTC")
    if wanted.empty:
        return usual.rename("available_at")
    known = sessions(wanted.min(), wanted.max(), calendar).set_index("session")["available_at"]
    return wanted.map(known).fillna(usual).astype(_INSTANT).rename("available_at")


def bar_grid(sessions: pd.DataFrame, interval: str) -> pd.DataFrame:
    """List the instants at which the bars of some sessions are complete.

    Intraday bars are counted from the opening; the last one ends at the close, however short it is (half days,
    an hour in a session of six and a half). A break at noon is cut out: the count begins anew after it.

    Bars of several sessions end at the close of their last one. Weeks, months and years are the calendar's, from
    Monday and from the first of January 1970; sessions are counted by their ``ordinal``. So a bar's bounds never
    depend on where the data begin; a holiday that ``exchange_calendars`` learns of later does move the bars of
    2d, 3d and so on that follow it.

    Parameters
    ----------
    sessions
        Rows of ``sessions``, without gaps. A week, month or year ends where the next row belongs to another
        one: the period of the last row has no bar, so reach beyond what you need.
    interval
        Such as ``5m``, ``1d`` or ``2wk``.

    Returns
    -------
    pandas.DataFrame
        ``session`` and ``available_at``, sorted.
    """
    kind = parse_interval(interval)
    if kind.intraday:
        return _intraday_grid(sessions, kind.minutes * _MINUTE)
    if kind == Interval(1, "d"):
        return sessions[["session", "available_at"]].reset_index(drop=True)
    return sessions.loc[_last_of_period(sessions, kind), ["session", "available_at"]].reset_index(drop=True)


def period_of(sessions: pd.DataFrame, interval: Interval) -> np.ndarray:
    """Number the period of several sessions that each session belongs to (int64, rising).

    Parameters
    ----------
    sessions
        Rows of ``sessions``.
    interval
        One counted in sessions, weeks, months or years.
    """
    days = sessions["session"].to_numpy()
    if interval.unit == "d":
        return sessions["ordinal"].to_numpy() // interval.count
    if interval.unit == "wk":
        # 1970-01-01 was a Thursday: three days later than the Monday from which weeks are counted.
        return (days.astype("datetime64[D]").astype("int64") + 3) // 7 // interval.count
    unit = "datetime64[M]" if interval.unit == "mo" else "datetime64[Y]"
    return days.astype(unit).astype("int64") // interval.count


def _last_of_period(sessions: pd.DataFrame, interval: Interval) -> np.ndarray:
    if interval.unit == "d":
        return (sessions["ordinal"].to_numpy() + 1) % interval.count == 0
    period = period_of(sessions, interval)
    return np.append(period[1:] != period[:-1], False)[: len(period)]


def _intraday_grid(sessions: pd.DataFrame, step: int) -> pd.DataFrame:
    starts, ends = microseconds(sessions["opens_at"]), microseconds(sessions["available_at"])
    session = np.arange(len(sessions))
    if "break_starts_at" in sessions.columns:
        rests = sessions["break_starts_at"].notna().to_numpy()
        afternoon = microseconds(sessions["break_ends_at"])[rests]
        morning = np.where(rests, microseconds(sessions["break_starts_at"]), ends)
        order = np.argsort(np.concatenate([starts, afternoon]), kind="stable")
        session = np.concatenate([session, session[rests]])[order]
        ends = np.concatenate([morning, ends[rests]])[order]
        starts = np.concatenate([starts, afternoon])[order]
    counts = -(-(ends - starts) // step)
    number = np.arange(1, counts.sum() + 1) - np.repeat(np.cumsum(counts) - counts, counts)
    instants = np.minimum(np.repeat(starts, counts) + number * step, np.repeat(ends, counts))
    return pd.DataFrame(
        {
            "session": sessions["session"].to_numpy()[np.repeat(session, counts)],
            "available_at": pd.DatetimeIndex(instants.astype("datetime64[us]")).tz_localize("UTC"),
        }
    )
