"""An audit that tries to catch a feature function looking ahead.

The future after an instant is cut off, changed or permuted (``perturbation``); every row up to that instant must stay
the same bit for bit. It works on any function from bars, or bars, corporate actions and the volatility index, to rows
with ``symbol`` and ``available_at``; it proves nothing about values.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from atlas_pipeline.features.perturbation import PERTURBATIONS, Inputs, continued

FeatureFunction = Callable[..., pd.DataFrame]

VIOLATIONS = ("perturbation", "cut", "column", "rows", "symbol", "available_at")


@dataclass(frozen=True)
class CausalityReport:
    """What the audit compared and found.

    Attributes
    ----------
    passed
        Whether no row changed.
    cuts
        Instants after which the future was altered (``datetime64[us, UTC]``), sorted; the last is that of the newest
        row.
    symbols
        What was audited, sorted: all symbols, or the sample.
    symbols_given
        Number of symbols in the bars.
    rows
        Rows of the function's result on the bars of ``symbols``.
    rows_compared
        How many of them were compared at least once: all, but for rows that the function labels later than any bar.
    last_rows
        Rows that were once the newest before a cut: the rows nearest to the altered future.
    comparisons
        Rows compared, summed over cuts and perturbations.
    violations
        One row a perturbation and column that changed: the first cut that showed it, how many rows it changed there
        and the first of them.
    seconds
        Wall time.
    """

    passed: bool
    cuts: pd.DatetimeIndex
    symbols: tuple[str, ...]
    symbols_given: int
    rows: int
    rows_compared: int
    last_rows: int
    comparisons: int
    violations: pd.DataFrame
    seconds: float

    def summary(self) -> str:
        """Say the verdict in one line."""
        scope = (
            f"{self.rows_compared} of {self.rows} rows of {len(self.symbols)} of {self.symbols_given} symbols, "
            f"{len(self.cuts)} cuts, {self.comparisons} comparisons"
        )
        if self.passed:
            return f"causal: no row changed with its future ({scope})"
        columns = sorted(set(self.violations["column"]))
        first = self.violations.iloc[0]
        return (
            f"looks ahead: {columns} changed with the future {first['perturbation']} after {first['cut']}, "
            f"first in {first['symbol']} at {first['available_at']} ({scope}): use data up to the row only"
        )


def audit_causality(
    function: FeatureFunction,
    bars: pd.DataFrame,
    actions: pd.DataFrame | None = None,
    *,
    volatility_index: pd.DataFrame | None = None,
    cuts: int = 24,
    symbols: int | None = None,
    seed: int = 0,
) -> CausalityReport:
    """Alter the future after a number of instants and compare every earlier row, bit for bit.

    Each cut is tried three times: the future cut off, its prices and volumes changed (each by its own random
    factor, some by a thousand), and its rows' values permuted. The values of the volatility index and the corporate
    actions after the cut are cut off, changed and permuted with them, and where prices are changed every symbol is
    split and pays a dividend that nobody announced, right after the cut. The newest bars, which have no future, are
    given an invented one. So every row is compared.

    A cut compares all rows up to it. A function that looks k bars ahead of every row is caught by any cut; one that
    does so at certain rows only, by cuts within k bars after them. Half of the cuts are therefore put where such rows
    are likely: the last bars, the first bars of each symbol, bars with missing values, the bars before corporate
    actions, before the largest moves, ends of months and years. The others are random, one in each stretch.

    The cost is that of ``3 * cuts + 2`` calls of the function on, on average, three quarters of the rows; ``symbols``
    bounds it.

    Parameters
    ----------
    function
        Takes bars, and actions and the keyword ``volatility_index`` where they are given; returns rows with ``symbol``
        and ``available_at`` and any other columns.
    bars
        Rows of ``BARS``, possibly with further columns; all columns of numbers are altered.
    actions
        Rows of ``CORPORATE_ACTIONS``, of which there may be none; None for a function that takes only bars.
    volatility_index
        ``available_at`` and columns of numbers such as ``close``; None for a function that takes none.
    cuts
        Number of instants, at least 4.
    symbols
        Largest number of symbols audited; None for all. Of more, those with the most missing values, the largest move,
        the most actions, the shortest and the longest history are taken, the others at random.
    seed
        Of the random cuts, symbols and alterations.

    Returns
    -------
    CausalityReport

    Raises
    ------
    ValueError
        Where there are fewer than two instants, fewer than four cuts, or no symbol is to be audited.
    """
    begun = time.perf_counter()
    bars = bars.reset_index(drop=True)
    random = np.random.default_rng(seed)
    given = bars["symbol"].nunique()
    if symbols is not None and symbols < 1:
        raise ValueError(f"symbols={symbols} leaves nothing to audit; pass 1 or more, or None for all")
    if symbols is not None and symbols < given:
        sample = _choose_symbols(bars, actions, symbols, random)
        bars = bars[bars["symbol"].isin(sample)]
        actions = None if actions is None else actions[actions["symbol"].isin(sample)]
    instants = pd.DatetimeIndex(bars["available_at"].unique()).sort_values()
    if len(instants) < 2 or cuts < 4:
        raise ValueError(f"an audit needs two instants and four cuts; got {len(instants)} and cuts={cuts}")
    chosen = _choose_cuts(bars, actions, instants, cuts - 1, random)
    inputs = Inputs(bars, actions, volatility_index)
    baseline = _Result(inputs.given_to(function))
    tries = [(cut, name) for cut in chosen for name in PERTURBATIONS]
    violations: list[tuple[object, ...]] = []
    seen: set[tuple[str, str]] = set()
    comparisons = 0
    for cut, name in [*tries, (instants[-1], "continued")]:
        altered = PERTURBATIONS.get(name, continued)(inputs, cut, random)
        expected = baseline.until(cut)
        comparisons += len(expected)
        for difference in expected.differences(_Result(altered.given_to(function)).until(cut)):
            if (name, difference[0]) not in seen:
                seen.add((name, difference[0]))
                violations.append((name, cut, *difference))
    tried = pd.DatetimeIndex([*chosen, instants[-1]])
    return CausalityReport(
        passed=not violations,
        cuts=tried,
        symbols=tuple(sorted(map(str, bars["symbol"].unique()))),
        symbols_given=given,
        rows=len(baseline),
        rows_compared=len(baseline.until(instants[-1])),
        last_rows=int(np.isin(baseline.times, tried.to_numpy(dtype="datetime64[us]")).sum()),
        comparisons=comparisons,
        violations=pd.DataFrame(violations, columns=list(VIOLATIONS)),
        seconds=time.perf_counter() - begun,
    )


class _Result:
    """A function's rows in the order of symbol and time, as arrays that can be cut and compared by bits."""

    def __init__(self, frame: pd.DataFrame) -> None:
        times = frame["available_at"].to_numpy(dtype="datetime64[us]")
        order = np.lexsort((times, pd.factorize(frame["symbol"], sort=True)[0]))
        floats = [str(name) for name in frame.columns if pd.api.types.is_float_dtype(frame[name])]
        values = np.ascontiguousarray(frame[floats].to_numpy(dtype="float64")[order])
        values[np.isnan(values)] = np.nan  # one NaN, whatever its bits were
        labels = ("symbol", "available_at")
        others = [str(name) for name in frame.columns if name not in floats and name not in labels]
        self.names = (*floats, *others)
        self.times = times[order]
        self.symbols = frame["symbol"].to_numpy(dtype=object)[order]
        # By bits: == would let -0.0 pass for 0.0, and no NaN for any.
        self._bits = values.view("int64")
        # None stands for what is missing, since NaN would differ from itself.
        self._others = [
            frame[name].astype(object).where(frame[name].notna(), None).to_numpy()[order] for name in others
        ]

    def __len__(self) -> int:
        return len(self.times)

    def until(self, cut: pd.Timestamp) -> _Result:
        """Keep the rows up to a cut."""
        past = copy.copy(self)
        kept = self.times <= cut.to_datetime64()
        past.times, past.symbols, past._bits = self.times[kept], self.symbols[kept], self._bits[kept]
        past._others = [values[kept] for values in self._others]
        return past

    def differences(self, other: _Result) -> list[tuple[str, int, str, pd.Timestamp]]:
        """Column, rows and the first row of each difference; where rows themselves differ, ``rows``."""
        if len(self) != len(other) or self.names != other.names:
            return [self._row("rows", abs(len(self) - len(other)), 0)] if len(self) else []
        moved = (self.times != other.times) | (self.symbols != other.symbols)
        if moved.any():
            return [self._row("rows", int(moved.sum()), int(moved.argmax()))]
        unequal = [
            *(self._bits != other._bits).T,
            *((mine != theirs) for mine, theirs in zip(self._others, other._others, strict=True)),
        ]
        return [
            self._row(name, int(rows.sum()), int(rows.argmax()))
            for name, rows in zip(self.names, unequal, strict=True)
            if rows.any()
        ]

    def _row(self, name: str, count: int, row: int) -> tuple[str, int, str, pd.Timestamp]:
        return name, count, str(self.symbols[row]), pd.Timestamp(self.times[row], tz="UTC")


