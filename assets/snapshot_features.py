"""The features stage: what quotes and option chains say, by month."""

from datetime import timedelta

import dagster as dg
import pandas as pd

from assets.ingestion import month_bounds
from assets.metadata import OWNERS, TRANSIENT, column_schema, frame, picture, table_metadata
from assets.partitions import MONTHS
from assets.schema_check import require_rows, schema_result
from assets.snapshots import option_chain, quotes
from atlas_pipeline.config import digest_of
from atlas_pipeline.features.microstructure import MICROSTRUCTURE_FEATURES, REACH
from atlas_pipeline.features.options import MID, NONE, OPTION_FEATURES, UNDERLYING_OPTION_FEATURES, VENDOR
from atlas_pipeline.market.option_chain import OPTION_CHAIN
from atlas_pipeline.market.quotes import QUOTES
from resources.market import Market
from resources.warehouse import Warehouse

PICTURED = timedelta(days=365)
SYMBOLS_LISTED = 20

WITH_THE_MONTH_BEFORE = dg.TimeWindowPartitionMapping(start_offset=-1, allow_nonexistent_upstream_partitions=True)


@dg.asset(
    group_name="features",
    deps=[dg.AssetDep(quotes, partition_mapping=WITH_THE_MONTH_BEFORE)],
    partitions_def=MONTHS,
    pool="lake",
    kinds={"numba", "duckdb"},
    owners=OWNERS,
    code_version="2",
    retry_policy=TRANSIENT,
    metadata=table_metadata(MICROSTRUCTURE_FEATURES),
)
def microstructure_features(context: dg.AssetExecutionContext, warehouse: Warehouse) -> dg.MaterializeResult:
    """Microprice, spread, order imbalance and order flow of each quote, and their rolling forms, from quotes.

    What rolls reaches back over 20 quotes, no two of them more than half an hour apart, so the last quotes before the
    month are read with it: a month computed alone equals the same month of a full computation.
    """
    from atlas_pipeline.features.microstructure import compute_microstructure, quote_coverage
    from atlas_pipeline.features.quote_plots import plot_microstructure

    month = context.partition_key
    start, end = month_bounds([month])
    computed = compute_microstructure(warehouse.read(QUOTES, start=start - REACH, end=end))
    rows = computed[computed["month"] == month]
    if rows.empty:
        raise dg.Failure(f"no rows of {QUOTES.name} in {month}: materialize that month first", allow_retries=False)
    commit = warehouse.replace(MICROSTRUCTURE_FEATURES, {month: rows})
    counts = rows["symbol"].value_counts().rename_axis("symbol").reset_index(name="rows")
    return dg.MaterializeResult(
        metadata={
            "dagster/partition_row_count": len(rows),
            "snapshot": commit.snapshot,
            "latest rows": frame(rows.sort_values("available_at").tail(5).drop(columns="month")),
            f"rows by symbol, the first {SYMBOLS_LISTED} of {len(counts)}": frame(counts.head(SYMBOLS_LISTED)),
            "coverage": frame(quote_coverage(rows)),
            "spread, imbalance, volatility": picture(plot_microstructure(rows), "spread, imbalance and volatility"),
        },
        data_version=dg.DataVersion(commit.data_versions[MICROSTRUCTURE_FEATURES.name][month]),
    )


@dg.asset_check(asset=microstructure_features, blocking=True)
def microstructure_features_schema(warehouse: Warehouse) -> dg.AssetCheckResult:
    """Every stored row has its types, its bounds and a key of its own."""
    require_rows(warehouse, MICROSTRUCTURE_FEATURES)
    return schema_result(MICROSTRUCTURE_FEATURES, warehouse)


