"""Simulated market paths: bars with a known law, so that what can be earned on them is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from atlas_pipeline.trading.market_path import MarketPath

DAY = 86_400_000_000 * 365 // 252


@pytest.fixture(scope="session")
def simulated_path() -> Callable[..., MarketPath]:
    """A driftless path of 1% a bar; its embedding is noise, with ``leak`` but for the next fills' return."""

    def build(seed: int, bars: int = 1000, width: int = 16, leak: bool = False, symbol: str = "SIM") -> MarketPath:
        random = np.random.default_rng(seed)
        close = 100 * np.exp(np.cumsum(0.01 * random.standard_normal(bars)))
        opening = close * np.exp(0.002 * random.standard_normal(bars))
        embedding = random.standard_normal((bars, width)).astype(np.float32)
        if leak:
            embedding[:, 0] = 0.0
            embedding[:-2, 0] = close[2:] / close[1:-1] - 1.0
        return MarketPath(
            symbol,
            np.arange(bars, dtype=np.int64) * DAY,
            opening,
            close,
            np.ones(bars),
            embedding,
            np.zeros(bars),
            np.ones(bars),
            np.ones(bars),
            np.zeros(bars),
        )

    return build
