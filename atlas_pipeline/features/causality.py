"""An audit that tries to catch a feature function looking ahead.

The future after an instant is cut off, changed or permuted, its corporate actions with it; every row up to that
instant must stay the same bit for bit. It works on any function from bars, or bars and actions, to rows with
``symbol`` and ``available_at``; it proves nothing about values.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

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
        Instants after which the future was altered (``datetime64[us, UTC]``), sorted.
    rows_compared
        Rows of the function's result on all bars that were compared at least once.
    last_rows
        Rows of it that were once the newest before a cut: the rows nearest to the altered future.
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
    rows_compared: int
    last_rows: int
    comparisons: int
    violations: pd.DataFrame
    seconds: float

    def summary(self) -> str:
        """Say the verdict in one line."""
        scope = f"{self.rows_compared} rows, {len(self.cuts)} cuts, {self.comparisons} comparisons"
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
    cuts: int = 24,
    seed: int = 0,
) -> CausalityReport:
    """Alter the future after a number of instants and compare every earlier row, bit for bit.

    Each cut is tried three times: the future cut off, its prices and volumes changed (each by its own random
    factor, some by a thousand), and its rows' values permuted. Corporate actions after the cut are cut off, changed and
    permuted with them, and where prices are changed every symbol is split and pays a dividend that nobody announced,
    right after the cut. A cut compares all rows up to it, so a
    function that looks k bars ahead of every row is caught by any cut; one that does so at certain rows only,
    by cuts within k bars after them. Half of the cuts are therefore put where such rows are likely, the first
    bars of each symbol, bars with missing values, ends of months and years, the largest moves, the last bars;
    the others are random, one in each stretch.

    Parameters
    ----------
    function
        Takes bars, and actions where they are given; returns rows with ``symbol`` and ``available_at`` and any other
        columns.
    bars
        Rows of ``BARS``, possibly with further columns; all columns of numbers are altered.
    actions
        Rows of ``CORPORATE_ACTIONS``, of which there may be none; None for a function that takes only bars.
    cuts
        Number of instants, at least 4.
    seed
        Of the random cuts and alterations.

    Returns
    -------
    CausalityReport

    Raises
    ------
    ValueError
        Where there are fewer than two instants, or fewer than four cuts.
    """
    begun = time.perf_counter()
    instants = pd.DatetimeIndex(bars["available_at"].unique()).sort_values()
    if len(instants) < 2 or cuts < 4:
        raise ValueError(f"an audit needs two instants and four cuts; got {len(instants)} and cuts={cuts}")
    random = np.random.default_rng(seed)
    chosen = _choose_cuts(bars, instants, cuts, random)
    others = () if actions is None else (actions.copy(),)
    baseline = _Result(function(bars.copy(), *others))
    times = bars["available_at"].to_numpy(dtype="datetime64[us]").astype("int64")
    microseconds = [int(instant) for instant in chosen.as_unit("us").asi8]
    violations: list[tuple[object, ...]] = []
    seen: set[tuple[str, str]] = set()
    comparisons = 0
    for cut, label in zip(microseconds, chosen, strict=True):
        future = times > cut
        expected = baseline.until(cut)
        comparisons += 3 * len(expected)
        for perturbation, altered in (
            ("cut off", bars[~future]),
            ("changed", _changed(bars, future, random)),
            ("permuted", _permuted(bars, future, random)),
        ):
            others = () if actions is None else (_ALTER_ACTIONS[perturbation](actions, altered, label, random),)
            found = _Result(function(altered, *others)).until(cut)
            for difference in expected.differences(found):
                if (perturbation, difference[0]) not in seen:
                    seen.add((perturbation, difference[0]))
                    violations.append((perturbation, label, *difference))
    return CausalityReport(
        passed=not violations,
        cuts=chosen,
        rows_compared=len(baseline.until(microseconds[-1])),
        last_rows=int(np.isin(baseline.times, microseconds).sum()),
        comparisons=comparisons,
        violations=pd.DataFrame(violations, columns=list(VIOLATIONS)),
        seconds=time.perf_counter() - begun,
    )


class _Result:
    """A function's rows in the order of symbol and time, as arrays that can be cut and compared by bits."""

    def __init__(self, frame: pd.DataFrame) -> None:
        times = frame["available_at"].to_numpy(dtype="datetime64[us]").astype("int64")
        order = np.lexsort((times, frame["symbol"].to_numpy(dtype=object)))
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

    def until(self, cut: int) -> _Result:
        """Keep the rows up to a cut in microseconds."""
        past = copy.copy(self)
        kept = self.times <= cut
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
        return name, count, str(self.symbols[row]), pd.Timestamp(self.times[row], unit="us", tz="UTC")


