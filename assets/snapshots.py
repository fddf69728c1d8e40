"""The market stage: quotes and option chains, by month. A live source says what they are now, and keeps no history."""

from collections.abc import Callable
from datetime import datetime

import dagster as dg
import pandas as pd

from assets.ingestion import month_bounds
from assets.market import source_errors
from assets.metadata import OWNERS, TRANSIENT, frame, permanent, table_metadata
from assets.partitions import MONTHS
from atlas_pipeline.market.errors import BrokenSchemaError
from atlas_pipeline.market.option_chain import OPTION_CHAIN, QUARANTINED_OPTION_CHAIN, validate_option_chain
from atlas_pipeline.market.quotes import QUARANTINED_QUOTES, QUOTES, validate_quotes
from atlas_pipeline.market.table import Table
from resources.market import Market
from resources.warehouse import Warehouse


def snapshot_asset(
    table: Table,
    quarantined: Table,
    ask: Callable[[Market, datetime, datetime], pd.DataFrame],
    validate: Callable[[pd.DataFrame], tuple[pd.DataFrame, pd.DataFrame]],
    description: str,
) -> dg.AssetsDefinition:
    """Make the asset that fills a table of snapshots.

    Parameters
    ----------
    table, quarantined
        Where rows go that are accepted and refused.
    ask
        Reads the rows of a range from the market.
    validate
        Parts them.
    description
        What the asset's page says.
    """

    @dg.asset(
        name=table.name,
        description=description,
        group_name="market",
        partitions_def=MONTHS,
        pool="lake",
        kinds={"duckdb", "parquet"},
        owners=OWNERS,
        code_version="2",
        retry_policy=TRANSIENT,
        metadata=table_metadata(table),
    )
    def snapshots(context: dg.AssetExecutionContext, market: Market, warehouse: Warehouse) -> dg.MaterializeResult:
        month = context.partition_key
        with source_errors(market):
            raw = ask(market, *month_bounds([month]))
        if raw.empty:
            raise dg.Failure(
                f"the {market.source} source gave no {table.name.replace('_', ' ')} in {month} (the project's clock "
                f"stands at {market.now():%Y-%m-%d %H:%M} UTC): choose a month the source has",
                allow_retries=False,
            )
        with permanent(BrokenSchemaError):
            found = validate(raw)
        with warehouse.transaction() as transaction:
            for target, rows in zip((table, quarantined), found, strict=True):
                if market.feed.live:
                    # What was seen earlier this month cannot be asked for again.
                    transaction.append(target, rows)
                else:
                    transaction.replace(target, {month: rows})
        commit = transaction.commit
        assert commit is not None
        reasons = found[1]["reason"].value_counts().rename_axis("reason").reset_index(name="rows")
        return dg.MaterializeResult(
            metadata={
                "dagster/partition_row_count": warehouse.partitions(table).get(month, 0),
                "new": len(found[0]),
                "quarantined": len(found[1]),
                "snapshot": commit.snapshot,
                "reasons": frame(reasons),
                "latest rows": frame(found[0].tail(5).drop(columns="month")),
            },
            data_version=dg.DataVersion(warehouse.data_version(table, month)),
        )

    return snapshots


quotes = snapshot_asset(
    QUOTES,
    QUARANTINED_QUOTES,
    Market.quotes,
    validate_quotes,
    "Best bid and ask with their sizes, where the source has them. Crossed, locked, empty and absurdly wide ones are "
    "quarantined in `quarantined_quotes`.",
)

option_chain = snapshot_asset(
    OPTION_CHAIN,
    QUARANTINED_OPTION_CHAIN,
    Market.option_chain,
    validate_option_chain,
    "Option chains of the underlyings, where the source has them. Expired, crossed and negative ones are quarantined "
    "in `quarantined_option_chain`.",
)
