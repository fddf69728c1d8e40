"""Partitions of the assets and how one stage's partitions map to another's.

Data come by month, panels by year, models by fold; a fold is the year it is judged on. Adapters come by the
environment step they were made at.
"""

from __future__ import annotations

import dagster as dg

from atlas_pipeline.market.intervals import parse_interval
from atlas_pipeline.market.settings import load_market_settings

MARKET = load_market_settings()
POOLED_HISTORY_YEARS = 100
"""More years than any market's history: a mapping needs a number where "all earlier years" is meant."""

FIRST_FOLD = str(int(MARKET.first_month[:4]) + 8)
"""The first fold with enough history: a window of two years, two of windows to fit on, the policy's four."""


def _month_after(month: str) -> str:
    year, number = int(month[:4]), int(month[5:])
    return f"{year + number // 12}-{number % 12 + 1:02d}"


def _year_after(month: str) -> str:
    return str(int(month[:4]) + 1)


def _months(timescale: str) -> int:
    """Months before its last one that a bar may reach back into."""
    interval = parse_interval(timescale)
    return interval.count * {"y": 12, "mo": 1}.get(interval.unit, 1)


_live = MARKET.last_month is None

MONTHS = dg.TimeWindowPartitionsDefinition(
    start=MARKET.first_month,
    end=None if MARKET.last_month is None else _month_after(MARKET.last_month),
    fmt="%Y-%m",
    cron_schedule="0 0 1 * *",
    end_offset=1 if _live else 0,
)

YEARS = dg.TimeWindowPartitionsDefinition(
    start=MARKET.first_month[:4],
    end=None if MARKET.last_month is None else _year_after(MARKET.last_month),
    fmt="%Y",
    cron_schedule="0 0 1 1 *",
    end_offset=1 if _live else 0,
)

FOLDS = dg.TimeWindowPartitionsDefinition(
    start=FIRST_FOLD,
    end=None if MARKET.last_month is None else _year_after(MARKET.last_month),
    fmt="%Y",
    cron_schedule="0 0 1 1 *",
    end_offset=1 if _live else 0,
)

ADAPTER_STEPS = dg.DynamicPartitionsDefinition(name="adapter_steps")

MONTHS_OF_THE_YEAR = dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True)

MONTHS_RESAMPLED = dg.TimeWindowPartitionMapping(
    start_offset=-max((_months(timescale) for timescale in MARKET.timescales), default=1),
    allow_nonexistent_upstream_partitions=True,
)
"""A coarser bar that ends in a month may have begun in an earlier one."""

YEARS_BEFORE_THE_FOLD = dg.TimeWindowPartitionMapping(
    start_offset=-POOLED_HISTORY_YEARS, end_offset=-1, allow_nonexistent_upstream_partitions=True
)

YEARS_UP_TO_THE_FOLD = dg.TimeWindowPartitionMapping(
    start_offset=-POOLED_HISTORY_YEARS, end_offset=0, allow_nonexistent_upstream_partitions=True
)


def adapter_step_key(step: int) -> str:
    """Partition key of the adapter made at an environment step: zero-padded, so that keys sort as numbers."""
    return f"{step:06d}"
