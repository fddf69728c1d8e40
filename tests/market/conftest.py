from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from atlas_pipeline.market.bars import BARS
from atlas_pipeline.market.bundled import BundledSource
from atlas_pipeline.market.calendars import sessions
from atlas_pipeline.market.quarantine import conform


@pytest.fixture
def make_bars():
    """Valid bars of one symbol on real sessions: a slow random walk."""

    def make(symbol: str = "AAA", count: int = 60, start: datetime = datetime(2015, 1, 2, tzinfo=UTC), seed: int = 0):
        random = np.random.default_rng(seed)
        days = sessions(start, start + timedelta(days=2 * count + 20)).head(count)
        close = 100 * np.exp(np.cumsum(random.normal(0, 0.01, count)))
        open_ = close * np.exp(random.normal(0, 0.005, count))
        frame = pd.DataFrame(
            {
                "symbol": symbol,
                "interval": "1d",
                "available_at": days["available_at"].to_numpy(),
                "session": days["session"].to_numpy(),
                "open": open_,
                "high": np.maximum(open_, close) * 1.004,
                "low": np.minimum(open_, close) * 0.996,
                "close": close,
                "volume": random.integers(1, 1000, count).astype("float64"),
            }
        )
        frame["available_at"] = frame["available_at"].astype("datetime64[us, UTC]")
        return conform(frame, BARS)

    return make


@pytest.fixture(scope="session")
def bundled_bars() -> pd.DataFrame:
    source = BundledSource()
    first, last = source.range()
    return source.bars(source.symbols, first, last + timedelta(microseconds=1))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = Path(__file__).resolve().parents[3] / "shared" / "data"
    if not (folder / "daily.parquet").is_file():
        pytest.skip("no ../shared/data beside the repository: real files of several vendors are tested only with it")
    return folder
