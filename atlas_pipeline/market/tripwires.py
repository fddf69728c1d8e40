"""What is odd about bars that were let in: it may be right, so it is remarked upon and changes nothing.

A remark at an instant says only what was known then: a run is remarked upon at the bar at which it has become long
enough, a hole at the bar that ends it, and no later bar makes a remark or takes one back. Holes that last are counted
in ``coverage``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from atlas_pipeline.market.bars import BAR_TRIPWIRES, empty
from atlas_pipeline.market.calendars import bar_grid, microseconds
from atlas_pipeline.market.intervals import parse_interval
from atlas_pipeline.market.quarantine import ascending, sort_by_key
from atlas_pipeline.market.series import BarSeries, Booleans, Floats, actions_between, in_series
from atlas_pipeline.market.table import PANDAS_DTYPE

DECAY = 0.94
# What 250 bars leave out weighs 0.94**249 = 2e-7 in the variance of a jump; runs are far shorter.
HISTORY_BARS = 250
ZERO_VOLUME_BARS = 5
STALE_OPEN_SHARE = 0.25
STALE_OPENS_JUDGED = 10

_RETURNS = 20
# Twelve deviations of a tenth of a percent: however calm it was, a smaller move is no jump but a tick.
_LEAST_DEVIATION = 0.001
_DAY_MICROSECONDS = 86_400_000_000

Remarks = tuple[str, np.ndarray, Floats, list[str]]


def find_tripwires(
    bars: pd.DataFrame,
    history: pd.DataFrame,
    sessions: pd.DataFrame,
    actions: pd.DataFrame | None = None,
    jump_sigmas: float = 12.0,
) -> pd.DataFrame:
    """Remark upon validated bars.

    ==================  ===========================================================  =========================
    kind                the bar                                                      ``value``
    ==================  ===========================================================  =========================
    jump                moved beyond ``jump_sigmas`` and no split or dividend says   trailing deviations
                        why
    zero_volume         is the fifth in a row without volume                         5
    stale_repeat        repeats the open, high, low, close and volume of the bar     1
                        before, and these did move; the first of a run
    stale_open          is the first of the month by which more than a quarter of    share so far
                        at least ten sessions opened within a basis point of the
                        close before
    missing_sessions    ends a hole of whole sessions                                sessions without a bar
    ==================  ===========================================================  =========================

    The trailing deviation is that of RiskMetrics (Technical Document, 4th edition, 1996: exponentially weighted
    squares, decay 0.94), of the bars before. A return over a closed market is compared with the deviation of as many
    bars as a session has, over several days with that of as many sessions (the square root of time).

    Parameters
    ----------
    bars
        Rows of ``BARS``, accepted, sorted by key.
    history
        Bars before them: the last ``HISTORY_BARS`` of each symbol, and those of the month that the first bar is in.
    sessions
        ``calendars.sessions``; a hole is counted from the first of them on.
    actions
        Rows of ``CORPORATE_ACTIONS``.
    jump_sigmas
        Deviations beyond which a return is a jump.

    Returns
    -------
    pandas.DataFrame
        Rows of ``BAR_TRIPWIRES``, sorted by symbol, instant and kind.
    """
    if bars.empty:
        return empty(BAR_TRIPWIRES)
    series = in_series(bars, history)
    return _as_rows(
        bars,
        [
            _jumps(series, sessions, actions, jump_sigmas),
            _zero_volumes(series),
            _stale_repeats(series),
            _stale_opens(series),
            *_missing_sessions(series, sessions),
        ],
    )


def out_of_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Remark upon bars that a source gave after a later one of the same symbol and interval.

    Parameters
    ----------
    rows
        Rows of ``BARS`` in the order in which they came.

    Returns
    -------
    pandas.DataFrame
        Rows of ``BAR_TRIPWIRES``: one a symbol, interval and month, at the first such bar, ``value`` their number.
    """
    codes = [pd.factorize(rows["symbol"])[0], pd.factorize(rows["interval"])[0], microseconds(rows["available_at"])]
    if ascending(codes):
        return empty(BAR_TRIPWIRES)
    order = np.lexsort(codes[1::-1])
    symbol, interval, instant = (code[order] for code in codes)
    back = np.zeros(len(rows), dtype=bool)
    back[1:] = (symbol[1:] == symbol[:-1]) & (interval[1:] == interval[:-1]) & (instant[1:] < instant[:-1])
    late = rows.take(order[back]).sort_values("available_at", kind="stable")
    group = late.groupby(["symbol", "interval", "month"], sort=False)["symbol"]
    counts = group.transform("size")[group.cumcount() == 0]
    found = late.loc[counts.index].reset_index(drop=True)
    message = [f"{count} bars came after a later one; they were sorted" for count in counts]
    return _as_rows(found, [("out_of_order", np.arange(len(found)), counts.to_numpy("float64"), message)])


def _as_rows(bars: pd.DataFrame, remarks: list[Remarks]) -> pd.DataFrame:
    positions = np.concatenate([at for _, at, _, _ in remarks]).astype("int64")
    rows = bars[["symbol", "interval", "available_at", "session", "month"]].take(positions).reset_index(drop=True)
    rows["kind"] = [kind for kind, at, _, _ in remarks for _ in at]
    rows["value"] = np.concatenate([values for _, _, values, _ in remarks])
    rows["message"] = [message for *_, messages in remarks for message in messages]
    rows = rows[list(BAR_TRIPWIRES.names)].astype({c.name: PANDAS_DTYPE[c.dtype] for c in BAR_TRIPWIRES.columns})
    return sort_by_key(rows, ("symbol", "available_at", "kind"))


