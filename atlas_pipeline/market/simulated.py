"""A source of simulated bars, quotes, option chains and corporate actions, with the truth beside them.

The process stands in ``simulation``, its paths in ``simulated_path``, densities in ``truth``, the pricing of options in
``simulated_options``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from atlas_pipeline.market.bars import BARS, CORPORATE_ACTIONS, empty
from atlas_pipeline.market.calendars import XNYS, sessions
from atlas_pipeline.market.intervals import Interval, parse_interval
from atlas_pipeline.market.option_chain import OPTION_CHAIN
from atlas_pipeline.market.quarantine import month_of
from atlas_pipeline.market.quotes import QUOTES
from atlas_pipeline.market.simulated_options import CONTRACTS, option_rows
from atlas_pipeline.market.simulated_path import (
    Grid,
    Integers,
    Path,
    State,
    Stream,
    generator,
    initial_state,
    make_grid,
    simulate_path,
    trading_time,
)
from atlas_pipeline.market.simulation import SimulationSettings
from atlas_pipeline.market.sources import RecordedSource, require_known, within
from atlas_pipeline.market.table import Table
from atlas_pipeline.market.truth import SIMULATED_TRUTH, TrueDensity

# Paths of the symbols read last are kept, up to so many bars (about 110 bytes each).
_KEPT_BARS = 2_000_000
# Half days do not come ten times in a row.
_JUDGED_SESSIONS = 10
_QUOTED_SHARE = 1e-4
_NO_INSTANT = np.iinfo(np.int64).min

Columns = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class _Stretch:
    """The bars of a symbol and a year that were asked for: those from ``start`` to before ``stop``."""

    symbol: str
    year: int
    grid: Grid
    path: Path
    start: int
    stop: int

    @property
    def bars(self) -> slice:
        return slice(self.start, self.stop)


class SimulatedSource(RecordedSource):
    """Symbols of a process whose drift, volatility, signal and density are known.

    What a symbol did depends on ``seed``, its own name, ``interval``, ``first``, ``calendar`` and ``settings`` alone:
    the same bits come whatever range, order or company of symbols is asked for, and a later ``last`` only adds bars.

    Parameters
    ----------
    symbols
        Any names.
    interval
        ``1d``, or one of minutes or hours: 1m, 5m, 15m, 30m, 1h.
    first, last
        Days of the first and of the last session, as ``YYYY-MM-DD`` or dates.
    calendar
        Exchange, ISO 10383.
    seed
        Not negative.
    settings
        The process's parameters, as ``SimulationSettings`` or a mapping of its fields.

    Raises
    ------
    ValueError
        Where a setting cannot be simulated, or there is no session between ``first`` and ``last``.
    """

    name = "simulated"
    live = False

    def __init__(
        self,
        symbols: Sequence[str],
        interval: str = "1d",
        first: str | date = "2000-01-03",
        last: str | date = "2019-12-31",
        calendar: str = XNYS,
        seed: int = 0,
        settings: SimulationSettings | Mapping[str, Any] | None = None,
    ) -> None:
        kind = parse_interval(interval)
        if not (kind.intraday or kind == Interval(1, "d")):
            raise ValueError(f"interval={interval!r} is not simulated: use 1d or a shorter one, and resample its bars")
        if seed < 0:
            raise ValueError(f"seed={seed} is no seed: use 0 or more")
        self._symbols = tuple(dict.fromkeys(symbols))
        self._interval, self._calendar, self._seed = interval, calendar, seed
        self._first, self._last = pd.Timestamp(first), pd.Timestamp(last)
        self.settings = SimulationSettings.parse(settings)
        self._grids: dict[int, Grid] = {}
        self._states: dict[tuple[str, int], State] = {}
        self._paths: OrderedDict[tuple[str, int], Path] = OrderedDict()
        self._kept = 0

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols it was made with."""
        return self._symbols

    def range(self) -> tuple[datetime, datetime]:
        """Instants of the first and the last bar."""
        first, last = min(self._sessions), max(self._sessions)
        ends = [self._grid(first).available_at[0], self._grid(last).available_at[-1]]
        begin, end = _instants(np.array(ends))
        return begin.to_pydatetime(), end.to_pydatetime()

    def bars(self, symbols: Sequence[str], start: datetime, end: datetime) -> pd.DataFrame:
        """Bars as traded with ``start <= available_at < end``, in the columns of ``BARS``.

        Raises
        ------
        UnknownSymbolError
            Where a symbol is none of the source's.
        """

        def columns(at: _Stretch) -> Columns:
            found = {name: getattr(at.path, name)[at.bars] for name in ("open", "high", "low", "close", "volume")}
            return {"session": _days(at), "available_at": at.grid.available_at[at.bars], **found}

        return self._frame(BARS, symbols, start, end, columns)

    def truth(self, symbols: Sequence[str], start: datetime, end: datetime) -> pd.DataFrame:
        """Read what is true of these bars, in the columns of ``SIMULATED_TRUTH``; raises as ``bars`` does.

        A row describes the return that ends at its own ``available_at``, as it was known at ``known_at``, the bar
        before: a forecast made at t is held against the row whose ``known_at`` is t.
        """

        def columns(at: _Stretch) -> Columns:
            path, bars = at.path, at.bars
            return {
                "available_at": at.grid.available_at[bars],
                "known_at": at.grid.known_at[bars],
                "regime": path.regime[bars],
                "drift": 100 * path.drift[bars],
                "signal": 100 * path.signal[bars],
                "mean": 100 * path.drift[bars] + 100 * path.signal[bars],
                "volatility": 100 * path.deviation[bars],
                "variance_share": at.grid.share[bars],
                "log_return": 100 * path.log_return[bars],
            }

        return self._frame(SIMULATED_TRUTH, symbols, start, end, columns)

    def density(self, truth: pd.DataFrame) -> TrueDensity:
        """Return the true densities of rows of ``truth``."""
        return TrueDensity.of(truth, self.settings)

    def corporate_actions(self, symbols: Sequence[str], start: datetime, end: datetime) -> pd.DataFrame:
        """Splits and dividends whose ex-date opens in the range; without rows unless the settings ask for them.

        With them ``ratio * (close + cash) / previous close`` is the exponential of the return in the truth: the total
        return of ``adjustment.forward_factors``, up to rounding.
        """

        def columns(at: _Stretch) -> Columns:
            splits, dividends = at.path.splits, at.path.dividends
            # Of one day the split comes first: the dividend is cash on a new share.
            day, kind = np.nonzero(np.column_stack([splits != 1, dividends > 0]))
            return {
                "available_at": at.grid.opens_at[day],
                "session": at.grid.days[day],
                "kind": np.array(["split", "dividend"])[kind],
                "value": np.where(kind == 0, splits[day], dividends[day]),
            }

        return within(self._frame(CORPORATE_ACTIONS, symbols, start, end, columns), start, end)

    def quotes(self, symbols: Sequence[str], start: datetime, end: datetime) -> pd.DataFrame:
        """Quotes at each bar's completion, around its close, in the columns of ``QUOTES``; raises as ``bars`` does.

        The spread is as wide as the next bar is volatile. The log ratio of the sizes is normal and, by
        ``imbalance_signal``, correlated with the signal in the next return: with ρ it explains ``ρ² R²`` of it.
        """
        settings = self.settings

        def columns(at: _Stretch) -> Columns:
            random = generator(self._seed, Stream.QUOTES, at.year, at.symbol)
            lean_noise, depth_noise = random.standard_normal((at.stop, 2))[at.bars].T
            path, bars = at.path, at.bars
            close = path.close[bars]
            expected = settings.deviations[path.regime[bars]] * np.sqrt(path.next_variance[bars])
            half = settings.spread / 2 * expected / settings.long_run_deviation
            rho = settings.imbalance_signal
            lean = rho * path.next_score[bars] + np.sqrt(1 - rho**2) * lean_noise
            depth = _QUOTED_SHARE * settings.turnover / close * np.exp(0.5 * depth_noise)
            return {
                "available_at": at.grid.available_at[bars],
                "bid": close * np.exp(-half),
                "bid_size": np.ceil(depth * np.exp(lean / 2)),
                "ask": close * np.exp(half),
                "ask_size": np.ceil(depth * np.exp(-lean / 2)),
            }

        return self._frame(QUOTES, symbols, start, end, columns)

    def option_chain(self, symbols: Sequence[str], start: datetime, end: datetime) -> pd.DataFrame:
        """Chains at each session's close, in the columns of ``OPTION_CHAIN``; raises as ``bars`` does."""

        def columns(at: _Stretch) -> Columns:
            closing = np.flatnonzero(np.diff(at.grid.session, append=len(at.grid.days)))
            begin, stop = np.searchsorted(closing, [at.start, at.stop])
            if begin == stop:
                return {}
            closing = closing[:stop]
            rows = option_rows(
                self.settings,
                self._calendar,
                int(np.bincount(at.grid.session).max()),
                self._sessions[at.year].head(stop),
                at.path.close[closing],
                at.path.regime[closing],
                at.path.next_variance[closing],
                generator(self._seed, Stream.OPTIONS, at.year, at.symbol),
            )
            return {name: values[begin * CONTRACTS :] for name, values in rows.items()}

        return self._frame(OPTION_CHAIN, symbols, start, end, columns)

    def _frame(
        self,
        table: Table,
        symbols: Sequence[str],
        start: datetime,
        end: datetime,
        columns: Callable[[_Stretch], Columns],
    ) -> pd.DataFrame:
        """Put the columns of every symbol and year into one frame of the table."""
        require_known(self.name, symbols, self.symbols)
        within(empty(table), start, end)  # refuses a range that is none
        found = [(at.symbol, made) for at in self._stretches(symbols, start, end) if (made := columns(at))]
        if not found:
            return empty(table)
        data: dict[str, Any] = {
            name: np.concatenate([made[name] for _, made in found]) for name in found[0][1] if name in table.names
        }
        rows = [len(made["available_at"]) for _, made in found]
        names = pd.array([symbol for symbol, _ in found], dtype="str").take(np.repeat(np.arange(len(found)), rows))
        data |= {"symbol": names, "underlying": names}
        data["interval"] = pd.array([self._interval], dtype="str").take(np.zeros(len(names), dtype="int64"))
        for column in table.columns:
            if column.dtype == "timestamp":
                data[column.name] = _instants(data[column.name])
            elif column.dtype == "date":
                data[column.name] = data[column.name].astype("datetime64[us]")
            elif column.name in ("kind", "right"):
                data[column.name] = pd.array(data[column.name], dtype="str")
        data["month"] = month_of(pd.Series(data["available_at"]))
        return pd.DataFrame({name: data[name] for name in table.names}, copy=False)

    def _stretches(self, symbols: Sequence[str], start: datetime, end: datetime) -> Iterator[_Stretch]:
        first, stop = _microseconds(start), _microseconds(end)
        for symbol in symbols:
            for year in self._sessions:
                grid = self._grid(year)
                if grid.opens_at[0] < stop and grid.available_at[-1] >= first:
                    begin, beyond = np.searchsorted(grid.available_at, [first, stop])
                    yield _Stretch(symbol, year, grid, self._path(symbol, year), int(begin), int(beyond))

    def _path(self, symbol: str, year: int) -> Path:
        key = (symbol, year)
        if key in self._paths:
            self._paths.move_to_end(key)
            return self._paths[key]
        if key not in self._states:
            if year - 1 in self._sessions:
                self._path(symbol, year - 1)
            else:
                self._states[key] = initial_state(self.settings, self._seed, symbol)
        path, after = simulate_path(self.settings, self._grid(year), self._seed, symbol, year, self._states[key])
        self._states[symbol, year + 1] = after
        self._paths[key] = path
        self._kept += len(path.close)
        while self._kept > _KEPT_BARS and len(self._paths) > 1:
            _, forgotten = self._paths.popitem(last=False)
            self._kept -= len(forgotten.close)
        return path

    @cached_property
    def _sessions(self) -> dict[int, pd.DataFrame]:
        """The sessions of each year."""
        known = sessions(self._first, self._last, self._calendar)
        if known.empty:
            raise ValueError(
                f"no session of {self._calendar} between first={self._first.date()} and last={self._last.date()}: "
                "choose a longer range"
            )
        return {int(year): own.reset_index(drop=True) for year, own in known.groupby(known["session"].dt.year)}

    @cached_property
    def _whole(self) -> int:
        # Sessions from ``first`` on, even beyond ``last``, which must not matter to any bar.
        ahead = sessions(self._first, self._first + pd.Timedelta(days=40), self._calendar)
        return int(trading_time(ahead.head(_JUDGED_SESSIONS)).max())

    def _grid(self, year: int) -> Grid:
        if year not in self._grids:
            last = self._sessions.get(year - 1)
            before = _NO_INSTANT if last is None else _microseconds(last["available_at"].iloc[-1])
            own = self._sessions[year]
            self._grids[year] = make_grid(self.settings, own, self._interval, self._whole, before, self._seed)
        return self._grids[year]


def _days(at: _Stretch) -> Integers:
    return at.grid.days[at.grid.session[at.bars]]


def _microseconds(instant: datetime) -> int:
    return int(pd.Timestamp(instant).as_unit("us").asm8.astype("int64"))


def _instants(microseconds: Integers) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(microseconds.view("datetime64[us]")).tz_localize("UTC")
