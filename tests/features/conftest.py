from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from atlas_pipeline.market.bars import BARS
from atlas_pipeline.market.bundled import BundledSource
from atlas_pipeline.market.quarantine import conform


@pytest.fixture(scope="session")
def bundled_bars() -> pd.DataFrame:
    source = BundledSource()
    first, last = source.range()
    return source.bars(source.symbols, first, last + timedelta(microseconds=1))


@pytest.fixture
def make_bars():
    """Bars of one symbol, a day apart, from closes; high and low a percent around."""

    def make(close: np.ndarray, symbol: str = "AAA") -> pd.DataFrame:
        close = np.asarray(close, dtype="float64")
        instants = pd.date_range("2015-01-01 21:00", periods=len(close), freq="D", tz="UTC", unit="us")
        frame = pd.DataFrame(
            {
                "symbol": pd.Series(symbol, index=range(len(close)), dtype="str"),
                "interval": pd.Series("1d", index=range(len(close)), dtype="str"),
                "available_at": instants,
                "session": instants.tz_localize(None).normalize(),
                "open": close,
                "high": close * 1.01,
                "low": close * 0.99,
                "close": close,
                "volume": 1.0,
            }
        )
        return conform(frame, BARS)

    return make


@pytest.fixture
def walk():
    """A random walk of closes."""

    def make(count: int = 300, seed: int = 0, volatility: float = 0.01) -> np.ndarray:
        return 100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, volatility, count)))

    return make


@pytest.fixture(scope="session")
def features(bundled_bars) -> pd.DataFrame:
    from atlas_pipeline.features.compute import compute_features

    return compute_features(bundled_bars)
