"""When an exchange trades: sessions with their opening and closing instants.

The instants come from ``exchange_calendars``, half days included; no rule about bars stands here.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from exchange_calendars import ExchangeCalendar

XNYS = "XNYS"


@lru_cache(maxsize=16)
def _calendar(name: str, first_year: int, last_year: int) -> ExchangeCalendar:
    import exchange_calendars

    # Without ``start`` the package covers twenty years only; ``end`` otherwise depends on the day of the
    # call.
    return exchange_calendars.get_calendar(name, start=f"{first_year}-01-01", end=f"{last_year}-12-31")


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
        instants at which the session opens and closes. Sorted, one row a session; empty where no session lies
        between.

    Raises
    ------
    ValueError
        Where ``end`` lies before ``start``.
    """
    first, last = _day(start), _day(end)
    if last < first:
        raise ValueError(f"sessions end={last.date()} lies before start={first.date()}; swap them")
    # A year more on both sides, since the package refuses dates beyond its own first and last session; whole
    # decades, so that asking month by month builds one calendar, not many.
    known = _calendar(calendar, (first.year - 1) // 10 * 10, (last.year + 1) // 10 * 10 + 9)
    days = known.sessions_in_range(first, last)
    return pd.DataFrame(
        {
            "session": days.astype("datetime64[us]"),
            "opens_at": known.opens.loc[days].astype("datetime64[us, UTC]").to_numpy(),
            "available_at": known.closes.loc[days].astype("datetime64[us, UTC]").to_numpy(),
        }
    ).astype({"opens_at": "datetime64[us, UTC]", "available_at": "datetime64[us, UTC]"})


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
    return wanted.map(known).fillna(usual).astype("datetime64[us, UTC]").rename("available_at")