def _remarks(kind: str, series: BarSeries, odd: Booleans, values: Floats, messages: Iterator[str]) -> Remarks:
    return kind, series.row[odd], values, list(messages)


def _jumps(series: BarSeries, sessions: pd.DataFrame, actions: pd.DataFrame | None, sigmas: float) -> Remarks:
    before = actions_between(series, actions).level(series.before(series.close))
    returns = np.log(series.close / before)
    elapsed = _bars_elapsed(series, sessions)
    own = pd.Series(returns**2 / elapsed).groupby(series.codes(), sort=False)
    variance = own.ewm(alpha=1 - DECAY, min_periods=_RETURNS).mean().to_numpy()
    with np.errstate(invalid="ignore"):
        deviation = np.sqrt(np.maximum(series.before(variance), _LEAST_DEVIATION**2) * elapsed)
        odd = (series.row >= 0) & (np.abs(returns) > sigmas * deviation)
    sizes = np.abs(returns[odd]) / deviation[odd]
    return _remarks(
        "jump", series, odd, sizes,
        (
            f"a return of {100 * np.expm1(moved):+.1f}% is {size:.1f} trailing deviations: "
            "a corporate action that is not recorded, or news"
            for moved, size in zip(returns[odd], sizes, strict=True)
        ),
    )  # fmt: skip


def _bars_elapsed(series: BarSeries, sessions: pd.DataFrame) -> Floats:
    """Bars that fit into the time between a bar and the one before it: 1 within a session."""
    elapsed = np.ones(len(series.close))
    changed = np.flatnonzero(series.new_session())
    # Weekdays and not sessions: they are told without a calendar that reaches back over the history.
    weekdays = np.busday_count(
        series.session[changed - 1].astype("datetime64[D]"), series.session[changed].astype("datetime64[D]")
    )
    bars = np.array([_bars_per_session(name, sessions) for name in series.intervals])
    elapsed[changed] = np.maximum(weekdays, 1) * bars[series.interval[changed]]
    return elapsed


def _bars_per_session(interval: str, sessions: pd.DataFrame) -> float:
    kind = parse_interval(interval)
    if not kind.intraday:
        return 1.0
    lengths = microseconds(sessions["available_at"]) - microseconds(sessions["opens_at"])
    return max(1.0, float(np.ceil(np.median(lengths) / (60_000_000 * kind.minutes))))


def _zero_volumes(series: BarSeries) -> Remarks:
    odd = (series.row >= 0) & (series.run_lengths(series.volume == 0) == ZERO_VOLUME_BARS)
    count = int(odd.sum())
    message = f"{ZERO_VOLUME_BARS} bars in a row without volume"
    return _remarks("zero_volume", series, odd, np.full(count, float(ZERO_VOLUME_BARS)), iter([message] * count))


def _stale_repeats(series: BarSeries) -> Remarks:
    # A bar that did not move may well come twice.
    repeats = series.high > series.low
    for values in (series.open, series.high, series.low, series.close):
        repeats &= values == series.before(values)
    before = series.before(series.volume)
    repeats &= (series.volume == before) | (np.isnan(series.volume) & np.isnan(before))
    odd = (series.row >= 0) & (series.run_lengths(repeats) == 1)
    count = int(odd.sum())
    message = "open, high, low, close and volume are those of the bar before"
    return _remarks("stale_repeat", series, odd, np.ones(count), iter([message] * count))


def _stale_opens(series: BarSeries) -> Remarks:
    month = series.instant.astype("datetime64[us]").astype("datetime64[M]").astype("int64")
    begins = series.first.copy()
    begins[1:] |= month[1:] != month[:-1]
    group = np.cumsum(begins) - 1
    starts = np.flatnonzero(begins)

    def so_far(condition: Booleans) -> np.ndarray:
        total = np.cumsum(condition)
        return total - (total[starts] - condition[starts])[group]

    stale, judged = so_far(series.stale_open()), so_far(series.new_session())
    over = np.flatnonzero((judged >= STALE_OPENS_JUDGED) & (stale > STALE_OPEN_SHARE * judged))
    reached = over[np.unique(group[over], return_index=True)[1]]
    reached = reached[series.row[reached] >= 0]
    return "stale_open", series.row[reached], stale[reached] / judged[reached], [
        f"{stale[at]} of the month's first {judged[at]} sessions opened within a basis point of the close before: "
        "fill orders at the close"
        for at in reached
    ]  # fmt: skip


def _missing_sessions(series: BarSeries, sessions: pd.DataFrame) -> Iterator[Remarks]:
    changed = series.new_session() & (series.row >= 0)
    for number, interval in enumerate(series.intervals):
        # Bars of weeks stand on the last session of a week only.
        days = np.unique(microseconds(bar_grid(sessions, interval)["session"]) // _DAY_MICROSECONDS)
        own = np.flatnonzero(changed & (series.interval == number))
        first = np.searchsorted(days, series.session[own - 1], side="right")
        missing = np.searchsorted(days, series.session[own]) - first
        odd = missing > 0
        own, first, missing = own[odd], first[odd], missing[odd]
        names = days.astype("datetime64[D]")
        yield "missing_sessions", series.row[own], missing.astype("float64"), [
            f"{count} sessions without a bar, {names[begin]} to {names[begin + count - 1]}"
            for begin, count in zip(first, missing, strict=True)
        ]  # fmt: skip