@dg.asset_check(asset=microstructure_features, blocking=True, additional_deps=[quotes])
def microstructure_features_causality(warehouse: Warehouse) -> dg.AssetCheckResult:
    """Every stored row is what a stream says that takes the quotes one at a time, so that it cannot have seen a later.

    This is the future cut off at every row. A row that looks ahead differs, and so does one whose quotes, or whose
    code, have changed since.
    """
    from atlas_pipeline.features.quote_stream import replay_quotes

    require_rows(warehouse, MICROSTRUCTURE_FEATURES)
    key, differing = list(MICROSTRUCTURE_FEATURES.key), []
    with warehouse.session() as lake:
        snapshot = lake.snapshot()
        counts = lake.partitions(MICROSTRUCTURE_FEATURES, snapshot)
        for month in counts:
            start, end = month_bounds([month])
            replayed = replay_quotes(lake.read(QUOTES, start=start - REACH, end=end, snapshot=snapshot))
            replayed = replayed[replayed["month"] == month].reset_index(drop=True)
            rows = lake.read(MICROSTRUCTURE_FEATURES, partitions=[month], snapshot=snapshot)
            if not rows[key].equals(replayed[key]):
                differing.append((month, "rows", abs(len(rows) - len(replayed)), None, None))
                continue
            for name in MICROSTRUCTURE_FEATURES.names:
                unequal = (rows[name] != replayed[name]) & ~(rows[name].isna() & replayed[name].isna())
                if unequal.any():
                    differing.append((month, name, int(unequal.sum()), *rows.loc[unequal, key].iloc[0]))
    found = pd.DataFrame(differing, columns=["month", "column", "rows", "first symbol", "first available_at"])
    months = sorted(set(found["month"]))
    return dg.AssetCheckResult(
        passed=found.empty,
        description=f"causal: {sum(counts.values())} rows equal those of a stream"
        if found.empty
        else f"stored rows of {', '.join(months[:12])} ({len(months)} months) are not what their quotes make one at a "
        f"time, in the columns {sorted(set(found['column']))}: materialize these months again; where that does not "
        "help, compute_microstructure looks ahead",
        metadata={"rows compared": sum(counts.values()), "violations": frame(found)},
    )


@dg.asset(
    group_name="features",
    deps=[option_chain],
    partitions_def=MONTHS,
    pool="lake",
    kinds={"numba", "duckdb"},
    owners=OWNERS,
    code_version="2",
    retry_policy=TRANSIENT,
    metadata={
        **table_metadata(OPTION_FEATURES),
        "underlying_table": f"lake.main.{UNDERLYING_OPTION_FEATURES.name}",
        "underlying_column_schema": column_schema(UNDERLYING_OPTION_FEATURES),
    },
)
def option_features(context: dg.AssetExecutionContext, market: Market, warehouse: Warehouse) -> dg.MaterializeResult:
    """What option chains say: volatility, sensitivities and interactions of each contract, and of each underlying.

    An underlying's level, skew and term slope of volatility, and where its trade lies, are in
    `underlying_option_features`, written in the same transaction.
    """
    from atlas_pipeline.features.option_contracts import compute_option_features
    from atlas_pipeline.features.option_plots import plot_option_surface
    from atlas_pipeline.features.option_surface import aggregate_option_features

    month = context.partition_key
    chain = warehouse.read(OPTION_CHAIN, partitions=[month])
    if chain.empty:
        raise dg.Failure(
            f"no rows of {OPTION_CHAIN.name} in {month}: materialize that month first", allow_retries=False
        )
    contracts = compute_option_features(chain, calendar=market.calendar)
    underlyings = aggregate_option_features(chain, contracts)
    with warehouse.transaction() as transaction:
        transaction.replace(OPTION_FEATURES, {month: contracts})
        transaction.replace(UNDERLYING_OPTION_FEATURES, {month: underlyings})
    commit = transaction.commit
    assert commit is not None
    sources = contracts["volatility_source"]
    refused = (chain["implied_volatility"] > 0).to_numpy() & (sources != VENDOR).to_numpy()
    _, end = month_bounds([month])
    past = warehouse.read(UNDERLYING_OPTION_FEATURES, start=end - PICTURED, end=end)
    return dg.MaterializeResult(
        metadata={
            "dagster/partition_row_count": len(contracts),
            "underlyings": len(underlyings),
            "snapshot": commit.snapshot,
            "volatilities of the vendor": int((sources == VENDOR).sum()),
            "volatilities solved from the mid": int((sources == MID).sum()),
            "contracts without volatility": int((sources == NONE).sum()),
            "volatilities of the vendor that the quote does not confirm": int(refused.sum()),
            "latest underlyings": frame(underlyings.sort_values("available_at").tail(5).drop(columns="month")),
            "latest contracts": frame(contracts.tail(5).drop(columns="month")),
            "surface": picture(plot_option_surface(past), "level, slope and skew of the implied volatilities"),
        },
        data_version=dg.DataVersion(digest_of({name: own[month] for name, own in commit.data_versions.items()})),
    )


@dg.asset_check(asset=option_features, blocking=True)
def option_features_schema(warehouse: Warehouse) -> dg.AssetCheckResult:
    """Every stored row, of contracts and of underlyings, has its types and a key of its own."""
    results = []
    for table in (OPTION_FEATURES, UNDERLYING_OPTION_FEATURES):
        require_rows(warehouse, table)
        results.append(schema_result(table, warehouse))
    return next((result for result in results if not result.passed), results[0])
