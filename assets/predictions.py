"""What a forecaster whose head says no density predicts of a fold's year: direction, thresholds, quantiles, returns."""

import dagster as dg

from assets.experiment import Experiment
from assets.features import panel
from assets.forecaster import forecaster
from assets.loading import CODE_VERSION, load_forecaster, open_panels
from assets.metadata import OWNERS, frame, picture, table_metadata
from assets.partitions import FOLDS, YEARS_UP_TO_THE_FOLD
from assets.schema_check import require_rows, schema_result
from atlas_pipeline.config import DENSITY_HEADS
from atlas_pipeline.training.prediction_schema import PREDICTIONS
from resources.artifacts import Artifacts
from resources.compute import Compute
from resources.warehouse import Warehouse


@dg.asset(
    group_name="forecaster",
    deps=[forecaster, dg.AssetDep(panel, partition_mapping=YEARS_UP_TO_THE_FOLD)],
    partitions_def=FOLDS,
    pool="lake",
    kinds={"pytorch", "duckdb"},
    owners=OWNERS,
    code_version=CODE_VERSION,
    metadata=table_metadata(PREDICTIONS),
)
def predictions(
    context: dg.AssetExecutionContext,
    config: Experiment,
    artifacts: Artifacts,
    compute: Compute,
    warehouse: Warehouse,
) -> dg.MaterializeResult:
    """Out-of-sample predictions of the fold's year by a head that says no density, beside the training labels' own.

    Choose the head in the launchpad, of ``forecaster`` and here alike. Densities are in ``forecasts``.
    """
    from atlas_pipeline.training.forecast import forecast
    from atlas_pipeline.training.plots import prediction_reliability
    from atlas_pipeline.training.prediction_table import prediction_rows, prediction_scores, reliability_table
    from atlas_pipeline.windows.folds import Fold

    learned = config.load()
    if learned.head in DENSITY_HEADS:
        raise dg.Failure(
            f"head={learned.head!r} says densities: materialize forecasts, or choose another head",
            allow_retries=False,
        )
    fold = Fold(int(context.partition_key), learned)
    known = open_panels(artifacts, learned, fold.end)
    trained = load_forecaster(artifacts, learned, fold)
    ends = fold.window_ends(known, fold.start, fold.end, learned.longest_horizon)
    if not len(ends):
        raise dg.Failure(
            f"fold {fold.year} has no bar whose return is known: ingest its year first", allow_retries=False
        )
    said = forecast(known, trained, ends, compute.inference())
    rows = prediction_rows(context.partition_key, known, ends, trained, said)
    commit = warehouse.replace(PREDICTIONS, {context.partition_key: rows})
    title = f"{learned.head}, {' and '.join(known.symbols)}, {context.partition_key}"
    return dg.MaterializeResult(
        metadata={
            "scores out of sample": frame(prediction_scores(rows)),
            "reliability": picture(prediction_reliability(reliability_table(rows), title), "reliability"),
            "dagster/partition_row_count": len(rows),
            "snapshot": commit.snapshot,
        },
        data_version=dg.DataVersion(commit.data_versions[PREDICTIONS.name][context.partition_key]),
    )


@dg.asset_check(asset=predictions, blocking=True)
def predictions_schema(warehouse: Warehouse) -> dg.AssetCheckResult:
    """Every stored prediction has its types, its bounds and a key of its own."""
    require_rows(warehouse, PREDICTIONS)
    return schema_result(PREDICTIONS, warehouse)
