"""From bars to the feature matrix: all series from their first bar on, or from where their memory ends.

Frames come in and go out; the arithmetic is in ``kernels``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from atlas_pipeline.config import DataSettings
from atlas_pipeline.features.kernels.inputs import INDEX, INPUTS, NEVER
from atlas_pipeline.features.memory import SeriesMemory
from atlas_pipeline.features.registry import REGISTRY
from atlas_pipeline.features.relative import VOLATILITY
from atlas_pipeline.market.adjustment import actions_by_bar
from atlas_pipeline.market.bars import CORPORATE_ACTIONS, empty
from atlas_pipeline.market.calendars import LONGEST_CLOSURE
from atlas_pipeline.market.quarantine import month_of

INDEX_AGE_LIMIT = timedelta(days=7)
"""A volatility index published longer ago than the longest closure of its exchange in a week says nothing any more."""

_KEYS = ("symbol", "interval", "available_at", "month")
_PRICES = INPUTS[:INDEX]
_PARALLEL_ROWS = 50_000
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, eq=False)
class Features:
    """Features of bars, and what is needed to go on after them.

    Attributes
    ----------
    frame
        Rows of ``FEATURES``, one a bar, sorted by its key.
    ages
        int32 [rows, 4], see ``SeriesMemory``: from them follows why a value is missing.
    memory
        Of the series in the frame.
    """

    frame: pd.DataFrame
    ages: NDArray[np.int32]
    memory: SeriesMemory


def compute_features(
    bars: pd.DataFrame,
    actions: pd.DataFrame | None = None,
    *,
    volatility_index: pd.DataFrame | None = None,
    volatility_decay: float = DataSettings.volatility_decay,
) -> pd.DataFrame:
    """Compute every feature of the registry for every bar.

    Row t is what the formulas give on the bars up to t, back-adjusted as of t: no split or dividend moves a price, and
    no later one changes the row. It is computed in one pass, on prices times forward factors, which only grow at the
    end; what is in currency is divided by the factor of its own bar.

    A bar whose high, low or close is missing, infinite or not positive has no features, and all of them begin
    anew after it, and after a hole longer than ``LONGEST_CLOSURE``: nothing is filled or carried over.

    Parameters
    ----------
    bars
        Rows of ``BARS``, of which ``session`` and ``month`` may be left out: the whole history of each symbol up to the
        last bar wanted, in any order of symbols; within a symbol and interval ``available_at`` increases.
    actions
        Rows of ``CORPORATE_ACTIONS`` of that history; None where there are none, as of indices.
    volatility_index
        ``available_at`` (``datetime64[us, UTC]``, increasing) and ``close`` (percent per root year) of the index, such
        as the bars of VIX. A bar sees the last one published up to its own ``available_at``.
    volatility_decay
        Decay of ``volatility_ewma``.

    Returns
    -------
    pandas.DataFrame
        Rows of ``FEATURES``, one a bar, sorted by its key; features are float32, NaN during warm-up and where a formula
        or its input is missing.

    Raises
    ------
    ValueError
        Where a column is missing, or times of a symbol do not increase.
    CorporateActionError
        Where an action cannot be; see ``actions_by_bar``.
    """
    memory = SeriesMemory.empty(volatility_decay=volatility_decay)
    return continue_features(memory, bars, actions, volatility_index=volatility_index).frame


def continue_features(
    memory: SeriesMemory,
    bars: pd.DataFrame,
    actions: pd.DataFrame | None = None,
    *,
    volatility_index: pd.DataFrame | None = None,
    block: int | None = None,
) -> Features:
    """Compute the features of the bars that follow a memory: bit for bit those of a computation from the first bar on.

    Parameters
    ----------
    memory
        Of the bars before; not changed. A series it does not know begins.
    bars, actions, volatility_index
        As for ``compute_features``; enough are the actions since each series' last bar with a close, and the index
        since ``INDEX_AGE_LIMIT`` before the first bar.
    block
        Bars of a series that the kernel is given at once; None for as many as are fastest.

    Raises
    ------
    ValueError
        Where a column is missing, or times of a symbol do not increase, also beyond its memory.
    CorporateActionError
        Where an action cannot be; see ``actions_by_bar``.
    """
    ordered, bounds, series = _series(bars)
    own = memory.of(series)
    times = ordered["available_at"].to_numpy(dtype="datetime64[us]").astype(np.int64)
    before = np.empty_like(times)
    before[1:], before[bounds[:-1]] = times[:-1], own.last_bar
    _require_increasing(ordered, times, before)
    split, dividend = _actions(own, ordered, bounds, empty(CORPORATE_ACTIONS) if actions is None else actions)
    inputs = np.full((len(INPUTS), len(ordered)), np.nan)
    for number, name in enumerate(_PRICES):
        inputs[number] = ordered[name].to_numpy(dtype=np.float64)
    if volatility_index is not None:
        inputs[INDEX] = _as_published(volatility_index, times)
    values, ages = _advance(own, bounds, times, split, dividend, inputs, block)
    keys = ordered[list(_KEYS)].reset_index(drop=True)
    computed = pd.DataFrame(values.T, columns=list(REGISTRY), copy=False)
    booked = pd.DataFrame({"split": split, "dividend": dividend})
    return Features(pd.concat([keys, computed, booked], axis=1), ages, own)


def compute_atlas8(
    high: NDArray[np.float64], low: NDArray[np.float64], close: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Compute the set ``atlas8`` alone, of one series given as arrays.

    Parameters
    ----------
    high, low, close : float64 [n]
        Prices of one series without a hole, splits and dividends taken out.

    Returns
    -------
    float32 [8, n]
        In the order of ``SETS["atlas8"]``; NaN during warm-up. The columns of ``compute_features``, bit for bit.

    Raises
    ------
    ValueError
        Where lengths differ, or a price is missing, infinite or not positive.
    """
    from atlas_pipeline.features.kernels.atlas8 import BLOCK, HISTORY, SCRATCH, advance_atlas8
    from atlas_pipeline.features.kernels.recurrences import MEMORY

    prices = [np.ascontiguousarray(column, np.float64) for column in (high, low, close)]
    lengths = [len(column) for column in prices]
    if len(set(lengths)) > 1:
        raise ValueError(f"high, low and close have {lengths} rows: pass columns of the same bars")
    out = np.empty((8, len(close)), np.float32)
    scratch = np.empty((3 + SCRATCH, HISTORY + BLOCK))
    reached = advance_atlas8(np.zeros(len(MEMORY)), np.zeros((3, HISTORY)), *prices, scratch, out)
    if reached < len(close):
        raise ValueError(
            f"a price in rows {reached} to {min(reached + BLOCK, len(close)) - 1} is missing, infinite or not positive"
            ": cut the series there, or use compute_features, which does"
        )
    return out


