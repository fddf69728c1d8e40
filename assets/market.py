"""The market stage: bars by month, and beside them what validation refused and what the vendor restated."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import pandas as pd
from pydantic import Field

from assets.experiment import DEFAULT_EXPERIMENT
from assets.metadata import OWNERS, TRANSIENT, frame, materializations, permanent, picture, table_metadata
from assets.partitions import MONTHS
from assets.schema_check import schema_result, stored
from atlas_pipeline.config import load_config
from atlas_pipeline.market.bars import BAR_REVISIONS, BARS, CORPORATE_ACTIONS, QUARANTINED_BARS
from atlas_pipeline.market.errors import BrokenSchemaError, MarketError, SourceUnavailableError
from atlas_pipeline.market.option_chain import OPTION_CHAIN, QUARANTINED_OPTION_CHAIN, validate_option_chain
from atlas_pipeline.market.quotes import QUARANTINED_QUOTES, QUOTES, validate_quotes
from atlas_pipeline.market.revisions import compare_bars
from atlas_pipeline.market.table import Table
from resources.market import Market
from resources.warehouse import Warehouse

QUARANTINED_SHARE_LIMIT = 0.01
STALE_OPEN_LIMIT = 0.05


class Ingestion(dg.Config):
    """How far the project's clock is moved before a month is read."""

    advance_clock_to: str | None = Field(
        default=None, description="Instant (ISO 8601) that the replay clock is moved to first; a live market has none."
    )


def month_bounds(months: list[str]) -> tuple[datetime, datetime]:
    """First instant of the first month and first instant after the last (UTC)."""
    first, last = pd.Period(min(months), freq="M"), pd.Period(max(months), freq="M")
    return (
        first.start_time.tz_localize("UTC").to_pydatetime(),
        (last + 1).start_time.tz_localize("UTC").to_pydatetime(),
    )


@dg.asset(
    group_name="market",
    partitions_def=MONTHS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    pool="lake",
    kinds={"duckdb", "parquet"},
    owners=OWNERS,
    code_version="1",
    retry_policy=TRANSIENT,
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(days=4)),
    metadata=table_metadata(BARS),
)
def bars(
    context: dg.AssetExecutionContext, config: Ingestion, market: Market, warehouse: Warehouse
) -> Iterator[dg.MaterializeResult | dg.AssetMaterialization]:
    """Validated bars as traded, labelled by the instant they are complete.

    Rows that break a market rule go to `quarantined_bars` with the reason; values the vendor changed since they
    were first stored go to `bar_revisions`. Nothing is dropped, filled or adjusted.
    """
    months = sorted(context.partition_keys)
    start, end = month_bounds(months)
    if config.advance_clock_to is not None:
        with permanent(ValueError):
            market.advance(datetime.fromisoformat(config.advance_clock_to))
    now = market.now()
    with _source_errors(market):
        raw = market.bars(start, end)
        actions = market.feed.corporate_actions(market.symbols, start, end)
    absent = sorted(set(months) - set(raw["month"]))
    if absent:
        raise dg.Failure(
            f"no bar of {', '.join(market.symbols)} from the {market.source} source in {', '.join(absent)} "
            f"(the project's clock stands at {now:%Y-%m-%d %H:%M} UTC): choose months the source has, "
            "or let the replay reach them first",
            allow_retries=False,
        )
    before = warehouse.read(BARS, partitions=months)
    lost = before.loc[before["symbol"].isin(market.symbols), ["symbol", "month"]].drop_duplicates()
    lost = lost.merge(raw[["symbol", "month"]].drop_duplicates(), how="left", indicator=True).query(
        "_merge == 'left_only'"
    )
    if len(lost):
        raise dg.Failure(
            f"the {market.source} source gave no bar of {', '.join(sorted(lost['symbol'].unique()))} in "
            f"{', '.join(sorted(lost['month'].unique()))}, of which bars are stored: they are kept; ingest again when "
            "the source is whole",
            allow_retries=market.feed.live,
        )
    from atlas_pipeline.market.validation import validate_bars

    history = warehouse.read(BARS, before=start)
    with permanent(BrokenSchemaError):
        validated = validate_bars(
            raw, market.sessions(start, raw["available_at"].max()), history=history, actions=actions
        )
    revisions = compare_bars(before, validated.bars[validated.bars["available_at"] <= now], seen_at=now)
    with warehouse.transaction() as transaction:
        transaction.replace(BARS, by_month(validated.bars, months))
        transaction.replace(QUARANTINED_BARS, by_month(validated.quarantined, months))
        transaction.replace(CORPORATE_ACTIONS, by_month(actions, months))
        transaction.append(BAR_REVISIONS, revisions)
    commit = transaction.commit
    assert commit is not None
    for warning in validated.warnings.itertuples():
        context.log.warning(f"{warning.symbol} {warning.session:%Y-%m-%d} {warning.kind}: {warning.message}")
    context.log.info(f"{len(validated.bars)} bars of {len(months)} months, {len(validated.quarantined)} quarantined")
    counts = validated.bars.groupby("month").size()
    refused = validated.quarantined.groupby("month").size()
    yield from materializations(
        context,
        commit.data_versions[BARS.name],
        {
            "rows": len(validated.bars),
            "quarantined": len(validated.quarantined),
            "revised values": len(revisions),
            "source": market.source,
            "snapshot": commit.snapshot,
            "clock": f"{now:%Y-%m-%d %H:%M} UTC",
            **_pictures(warehouse, market, now),
        },
        {
            month: {
                "dagster/partition_row_count": int(counts.get(month, 0)),
                "quarantined": int(refused.get(month, 0)),
                "snapshot": commit.snapshot,
            }
            for month in months
        },
    )


