"""Feeds that misbehave, and SQL on the lake for what no interface allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import pandas as pd
import pytest

from atlas_pipeline.adaptation.ledger import EXPERIENCE, LEDGER_TABLES
from atlas_pipeline.market.bundled import BundledSource
from resources.ducklake import Catalog
from resources.market import Market

Change = Callable[[pd.DataFrame], pd.DataFrame]


class ChangedFeed(BundledSource):
    """The bundled bars as another vendor might deliver them; symbols it does not know copy the S&P 500."""

    def __init__(self, change: Change) -> None:
        self.change = change

    def bars(self, symbols: Sequence[str], start: datetime, end: datetime) -> pd.DataFrame:
        known = [symbol for symbol in symbols if symbol in self.symbols]
        frames = [super().bars(known, start, end)] if known else []
        for symbol in symbols:
            if symbol not in known:
                frames.append(super().bars(["SP500"], start, end).assign(symbol=symbol))
        return self.change(pd.concat(frames, ignore_index=True))

    def corporate_actions(self, symbols: Sequence[str], start: datetime, end: datetime) -> pd.DataFrame:
        return super().corporate_actions([], start, end)


@pytest.fixture
def change_feed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], None]:
    """Let the market's feed deliver the bundled bars changed."""

    def patch(change: Change) -> None:
        monkeypatch.setattr(Market, "feed", property(lambda market: ChangedFeed(change)))

    return patch


@pytest.fixture
def execute_sql() -> Callable[..., None]:
    """Change the lake behind everyone's back."""

    def execute(pipeline, statement: str) -> None:
        with Catalog(pipeline.home / "lake", 10.0).attach() as (connection, alias):
            connection.execute(statement.format(lake=f"{alias}.main"))

    return execute


@pytest.fixture(autouse=True)
def _quick(without_pictures: None) -> None:
    """Every test of this room runs without pictures."""


@pytest.fixture
def cut_ledger(execute_sql) -> Callable[..., None]:
    """Take the ledger back to the bar that brought an environment step."""

    def cut(pipeline, step: int) -> None:
        experience = pipeline.warehouse.read(EXPERIENCE).set_index("env_step")
        bar = experience.loc[step, "next_bar"].isoformat()
        for table in LEDGER_TABLES:
            execute_sql(pipeline, f"DELETE FROM {{lake}}.{table.name} WHERE {table.time} > TIMESTAMPTZ '{bar}'")

    return cut