def trailing_volatility(
    close: NDArray[np.float64], decay: float = DataSettings.volatility_decay
) -> NDArray[np.float64]:
    """Compute the column ``volatility_ewma`` of one series without a hole.

    Parameters
    ----------
    close : float64 [n]
        Closes with splits and dividends taken out, positive.
    decay
        Weight of the past.

    Returns
    -------
    float64 [n]
        Percent per bar; NaN during warm-up.
    """
    from atlas_pipeline.features.kernels.elementary import logarithm
    from atlas_pipeline.features.kernels.recurrences import MEMORY, volatilities

    logarithms, variance, fast = (np.empty(len(close)) for _ in range(3))
    logarithm(close, logarithms)
    volatilities(np.zeros(len(MEMORY)), 0, decay, np.diff(logarithms, prepend=np.nan), variance, fast)
    result: NDArray[np.float64] = 100.0 * np.sqrt(variance)
    result[: VOLATILITY.warmup] = np.nan
    return result


def _series(bars: pd.DataFrame) -> tuple[pd.DataFrame, NDArray[np.int64], tuple[tuple[str, str], ...]]:
    """Bars sorted by series, where each series begins and ends, and their names."""
    missing = [name for name in (*_KEYS[:3], *_PRICES) if name not in bars.columns]
    if missing:
        raise ValueError(f"bars lack the columns {missing}: pass rows of the table 'bars'")
    if "month" not in bars.columns:
        bars = bars.assign(month=month_of(bars["available_at"]))
    edges, names = _runs(bars)
    if names != sorted(set(names)):
        number = bars.groupby(["symbol", "interval"], sort=True).ngroup().to_numpy()
        bars = bars.iloc[np.argsort(number, kind="stable")]
        edges, names = _runs(bars)
    return bars, edges, tuple(names)


def _runs(bars: pd.DataFrame) -> tuple[NDArray[np.int64], list[tuple[str, str]]]:
    """Where symbol or interval change from one row to the next, and what they are in between."""
    if bars.empty:
        return np.zeros(1, np.int64), []
    changes = np.zeros(len(bars) - 1, bool)
    for name in ("symbol", "interval"):
        values = bars[name].array
        changes |= np.asarray(values[1:] != values[:-1], dtype=bool)
    edges = np.concatenate([[0], np.flatnonzero(changes) + 1, [len(bars)]])
    first = bars.iloc[edges[:-1]]
    return edges, list(zip(map(str, first["symbol"]), map(str, first["interval"]), strict=True))