def _pictures(warehouse: Warehouse, market: Market, now: datetime) -> dict[str, Any]:
    from atlas_pipeline.market.plots import plot_bars

    rows = warehouse.read(BARS)
    shown = rows.tail(5)[["symbol", "session", "open", "high", "low", "close", "volume"]]
    return {
        "coverage": picture(plot_bars(rows, market.sessions(rows["session"].min(), now)), "bars per symbol"),
        "latest rows": frame(shown, digits=6),
    }


def by_month(rows: pd.DataFrame, months: list[str]) -> dict[str, pd.DataFrame]:
    """Split rows by their month; a month without rows gets a frame without rows."""
    grouped = {str(month): own for month, own in rows.groupby("month")}
    return {month: grouped.get(month, rows.iloc[:0]) for month in months}


def _source_errors(market: Market) -> AbstractContextManager[None]:
    with permanent(MarketError, ValueError, TypeError):  # options that the source does not understand
        live = market.feed.live
    # A vendor that is down may be up in a minute; a file that is missing stays missing.
    return permanent(MarketError, transient=(SourceUnavailableError,) if live else ())


@dg.asset_check(asset=bars, blocking=True)
def bars_schema(warehouse: Warehouse) -> dg.AssetCheckResult:
    """Every stored bar has its types, its bounds and a key of its own."""
    return schema_result(BARS, stored(warehouse, BARS), warehouse)


@dg.asset_check(asset=bars, blocking=True)
def bars_quarantined_share(warehouse: Warehouse) -> dg.AssetCheckResult:
    """No month has more than 1% of its rows in quarantine."""
    kept = stored(warehouse, BARS).groupby("month").size()
    refused = warehouse.read(QUARANTINED_BARS).groupby("month").size()
    months = kept.index.union(refused.index)
    shares = refused.reindex(months, fill_value=0) / (
        kept.reindex(months, fill_value=0) + refused.reindex(months, fill_value=0)
    )
    worst = shares[shares > QUARANTINED_SHARE_LIMIT].sort_values(ascending=False)
    return dg.AssetCheckResult(
        passed=worst.empty,
        description=None
        if worst.empty
        else f"{len(worst)} months exceed {QUARANTINED_SHARE_LIMIT:.0%}, {worst.index[0]} with {worst.iloc[0]:.1%}: "
        "see quarantined_bars for the reasons, mend the source and ingest the months again",
        metadata={"months over the limit": frame(worst.rename("share").reset_index().head(20))},
    )


