"""The market stage: bars by month and what they are resampled to; their checks are in ``bar_checks``."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

import dagster as dg
import pandas as pd
from dagster._core.definitions.data_version import extract_data_version_from_entry
from pydantic import Field

from assets.ingestion import Ingested, by_month, ingest, month_bounds
from assets.metadata import OWNERS, TRANSIENT, frame, materializations, permanent, picture, table_metadata
from assets.partitions import MONTHS, MONTHS_RESAMPLED
from assets.refresh import REFRESHED, market_freshness
from atlas_pipeline.market.bars import BAR_COVERAGE, BAR_REVISIONS, BARS, PRICES, QUARANTINED_BARS
from atlas_pipeline.market.errors import MarketError, SourceUnavailableError
from atlas_pipeline.market.resampling import RESAMPLED_BARS
from atlas_pipeline.market.sources import Outcome
from resources.market import Market
from resources.warehouse import Warehouse


class Ingestion(dg.Config):
    """How far the project's clock is moved before a month is read, and whether a mass restatement is believed."""

    advance_clock_to: str | None = Field(
        default=None, description="Instant (ISO 8601) that the replay clock is moved to first; a live market has none."
    )
    accept_restatements: bool = Field(
        default=False,
        description="Take a symbol's answer also where it withdraws many stored bars or restates most of them: without "
        "it, such an answer is distrusted and what is stored is kept.",
    )


@dg.asset(
    group_name="market",
    partitions_def=MONTHS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    pool="lake",
    kinds={"duckdb", "parquet"},
    owners=OWNERS,
    code_version="2",
    retry_policy=TRANSIENT,
    freshness_policy=market_freshness(),
    metadata=table_metadata(BARS),
)
def bars(
    context: dg.AssetExecutionContext, config: Ingestion, market: Market, warehouse: Warehouse
) -> Iterator[dg.MaterializeResult | dg.AssetMaterialization]:
    """Validated bars as traded, labelled by the instant they are complete.

    Rows that break a market rule go to `quarantined_bars` with the reason, values the vendor changed since they
    were first stored to `bar_revisions`, odd ones to `bar_tripwires`, splits and dividends to `corporate_actions`,
    what should be there and is to `bar_coverage`. Nothing is dropped, filled or adjusted.
    """
    months = sorted(context.partition_keys)
    if config.advance_clock_to is not None:
        with permanent(ValueError):
            market.advance(datetime.fromisoformat(config.advance_clock_to))
    with source_errors(market):
        done = ingest(market, warehouse, months, config.accept_restatements)
    restated = [
        month
        for month, version in done.versions.items()
        if month not in months and version != recorded_version(context, month)
    ]
    for outcome, symbols in done.outcomes.groupby("outcome")["symbol"]:
        if outcome != Outcome.OK:
            context.log.warning(f"{outcome!s}: {', '.join(symbols)}")
    for warning in done.tripwires.head(100).itertuples():
        context.log.warning(f"{warning.symbol} {warning.session:%Y-%m-%d} {warning.kind}: {warning.message}")
    context.log.info(f"{len(done.bars)} bars of {len(months)} months, {len(done.quarantined)} quarantined")
    counts = done.bars.groupby("month").size()
    refused = done.quarantined.groupby("month").size()
    yield from materializations(
        context,
        {month: done.versions[month] for month in months},
        {
            "rows": int(counts.reindex(months, fill_value=0).sum()),
            "quarantined": int(refused.reindex(months, fill_value=0).sum()),
            "revised values": len(done.revisions),
            "source": market.source,
            "snapshot": done.snapshot,
            "clock": f"{market.now():%Y-%m-%d %H:%M} UTC",
            **_shown(done, market, warehouse),
        },
        {
            month: {
                "dagster/partition_row_count": int(counts.get(month, 0)),
                "quarantined": int(refused.get(month, 0)),
                "snapshot": done.snapshot,
            }
            for month in [*months, *restated]
        },
        restated={month: done.versions[month] for month in restated},
    )


