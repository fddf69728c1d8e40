"""One symbol's bars as the simulator walks along them: prices, volatility, embedding, forecast.

Market bars do not depend on our actions, so everything here is computed once; the account is in `simulator`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from atlas_pipeline.market.adjustment import forward_factors
from atlas_pipeline.windows.panel import CLOSE, PRICES, Panel

OPEN = PRICES.index("open")
MICROSECONDS_PER_YEAR = 365.25 * 24 * 3600 * 1e6


@dataclass(frozen=True, eq=False)
class MarketPath:
    """Consecutive bars of one symbol.

    Attributes
    ----------
    symbol
        Name.
    available_at
        int64 [T], the instant each bar is complete, microseconds since 1970 UTC, increasing.
    open, close
        float64 [T], currency per share, positive, as traded.
    volatility
        float64 [T], percent per bar, known at that bar, positive.
    embedding
        float32 [T, d], the frozen forecaster's state at that bar.
    forecast_location, forecast_scale
        float64 [T], of the return that follows that bar, percent.
    split
        float64 [T], shares at that bar for one at the bar before, positive.
    dividend
        float64 [T], cash paid at that bar on each share held into it, counted after the split; not negative.

    Raises
    ------
    ValueError
        Naming symbol, array and bar, where lengths differ, a number is not finite, a price, volatility, scale or split
        is not positive, or a dividend is negative.
    """

    symbol: str
    available_at: NDArray[np.int64]
    open: NDArray[np.float64]
    close: NDArray[np.float64]
    volatility: NDArray[np.float64]
    embedding: NDArray[np.float32]
    forecast_location: NDArray[np.float64]
    forecast_scale: NDArray[np.float64]
    split: NDArray[np.float64]
    dividend: NDArray[np.float64]

    def __post_init__(self) -> None:
        bars = len(self.available_at)
        for name in (field.name for field in fields(self) if field.name not in ("symbol", "available_at")):
            array = getattr(self, name)
            if len(array) != bars:
                raise ValueError(f"{self.symbol}: {name} has {len(array)} entries, available_at {bars}: pass one a bar")
            bad = ~np.isfinite(array)
            if name in ("open", "close", "volatility", "forecast_scale", "split"):
                bad |= ~(array > 0)
            if name == "dividend":
                bad |= array < 0
            if bad.any():
                bar = int(np.argwhere(bad)[0][0])
                instant = np.datetime64(int(self.available_at[bar]), "us")
                raise ValueError(
                    f"{self.symbol}: {name} is {array[bar]} at bar {bar} ({instant}): "
                    "quarantine the bar and recompute features and embeddings"
                )
        if bars > 1 and (np.diff(self.available_at) <= 0).any():
            bar = int(np.argmax(np.diff(self.available_at) <= 0)) + 1
            raise ValueError(f"{self.symbol}: available_at does not increase at bar {bar}: sort the bars by time")

    def __len__(self) -> int:
        return len(self.available_at)

    @property
    def bars_per_year(self) -> float:
        """Bars a year, as this path has them: 252 or so for daily bars.

        Raises
        ------
        ValueError
            Where there are fewer than two bars.
        """
        if len(self) < 2:
            raise ValueError(f"{self.symbol}: {len(self)} bars span no time: pass at least 2")
        return (len(self) - 1) * MICROSECONDS_PER_YEAR / float(self.available_at[-1] - self.available_at[0])

    def fills(self, fill: Literal["close", "open"]) -> NDArray[np.float64]:
        """Prices, float64 [T], at which an order fills in each bar: its close or its open."""
        return self.close if fill == "close" else self.open

    @cached_property
    def total_return_close(self) -> NDArray[np.float64]:
        """Closes with their dividends reinvested, float64 [T], from the first bar's close on: what returns are of."""
        return self.close * forward_factors(self.close, self.split, self.dividend)

    def between(self, start: int, stop: int) -> MarketPath:
        """Bars ``start`` up to, not including, ``stop``, as views."""
        cut = {f.name: getattr(self, f.name)[start:stop] for f in fields(self) if f.name != "symbol"}
        return replace(self, **cut)

    def only(self, kept: NDArray[np.bool_]) -> MarketPath:
        """Leave bars out, as if nobody saw them: what their splits and dividends bring falls on the next bar kept.

        Parameters
        ----------
        kept
            bool [T].
        """
        split, dividend = carried(self.split, self.dividend, kept)
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "symbol"}
        arrays |= {"split": split, "dividend": dividend}
        return replace(self, **{name: array[kept] for name, array in arrays.items()})


def carried(
    split: NDArray[np.float64], dividend: NDArray[np.float64], kept: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Move the splits and dividends of bars that are left out to the next bar that is kept.

    Parameters
    ----------
    split, dividend
        float64 [T], of consecutive bars of one symbol; see ``MarketPath``.
    kept
        bool [T].

    Returns
    -------
    split, dividend
        float64 [T]; a dividend is counted in the shares of the bar it comes to.
    """
    split, dividend = split.copy(), dividend.copy()
    for bar in np.flatnonzero(~kept[:-1]):
        dividend[bar + 1] += dividend[bar] / split[bar + 1]
        split[bar + 1] *= split[bar]
    return split, dividend


def market_paths(
    panel: Panel,
    ends: NDArray[np.int64],
    embeddings: NDArray[np.float32],
    location: NDArray[np.float64],
    scale: NDArray[np.float64],
    held_from: int | None = None,
) -> list[MarketPath]:
    """Cut forecasts of a panel into one path a symbol.

    Parameters
    ----------
    panel
        Where prices and volatility stand.
    ends
        int64 [n], increasing row numbers of the panel at which forecasts were made.
    embeddings
        float32 [n, d].
    location, scale
        float [n], of the forecast return, percent.
    held_from
        Instant, microseconds since 1970 UTC, from which on an account may hold shares without having been shown a bar:
        what the panel's splits and dividends from there on bring to them falls on the path's first bar.

    Returns
    -------
    list of MarketPath
        In the order of the panel's symbols; symbols without a forecast have none.

    Raises
    ------
    ValueError
        Where a symbol's forecasts skip a bar: an account cannot be carried over bars that nobody saw.
    """
    paths = []
    for number, name in enumerate(panel.symbols):
        chosen = np.flatnonzero(panel.symbol[ends] == number)
        if not chosen.size:
            continue
        rows = ends[chosen]
        gaps = np.flatnonzero(np.diff(rows) != 1)
        if gaps.size:
            instant = np.datetime64(int(panel.available_at[rows[gaps[0]]]), "us")
            raise ValueError(
                f"{name}: no forecast for the bar after {instant}: repair its features, or start the path later"
            )
        unseen = np.arange(0)
        if held_from is not None:
            earlier = np.flatnonzero(panel.symbol[: rows[0]] == number)
            unseen = earlier[panel.available_at[earlier] >= held_from]
        span = np.concatenate([unseen, rows])
        split, dividend = carried(panel.split[span], panel.dividend[span], span >= rows[0])
        paths.append(
            MarketPath(
                symbol=name,
                available_at=np.asarray(panel.available_at[rows]),
                open=np.ascontiguousarray(panel.prices[rows, OPEN]),
                close=np.ascontiguousarray(panel.prices[rows, CLOSE]),
                volatility=np.asarray(panel.volatility[rows]),
                embedding=np.ascontiguousarray(embeddings[chosen], np.float32),
                forecast_location=np.asarray(location[chosen], np.float64),
                forecast_scale=np.asarray(scale[chosen], np.float64),
                split=split[len(unseen) :],
                dividend=dividend[len(unseen) :],
            )
        )
    return paths