@dg.asset_check(asset=bars)
def bars_quarantine(warehouse: Warehouse) -> dg.AssetCheckResult:
    """No row is in quarantine."""
    refused = warehouse.read(QUARANTINED_BARS)
    return dg.AssetCheckResult(
        passed=refused.empty,
        severity=dg.AssetCheckSeverity.WARN,
        description=None if refused.empty else f"{len(refused)} rows wait in quarantined_bars with their reasons",
        metadata={
            "rows": len(refused),
            "latest": frame(refused.tail(10)[["symbol", "session", "open", "high", "low", "close", "reason"]]),
        },
    )


@dg.asset_check(asset=bars)
def bars_sessions(warehouse: Warehouse, market: Market) -> dg.AssetCheckResult:
    """Every session of the ingested months up to the project's clock has a bar of every symbol."""
    rows = stored(warehouse, BARS)
    sessions = market.sessions(rows["session"].min(), market.now())
    sessions = sessions[
        (sessions["available_at"] <= market.now())
        & sessions["available_at"].dt.strftime("%Y-%m").isin(rows["month"].unique())
    ]
    missing = {
        symbol: sorted(set(sessions["session"]) - set(rows.loc[rows["symbol"] == symbol, "session"]))
        for symbol in market.symbols
    }
    holes = pd.DataFrame(
        [
            {"symbol": symbol, "sessions missing": len(days), "first": days[0]}
            for symbol, days in missing.items()
            if days
        ],
        columns=["symbol", "sessions missing", "first"],
    )
    return dg.AssetCheckResult(
        passed=holes.empty,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"sessions": len(sessions), "missing": frame(holes)},
    )


@dg.asset_check(asset=bars)
def bars_stale_opens(warehouse: Warehouse) -> dg.AssetCheckResult:
    """Opens are traded prices wherever orders are filled at them.

    An open within one basis point of the previous close is the previous close printed again; orders must not be
    filled at it. With fills at the close the shares are only reported.
    """
    from atlas_pipeline.market.validation import stale_opens

    counts = stale_opens(stored(warehouse, BARS))
    totals = counts.groupby("symbol")[["stale", "days"]].sum()
    totals["share"] = totals["stale"] / totals["days"]
    fill = load_config(DEFAULT_EXPERIMENT).fill
    return dg.AssetCheckResult(
        passed=fill != "open" or bool((totals["share"] <= STALE_OPEN_LIMIT).all()),
        description=f"orders are filled at the {fill}; stale opens: "
        + ", ".join(f"{symbol} {share:.0%}" for symbol, share in totals["share"].items()),
        metadata={"by symbol": frame(totals.reset_index()), "by year": frame(counts.drop(columns="interval"))},
    )


@dg.asset_check(asset=bars, blocking=True)
def bars_corporate_actions(warehouse: Warehouse) -> dg.AssetCheckResult:
    """No split is left unapplied: features and the simulator take prices as traded and would see a crash.

    Until they apply corporate actions, a split blocks what is built on the bars; dividends only warn.
    """
    actions = warehouse.read(CORPORATE_ACTIONS)
    splits = actions[actions["kind"] == "split"]
    return dg.AssetCheckResult(
        passed=actions.empty,
        severity=dg.AssetCheckSeverity.ERROR if len(splits) else dg.AssetCheckSeverity.WARN,
        description=None
        if actions.empty
        else f"{len(splits)} splits and {len(actions) - len(splits)} dividends are stored but not applied: choose "
        "symbols and months without splits; returns leave dividends out",
        metadata={"latest": frame(actions.tail(20).drop(columns="month"))},
    )


