"""What each symbol should have in a month by its exchange's sessions, and what it has: rows of ``BAR_COVERAGE``.

Whether a bar is right is for ``validation`` to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime

import numpy as np
import pandas as pd

from atlas_pipeline.market.bars import BAR_COVERAGE
from atlas_pipeline.market.calendars import bar_grid, microsecond, microseconds
from atlas_pipeline.market.series import Booleans, Integers, in_series
from atlas_pipeline.market.table import PANDAS_DTYPE

Listing = tuple[date | None, date | None]

_DAY = 86_400_000_000


def bar_coverage(
    bars: pd.DataFrame,
    quarantined: pd.DataFrame,
    sessions: pd.DataFrame,
    *,
    symbols: Sequence[str],
    interval: str,
    months: Sequence[str],
    now: datetime,
    history: pd.DataFrame,
    listings: Mapping[str, Listing] | None = None,
) -> pd.DataFrame:
    """Count for each symbol and month what is there against what should be.

    A bar is expected when the grid of its session has it, the session lies in the symbol's listing, and it is complete
    by ``now``. It counts in the month of its ``available_at`` (UTC), a session in that of its close.

    Parameters
    ----------
    bars, quarantined
        Rows of ``BARS`` and ``QUARANTINED_BARS`` of these months; other symbols and intervals are passed over.
    sessions
        ``calendars.sessions`` over the months, of the exchange of these symbols, and for bars of weeks and longer one
        period further.
    symbols
        Those that should have bars.
    interval
        The bars' interval. Of bars longer than a session, the sessions counted are those they end with.
    months
        ``YYYY-MM``.
    now
        With a time zone; what is not complete by then is not missing.
    history
        Rows of ``BARS`` before the months, for the first bar's previous close: each symbol's last one is enough.
    listings
        First and last session of a symbol, both included, ``None`` where it is open; a symbol without an entry was
        always listed.

    Returns
    -------
    pandas.DataFrame
        Rows of ``BAR_COVERAGE``, sorted by key: none for a month in which a symbol was not listed and has no rows.

    Raises
    ------
    ValueError
        Where ``now`` has no time zone or ``sessions`` does not reach over the months.
    """
    if now.tzinfo is None:
        raise ValueError(f"now={now!r} has no time zone; pass an aware datetime")
    names = pd.Index(sorted(set(symbols)))
    wanted = np.unique(np.array(list(months), dtype="datetime64[M]")).astype("int64")
    _require_months(sessions, wanted)
    grid = bar_grid(sessions, interval)
    ends, day_of_bar = microseconds(grid["available_at"]), microseconds(grid["session"]) // _DAY
    complete = ends <= microsecond(now)
    # A session has passed with its last bar.
    passed = complete & np.append(day_of_bar[1:] != day_of_bar[:-1], True)[: len(grid)]
    days, day_month = day_of_bar[passed], _month(ends[passed])
    ends, day_of_bar = ends[complete], day_of_bar[complete]
    first, last = _listed(names, listings or {})

    own, before = (rows[rows["interval"] == interval] for rows in (bars, history))
    own, before = (rows[rows["symbol"].isin(names)] for rows in (own, before))
    expected = _in_both(_bounds(_month(ends), wanted), _listing_bounds(day_of_bar, first, last))
    due = _in_both(_bounds(day_month, wanted), _listing_bounds(days, first, last))
    missing, first_missing = _missing(own, names, days, (first, last), _bounds(day_month, wanted))
    there = _there(own, before, names, wanted)
    refused = quarantined[quarantined["interval"] == interval]
    shape = (len(names), len(wanted))
    columns = {
        "symbol": np.repeat(np.arange(shape[0]), shape[1]),
        "month": np.tile(np.arange(shape[1]), shape[0]),
        "sessions": due.ravel(),
        "expected": expected.ravel(),
        "quarantined": _count(names, wanted, refused["symbol"], _month(microseconds(refused["available_at"]))).ravel(),
        "missing_sessions": missing.ravel(),
        "first_missing": first_missing.ravel(),
        **{name: values.ravel() for name, values in there.items()},
    }
    return _rows(pd.DataFrame(columns), names, wanted, interval)


def _require_months(sessions: pd.DataFrame, months: Integers) -> None:
    known = _month(microseconds(sessions["available_at"]))
    absent = months[~np.isin(months, known)]
    if len(absent):
        raise ValueError(
            f"no sessions in {', '.join(absent.astype('datetime64[M]').astype(str))}: pass calendars.sessions over all "
            "of the months"
        )


def _month(instants: Integers) -> Integers:
    return instants.astype("datetime64[us]").astype("datetime64[M]").astype("int64")


def _listed(names: pd.Index, listings: Mapping[str, Listing]) -> tuple[Integers, Integers]:
    """First and last day of each symbol, in days since 1970."""
    ends = [listings.get(str(name), (None, None)) for name in names]
    ever = np.iinfo("int64")
    first = [ever.min if begin is None else int(np.datetime64(begin, "D").astype("int64")) for begin, _ in ends]
    last = [ever.max if end is None else int(np.datetime64(end, "D").astype("int64")) for _, end in ends]
    return np.array(first, dtype="int64"), np.array(last, dtype="int64")


Bounds = tuple[Integers, Integers]


def _bounds(month_of: Integers, months: Integers) -> Bounds:
    """Where each month begins and ends among instants in time order."""
    return np.searchsorted(month_of, months), np.searchsorted(month_of, months, side="right")


def _listing_bounds(days: Integers, first: Integers, last: Integers) -> Bounds:
    return np.searchsorted(days, first), np.searchsorted(days, last, side="right")


def _in_both(months: Bounds, listings: Bounds) -> Integers:
    """Count [symbols, months] what lies both in a month and in a listing."""
    begin = np.maximum(listings[0][:, None], months[0][None, :])
    return np.maximum(np.minimum(listings[1][:, None], months[1][None, :]) - begin, 0)


def _missing(
    bars: pd.DataFrame, names: pd.Index, days: Integers, listed: Bounds, months: Bounds
) -> tuple[Integers, np.ndarray]:
    """Sessions without a bar [symbols, months]: their number, and the first."""
    lacking = (days >= listed[0][:, None]) & (days <= listed[1][:, None])
    own = microseconds(bars["session"]) // _DAY
    at = np.minimum(np.searchsorted(days, own), len(days) - 1)
    if len(days):
        found = days[at] == own
        lacking[names.get_indexer(pd.Index(bars["symbol"]))[found], at[found]] = False
    before = np.zeros((len(names), len(days) + 1), dtype="int64")
    np.cumsum(lacking, axis=1, out=before[:, 1:])
    counts = before[:, months[1]] - before[:, months[0]]
    first = np.full(counts.shape, np.datetime64("NaT"), dtype="datetime64[D]")
    symbol, day = np.nonzero(lacking)
    month = np.searchsorted(months[1], day, side="right")
    inside = month < len(months[0])
    inside[inside] = day[inside] >= months[0][month[inside]]
    # Backwards, so that of several in a month the first is written last.
    first[symbol[inside][::-1], month[inside][::-1]] = days[day[inside][::-1]].astype("datetime64[D]")
    return counts, first


def _there(bars: pd.DataFrame, history: pd.DataFrame, names: pd.Index, months: Integers) -> dict[str, np.ndarray]:
    series = in_series(bars, history)
    own = series.row >= 0
    symbol = names.get_indexer(series.symbols)[series.symbol] if len(series.symbols) else series.symbol
    month = _month(series.instant)

    def count(condition: Booleans) -> Integers:
        return _tally(symbol[condition], month[condition], len(names), months)

    at = np.searchsorted(months, month)
    kept = own & (at < len(months))
    kept[kept] = months[at[kept]] == month[kept]
    close = np.full((len(names), len(months)), np.nan)
    instant = np.full((len(names), len(months)), np.datetime64("NaT"), dtype="datetime64[us]")
    # In time order: of several bars in a month the last stays.
    close[symbol[kept], at[kept]] = series.close[kept]
    instant[symbol[kept], at[kept]] = series.instant[kept].astype("datetime64[us]")
    return {
        "bars": count(own),
        "stale_opens": count(own & series.stale_open()),
        "opens_judged": count(own & series.new_session()),
        "last_close": close,
        "last_bar": instant,
    }


def _count(names: pd.Index, months: Integers, symbols: pd.Series, month: Integers) -> Integers:
    symbol = names.get_indexer(pd.Index(symbols))
    return _tally(symbol[symbol >= 0], month[symbol >= 0], len(names), months)


def _tally(symbol: Integers, month: Integers, symbols: int, months: Integers) -> Integers:
    at = np.minimum(np.searchsorted(months, month), len(months) - 1)
    inside = months[at] == month
    return np.bincount(symbol[inside] * len(months) + at[inside], minlength=symbols * len(months)).reshape(
        symbols, len(months)
    )


def _rows(table: pd.DataFrame, names: pd.Index, months: Integers, interval: str) -> pd.DataFrame:
    counted = table[["sessions", "expected", "bars", "quarantined"]].any(axis=1)
    table = table.loc[counted].reset_index(drop=True)
    table["symbol"] = names[table["symbol"]]
    table["month"] = months.astype("datetime64[M]").astype(str)[table["month"]]
    table["interval"] = pd.Series(interval, index=table.index, dtype="str")
    table["last_bar"] = table["last_bar"].dt.tz_localize("UTC")
    return table[list(BAR_COVERAGE.names)].astype({c.name: PANDAS_DTYPE[c.dtype] for c in BAR_COVERAGE.columns})
