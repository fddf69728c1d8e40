"""A small panel of made-up prices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from atlas_pipeline.windows.panel import Panel


def _make(rows: int = 400, symbols: tuple[str, ...] = ("A", "B"), start: str = "2000-01-03", warmup: int = 5) -> Panel:
    random = np.random.default_rng(1)
    frames = []
    for symbol in symbols:
        close = 100 * np.exp(np.cumsum(0.01 * random.standard_normal(rows)))
        frame = pd.DataFrame(random.standard_normal((rows, 2)), columns=["x", "z"])
        frame.loc[: warmup - 1, "x"] = np.nan
        frame["symbol"] = symbol
        frame["available_at"] = pd.bdate_range(start, periods=rows, tz="UTC", unit="us") + pd.Timedelta(hours=21)
        for name in ("open", "high", "low", "close"):
            frame[name] = close
        frame["volume"] = 1.0
        frame["split"], frame["dividend"] = 1.0, 0.0
        frame["volatility_ewma"] = np.where(np.arange(rows) < warmup, np.nan, 1.0)
        frames.append(frame)
    return Panel.from_frame(pd.concat(frames).sample(frac=1, random_state=0), ["x", "z"])


@pytest.fixture
def make_panel() -> Callable[..., Panel]:
    return _make
