"""The features stage: what quotes and option chains say, by month."""

import dagster as dg
import pandas as pd

from assets.metadata import OWNERS, TRANSIENT, frame, table_metadata
from assets.partitions import MONTHS
from assets.snapshots import option_chain, quotes
from atlas_pipeline.features.microstructure import MICROSTRUCTURE_FEATURES
from atlas_pipeline.features.options import OPTION_FEATURES
from atlas_pipeline.market.option_chain import OPTION_CHAIN
from atlas_pipeline.market.quotes import QUOTES
from atlas_pipeline.market.table import Table
from resources.warehouse import Warehouse


@dg.asset(
    group_name="features",
    deps=[quotes],
    partitions_def=MONTHS,
    pool="lake",
    kinds={"numpy", "duckdb"},
    owners=OWNERS,
    code_version="1",
    retry_policy=TRANSIENT,
    metadata=table_metadata(MICROSTRUCTURE_FEATURES),
)
def microstructure_features(context: dg.AssetExecutionContext, warehouse: Warehouse) -> dg.MaterializeResult:
    """Microprice, its deviation from the mid, spread and order imbalance, from quotes."""
    from atlas_pipeline.features.microstructure import compute_microstructure

    return _from_snapshots(
        context, warehouse, MICROSTRUCTURE_FEATURES, compute_microstructure(_month(context, warehouse, QUOTES))
    )


@dg.asset(
    group_name="features",
    deps=[option_chain],
    partitions_def=MONTHS,
    pool="lake",
    kinds={"numba", "duckdb"},
    owners=OWNERS,
    code_version="1",
    retry_policy=TRANSIENT,
    metadata=table_metadata(OPTION_FEATURES),
)
def option_features(context: dg.AssetExecutionContext, warehouse: Warehouse) -> dg.MaterializeResult:
    """Implied volatility level, put-call skew and Black-Scholes sensitivities by underlying, from option chains."""
    from atlas_pipeline.features.options import compute_option_features

    return _from_snapshots(
        context, warehouse, OPTION_FEATURES, compute_option_features(_month(context, warehouse, OPTION_CHAIN))
    )


def _month(context: dg.AssetExecutionContext, warehouse: Warehouse, table: Table) -> pd.DataFrame:
    rows = warehouse.read(table, partitions=[context.partition_key])
    if rows.empty:
        raise dg.Failure(
            f"no rows of {table.name} in {context.partition_key}: materialize that month first", allow_retries=False
        )
    return rows


def _from_snapshots(
    context: dg.AssetExecutionContext, warehouse: Warehouse, table: Table, rows: pd.DataFrame
) -> dg.MaterializeResult:
    commit = warehouse.replace(table, {context.partition_key: rows})
    return dg.MaterializeResult(
        metadata={
            "dagster/partition_row_count": len(rows),
            "snapshot": commit.snapshot,
            "latest rows": frame(rows.tail(5)),
        },
        data_version=dg.DataVersion(commit.data_versions[table.name][context.partition_key]),
    )
