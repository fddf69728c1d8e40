"""One symbol's bars as the simulator walks along them: prices, volatility, embedding, forecast.

Market bars do not depend on our actions, so everything here is computed once; the account is in `simulator`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

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
        float64 [T], currency per share, positive.
    volatility
        float64 [T], percent per bar, known at that bar, positive.
    embedding
        float32 [T, d], the frozen forecaster's state at that bar.
    forecast_location, forecast_scale
        float64 [T], of the return that follows that bar, percent.

    Raises
    ------
    ValueError
        Naming symbol, array and bar, where lengths differ, a number is not finite, or a price, volatility or
        scale is not positive.
    """

    symbol: str
    available_at: NDArray[np.int64]
    open: NDArray[np.float64]
    close: NDArray[np.float64]
    volatility: NDArray[np.float64]
    embedding: NDArray[np.float32]
    forecast_location: NDArray[np.float64]
    forecast_scale: NDArray[np.float64]

    def __post_init__(self) -> None:
        bars = len(self.available_at)
        for name in ("open", "close", "volatility", "embedding", "forecast_location", "forecast_scale"):
            array = getattr(self, name)
            if len(array) != bars:
                raise ValueError(f"{self.symbol}: {name} has {len(array)} entries, available_at {bars}: pass one a bar")
            bad = ~np.isfinite(array)
            if name in ("open", "close", "volatility", "forecast_scale"):
                bad |= ~(array > 0)
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

    def between(self, start: int, stop: int) -> MarketPath:
        """Bars ``start`` up to, not including, ``stop``, as views."""
        cut = {f.name: getattr(self, f.name)[start:stop] for f in fields(self) if f.name != "symbol"}
        return replace(self, **cut)


def market_paths(
    panel: Panel,
    ends: NDArray[np.int64],
    embeddings: NDArray[np.float32],
    location: NDArray[np.float64],
    scale: NDArray[np.float64],
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
            )
        )
    return paths
