"""Coarser bars from finer ones: hours from minutes, days from hours, weeks, months and years from days.

A coarser bar is given only when it is complete: in time, because the exchange's calendar says that its last finer bar
has closed by now, and in content, because every finer bar of the grid is there. What is left out is said with the
reason.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import pandas as pd

from atlas_pipeline.market.bars import BARS, empty
from atlas_pipeline.market.calendars import XNYS, bar_grid, microsecond, microseconds, period_of, sessions_around
from atlas_pipeline.market.intervals import Interval, parse_interval
from atlas_pipeline.market.quarantine import month_of
from atlas_pipeline.market.series import BarSeries, Booleans, Floats, Integers, in_series
from atlas_pipeline.market.table import PANDAS_DTYPE

RESAMPLED_BARS = replace(
    BARS,
    name="resampled_bars",
    description="Complete coarser bars made of finer ones, in the units of their last session",
)

IN_PROGRESS = "its last finer bar has not closed yet"
INCOMPLETE = "finer bars are missing"

_LEFT_OUT = {
    "symbol": "str",
    "interval": "str",
    "available_at": "datetime64[us, UTC]",
    "session": "datetime64[us]",
    "bars": "int64",
    "expected": "int64",
    "reason": "str",
}
_DAY = 86_400_000_000


@dataclass(frozen=True)
class Resampled:
    """The outcome of ``resample``.

    Attributes
    ----------
    bars
        Rows of ``RESAMPLED_BARS``, sorted by its key.
    left_out
        Coarser bars that are not complete though some finer bar of theirs is there: ``symbol``, ``interval``,
        ``available_at``, ``session``, ``bars`` and ``expected`` (int64, the finer bars that are there and that there
        should be) and ``reason``, ``IN_PROGRESS`` or ``INCOMPLETE``.
    """

    bars: pd.DataFrame
    left_out: pd.DataFrame


@dataclass(frozen=True)
class _Target:
    """The coarser bars that there are by the calendar: instants, sessions, and how many finer bars make each."""

    label: Integers
    session: Integers
    expected: Integers


def resample(
    bars: pd.DataFrame,
    interval: str,
    *,
    now: datetime,
    calendar: str = XNYS,
    actions: pd.DataFrame | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
) -> Resampled:
    """Make the bars of a coarser interval.

    Which finer bars make a coarser one depends on the exchange's calendar alone (``calendars.bar_grid``), so that more
    history or more future never moves a bar's bounds. Open is the first, high the highest, low the lowest, close the
    last, volume the sum, null where one is null; the label is that of the last finer bar.

    Prices before and after a split are not of the same unit: inside a coarser bar, prices before an ex-date are divided
    by the split and volumes multiplied, by the splits up to the bar's own session and no later ones. A dividend changes
    no unit and adjusts nothing.

    Parameters
    ----------
    bars
        Validated rows of ``BARS`` of one interval, in any order.
    interval
        A multiple of the bars' interval: minutes and hours of a session, weeks from a Monday, months and years from
        January, sessions from the calendar's origin. Whatever is longer than a session can be made of what is shorter,
        and of single sessions.
    now
        What has closed by this instant is complete in time. With a time zone.
    calendar
        The bars' exchange, ISO 10383.
    actions
        Rows of ``CORPORATE_ACTIONS``.
    start, end
        Only coarser bars with ``start <= available_at < end`` are given, or said to be left out; with a time zone. The
        finer bars must reach back to ``reads_from(start, interval, calendar)``.

    Raises
    ------
    ValueError
        Where the bars are of several intervals, lie beside the grid or come twice, the interval is no multiple of
        theirs, or an instant has no time zone.
    """
    limits = [_instant(name, value) for name, value in (("now", now), ("start", start), ("end", end))]
    names = sorted(bars["interval"].unique())
    if len(names) > 1:
        raise ValueError(f"bars of the intervals {', '.join(names)}: resample those of one interval at a time")
    coarser = parse_interval(interval)
    if not names:
        return Resampled(empty(RESAMPLED_BARS), pd.DataFrame(columns=list(_LEFT_OUT)).astype(_LEFT_OUT))
    series = in_series(bars, bars.iloc[:0])
    target = _target(series, parse_interval(names[0]), coarser, calendar)

    bucket = np.searchsorted(target.label, series.instant)
    begins = series.first.copy()
    begins[1:] |= bucket[1:] != bucket[:-1]
    starts = np.flatnonzero(begins)
    bucket, found = bucket[starts], np.diff(np.append(starts, len(begins)))
    label = target.label[bucket]
    wanted = (label >= limits[1]) if start is not None else np.ones(len(starts), dtype=bool)
    if end is not None:
        wanted &= label < limits[2]
    closed = label <= limits[0]
    whole = closed & (found == target.expected[bucket])

    made = _named(series, starts, target, bucket, interval, wanted & whole)
    values = _aggregated(series, starts, _split_factors(series, begins, actions))
    made = made.assign(**{name: column[wanted & whole] for name, column in values.items()})
    made["month"] = month_of(made["available_at"])
    aside = _named(series, starts, target, bucket, interval, wanted & ~whole)
    aside["bars"], aside["expected"] = found[wanted & ~whole], target.expected[bucket[wanted & ~whole]]
    aside["reason"] = np.where(closed[wanted & ~whole], INCOMPLETE, IN_PROGRESS)
    types = {column.name: PANDAS_DTYPE[column.dtype] for column in RESAMPLED_BARS.columns}
    return Resampled(made[list(types)].astype(types), aside[list(_LEFT_OUT)].astype(_LEFT_OUT))


def reads_from(start: datetime, interval: str, calendar: str = XNYS) -> datetime:
    """Say how far back finer bars must be read to make the coarser bars complete from an instant on.

    Parameters
    ----------
    start
        First instant of the coarser bars' ``available_at``, such as that of a month; with a time zone.
    interval
        Of the coarser bars.
    calendar
        Their exchange.

    Returns
    -------
    datetime
        The opening of the first session of the coarser bar that is complete at ``start`` or first after it (UTC).
    """
    _instant("start", start)
    kind = parse_interval(interval)
    known = sessions_around(start, start, interval, calendar)
    first = int((known["available_at"] >= start).to_numpy().argmax())
    if not kind.intraday:
        period = period_of(known, kind)
        first = int((period == period[first]).argmax())
    opening: datetime = known["opens_at"].iloc[first].to_pydatetime()
    return opening


def _instant(name: str, instant: datetime | None) -> int:
    if instant is None:
        return 0
    if instant.tzinfo is None:
        raise ValueError(f"{name}={instant!r} has no time zone; pass an aware datetime, UTC for instance")
    return microsecond(instant)


def _target(series: BarSeries, finer: Interval, coarser: Interval, calendar: str) -> _Target:
    if finer == coarser or not finer.divides(coarser):
        raise ValueError(
            f"{coarser} bars are not made of several whole {finer} bars: choose a multiple of {finer}, or resample "
            "from bars that are fine enough"
        )
    first, last = (pd.Timestamp(int(day), unit="D") for day in (series.session.min(), series.session.max()))
    known = sessions_around(first, last, str(coarser), calendar)
    ends = microseconds(bar_grid(known, str(finer))["available_at"])
    _require_on_grid(series, ends, finer)
    grid = bar_grid(known, str(coarser))
    # Where the calendar does not know when the last coarser bar ends, that is never.
    label = np.append(microseconds(grid["available_at"]), np.iinfo("int64").max)
    session = np.append(microseconds(grid["session"]), np.iinfo("int64").min)
    return _Target(label, session, np.bincount(np.searchsorted(label, ends), minlength=len(label)))


def _require_on_grid(series: BarSeries, ends: Integers, interval: Interval) -> None:
    at = np.minimum(np.searchsorted(ends, series.instant), len(ends) - 1)
    twice = np.zeros(len(at), dtype=bool)
    twice[1:] = (series.instant[1:] == series.instant[:-1]) & ~series.first[1:]
    for wrong, what in ((ends[at] != series.instant, f"is no end of a {interval} bar"), (twice, "stands twice")):
        if wrong.any():
            row = int(wrong.argmax())
            instant = pd.Timestamp(int(series.instant[row]), unit="us", tz="UTC")
            raise ValueError(
                f"{wrong.sum()} bars, the first {series.symbols[series.symbol[row]]} at {instant}: {what}; pass bars "
                "that validate_bars let in, and the calendar of their exchange"
            )


def _split_factors(series: BarSeries, begins: Booleans, actions: pd.DataFrame | None) -> Floats:
    """Shares that one share of each bar has become by the end of its coarser bar."""
    factor = np.ones(len(begins))
    if actions is None or actions.empty:
        return factor
    splits = actions[(actions["kind"] == "split") & (actions["value"] > 0)].sort_values("session", kind="stable")
    symbol = series.symbols.get_indexer(pd.Index(splits["symbol"]))
    keys = series.symbol * _DAY + series.session
    ex_date = np.searchsorted(keys, symbol * _DAY + microseconds(splits["session"]) // _DAY)
    inside = (symbol >= 0) & (ex_date < len(keys))
    inside[inside] = ~begins[ex_date[inside]]
    starts = np.flatnonzero(begins)
    for end, value in zip(ex_date[inside], splits["value"].to_numpy()[inside], strict=True):
        factor[starts[np.searchsorted(starts, end) - 1] : end] *= value
    return factor


def _aggregated(series: BarSeries, starts: Integers, factor: Floats) -> dict[str, Floats]:
    ends = np.append(starts[1:], len(factor)) - 1
    return {
        "open": series.open[starts] / factor[starts],
        "high": np.maximum.reduceat(series.high / factor, starts),
        "low": np.minimum.reduceat(series.low / factor, starts),
        "close": series.close[ends] / factor[ends],
        "volume": np.add.reduceat(series.volume * factor, starts),
    }


def _named(
    series: BarSeries, starts: Integers, target: _Target, bucket: Integers, interval: str, which: Booleans
) -> pd.DataFrame:
    label = np.where(target.session == np.iinfo("int64").min, np.iinfo("int64").min, target.label)[bucket[which]]
    return pd.DataFrame(
        {
            "symbol": series.symbols[series.symbol[starts[which]]],
            "interval": interval,
            "available_at": pd.DatetimeIndex(label.astype("datetime64[us]")).tz_localize("UTC"),
            "session": target.session[bucket[which]].astype("datetime64[us]"),
        }
    )
