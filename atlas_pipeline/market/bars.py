"""What a bar is: the tables of bars and of what is kept beside them: refused, restated, odd, missing, actions.

The rules a bar must pass stand in ``validation``; how revisions are found, in ``revisions``; where bars come from, in
``sources`` and the modules beside it.
"""

from __future__ import annotations

import pandas as pd

from atlas_pipeline.market.quarantine import quarantine_table
from atlas_pipeline.market.table import PANDAS_DTYPE, Column, Table

PRICES = ("open", "high", "low", "close")

SYMBOL = Column("symbol", "string", "The source's name of the instrument")
INTERVAL = Column("interval", "string", "Length of the bar: 1d, 1h, 5m and so on")
AVAILABLE_AT = Column("available_at", "timestamp", "Instant at which the bar is complete and could be known", "UTC")
SESSION = Column("session", "date", "Trading day of the exchange that the bar belongs to")
MONTH = Column("month", "string", "Partition: year and month of available_at in UTC", "YYYY-MM")

BARS = Table(
    name="bars",
    description="Validated bars as traded, labelled by the instant at which they are complete",
    columns=(
        SYMBOL,
        INTERVAL,
        AVAILABLE_AT,
        SESSION,
        Column("open", "float64", "First price", "currency", minimum=0.0),
        Column("high", "float64", "Highest price", "currency", minimum=0.0),
        Column("low", "float64", "Lowest price", "currency", minimum=0.0),
        Column("close", "float64", "Last price", "currency", minimum=0.0),
        Column("volume", "float64", "Units traded; null where the source publishes none", "units", True, 0.0),
        MONTH,
    ),
    key=("symbol", "interval", "available_at"),
    partition_by="month",
    time="available_at",
)

QUARANTINED_BARS = quarantine_table(BARS)

BAR_REVISIONS = Table(
    name="bar_revisions",
    description="Values of bars and corporate actions that a source changed after they were first stored",
    columns=(
        SYMBOL,
        INTERVAL,
        AVAILABLE_AT,
        Column("column", "string", "The column that changed; split or dividend where an action did"),
        Column(
            "old",
            "float64",
            "Value stored before; null where the row is new among older ones",
            "currency",
            True,
        ),
        Column("new", "float64", "Value the source gives now; null where it withdrew the row", "currency", True),
        Column("seen_at", "timestamp", "Instant of the ingestion that saw the change", "UTC"),
        MONTH,
    ),
    key=("symbol", "interval", "available_at", "column", "seen_at"),
    partition_by="month",
    time="seen_at",
)

CORPORATE_ACTIONS = Table(
    name="corporate_actions",
    description="Splits and cash dividends by ex-date; prices in bars are never adjusted for them",
    columns=(
        SYMBOL,
        Column(
            "available_at",
            "timestamp",
            "Opening of the ex-date's session: from here prices trade without",
            "UTC",
        ),
        Column("session", "date", "Ex-date"),
        Column("kind", "string", "split or dividend"),
        Column(
            "value",
            "float64",
            "Split: shares after for one before. Dividend: cash a share, as paid",
            "",
            False,
            0.0,
        ),
        MONTH,
    ),
    key=("symbol", "session", "kind"),
    partition_by="month",
    time="available_at",
)

BAR_COVERAGE = Table(
    name="bar_coverage",
    description="What each symbol should have in a month, what it has, and what is odd about it",
    columns=(
        SYMBOL,
        INTERVAL,
        MONTH,
        Column("sessions", "int64", "Completed sessions of the exchange while the symbol was listed", minimum=0),
        Column("expected", "int64", "Bars that these sessions have", "bars", minimum=0),
        Column("bars", "int64", "Bars stored", "bars", minimum=0),
        Column("quarantined", "int64", "Bars refused", "bars", minimum=0),
        Column("missing_sessions", "int64", "Sessions without any bar", minimum=0),
        Column("first_missing", "date", "The first session without any bar", nullable=True),
        Column("stale_opens", "int64", "Opens within a basis point of the previous close", "bars", minimum=0),
        Column("opens_judged", "int64", "Bars that have a previous close", "bars", minimum=0),
        Column("last_close", "float64", "The month's last close", "currency", True, 0.0),
        Column("last_bar", "timestamp", "Instant of the month's last bar", "UTC", True),
    ),
    key=("symbol", "interval", "month"),
    partition_by="month",
)

BAR_TRIPWIRES = Table(
    name="bar_tripwires",
    description="Bars that were let in though they look odd: jumps, stale repeats, runs without volume",
    columns=(
        SYMBOL,
        INTERVAL,
        AVAILABLE_AT,
        SESSION,
        Column("kind", "string", "jump, zero_volume, stale_repeat, stale_open, missing_sessions or out_of_order"),
        Column("value", "float64", "Size: trailing deviations of a jump, bars of a run, share of stale opens"),
        Column("message", "string", "What is odd, in words"),
        MONTH,
    ),
    key=("symbol", "interval", "available_at", "kind"),
    partition_by="month",
    time="available_at",
)


def empty(table: Table) -> pd.DataFrame:
    """Make a frame of this table without rows, in its columns and types."""
    return pd.DataFrame({column.name: pd.Series(dtype=PANDAS_DTYPE[column.dtype]) for column in table.columns})
