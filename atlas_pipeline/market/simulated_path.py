"""Paths of the process of ``simulation``: the bars' time grid, the random numbers, and what became of a symbol."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from atlas_pipeline.market.calendars import bar_grid
from atlas_pipeline.market.intervals import parse_interval
from atlas_pipeline.market.simulation import SESSIONS_PER_YEAR, Floats, SimulationSettings

DIVIDENDS_PER_YEAR = 4
SPLIT_RATIO = 2.0

Integers = NDArray[np.int64]
State = tuple[float, float, float, int]


class Stream(IntEnum):
    """What random numbers are for: each has a generator of its own, so that none moves another."""

    SHOCKS = 0
    UNIFORMS = 1
    MIXING = 2
    REGIMES = 3
    FIRST_REGIME = 4
    COMMON = 5
    QUOTES = 6
    OPTIONS = 7


def generator(seed: int, stream: Stream, year: int, symbol: str = "") -> np.random.Generator:
    """Make the generator of a symbol's random numbers of one year; without a symbol, of those that all share.

    The seed comes from the symbol's letters, never from ``hash`` or from the symbols beside it.
    """
    key = (int(stream), year, *symbol.encode())
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


@dataclass(frozen=True, eq=False)
class Grid:
    """What all symbols share over some sessions: when bars are complete, how long they are, the common factor.

    Instants are microseconds since 1970 in UTC.

    Attributes
    ----------
    available_at, known_at
        Of each bar: when it is complete, and when the bar before it was; ``int64`` minimum before the first of all.
    session
        Of each bar: position of its session.
    length, share, overnight
        Of each bar: its length in whole sessions, its share of a whole session's variance, and the part of that which
        falls before it opens.
    kind, weights, inflations
        Of each bar: position of its share among the different ones. Of those: their ``jump_law``.
    common
        Of each bar: the factor behind all symbols' news.
    days, opens_at
        Of each session: its day, and when it opens.
    dividend_day
        Of each session: whether it is the first of February, May, August or November.
    """

    available_at: Integers
    known_at: Integers
    session: Integers
    length: Floats
    share: Floats
    overnight: Floats
    kind: Integers
    weights: Floats
    inflations: Floats
    common: Floats
    days: Integers
    opens_at: Integers
    dividend_day: NDArray[np.bool_]


def trading_time(sessions: pd.DataFrame) -> Integers:
    """Microseconds from opening to close of rows of ``calendars.sessions``, less the break at noon; int64."""
    time = _microseconds(sessions["available_at"]) - _microseconds(sessions["opens_at"])
    if "break_starts_at" in sessions.columns:
        rest = sessions["break_ends_at"] - sessions["break_starts_at"]
        time -= rest.fillna(pd.Timedelta(0)).to_numpy("timedelta64[us]").astype("int64")
    return time


def make_grid(
    settings: SimulationSettings, sessions: pd.DataFrame, interval: str, whole: int, before: int, seed: int
) -> Grid:
    """Lay out the bars of a year's sessions, or of its last or first ones.

    Parameters
    ----------
    sessions
        Rows of ``calendars.sessions``, not empty.
    interval
        Shorter than a session, or ``1d``.
    whole
        Microseconds of trading in a whole session.
    before
        When the last bar before these was complete.
    """
    grid = bar_grid(sessions, interval)
    bar = parse_interval(interval)
    days, opens_at = _microseconds(sessions["session"]), _microseconds(sessions["opens_at"])
    available_at = _microseconds(grid["available_at"])
    session = np.searchsorted(days, _microseconds(grid["session"]))
    first = np.diff(session, prepend=-1) > 0
    known_at = np.append(before, available_at[:-1])
    if bar.intraday:
        # A bar after the break at noon is as long as the interval, not as the time since the last one.
        elapsed = available_at - np.where(first, opens_at[session], known_at)
        length = np.minimum(elapsed, bar.minutes * 60_000_000) / whole
    else:
        length = trading_time(sessions) / whole
    # Equal shares must be equal to the last bit, to be of one kind.
    gap = np.where(first, settings.overnight, 0.0)
    share: Floats = np.round((1 - settings.overnight) * length + gap, 12)
    kind, shares = pd.factorize(share)
    weights, inflations = settings.jump_law(shares)
    months = days.astype("datetime64[us]").astype("datetime64[M]").astype("int64")
    entered = np.diff(months, prepend=months[0]) > 0
    return Grid(
        available_at=available_at,
        known_at=known_at,
        session=session.astype("int64"),
        length=length,
        share=share,
        overnight=gap / share,
        kind=kind,
        weights=weights,
        inflations=inflations,
        common=generator(seed, Stream.COMMON, sessions["session"].iloc[0].year).standard_normal(len(share)),
        days=days,
        opens_at=opens_at,
        dividend_day=entered & (months % (12 // DIVIDENDS_PER_YEAR) == 1),
    )


def _microseconds(instants: pd.Series) -> Integers:
    return instants.to_numpy("datetime64[us]").astype("int64")


@dataclass(frozen=True, eq=False)
class Path:
    """What happened to a symbol on a ``Grid``; float64, one a bar where nothing else is said.

    Attributes
    ----------
    open, high, low, close
        As traded, in currency.
    volume
        Units traded.
    log_return
        From close to close, splits and dividends taken out.
    drift, signal, deviation
        Its conditional mean, in two parts, and its conditional standard deviation.
    regime
        Position in the settings, int64.
    next_variance, next_score
        ``h`` and ``f`` after the bar.
    splits, dividends
        Of each session: shares after for one before, cash a share.
    """

    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    log_return: Floats
    drift: Floats
    signal: Floats
    deviation: Floats
    regime: Integers
    next_variance: Floats
    next_score: Floats
    splits: Floats = field(repr=False)
    dividends: Floats = field(repr=False)


def initial_state(settings: SimulationSettings, seed: int, symbol: str) -> State:
    """Start a symbol: price, variance at its mean, no signal, and a regime from the chain's long run."""
    uniform = generator(seed, Stream.FIRST_REGIME, 0, symbol).random()
    regime = int(np.searchsorted(np.cumsum(settings.stationary)[:-1], uniform, side="right"))
    return settings.initial_price, 1.0, 0.0, -1 - regime


