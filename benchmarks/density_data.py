"""The series that the density benchmarks forecast: two bundled indices, and seven more where a file is given."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pandas as pd

from atlas_pipeline.features.model_inputs import set_columns
from atlas_pipeline.market.bundled import BundledSource
from atlas_pipeline.market.calendars import sessions
from atlas_pipeline.market.files import FilesSource
from atlas_pipeline.market.universe import Universe
from atlas_pipeline.market.validation import validate_bars
from atlas_pipeline.windows.panel import Panel
from atlas_pipeline.windows.panel_of_bars import panel_of_bars

INDICES = ("SP500", "NASDAQ")
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "daily.parquet"
"""Daily bars as traded with price and split factors; where the file is absent, the nine series are left out."""
# QQQ, the eighth in the file, has a hole of six years. EEM's rows before its listing are another security.
SEVEN = ("SPY", "IWM", {"symbol": "EEM", "listed": date(2003, 4, 11)}, "AAPL", "IBM", "BAC", "AIG")
ALWAYS = (datetime(1990, 1, 1, tzinfo=UTC), datetime(2019, 1, 1, tzinfo=UTC))


def bundled_panel(features: str) -> Panel:
    """Panel of the two indices with the columns of these sets."""
    return panel_of_bars(_bundled(), set_columns(features))


def nine_panel(features: str, path: Path = SHARED) -> Panel:
    """Panel of the indices and seven stocks and funds, as traded, splits and dividends beside them."""
    source = FilesSource(bars={"path": path, "columns": {"session": "date"}})
    answers = list(Universe.parse(SEVEN).fetch(source, *ALWAYS))
    bars = pd.concat([answer.bars for answer in answers], ignore_index=True)
    actions = pd.concat([answer.actions for answer in answers], ignore_index=True)
    days = sessions(bars["session"].min(), bars["session"].max())
    sound = validate_bars(bars, days, actions=actions).bars
    return panel_of_bars(pd.concat([_bundled(), sound], ignore_index=True), set_columns(features), actions)


def _bundled() -> pd.DataFrame:
    return BundledSource().bars(INDICES, *ALWAYS)
