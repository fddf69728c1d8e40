"""Which bars are let in: structure, market rules, sessions. What is odd but no error stands in ``tripwires``.

Nothing is dropped or filled here: every row that comes in goes out, accepted or refused with its reason. No
rule looks at a later bar, so that a bar's acceptance, like everything else, never depends on the future: a
one-day spike that the next day takes back is therefore a remark (``jump``), not a refusal, unless it is
absurd by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from atlas_pipeline.market.bars import BARS, PRICES, empty
from atlas_pipeline.market.calendars import bar_grid, microseconds
from atlas_pipeline.market.intervals import Interval, parse_interval
from atlas_pipeline.market.quarantine import conform, duplicate_rules, reasons_of, sort_by_key, split
from atlas_pipeline.market.series import ActionsBetween, BarSeries, actions_between, in_series
from atlas_pipeline.market.tripwires import find_tripwires, out_of_order

_DAY = Interval(1, "d")


@dataclass(frozen=True)
class ValidatedBars:
    """The outcome of ``validate_bars``: ``len(bars) + len(quarantined)`` rows came in.

    Attributes
    ----------
    bars
        Rows of ``BARS``, sorted by its key.
    quarantined
        Rows of ``QUARANTINED_BARS``.
    tripwires
        Rows of ``BAR_TRIPWIRES``: what is odd about the bars let in, and about the order of all that came.
    """

    bars: pd.DataFrame
    quarantined: pd.DataFrame
    tripwires: pd.DataFrame


def validate_bars(
    frame: pd.DataFrame,
    sessions: pd.DataFrame,
    *,
    history: pd.DataFrame | None = None,
    actions: pd.DataFrame | None = None,
    jump_sigmas: float = 12.0,
    absurd_factor: float = 5.0,
) -> ValidatedBars:
    """Judge every bar by its structure, by the market's rules and by the exchange's sessions.

    Parameters
    ----------
    frame
        Bars as a source gave them: the columns of ``BARS`` (``month`` may be left out), any order.
    sessions
        ``calendars.sessions`` over the sessions of ``frame``; for bars of weeks, months or years at least one session
        further, since only the next one tells that a week is over. Missing sessions are counted from its first.
    history
        Validated bars before ``frame``, for the rules that need what came before; the last
        ``tripwires.HISTORY_BARS`` of each symbol are enough. None where there are none.
    actions
        Rows of ``CORPORATE_ACTIONS``; splits and dividends move the level that a price is compared with.
    jump_sigmas
        Tripwire: a return beyond this many trailing standard deviations is remarked upon. The bundled indices
        reach 8 in twenty years.
    absurd_factor
        A bar with a price more than this factor above or below the symbol's last accepted close is refused,
        unless it agrees with a refused bar just before it: no market moves so between two bars, misplaced
        decimal points and splits that nobody recorded do.

    Returns
    -------
    ValidatedBars

    Raises
    ------
    BrokenSchemaError
        Where a column is missing or of the wrong type, or a row lacks its key.
    ValueError
        Where ``sessions`` does not cover the bars, or an interval is none.
    """
    came = conform(frame, BARS)
    rows = sort_by_key(came, BARS.key)
    _require_cover(rows, sessions)
    before = empty(BARS) if history is None else history
    rules = [*_price_rules(rows), *_session_rules(rows, sessions)]
    good = ~np.logical_or.reduce([broken for _, broken in rules])
    repeats = duplicate_rules(rows, BARS.key, good)
    good &= ~np.logical_or.reduce([broken for _, broken in repeats])
    absurd = _absurd(rows, before, good, actions, absurd_factor)
    off_level = f"price is off the last accepted close by more than a factor of {absurd_factor:g}"
    reasons = reasons_of([*rules, *repeats, (off_level, absurd)], len(rows))
    accepted, quarantined = split(rows, reasons, BARS)
    tripwires = find_tripwires(accepted, before, sessions, actions, jump_sigmas)
    disorder = out_of_order(came)
    if len(disorder):
        tripwires = sort_by_key(pd.concat([tripwires, disorder], ignore_index=True), ("symbol", "available_at", "kind"))
    return ValidatedBars(accepted, quarantined, tripwires)


def _require_cover(rows: pd.DataFrame, sessions: pd.DataFrame) -> None:
    days = rows["session"].dropna()
    if days.empty:
        return
    first, last = sessions["session"].min(), sessions["session"].max()
    # A week: the longest run of days without a session at either end that a covering call can still leave.
    slack = pd.Timedelta(days=7)
    if sessions.empty or days.min() < first - slack or days.max() > last + slack:
        raise ValueError(
            f"sessions cover {first} to {last}, the bars {days.min()} to {days.max()}: "
            "pass calendars.sessions over the days of the bars"
        )


def _price_rules(rows: pd.DataFrame) -> list[tuple[str, np.ndarray]]:
    open_, high, low, close = (rows[name].to_numpy() for name in PRICES)
    volume = rows["volume"].to_numpy()
    # An extreme of four is NaN where one of them is: the rows that are plainly sound are told by two comparisons.
    top = np.maximum(np.maximum(open_, high), np.maximum(low, close))
    bottom = np.minimum(np.minimum(open_, high), np.minimum(low, close))
    missing = np.isnan(top)
    with np.errstate(invalid="ignore"):
        usable = ~missing & (bottom > 0) & (top < np.inf)
        unsound = np.flatnonzero(~usable)
        prices = np.stack([values[unsound] for values in (open_, high, low, close)])
        infinite, not_positive = np.zeros(len(rows), dtype=bool), np.zeros(len(rows), dtype=bool)
        infinite[unsound] = np.isinf(prices).any(axis=0)
        not_positive[unsound] = (prices <= 0).any(axis=0)
        return [
            ("a price is missing", missing),
            ("a price is infinite", infinite),
            ("a price is not positive", not_positive),
            ("high is below open, low or close", usable & (high < top)),
            ("low is above open, high or close", usable & (low > bottom)),
            ("volume is negative or infinite", (volume < 0) | np.isinf(volume)),
        ]


def _session_rules(rows: pd.DataFrame, sessions: pd.DataFrame) -> Iterator[tuple[str, np.ndarray]]:
    days = rows["session"].to_numpy("datetime64[us]").astype("int64")
    known = sessions["session"].to_numpy("datetime64[us]").astype("int64")
    at = np.minimum(np.searchsorted(known, days), max(0, len(known) - 1))
    traded = known[at] == days if len(known) else np.zeros(len(rows), dtype=bool)
    missing = rows["session"].isna().to_numpy()
    yield "session is missing", missing
    yield "the exchange does not trade on this session", ~missing & ~traded
    instants = microseconds(rows["available_at"])
    code, names = pd.factorize(rows["interval"])
    for number, name in enumerate(names):
        # The positions of one interval are taken out only where there are several: mostly there is one.
        own = traded if len(names) == 1 else traded & (code == number)
        yield from _label_rules(name, own, instants, days, at, sessions)
    yield (
        "labels of the session run from its opening to before its close: each is the start of its bar",
        _labelled_by_start(rows, instants, traded, at, sessions),
    )


def _labelled_by_start(
    rows: pd.DataFrame, instants: np.ndarray, traded: np.ndarray, at: np.ndarray, sessions: pd.DataFrame
) -> np.ndarray:
    """Intraday bars of a symbol's session that has the opening as its first label, and the close as none."""
    intraday = rows["interval"].map({name: parse_interval(name).intraday for name in rows["interval"].unique()})
    judged = traded & intraday.to_numpy(dtype=bool)
    if not judged.any():
        return judged
    opens, closes = microseconds(sessions["opens_at"])[at], microseconds(sessions["available_at"])[at]
    if not (judged & (instants == opens)).any():
        return np.zeros(len(rows), dtype=bool)
    group = rows.groupby(["symbol", "interval", "session"], sort=False, dropna=False).ngroup().to_numpy()
    earliest, latest = (np.full(group.max() + 1, end) for end in (np.iinfo("int64").max, np.iinfo("int64").min))
    np.minimum.at(earliest, group, instants)
    np.maximum.at(latest, group, instants)
    return judged & (earliest[group] == opens) & (latest[group] < closes)