def _shown(done: Ingested, market: Market, warehouse: Warehouse) -> Mapping[str, Any]:
    """What a person wants to see of the whole table after an ingestion; nothing here reads all of it."""
    from atlas_pipeline.market.plots import plot_coverage

    coverage = warehouse.read(BAR_COVERAGE)
    latest = done.bars.sort_values("available_at", kind="stable").tail(5)
    revisions = warehouse.read(BAR_REVISIONS).sort_values("seen_at").tail(10)
    refused = warehouse.read(QUARANTINED_BARS, columns=["symbol", "session", "reason"])
    first, last = pd.Period(coverage["month"].min()), pd.Period(coverage["month"].max())
    warning = market.universe.survivorship_warning(first.start_time.date(), last.end_time.date())
    unanswered = done.outcomes[(done.outcomes["outcome"] != Outcome.OK) | (done.outcomes["kept"] > 0)]
    return {
        **({"survivorship": warning} if warning else {}),
        "coverage": picture(plot_coverage(coverage), "bars per symbol"),
        "outcomes": frame(done.outcomes["outcome"].value_counts().rename_axis("outcome").reset_index(name="symbols")),
        **({"not answered": frame(unanswered.head(20))} if len(unanswered) else {}),
        "latest rows": frame(latest[["symbol", "session", "open", "high", "low", "close", "volume"]], digits=6),
        "last revisions": frame(with_change(revisions)),
        "quarantine": frame(refused["reason"].value_counts().rename_axis("reason").reset_index(name="rows").head(10)),
        "tripwires": frame(done.tripwires.tail(10)[["symbol", "session", "kind", "value", "message"]]),
    }


@dg.asset(
    group_name="market",
    deps=[dg.AssetDep(bars, partition_mapping=MONTHS_RESAMPLED)],
    partitions_def=MONTHS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    automation_condition=REFRESHED,
    pool="lake",
    kinds={"numpy", "duckdb"},
    owners=OWNERS,
    code_version="1",
    retry_policy=TRANSIENT,
    metadata=table_metadata(RESAMPLED_BARS),
)
def resampled_bars(
    context: dg.AssetExecutionContext, market: Market, warehouse: Warehouse
) -> Iterator[dg.MaterializeResult | dg.AssetMaterialization]:
    """Bars of the market's coarser timescales, each made of whole finer bars.

    A bar that is not over, or that lacks one of its finer bars, is left out and counted; none is made of what there is.
    """
    months = sorted(context.partition_keys)
    rows, left_out = market.resample(*month_bounds(months))
    commit = warehouse.replace(RESAMPLED_BARS, by_month(rows, months))
    reasons = left_out.groupby(["interval", "reason"]).size().reset_index(name="bars")
    counts = rows.groupby("month").size()
    yield from materializations(
        context,
        commit.data_versions[RESAMPLED_BARS.name],
        {
            "rows": len(rows),
            "snapshot": commit.snapshot,
            "timescales": ", ".join(market.timescales)
            or f"none beside {market.interval}: see timescales in the market's file",
            "left out": frame(reasons),
            "latest rows": frame(rows.tail(5)[["symbol", "interval", "session", *PRICES, "volume"]], digits=6),
        },
        {
            month: {"dagster/partition_row_count": int(counts.get(month, 0)), "snapshot": commit.snapshot}
            for month in months
        },
    )


def recorded_version(context: dg.AssetExecutionContext, month: str) -> str | None:
    """Data version of a month's last materialization; a run that was killed has written rows without one."""
    wanted = dg.AssetRecordsFilter(asset_key=context.asset_key, asset_partitions=[month])
    found = context.instance.fetch_materializations(wanted, limit=1).records
    version = extract_data_version_from_entry(found[0].event_log_entry) if found else None
    return None if version is None else version.value


def with_change(revisions: pd.DataFrame) -> pd.DataFrame:
    """Revisions as a person reads them: what was, what is, and by how much they differ."""
    shown = revisions[["symbol", "available_at", "column", "old", "new", "seen_at"]].copy()
    shown.insert(5, "change (%)", 100 * (shown["new"] / shown["old"] - 1))
    return shown


def source_errors(market: Market) -> AbstractContextManager[None]:
    """Turn what a retry cannot mend into failures that allow none."""
    with permanent(MarketError, ValueError, TypeError):  # options that the source does not understand
        live = market.feed.live
    # A vendor that is down may be up in a minute; a file that is missing stays missing.
    return permanent(MarketError, transient=(SourceUnavailableError,) if live else ())
