"""The features stage: causal indicators by month, and the yearly panels that models read."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pandas as pd

from assets.ingestion import by_month, month_bounds
from assets.loading import model_rows
from assets.market import bars
from assets.metadata import OWNERS, TRANSIENT, frame, materializations, permanent, picture, table_metadata
from assets.partitions import MONTHS, MONTHS_OF_THE_YEAR, YEARS
from assets.refresh import REFRESHED, market_freshness
from assets.schema_check import require_rows, schema_result, stored
from atlas_pipeline.features.model_inputs import PANEL_FEATURES
from atlas_pipeline.features.registry import FEATURES
from atlas_pipeline.market.adjustment import CorporateActionError
from atlas_pipeline.market.bars import BAR_REVISIONS, BARS, CORPORATE_ACTIONS
from resources.artifacts import Artifacts
from resources.rows import content_version
from resources.warehouse import Warehouse


@dg.asset(
    group_name="features",
    deps=[bars],
    partitions_def=MONTHS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    pool="lake",
    kinds={"numba", "duckdb"},
    owners=OWNERS,
    code_version="2",
    retry_policy=TRANSIENT,
    freshness_policy=market_freshness(),
    metadata=table_metadata(FEATURES),
)
def features(
    context: dg.AssetExecutionContext, warehouse: Warehouse
) -> Iterator[dg.MaterializeResult | dg.AssetMaterialization]:
    """Eight indicators and the model inputs made of them, one row a symbol and bar.

    Indicators that recur (RSI, MACD, ATR) remember everything before them, so each month is computed from the
    whole history up to its end: a month computed alone equals the same month of a full computation. Splits and
    dividends are taken out of the prices as of each bar, so that none is a price move and no later one changes a row.
    """
    from atlas_pipeline.features.compute import compute_features
    from atlas_pipeline.features.coverage import coverage
    from atlas_pipeline.features.plots import plot_features

    months = sorted(context.partition_keys)
    _, end = month_bounds(months)
    history, actions = _history(warehouse, end)
    with permanent(CorporateActionError):
        computed = compute_features(history, actions)
    chosen = computed[computed["month"].isin(months)]
    absent = sorted(set(months) - set(chosen["month"]))
    if absent:
        raise dg.Failure(f"no bars in {', '.join(absent)}: materialize these months of bars first", allow_retries=False)
    restated = _outdated(warehouse, computed, months)
    written = [*restated, *months]
    commit = warehouse.replace(FEATURES, by_month(computed, written))
    counts = computed.groupby("month").size()
    versions = commit.data_versions[FEATURES.name]
    context.log.info(
        f"{len(chosen)} rows of {len(months)} months from {len(history)} bars and {len(actions)} corporate actions"
    )
    if restated:
        context.log.info(f"bars were restated: {', '.join(restated)} are computed again")
    yield from materializations(
        context,
        {month: versions[month] for month in months},
        {
            "rows": len(chosen),
            "snapshot": commit.snapshot,
            "coverage": frame(coverage(computed)),
            "distributions": picture(plot_features(computed), "distribution of each model input"),
        },
        {month: {"dagster/partition_row_count": int(counts[month]), "snapshot": commit.snapshot} for month in written},
        restated={month: versions[month] for month in restated},
    )


def _outdated(warehouse: Warehouse, computed: pd.DataFrame, months: list[str]) -> list[str]:
    """Months stored before those asked for that are not what their bars make today.

    The bars of the months just before may have been completed since; and what recurs carries a restated bar on into
    every month after it.
    """
    with warehouse.session() as lake:
        stored_before = [month for month in lake.partitions(FEATURES) if month < months[0]]
        first_restated = min(lake.partitions(BAR_REVISIONS), default=months[0])
        suspects = [month for month in stored_before if month >= first_restated or month in stored_before[-2:]]
        versions = lake.data_versions(FEATURES, suspects)
    own = by_month(computed[computed["month"].isin(suspects)], suspects)
    return [month for month in suspects if content_version(FEATURES, own[month]) != versions[month]]


def _history(warehouse: Warehouse, before: datetime) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Bars and corporate actions known before an instant, as one ingestion left them."""
    with warehouse.session() as lake:
        snapshot = lake.snapshot()
        return (
            lake.read(BARS, before=before, snapshot=snapshot),
            lake.read(CORPORATE_ACTIONS, before=before, snapshot=snapshot),
        )


@dg.asset_check(asset=features, blocking=True)
def features_schema(warehouse: Warehouse) -> dg.AssetCheckResult:
    """Every stored row has its types and a key of its own."""
    require_rows(warehouse, FEATURES)
    return schema_result(FEATURES, warehouse)


@dg.asset_check(asset=features, blocking=True, additional_deps=[bars])
def features_causality(warehouse: Warehouse) -> dg.AssetCheckResult:
    """No row changes when the future is cut off, changed or permuted; stored rows are what today's code computes.

    The future's splits and dividends are cut off, changed and permuted with it, and unannounced ones are added.
    """
    from atlas_pipeline.features.causality import audit_causality
    from atlas_pipeline.features.compute import compute_features

    rows = stored(warehouse, FEATURES)
    history, actions = _history(warehouse, rows["available_at"].max() + timedelta(microseconds=1))
    report = audit_causality(compute_features, history, actions)
    again = compute_features(history, actions)
    again = again[again["month"].isin(rows["month"].unique())].reset_index(drop=True)
    same = again.equals(rows)
    return dg.AssetCheckResult(
        passed=report.passed and same,
        description=report.summary()
        if same
        else "stored rows differ from a full recomputation: materialize the months of features again",
        metadata={
            "rows compared": report.rows_compared,
            "cuts": len(report.cuts),
            "violations": frame(report.violations),
        },
    )


@dg.asset(
    group_name="features",
    deps=[dg.AssetDep(features, partition_mapping=MONTHS_OF_THE_YEAR)],
    partitions_def=YEARS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    automation_condition=REFRESHED,
    pool="lake",
    kinds={"safetensors", "numpy"},
    owners=OWNERS,
    code_version="3",
    retry_policy=TRANSIENT,
)
def panel(
    context: dg.AssetExecutionContext, warehouse: Warehouse, artifacts: Artifacts
) -> Iterator[dg.MaterializeResult | dg.AssetMaterialization]:
    """One year's columns of all sets of features, prices and corporate actions: contiguous, memory-mappable.

    A model reads the columns of its own set, so that another set can be chosen without building the panels again.
    """
    versions: dict[str, str] = {}
    own: dict[str, dict[str, object]] = {}
    rows = 0
    with warehouse.session() as lake:
        snapshot = lake.snapshot()
        for year in sorted(context.partition_keys):
            start, end = year_bounds(year)
            made = model_rows(lake, start, end, PANEL_FEATURES)
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