def _label_rules(
    name: str, own: np.ndarray, instants: np.ndarray, days: np.ndarray, at: np.ndarray, sessions: pd.DataFrame
) -> Iterator[tuple[str, np.ndarray]]:
    """Rules about the instant and the session of bars of one interval on sessions that exist."""
    interval = parse_interval(name)
    if not own.any():
        return
    opens, closes = microseconds(sessions["opens_at"])[at], microseconds(sessions["available_at"])[at]
    if not interval.intraday:
        at_close = instants == closes
        yield "available_at is not the close of the session", own & ~at_close
        # Where a vendor begins to count sessions is its own affair; weeks, months and years are everybody's.
        if interval.unit != _DAY.unit:
            last = days[own].max()
            if not (microseconds(sessions["session"]) > last).any():
                raise ValueError(
                    f"sessions end with {sessions['session'].max()}, the last one of {name} bars: pass at least one "
                    "more, which tells whether the period was over"
                )
            over = np.isin(days, microseconds(bar_grid(sessions, name)["session"]))
            yield f"session is not the last of its {name}", own & at_close & ~over
        return
    inside = (instants > opens) & (instants <= closes)
    yield "available_at is the opening of the session: labelled by its start", own & (instants == opens)
    yield "available_at lies outside the session", own & ~inside & (instants != opens)
    grid = bar_grid(sessions, name)
    ends, of_session = microseconds(grid["available_at"]), microseconds(grid["session"])
    place = np.minimum(np.searchsorted(ends, instants), len(ends) - 1)
    on_grid = (ends[place] == instants) & (of_session[place] == days)
    yield f"available_at is no end of a {name} bar counted from the opening", own & inside & ~on_grid


