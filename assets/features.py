"""The features stage: causal indicators by month, and the yearly panels that models read."""

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
import numpy as np
import pandas as pd

from assets.feature_history import FEATURES_VERSION, compute_months, keep_memories, read_all, read_history, to_remember
from assets.ingestion import by_month
from assets.loading import model_rows
from assets.market import bars
from assets.metadata import OWNERS, TRANSIENT, frame, materializations, permanent, picture, table_metadata
from assets.partitions import MONTHS, MONTHS_OF_THE_YEAR, YEARS
from assets.refresh import REFRESHED, market_freshness
from assets.schema_check import require_rows, schema_result
from assets.snapshot_features import microstructure_features, option_features
from atlas_pipeline.features.coverage import FEATURE_COVERAGE
from atlas_pipeline.features.model_inputs import PANEL_FEATURES
from atlas_pipeline.features.registry import FEATURES, SETS
from atlas_pipeline.market.adjustment import CorporateActionError
from resources.artifacts import Artifacts
from resources.market import Market
from resources.rows import content_version
from resources.warehouse import Warehouse

AUDITED_SYMBOLS = 20
"""Symbols whose future is altered, and that are computed bar by bar; every symbol's rows are computed again."""


@dg.asset(
    group_name="features",
    deps=[bars],
    partitions_def=MONTHS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    pool="lake",
    kinds={"numba", "duckdb"},
    owners=OWNERS,
    code_version=FEATURES_VERSION,
    retry_policy=TRANSIENT,
    freshness_policy=market_freshness(),
    metadata=table_metadata(FEATURES),
)
def features(
    context: dg.AssetExecutionContext, artifacts: Artifacts, market: Market, warehouse: Warehouse
) -> Iterator[dg.MaterializeResult | dg.AssetMaterialization]:
    """Every feature of bars: indicators, returns, ranges, multiples of a trailing volatility, the volatility index.

    One row a symbol and bar, causal and point in time: splits and dividends are taken out of the prices as of each bar,
    so that none is a price move and no later one changes a row. Only the bars since the last month whose memory was
    kept are read; the rows equal those of a full computation bit for bit. Why a value is missing stands in the table
    `feature_coverage`.
    """
    from atlas_pipeline.features.coverage import coverage_of
    from atlas_pipeline.features.memory import SeriesMemoryError
    from atlas_pipeline.features.schema import FeatureSchemaError, validate_features
    from atlas_pipeline.training.errors import CorruptCheckpointError

    months = sorted(context.partition_keys)
    with warehouse.session() as lake, permanent(SeriesMemoryError, CorruptCheckpointError):
        history = read_history(lake, market, artifacts, months)
    absent = sorted(set(months) - set(history.bars["month"]))
    if absent:
        raise dg.Failure(f"no bars in {', '.join(absent)}: materialize these months of bars first", allow_retries=False)
    with permanent(CorporateActionError):
        computed = compute_months(history, to_remember(warehouse, history, months))
    with permanent(FeatureSchemaError):
        validate_features(computed.frame)
    restated = _outdated(warehouse, computed.frame, history.since, months)
    written = [*restated, *months]
    coverage = coverage_of(computed.frame, computed.ages)
    with warehouse.transaction() as transaction:
        transaction.replace(FEATURES, by_month(computed.frame, written))
        transaction.replace(FEATURE_COVERAGE, by_month(coverage, written))
    commit = transaction.commit
    assert commit is not None
    keep_memories(artifacts, warehouse, computed, history.names)
    counts = computed.frame.groupby("month").size().reindex(written, fill_value=0)
    versions = commit.data_versions[FEATURES.name]
    context.log.info(
        f"{counts[months].sum()} rows of {len(months)} months from {len(history.bars)} bars after {history.since} and "
        f"{len(history.actions)} corporate actions"
    )
    if restated:
        context.log.info(f"bars were restated: {', '.join(restated)} are computed again")
    yield from materializations(
        context,
        {month: versions[month] for month in months},
        {"rows": int(counts[months].sum()), "snapshot": commit.snapshot, **_pictures(warehouse)},
        {month: {"dagster/partition_row_count": int(counts[month]), "snapshot": commit.snapshot} for month in written},
        restated={month: versions[month] for month in restated},
    )


def _outdated(warehouse: Warehouse, computed: pd.DataFrame, since: str | None, months: list[str]) -> list[str]:
    """Stored months up to those asked for, and not among them, that are not what their bars make today.

    The bars of the months just before may have been completed since, or withdrawn; and what recurs carries a restated
    bar on into every month after it. Months before those computed are what their bars make: else no memory of them had
    been found.
    """
    with warehouse.session() as lake:
        stored = {month for month in lake.partitions(FEATURES) if (since or "") < month <= months[-1]}
        suspects = sorted(stored - {*months})
        versions = lake.data_versions(FEATURES, suspects)
    own = by_month(computed[computed["month"].isin(suspects)], suspects)
    return [month for month in suspects if content_version(FEATURES, own[month]) != versions[month]]