def _choose_cuts(
    bars: pd.DataFrame, instants: pd.DatetimeIndex, cuts: int, random: np.random.Generator
) -> pd.DatetimeIndex:
    """Put half of the cuts where leaks hide, in turn by kind of place; the rest at random, one a stretch."""
    latest = len(instants) - 2  # something must lie after the cut
    firsts = instants.get_indexer(pd.DatetimeIndex(bars.groupby("symbol")["available_at"].min()))
    numbers = bars.select_dtypes("number")
    holes = bars.loc[numbers.isna().any(axis=1), "available_at"]
    holed = instants.get_indexer(pd.DatetimeIndex(holes.unique()))
    months = instants.tz_localize(None).to_numpy().astype("datetime64[M]")
    years = months.astype("datetime64[Y]")
    month_ends, year_ends = (np.flatnonzero(period[1:] != period[:-1]) for period in (months, years))
    moves = np.zeros(0, dtype=int)
    if "close" in bars.columns:
        sizes = np.log(bars["close"].where(bars["close"] > 0)).groupby(bars["symbol"]).diff().abs()
        largest = bars.loc[sizes.nlargest(3).index, "available_at"]
        moves = instants.get_indexer(pd.DatetimeIndex(largest)) - 1
    places = [
        (firsts[:, None] + np.array([0, 9, 25])).ravel(),
        holed[:3],
        moves,
        random.permutation(year_ends)[:2],
        random.permutation(month_ends)[:2],
        np.array([latest, latest - 4]),
    ]
    wanted: list[int] = []
    for turn in range(max(len(place) for place in places)):
        wanted += [int(place[turn]) for place in places if turn < len(place) and 0 <= place[turn] <= latest]
    targeted = list(dict.fromkeys(wanted))[: cuts // 2]
    edges = np.linspace(0, latest + 1, cuts - len(targeted) + 1)
    stretches = [int(random.integers(int(a), max(int(b), int(a) + 1))) for a, b in pairwise(edges)]
    return instants[np.unique(np.clip([*targeted, *stretches], 0, latest))]


def _changed(bars: pd.DataFrame, future: np.ndarray, random: np.random.Generator) -> pd.DataFrame:
    rows = int(future.sum())
    # One factor a row for all its columns keeps a bar a bar; now and then one that no minimum or maximum
    # survives.
    factor = np.exp(random.normal(0.0, 0.3, rows))
    factor[random.random(rows) < 0.01] *= 1000.0
    factor[-1:] *= 1000.0
    return _with_future(bars, future, lambda values: values * factor[:, None])


def _permuted(bars: pd.DataFrame, future: np.ndarray, random: np.random.Generator) -> pd.DataFrame:
    order = random.permutation(int(future.sum()))
    return _with_future(bars, future, lambda values: values[order])


def _with_future(bars: pd.DataFrame, future: np.ndarray, alter: Callable[[np.ndarray], np.ndarray]) -> pd.DataFrame:
    """Alter the numbers of the future rows."""
    numbers = bars.select_dtypes("number")
    values = numbers.to_numpy(dtype="float64", copy=True)
    values[future] = alter(values[future])
    return bars.assign(**{str(name): values[:, column] for column, name in enumerate(numbers.columns)})


def _known_actions(
    actions: pd.DataFrame, bars: pd.DataFrame, cut: pd.Timestamp, random: np.random.Generator
) -> pd.DataFrame:
    return actions[actions["available_at"] <= cut]


def _changed_actions(
    actions: pd.DataFrame, bars: pd.DataFrame, cut: pd.Timestamp, random: np.random.Generator
) -> pd.DataFrame:
    """Change the values of the future actions, and let every symbol split and pay right after the cut."""
    future = actions["available_at"] > cut
    changed = actions.assign(value=actions["value"].where(~future, actions["value"] * random.uniform(0.2, 5.0)))
    instant = cut + pd.Timedelta(microseconds=1)
    session = instant.tz_localize(None).normalize()
    unannounced = [
        (symbol, instant, session, kind, value, f"{session:%Y-%m}")
        for symbol in bars["symbol"].unique()
        for kind, value in (("split", 7.0), ("dividend", random.uniform(0.1, 10.0)))
    ]
    invented = pd.DataFrame(unannounced, columns=list(actions.columns)).astype(actions.dtypes.to_dict())
    return _payable(pd.concat([changed, invented], ignore_index=True), bars, cut)


def _permuted_actions(
    actions: pd.DataFrame, bars: pd.DataFrame, cut: pd.Timestamp, random: np.random.Generator
) -> pd.DataFrame:
    future = (actions["available_at"] > cut).to_numpy()
    values = actions["value"].to_numpy(copy=True)
    values[future] = random.permutation(values[future])
    return _payable(actions.assign(value=values), bars, cut)


def _payable(actions: pd.DataFrame, bars: pd.DataFrame, cut: pd.Timestamp) -> pd.DataFrame:
    """Keep the future dividends below what the altered prices can pay: a function may refuse impossible ones."""
    prices = bars.loc[(bars["available_at"] > cut) & (bars["close"] > 0)].groupby("symbol")["close"].min()
    limit = 0.1 * actions["symbol"].map(prices).astype("float64")
    excessive = (actions["available_at"] > cut) & (actions["kind"] == "dividend") & (actions["value"] > limit)
    return actions.assign(value=actions["value"].where(~excessive, limit))


_ALTER_ACTIONS = {"cut off": _known_actions, "changed": _changed_actions, "permuted": _permuted_actions}