def _absurd(
    rows: pd.DataFrame, history: pd.DataFrame, judged: np.ndarray, actions: pd.DataFrame | None, factor: float
) -> np.ndarray:
    absurd = np.zeros(len(rows), dtype=bool)
    positions = np.flatnonzero(judged)
    # Of what came before only the last close of each series counts.
    last = history.loc[history.groupby(["symbol", "interval"], sort=False)["available_at"].idxmax()]
    series = in_series(rows if len(positions) == len(rows) else rows.take(positions), last)
    off = _off_level(series, actions_between(series, actions), factor)
    absurd[positions[series.row[off]]] = True
    return absurd


def _off_level(series: BarSeries, actions: ActionsBetween, factor: float) -> np.ndarray:
    """Bars far off the last accepted close, so that the way back from a spike is not taken for a second one.

    A bar that agrees with the refused one before it confirms a new level (a split nobody recorded): it is
    accepted, or one unknown split would refuse all that follows.
    """
    level = actions.level(series.before(series.close))
    with np.errstate(invalid="ignore"):
        suspect = (series.row >= 0) & ((series.high > factor * level) | (series.low * factor < level))
    off = np.zeros(len(level), dtype=bool)
    done = -1
    for start in np.flatnonzero(suspect):
        if start <= done:
            continue
        # Up to here the close before was accepted; from here on it is walked until a bar is accepted again.
        row, accepted = int(start), float(series.close[start - 1])
        refused = accepted
        while row < len(off) and (row == start or not series.first[row]):
            at = ActionsBetween(actions.ratio[row : row + 1], actions.cash[row : row + 1])
            accepted, refused = (float(at.level(np.array([value]))[0]) for value in (accepted, refused))
            fits = [
                series.high[row] <= factor * value and series.low[row] * factor >= value
                for value in (accepted, refused)
            ]
            if any(fits):
                break
            off[row] = True
            refused = float(series.close[row])
            row += 1
        done = row
    return off