def _choose_symbols(
    bars: pd.DataFrame, actions: pd.DataFrame | None, count: int, random: np.random.Generator
) -> list[str]:
    """Take the symbols that are most unlike the others, then others at random."""
    own = bars.groupby("symbol", sort=True)
    lengths = own.size()
    unlike = [_holes(bars).groupby(bars["symbol"]).sum(), _moves(bars).groupby(bars["symbol"]).max(), lengths, -lengths]
    if actions is not None and len(actions):
        unlike.insert(0, actions.groupby("symbol").size().reindex(lengths.index, fill_value=0))
    first = [str(measure.idxmax()) for measure in unlike if measure.notna().any()]
    others = random.permutation(lengths.index.to_numpy(dtype=object))
    return list(dict.fromkeys([*first, *map(str, others)]))[:count]


def _choose_cuts(
    bars: pd.DataFrame, actions: pd.DataFrame | None, instants: pd.DatetimeIndex, cuts: int, random: np.random.Generator
) -> pd.DatetimeIndex:
    """Put half of the cuts where leaks hide, in turn by kind of place; the rest at random, one a stretch."""
    latest = len(instants) - 2  # something must lie after the cut
    firsts = instants.get_indexer(pd.DatetimeIndex(bars.groupby("symbol")["available_at"].min()))
    holed = instants.get_indexer(pd.DatetimeIndex(bars.loc[_holes(bars), "available_at"].unique()))
    months = instants.tz_localize(None).to_numpy().astype("datetime64[M]")
    years = months.astype("datetime64[Y]")
    month_ends, year_ends = (np.flatnonzero(period[1:] != period[:-1]) for period in (months, years))
    largest = bars.loc[_moves(bars).dropna().nlargest(3).index, "available_at"]
    paid = np.zeros(0, dtype=int)
    if actions is not None:
        paid = np.searchsorted(instants, pd.DatetimeIndex(actions["available_at"].unique())) - 1
    places = [
        np.array([latest, latest - 4]),
        (firsts[:, None] + np.array([0, 9, 25])).ravel(),
        holed[:3],
        random.permutation(paid)[:3],
        instants.get_indexer(pd.DatetimeIndex(largest)) - 1,
        random.permutation(year_ends)[:2],
        random.permutation(month_ends)[:2],
    ]
    wanted: list[int] = []
    for turn in range(max(len(place) for place in places)):
        wanted += [int(place[turn]) for place in places if turn < len(place) and 0 <= place[turn] <= latest]
    targeted = list(dict.fromkeys(wanted))[: cuts // 2]
    edges = np.linspace(0, latest + 1, cuts - len(targeted) + 1)
    stretches = [int(random.integers(int(a), max(int(b), int(a) + 1))) for a, b in pairwise(edges)]
    return instants[np.unique(np.clip([*targeted, *stretches], 0, latest))]


def _holes(bars: pd.DataFrame) -> pd.Series:
    """Whether a number is missing that is not missing everywhere."""
    numbers = bars.select_dtypes("number")
    return (numbers.isna() & numbers.notna().any()).any(axis=1)


def _moves(bars: pd.DataFrame) -> pd.Series:
    """Size of each bar's log return; none where the rows have no close."""
    if "close" not in bars.columns:
        return pd.Series(np.nan, index=bars.index)
    return np.log(bars["close"].where(bars["close"] > 0)).groupby(bars["symbol"]).diff().abs()
