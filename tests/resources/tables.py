"""Declared tables of every type, and rows for them."""

import numpy as np
import pandas as pd

from atlas_pipeline.market.table import Column, Table

BARS = Table(
    "bars",
    "bars as traded",
    (
        Column("symbol", "string", "symbol"),
        Column("available_at", "timestamp", "instant the bar is complete"),
        Column("session", "date", "session", nullable=True),
        Column("close", "float64", "closing price", minimum=0.0),
        Column("weight", "float32", "weight", nullable=True),
        Column("note", "string", "remark", nullable=True),
        Column("volume", "int64", "volume"),
        Column("count", "int32", "trades"),
        Column("stale", "bool", "whether the bar is stale"),
        Column("month", "string", "month of available_at"),
    ),
    key=("symbol", "available_at"),
    partition_by="month",
    time="available_at",
)


LEDGER = Table(
    "ledger",
    "decisions",
    (
        Column("ledger", "string", "ledger"),
        Column("available_at", "timestamp", "instant of the decision"),
        Column("value", "float64", "value"),
    ),
    key=("ledger", "available_at"),
    time="available_at",
)


GATE = Table(
    "gate_decisions",
    "verdicts",
    (Column("step", "int64", "environment step"), Column("verdict", "string", "verdict")),
    key=("step",),
)


def bars(month: str, days: int = 3, symbols: tuple[str, ...] = ("A", "B"), close: float = 100.0) -> pd.DataFrame:
    spacing = "D" if days <= 28 else "min"
    times = pd.date_range(f"{month}-01 21:00", periods=days, freq=spacing, tz="UTC").as_unit("us")
    n = days * len(symbols)
    return pd.DataFrame(
        {
            "symbol": pd.Series(np.repeat(symbols, days), dtype="str"),
            "available_at": np.tile(times, len(symbols)),
            "session": np.tile(times.tz_localize(None).normalize(), len(symbols)),
            "close": close + np.arange(n) / 3,
            "weight": np.arange(n, dtype="float32") / 7,
            "note": pd.Series(["it's", None] * n, dtype="str")[:n],
            "volume": np.arange(n, dtype="int64") + 2**53 + 1,
            "count": np.arange(n, dtype="int32"),
            "stale": np.arange(n) % 2 == 0,
            "month": pd.Series([month] * n, dtype="str"),
        }
    )


def decisions(*days: int, ledger: str = "main", value: float = 1.0) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "ledger": pd.Series([ledger] * len(days), dtype="str"),
            "available_at": pd.to_datetime([f"2016-01-{day:02d}" for day in days], utc=True).as_unit("us"),
            "value": np.full(len(days), value),
        }
    )