@dg.asset_check(asset=bars)
def bars_revisions(warehouse: Warehouse) -> dg.AssetCheckResult:
    """The vendor has not restated bars that were stored before."""
    revisions = warehouse.read(BAR_REVISIONS)
    return dg.AssetCheckResult(
        passed=revisions.empty,
        severity=dg.AssetCheckSeverity.WARN,
        description=None
        if revisions.empty
        else f"{len(revisions)} values were restated; what a model saw is still at the snapshot it names",
        metadata={"latest": frame(revisions.sort_values("seen_at").tail(20).drop(columns="month"))},
    )


def _ingest_snapshots(
    context: dg.AssetExecutionContext,
    warehouse: Warehouse,
    raw: pd.DataFrame,
    validate: Callable[[pd.DataFrame], tuple[pd.DataFrame, pd.DataFrame]],
    tables: tuple[Table, Table],
) -> dg.MaterializeResult:
    month = context.partition_key
    if raw.empty:
        raise dg.Failure(f"no rows of {tables[0].name} in {month}: choose a month the source has", allow_retries=False)
    with permanent(BrokenSchemaError):
        kept, refused = validate(raw)
    with warehouse.transaction() as transaction:
        transaction.replace(tables[0], {month: kept})
        transaction.replace(tables[1], {month: refused})
    commit = transaction.commit
    assert commit is not None
    reasons = refused["reason"].value_counts().rename_axis("reason").reset_index()
    return dg.MaterializeResult(
        metadata={
            "rows": len(kept),
            "quarantined": len(refused),
            "snapshot": commit.snapshot,
            "reasons": frame(reasons),
        },
        data_version=dg.DataVersion(commit.data_versions[tables[0].name][month]),
    )


@dg.asset(
    group_name="market",
    partitions_def=MONTHS,
    pool="lake",
    kinds={"duckdb", "parquet"},
    owners=OWNERS,
    code_version="1",
    retry_policy=TRANSIENT,
    metadata=table_metadata(QUOTES),
)
def quotes(context: dg.AssetExecutionContext, market: Market, warehouse: Warehouse) -> dg.MaterializeResult:
    """Best bid and ask with their sizes, where the source has them; crossed and absurd ones are quarantined."""
    with _source_errors(market):
        raw = market.feed.quotes(market.symbols, *month_bounds([context.partition_key]))
    return _ingest_snapshots(context, warehouse, raw, validate_quotes, (QUOTES, QUARANTINED_QUOTES))


@dg.asset(
    group_name="market",
    partitions_def=MONTHS,
    pool="lake",
    kinds={"duckdb", "parquet"},
    owners=OWNERS,
    code_version="1",
    retry_policy=TRANSIENT,
    metadata=table_metadata(OPTION_CHAIN),
)
def option_chain(context: dg.AssetExecutionContext, market: Market, warehouse: Warehouse) -> dg.MaterializeResult:
    """Option chains of the underlyings, where the source has them; expired and crossed contracts are quarantined."""
    with _source_errors(market):
        raw = market.feed.option_chain(market.symbols, *month_bounds([context.partition_key]))
    return _ingest_snapshots(context, warehouse, raw, validate_option_chain, (OPTION_CHAIN, QUARANTINED_OPTION_CHAIN))


@dg.asset_check(asset=quotes, blocking=True)
def quotes_schema(warehouse: Warehouse) -> dg.AssetCheckResult:
    """Every stored quote has its types, its bounds and a key of its own."""
    return schema_result(QUOTES, stored(warehouse, QUOTES), warehouse)


@dg.asset_check(asset=option_chain, blocking=True)
def option_chain_schema(warehouse: Warehouse) -> dg.AssetCheckResult:
    """Every stored contract has its types, its bounds and a key of its own."""
    return schema_result(OPTION_CHAIN, stored(warehouse, OPTION_CHAIN), warehouse)