def _pictures(warehouse: Warehouse) -> dict[str, dg.MetadataValue]:
    """What the asset's page shows of the whole table."""
    from atlas_pipeline.features.coverage import summary
    from atlas_pipeline.features.drift import drift
    from atlas_pipeline.features.plots import plot_coverage, plot_distributions, plot_drift

    shown = SETS["relative"]
    with warehouse.session() as lake:
        rows = lake.read(FEATURES, columns=[*FEATURES.key, *shown])
        counts = pd.Series(lake.partitions(FEATURES))
        coverage = lake.read(FEATURE_COVERAGE)
    middle = rows["available_at"].sort_values().iloc[len(rows) // 2].to_pydatetime()
    drifted = drift(rows, middle, shown)
    return {
        "coverage": picture(plot_coverage(coverage, counts), "share of cells with a value, by feature and year"),
        "distributions": picture(plot_distributions(rows, shown), "distribution of the forecaster's inputs"),
        "drift": picture(plot_drift(drifted, middle), "population stability index of the forecaster's inputs"),
        "missing values by reason": frame(summary(coverage, len(rows))),
        "drift by year": frame(drifted),
    }


@dg.asset_check(asset=features, blocking=True)
def features_schema(warehouse: Warehouse) -> dg.AssetCheckResult:
    """Every stored row has its types and a key of its own."""
    require_rows(warehouse, FEATURES)
    return schema_result(FEATURES, warehouse)


@dg.asset_check(asset=features, blocking=True, additional_deps=[bars])
def features_causality(market: Market, warehouse: Warehouse) -> dg.AssetCheckResult:
    """No row changes with its future, and every stored row is what a computation from the first bar on gives.

    The future is cut off, changed and permuted, its splits and dividends and the volatility index with it, and
    unannounced actions are added. The stored rows are compared, every value, with a full computation, and with one that
    is given a single bar at a time and cannot look ahead. Of a large universe a sample is altered and streamed.
    """
    from atlas_pipeline.features.causality import audit_causality
    from atlas_pipeline.features.compute import compute_features
    from atlas_pipeline.features.stream import stream_features

    require_rows(warehouse, FEATURES)
    with warehouse.session() as lake:
        rows = lake.read(FEATURES)
        months = sorted(rows["month"].unique())
        history = read_all(lake, market, months)
    actions, index = history.actions, history.volatility_index
    again = compute_features(history.bars, actions, volatility_index=index)
    again = again[again["month"].isin(months)].reset_index(drop=True)
    report = audit_causality(compute_features, history.bars, actions, volatility_index=index, symbols=AUDITED_SYMBOLS)
    sample = history.bars[history.bars["symbol"].isin(history.bars["symbol"].unique()[:AUDITED_SYMBOLS])]
    streamed = stream_features(sample, actions, volatility_index=index)
    streamed = streamed[streamed["month"].isin(months)].reset_index(drop=True)
    own = rows[rows["symbol"].isin(sample["symbol"])].reset_index(drop=True)
    differences = {
        "a computation from the first bar on": _differing_months(rows, again),
        "one bar at a time": _differing_months(own, streamed),
    }
    said = [
        f"stored rows of {', '.join(differing[:12])} ({len(differing)} months) differ from {other}: materialize these "
        "months of features again, then the newest"
        for other, differing in differences.items()
        if differing
    ]
    return dg.AssetCheckResult(
        passed=report.passed and not said,
        description="; ".join([report.summary(), *said]),
        metadata={
            "rows compared with a full computation": len(again),
            "rows compared with one bar at a time": len(streamed),
            "rows compared with another future": report.rows_compared,
            "cuts": len(report.cuts),
            "violations": frame(report.violations),
        },
    )


def _differing_months(stored: pd.DataFrame, computed: pd.DataFrame) -> list[str]:
    """Months whose rows are not the same in both, missing values included."""
    key = list(FEATURES.key)
    if not stored[key].equals(computed[key]):
        counts = stored["month"].value_counts().sub(computed["month"].value_counts(), fill_value=0)
        return sorted(counts.index[counts != 0]) or sorted(stored["month"].unique())
    unequal = np.zeros(len(stored), bool)
    for name in FEATURES.names:
        one, other = stored[name], computed[name]
        unequal |= ((one != other) & ~(one.isna() & other.isna())).to_numpy()
    return sorted(stored.loc[unequal, "month"].unique())


@dg.asset(
    group_name="features",
    deps=[
        dg.AssetDep(asset, partition_mapping=MONTHS_OF_THE_YEAR)
        for asset in (features, option_features, microstructure_features)
    ],
    partitions_def=YEARS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    automation_condition=REFRESHED,
    pool="lake",
    kinds={"safetensors", "numpy"},
    owners=OWNERS,
    code_version="5",
    retry_policy=TRANSIENT,
)
def panel(
    context: dg.AssetExecutionContext, warehouse: Warehouse, artifacts: Artifacts
) -> Iterator[dg.MaterializeResult | dg.AssetMaterialization]:
    """One year's columns of all sets of features, prices and corporate actions: contiguous, memory-mappable.

    A model reads the columns of its own set, so that another set can be chosen without building the panels again. The
    market's means are over the series of each instant. What quotes and option chains say is joined as of each bar, and
    missing where a market has none.
    """
    versions: dict[str, str] = {}
    own: dict[str, dict[str, object]] = {}
    rows = 0
    with warehouse.session() as lake:
        snapshot = lake.snapshot()
        for year in sorted(context.partition_keys):
            start, end = year_bounds(year)
            made = model_rows(lake, start, end, PANEL_FEATURES, snapshot)
            if not len(made):
                raise dg.Failure(f"no features in {year}: materialize its months first", allow_retries=False)
            rows += len(made)
            versions[year] = made.write(artifacts.panel_path(int(year)))
            own[year] = {
                "dagster/partition_row_count": len(made),
                "bytes": artifacts.panel_path(int(year)).stat().st_size,
                "snapshot": snapshot,
                "path": dg.MetadataValue.path(str(artifacts.panel_path(int(year)))),
            }
            context.log.info(f"{year}: {len(made)} rows")
    yield from materializations(
        context,
        versions,
        {"rows": rows, "snapshot": snapshot},
        own,
    )


def year_bounds(year: str) -> tuple[datetime, datetime]:
    """First instant of a year and of the next (UTC)."""
    return datetime(int(year), 1, 1, tzinfo=UTC), datetime(int(year) + 1, 1, 1, tzinfo=UTC)