def _require_increasing(ordered: pd.DataFrame, times: NDArray[np.int64], before: NDArray[np.int64]) -> None:
    back = np.flatnonzero(times <= before)
    if len(back):
        culprit = ordered.iloc[back[0]]
        raise ValueError(
            f"bars of {culprit['symbol']!r} ({culprit['interval']}) do not increase in time at "
            f"{culprit['available_at']}: sort them, remove duplicates, and leave out what was computed before"
        )


def _actions(
    own: SeriesMemory, ordered: pd.DataFrame, bounds: NDArray[np.int64], actions: pd.DataFrame
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Split and dividend on each bar; none on a series' first with a close, since nobody here held the share before."""
    if actions.empty:
        return np.ones(len(ordered)), np.zeros(len(ordered))
    names = ["symbol", "interval", "available_at", "close"]
    begun = np.flatnonzero(own.last_priced > NEVER)
    joined = ordered[names]
    if len(begun):
        # What was booked up to these bars falls on them once more, and is left out with them.
        last = pd.DataFrame(
            {
                "symbol": [own.series[number][0] for number in begun],
                "interval": [own.series[number][1] for number in begun],
                "available_at": pd.to_datetime(own.last_priced[begun], unit="us", utc=True),
                "close": own.last_close[begun],
            }
        )
        joined = pd.concat([last, joined], ignore_index=True)
    split, dividend = (on_bars[len(begun) :] for on_bars in actions_by_bar(joined, actions))
    close = ordered["close"].to_numpy(dtype=np.float64)
    priced = np.flatnonzero(np.isfinite(close) & (close > 0))
    number, first = np.unique(np.searchsorted(bounds, priced, side="right") - 1, return_index=True)
    begins = priced[first[~np.isin(number, begun)]]
    split[begins], dividend[begins] = 1.0, 0.0
    return split, dividend


def _as_published(index: pd.DataFrame, times: NDArray[np.int64]) -> NDArray[np.float64]:
    """Last value of the index that was published at each time; NaN where that is too long ago."""
    published = index["available_at"].to_numpy(dtype="datetime64[us]").astype(np.int64)
    if (np.diff(published) <= 0).any():
        raise ValueError("the volatility index does not increase in time: sort it and remove duplicates")
    values = np.concatenate([[np.nan], index["close"].to_numpy(dtype=np.float64)])
    place = np.searchsorted(published, times, side="right")
    instants = np.concatenate([[NEVER // 2], published])
    return np.where(times - instants[place] <= INDEX_AGE_LIMIT // _MICROSECOND, values[place], np.nan)


def _advance(
    own: SeriesMemory,
    bounds: NDArray[np.int64],
    times: NDArray[np.int64],
    split: NDArray[np.float64],
    dividend: NDArray[np.float64],
    inputs: NDArray[np.float64],
    block: int | None,
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Run the kernels over groups of whole series, one a processor where that pays; the memory is advanced."""
    from atlas_pipeline.features.kernels.atlas8 import BLOCK
    from atlas_pipeline.features.kernels.rows import judge_rows
    from atlas_pipeline.features.kernels.series import advance

    rows = len(times)
    values, ages = np.empty((len(REGISTRY), rows), np.float32), np.empty((rows, 4), np.int32)
    usable, begins_anew = np.empty(rows, bool), np.empty(rows, bool)

    def run(first: int, end: int) -> None:
        group, edges = slice(first, end), bounds[first : end + 1]
        judge_rows(
            edges,
            times,
            LONGEST_CLOSURE // _MICROSECOND,
            inputs,
            own.last_bar[group],
            own.last_priced[group],
            own.last_close[group],
            own.ages[group],
            usable,
            begins_anew,
            ages,
        )
        advance(
            own.averages[group],
            own.history[group],
            own.volatility_decay,
            edges,
            begins_anew,
            usable,
            split,
            dividend,
            inputs,
            values,
            block or BLOCK,
        )

    threads = min(len(own.series), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    edges = _balanced(bounds, threads if rows >= _PARALLEL_ROWS else 1)
    if len(edges) <= 2:
        run(0, len(own.series))
    else:
        with ThreadPoolExecutor(len(edges) - 1) as pool:
            list(pool.map(run, edges[:-1], edges[1:]))
    return values, ages


def _balanced(bounds: NDArray[np.int64], groups: int) -> Sequence[int]:
    """Cut series into groups of about the same number of rows."""
    shares = np.linspace(0, bounds[-1], groups + 1)
    edges = np.searchsorted(bounds, shares)
    return np.unique([0, *edges[1:-1], len(bounds) - 1]).tolist()
