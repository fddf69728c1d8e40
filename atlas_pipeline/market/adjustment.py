"""Corporate actions on bars: what falls on which bar, forward factors, and a series as it looked at an instant.

Prices are stored as traded and nothing here rewrites them. Back-adjusting with every action known today moves the past
whenever a later dividend is paid; a forward factor never does. Shares and cash of an account are ``trading``'s to book.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from atlas_pipeline.market.bars import PRICES
from atlas_pipeline.market.errors import MarketError
from atlas_pipeline.market.table import Column

Floats = NDArray[np.float64]

SPLIT = Column("split", "float64", "Shares at this bar for one at the bar before; 1 but for splits", "", False, 0.0)
DIVIDEND = Column(
    "dividend",
    "float64",
    "Cash paid at this bar on each share held into it, counted after the split; 0 but for ex-dates",
    "currency",
    False,
    0.0,
)

_NEEDED = ("symbol", "interval", "available_at", "close")


class CorporateActionError(MarketError):
    """A corporate action that cannot be: of no known kind, of no possible size, or worth more than the share."""


def actions_by_bar(bars: pd.DataFrame, actions: pd.DataFrame) -> tuple[Floats, Floats]:
    """Find the split and the dividend that fall on each bar.

    An action falls on the first bar that is complete after its ``available_at``, the opening of its ex-date, and has a
    close: the ex-date's own, or the next where that day has none. Several that fall on one bar are taken in the order
    of their days, of one day the split first; a dividend is cash on each share held that day, so that a later split of
    the same bar divides it. An action after the last bar falls on none.

    Parameters
    ----------
    bars
        Rows of ``BARS``, whole series in any order; within a symbol and interval ``available_at`` increases.
    actions
        Rows of ``CORPORATE_ACTIONS`` in any order; of symbols without bars too.

    Returns
    -------
    split, dividend : float64 [rows]
        In the order of ``bars``: shares after for one before (1 without a split), and cash in currency on each share
        held after the split (0 without a dividend).

    Raises
    ------
    CorporateActionError
        Where the kind is unknown, a value is not positive and finite, or a dividend is no smaller than the close before
        it and the close at it: more than the share was worth.
    """
    split, dividend = np.ones(len(bars)), np.zeros(len(bars))
    if actions.empty or bars.empty:
        return split, dividend
    by_symbol = {own.symbol: own for own in _by_symbol(actions)}
    times = _microseconds(bars["available_at"])
    close = bars["close"].to_numpy(dtype=np.float64)
    for rows in _series(bars):
        own = by_symbol.get(str(bars["symbol"].iat[rows[0]]))
        if own is not None:
            split[rows], dividend[rows] = _place(times[rows], close[rows], own)
    return split, dividend


def forward_factors(close: Floats, split: Floats, dividend: Floats) -> Floats:
    """Compute the factor that turns closes as traded into a total-return index, bar by bar.

    ``F[t] = F[t-1] * split[t] * (1 + dividend[t] / close[t])``: one share with its dividends reinvested at the close
    of the ex-date. Then ``close[t] * F[t] / (close[t-1] * F[t-1])`` is one plus the total return of the CRSP US Stock
    Databases (Data Descriptions Guide, "Total Return": ``(p[t] * f[t] + d[t]) / p[t-1] - 1``), which is what a holder
    who books the cash earns in that bar. F[t] depends on bars and actions up to t only.

    Parameters
    ----------
    close, split, dividend : float64 [bars]
        Of one series; see ``actions_by_bar``.

    Returns
    -------
    float64 [bars]
        1 at the first bar: what was paid before it, nobody here held.
    """
    paid = np.divide(dividend, close, out=np.zeros(len(close)), where=dividend != 0.0)
    growth: Floats = split * (1.0 + paid)
    growth[:1] = 1.0
    return growth.cumprod()


def as_of(bars: pd.DataFrame, actions: pd.DataFrame, instant: datetime) -> pd.DataFrame:
    """Back-adjust bars as they looked at an instant, with no action that was not known then.

    Parameters
    ----------
    bars
        As for ``actions_by_bar``.
    actions
        Rows of ``CORPORATE_ACTIONS``; later ones are left aside.
    instant
        With a time zone.

    Returns
    -------
    pandas.DataFrame
        The bars complete by then, in their order and index. Prices are multiplied by ``F(s) / F(last)``, so that each
        series' last bar stands as traded; volume by the splits between.
    """
    if instant.tzinfo is None:
        raise ValueError(f"instant={instant!r} has no time zone; pass an aware datetime")
    known = bars[bars["available_at"] <= instant]
    split, dividend = actions_by_bar(known, actions[actions["available_at"] <= instant])
    close = known["close"].to_numpy(dtype=np.float64)
    factor, shares = np.ones(len(known)), np.ones(len(known))
    for rows in _series(known):
        index = forward_factors(close[rows], split[rows], dividend[rows])
        counted = np.cumprod(split[rows])
        factor[rows], shares[rows] = index / index[-1], counted[-1] / counted
    prices = {name: known[name] * factor for name in PRICES if name in known.columns}
    return known.assign(**prices, **({"volume": known["volume"] * shares} if "volume" in known.columns else {}))


def _series(bars: pd.DataFrame) -> list[NDArray[np.int64]]:
    """Row numbers of each symbol and interval."""
    missing = [name for name in _NEEDED if name not in bars.columns]
    if missing:
        raise ValueError(f"bars lack the columns {missing}: pass rows of the table 'bars'")
    number = bars.groupby(["symbol", "interval"], sort=False).ngroup().to_numpy()
    order = np.argsort(number, kind="stable")
    edges = np.flatnonzero(np.diff(number[order], prepend=-1, append=-1))
    return [order[begin:end] for begin, end in pairwise(edges)]


def _microseconds(instants: pd.Series) -> NDArray[np.int64]:
    return instants.to_numpy(dtype="datetime64[us]").astype(np.int64)


class _Actions(NamedTuple):
    """One symbol's actions in the order in which they happen."""

    symbol: str
    instant: NDArray[np.int64]
    session: NDArray[np.datetime64]
    is_split: NDArray[np.bool_]
    value: Floats


