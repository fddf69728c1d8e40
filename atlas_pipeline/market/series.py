"""Bars as series: one run of rows for each symbol and interval, in time order, after the bars that came before.

What the rules make of a bar and the one before it stands in ``validation``, ``tripwires`` and ``coverage``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from atlas_pipeline.market.bars import PRICES
from atlas_pipeline.market.quarantine import ascending

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

STALE_OPEN_TOLERANCE = 1e-4

_DAYS = 10_000_000


@dataclass(frozen=True)
class BarSeries:
    """Bars and their history as arrays [bars], series after series.

    Attributes
    ----------
    symbols, intervals
        The names, sorted; ``symbol`` and ``interval`` are positions in them.
    first
        Whether a bar is the first of its series.
    row
        Position among the bars; -1 for history.
    instant, session
        ``available_at`` in microseconds and ``session`` in days since 1970 (int64).
    open, high, low, close, volume
        As in ``BARS``.
    """

    symbols: pd.Index
    intervals: pd.Index
    symbol: Integers
    interval: Integers
    first: Booleans
    row: Integers
    instant: Integers
    session: Integers
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats

    def before(self, values: np.ndarray) -> Floats:
        """Give each bar the value of the bar before it in its series; NaN at the first."""
        shifted = np.empty(len(values))
        shifted[1:] = values[:-1]
        shifted[self.first] = np.nan
        return shifted

    def new_session(self) -> Booleans:
        """Say which bars belong to another session than the bar before them; the first of a series does not."""
        changed = np.zeros(len(self.session), dtype=bool)
        changed[1:] = self.session[1:] != self.session[:-1]
        return changed & ~self.first

    def stale_open(self) -> Booleans:
        """Say which bars open a session within a basis point of the close before: nobody could have traded there."""
        distance = np.abs(self.open / self.before(self.close) - 1)
        return self.new_session() & (distance <= STALE_OPEN_TOLERANCE)

    def run_lengths(self, condition: Booleans) -> Integers:
        """Count for each bar how many bars up to it have met a condition without a break."""
        position = np.arange(len(condition))
        broken = np.where(condition, np.where(self.first, position - 1, -1), position)
        return position - np.maximum.accumulate(broken) if len(position) else position

    def codes(self) -> Integers:
        """Number the series (int64); rising, with gaps."""
        return self.symbol * len(self.intervals) + self.interval


def in_series(bars: pd.DataFrame, history: pd.DataFrame) -> BarSeries:
    """Put bars behind their history.

    Parameters
    ----------
    bars, history
        Rows of ``BARS`` in any order, sessions and keys not missing.
    """
    frames = [frame for frame in (history, bars) if len(frame)] or [bars]
    row = np.concatenate([np.full(len(history), -1), np.arange(len(bars))])
    symbol, symbols = pd.factorize(pd.concat([frame["symbol"] for frame in frames]), sort=True)
    interval, intervals = pd.factorize(pd.concat([frame["interval"] for frame in frames]), sort=True)
    columns = {
        "row": row,
        "symbol": symbol.astype("int64"),
        "interval": interval.astype("int64"),
        "instant": _joined(frames, "available_at", "datetime64[us]").astype("int64"),
        "session": _joined(frames, "session", "datetime64[us]").astype("datetime64[D]").astype("int64"),
        **{name: _joined(frames, name, "float64") for name in (*PRICES, "volume")},
    }
    keys = [columns["symbol"], columns["interval"], columns["instant"]]
    if not ascending(keys):
        order = np.lexsort(keys[::-1])
        columns = {name: values[order] for name, values in columns.items()}
    first = np.ones(len(row), dtype=bool)
    first[1:] = (np.diff(columns["symbol"]) != 0) | (np.diff(columns["interval"]) != 0)
    return BarSeries(symbols=pd.Index(symbols), intervals=pd.Index(intervals), first=first, **columns)


def _joined(frames: list[pd.DataFrame], name: str, dtype: str) -> np.ndarray:
    return np.concatenate([frame[name].to_numpy(dtype) for frame in frames])


@dataclass(frozen=True)
class ActionsBetween:
    """What went ex between a bar and the one before it: shares after for one before, and cash on each share after."""

    ratio: Floats
    cash: Floats

    def level(self, close: Floats) -> Floats:
        """Express what a price of the bar before is worth at this bar.

        Cash that takes the whole price explains nothing and is left aside.
        """
        divided = close / self.ratio
        return np.where(divided > self.cash, divided - self.cash, divided)


def actions_between(series: BarSeries, actions: pd.DataFrame | None) -> ActionsBetween:
    """Find the splits and dividends that went ex after the session of the bar before and up to the bar's own.

    Unlike ``adjustment``, which prices depend on, this passes over an action that cannot be: the bar is then judged
    without it.

    Parameters
    ----------
    series
        Bars in time order.
    actions
        Rows of ``CORPORATE_ACTIONS``, in any order.
    """
    between = ActionsBetween(np.ones(len(series.close)), np.zeros(len(series.close)))
    if actions is None or actions.empty or not len(series.close):
        return between
    value = actions["value"].to_numpy("float64")
    symbol = series.symbols.get_indexer(pd.Index(actions["symbol"]))
    possible = np.flatnonzero((symbol >= 0) & np.isfinite(value) & (value > 0) & actions["session"].notna().to_numpy())
    days = actions["session"].to_numpy("datetime64[us]").astype("datetime64[D]").astype("int64")
    is_dividend = (actions["kind"] == "dividend").to_numpy()
    # By day, of one day the split first: a dividend is cash on each share of its day.
    own = possible[np.lexsort((is_dividend[possible], days[possible]))]
    keys = series.codes() * _DAYS + series.session
    for interval in range(len(series.intervals)):
        code = symbol[own] * len(series.intervals) + interval
        at = np.minimum(np.searchsorted(keys, code * _DAYS + days[own]), len(keys) - 1)
        # An action of a session that a series reached bars ago lies behind the first bar at or after it.
        falls = (series.codes()[at] == code) & (series.session[at] >= days[own]) & ~series.first[at]
        _accumulate(between, at[falls], value[own][falls], is_dividend[own][falls])
    return between


def _accumulate(between: ActionsBetween, at: Integers, value: Floats, is_dividend: Booleans) -> None:
    turn = pd.Series(at).groupby(at).cumcount().to_numpy()
    for number in range(int(turn.max()) + 1 if len(turn) else 0):
        now = turn == number
        split, dividend = now & ~is_dividend, now & is_dividend
        between.ratio[at[split]] *= value[split]
        between.cash[at[split]] /= value[split]
        between.cash[at[dividend]] += value[dividend]