def simulate_path(
    settings: SimulationSettings, grid: Grid, seed: int, symbol: str, year: int, state: State
) -> tuple[Path, State]:
    """Run a symbol over the sessions of a year.

    Every stream is drawn bar by bar from the year's first session, so that a year cut short is the beginning of the
    whole one.

    Parameters
    ----------
    grid
        Sessions of ``year``.
    state
        Where the year before ended, or ``initial_state``.
    """
    from atlas_pipeline.market import simulation_kernels as kernels

    rows, degrees = len(grid.available_at), settings.degrees_of_freedom
    mixing = np.ones(rows)
    if math.isfinite(degrees):
        # Student's t is normal with a variance that is the inverse of a gamma variate.
        mixing = (degrees / 2 - 1) / generator(seed, Stream.MIXING, year, symbol).standard_gamma(degrees / 2, rows)
    columns, splits, dividends, after = kernels.simulate(
        grid.session,
        grid.length,
        grid.share,
        grid.overnight,
        grid.kind,
        grid.weights,
        grid.inflations,
        generator(seed, Stream.SHOCKS, year, symbol).standard_normal((rows, 3)),
        1 - generator(seed, Stream.UNIFORMS, year, symbol).random((rows, 3)),
        mixing,
        grid.common,
        1 - generator(seed, Stream.REGIMES, year, symbol).random(len(grid.days)),
        grid.dividend_day & (settings.dividend_yield > 0),
        np.array([regime.drift for regime in settings.regimes]) / SESSIONS_PER_YEAR,
        settings.deviations,
        settings.leaving,
        (
            1 - settings.persistence,
            settings.alpha,
            settings.gamma,
            settings.beta,
            settings.signal_r2,
            settings.signal_persistence,
            settings.correlation,
            settings.turnover / settings.long_run_deviation,
        ),
        (
            settings.dividend_yield / DIVIDENDS_PER_YEAR,
            math.inf if settings.split_above is None else settings.split_above,
            SPLIT_RATIO,
        ),
        state,
    )
    named: dict[str, Any] = dict(zip(kernels.COLUMNS, columns, strict=True))
    return Path(**named | {"regime": named["regime"].astype("int64")}, splits=splits, dividends=dividends), after