def _by_symbol(actions: pd.DataFrame) -> Iterator[_Actions]:
    possible = actions["kind"].isin(["split", "dividend"]) & np.isfinite(actions["value"]) & (actions["value"] > 0)
    if not possible.all():
        bad = actions[~possible].iloc[0]
        raise CorporateActionError(
            f"{bad['symbol']}: {bad['kind']} of {bad['value']} on {bad['session']:%Y-%m-%d}: kinds are split and "
            "dividend, values positive and finite; correct the source and ingest that month again"
        )
    ordered = actions.assign(after=actions["kind"] == "dividend")
    ordered = ordered.sort_values(["symbol", "available_at", "after"], kind="stable", ignore_index=True)
    symbols = ordered["symbol"].to_numpy(dtype=object)
    instant, session = _microseconds(ordered["available_at"]), ordered["session"].to_numpy()
    is_split, value = ~ordered["after"].to_numpy(), ordered["value"].to_numpy(dtype=np.float64)
    edges = np.flatnonzero(np.r_[True, symbols[1:] != symbols[:-1], True])
    for begin, end in pairwise(edges):
        own = slice(begin, end)
        yield _Actions(str(symbols[begin]), instant[own], session[own], is_split[own], value[own])


def _place(times: NDArray[np.int64], close: Floats, actions: _Actions) -> tuple[Floats, Floats]:
    """Split and dividend at each bar of one series."""
    split, dividend = np.ones(len(times)), np.zeros(len(times))
    usable = np.flatnonzero(np.isfinite(close) & (close > 0))
    places = np.searchsorted(times[usable], actions.instant, side="right")
    reached = places < len(usable)
    places, is_split, value = places[reached], actions.is_split[reached], actions.value[reached]
    bar = usable[places]
    ratio = np.where(is_split, value, 1.0)
    np.multiply.at(split, bar, ratio)
    # Of the same bar only: the bits of a dividend must not depend on the splits of years before.
    later_splits = np.ones(len(bar))
    for place in range(len(bar) - 2, -1, -1):
        if bar[place] == bar[place + 1]:
            later_splits[place] = later_splits[place + 1] * ratio[place + 1]
    np.add.at(dividend, bar, np.where(is_split, 0.0, value) / later_splits)
    before = close[usable[places - 1]] / split[bar]
    # The first bar has none before it, and nobody here held the share.
    excessive = ~is_split & (places > 0) & (dividend[bar] >= np.maximum(before, close[bar]))
    if excessive.any():
        first = int(np.argmax(excessive))
        day = actions.session[reached][first].astype("datetime64[D]")
        raise CorporateActionError(
            f"{actions.symbol}: dividend of {value[first]} on {day} is no smaller than the share's price, "
            f"{before[first]} before and {close[bar[first]]} after: a dividend is cash a share in the currency of the "
            "price; correct the source and ingest that month again"
        )
    return split, dividend
