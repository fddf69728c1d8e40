"""The forecaster stage: pretraining before a fold, and the density forecasts of its year."""

from collections.abc import Mapping

import dagster as dg
import pandas as pd

from assets.experiment import Experiment
from assets.features import panel
from assets.loading import CODE_VERSION, forecaster_folder, load_forecaster, open_panels, snapshot_of
from assets.metadata import OWNERS, frame, permanent, picture, table_metadata
from assets.partitions import FOLDS, YEARS_BEFORE_THE_FOLD, YEARS_UP_TO_THE_FOLD
from assets.schema_check import require_rows, schema_result, stored
from atlas_pipeline.config import DataSettings, ModelSettings, TrainingSettings
from atlas_pipeline.training.forecast_table import BASELINE, FORECASTER, FORECASTS, score_table
from resources.artifacts import Artifacts
from resources.compute import Compute
from resources.tracking import Tracking
from resources.warehouse import Warehouse

DOCUMENTED_COVERAGE = (0.93, 0.97)
"""The documents of origin call 95% intervals that hold this share of the outcomes properly calibrated."""


@dg.asset(
    group_name="forecaster",
    deps=[dg.AssetDep(panel, partition_mapping=YEARS_BEFORE_THE_FOLD)],
    partitions_def=FOLDS,
    pool="gpu",
    kinds={"pytorch", "mlflow"},
    owners=OWNERS,
    code_version=CODE_VERSION,
)
def forecaster(
    context: dg.AssetExecutionContext,
    config: Experiment,
    artifacts: Artifacts,
    compute: Compute,
    tracking: Tracking,
    warehouse: Warehouse,
) -> dg.MaterializeResult:
    """Density forecaster (PatchTST) pretrained on data whose labels end before the fold's policy years.

    A killed run goes on from its last checkpoint; the same configuration and data are not trained twice.
    """
    from atlas_pipeline.training.bundle import TrainedForecaster
    from atlas_pipeline.training.errors import CorruptCheckpointError
    from atlas_pipeline.training.fit import fit_forecaster
    from atlas_pipeline.training.loop import NonFiniteLossError
    from atlas_pipeline.training.plots import learning_curve
    from atlas_pipeline.windows.folds import Fold, InsufficientHistoryError
    from atlas_pipeline.windows.scaler import ScalerLeakError

    learned = config.load()
    fold = Fold(int(context.partition_key), learned)
    known = open_panels(artifacts, learned, fold.fit_end)
    folder = forecaster_folder(artifacts, learned, context.partition_key, known)
    provenance = {
        "snapshot": str(snapshot_of(warehouse, known, fold.fit_end)),
        "code_version": CODE_VERSION,
        "config": learned.digest(),
        "data": known.sha256(),
    }
    key = ("forecaster", context.partition_key, folder.name)
    with (
        permanent(InsufficientHistoryError, ScalerLeakError, CorruptCheckpointError, NonFiniteLossError),
        tracking.run(
            f"forecaster {context.partition_key}", experiment="forecaster", key="/".join(key), tags=provenance
        ) as run,
    ):
        run.log_params(learned.values(DataSettings, ModelSettings, TrainingSettings))
        if folder.exists():
            trained = TrainedForecaster.load(artifacts.verify(folder))
            context.log.info("the same configuration and data were trained before: taken from its checkpoint")
        else:

            def report(epoch: int, values: dict[str, float]) -> None:
                run.log_metrics(values, step=epoch)
                context.log.info(
                    f"epoch {epoch}: validation NLL {values['val/nll_loss']:.4f}, "
                    f"{values['windows_per_second']:.0f} windows a second"
                )

            working = artifacts.working_directory(*key)
            trained = fit_forecaster(known, fold, learned, compute.hardware(), working, metrics=report)
            with artifacts.publish(*key, provenance) as made:
                trained.save(made)
        artifacts.discard_working_directory(*key)
    metrics = trained.metrics
    return dg.MaterializeResult(
        metadata={
            "validation NLL (nats)": metrics["val/nll_loss"],
            "95% coverage on validation": metrics["epochs"][int(metrics["best_epoch"]) - 1]["val/coverage_95"],
            "features": f"{learned.features}: {', '.join(trained.scaler.features)}",
            "scaler": trained.scaler.kind,
            "inputs outside the training range, on validation": _shares(metrics["validation_outside_training_range"]),
            "training windows": metrics["training_windows"],
            "epochs": len(metrics["epochs"]),
            "seconds": round(metrics["seconds"], 1),
            "peak memory (GiB)": round(metrics["peak_memory_bytes"] / 2**30, 2),
            "parameters": sum(p.numel() for p in trained.model.parameters()),
            "base hash": trained.base_hash,
            "config hash": learned.digest(),
            "labels end before": f"{fold.fit_end:%Y-%m-%d}",
            "snapshot": int(provenance["snapshot"]),
            "weights": dg.MetadataValue.path(str(folder)),
            "MLflow": tracking.ui_command,
            "learning curve": picture(
                learning_curve(metrics["epochs"], f"Forecaster of fold {context.partition_key}"), "learning curve"
            ),
        },
        data_version=dg.DataVersion(trained.base_hash),
    )


@dg.asset_check(asset=forecaster, blocking=True)
def forecaster_loads(artifacts: Artifacts) -> dg.AssetCheckResult:
    """Every forecaster that was kept loads, and its weights are those its record names."""
    from atlas_pipeline.training.bundle import TrainedForecaster
    from atlas_pipeline.training.errors import CorruptCheckpointError

    broken, sound = [], []
    for folder in artifacts.kept("forecaster"):
        try:
            sound.append(TrainedForecaster.load(artifacts.verify(folder)).base_hash)
        except CorruptCheckpointError as error:
            broken.append(str(error))
    return dg.AssetCheckResult(
        passed=not broken and bool(sound),
        description="; ".join(broken) or None,
        metadata={"forecasters": len(sound), "damaged": len(broken)},
    )


@dg.asset(
    group_name="forecaster",
    deps=[forecaster, dg.AssetDep(panel, partition_mapping=YEARS_UP_TO_THE_FOLD)],
    partitions_def=FOLDS,
    pool="lake",
    kinds={"pytorch", "duckdb"},
    owners=OWNERS,
    code_version=CODE_VERSION,
    metadata=table_metadata(FORECASTS),
)
def forecasts(
    context: dg.AssetExecutionContext,
    config: Experiment,
    artifacts: Artifacts,
    compute: Compute,
    tracking: Tracking,
    warehouse: Warehouse,
) -> dg.MaterializeResult:
    """Out-of-sample densities of the fold's year, beside a constant Gaussian, RiskMetrics and GARCH(1,1)-t.

    The volatility models are estimated on everything before the year; the forecaster only on what precedes its
    policy years.
    """
    from atlas_pipeline.training.forecast import forecast
    from atlas_pipeline.training.forecast_table import forecast_rows
    from atlas_pipeline.training.plots import pit_histogram, reliability
    from atlas_pipeline.training.volatility_models import volatility_forecasts
    from atlas_pipeline.windows.folds import Fold
    from atlas_pipeline.windows.index import labels

    learned = config.load()
    fold = Fold(int(context.partition_key), learned)
    known = open_panels(artifacts, learned, fold.end)
    trained = load_forecaster(artifacts, learned, fold)
    ends = fold.window_ends(known, fold.start, fold.end, learned.horizon)
    if not len(ends):
        raise dg.Failure(
            f"fold {fold.year} has no bar whose return is known: ingest its year first", allow_retries=False
        )
    with permanent(ValueError):
        densities = {
            FORECASTER: forecast(known, trained, ends, compute.inference()).density,
            # The volatility models have a closed-form density for the next bar only.
            **(volatility_forecasts(known, ends, fold.start) if learned.horizon == 1 else {}),
        }
    rows = forecast_rows(context.partition_key, known, ends, labels(known, ends, learned.horizon), densities)
    commit = warehouse.replace(FORECASTS, {context.partition_key: rows})
    scores = score_table(rows)
    with tracking.run(
        f"forecasts {context.partition_key}",
        experiment="forecaster",
        key=f"forecasts/{context.partition_key}/{trained.base_hash}",
        tags={"snapshot": str(commit.snapshot), "config": learned.digest(), "base_hash": trained.base_hash},
    ) as run:
        run.log_metrics(
            {
                f"test/{name}/{row.symbol}/{row.model}": float(getattr(row, name))
                for row in scores.itertuples()
                for name in ("nll", "crps", "coverage_95")
            },
            step=0,
        )
    own = {str(model): part["pit"].to_numpy(float) for model, part in rows.groupby("model")}
    ordered = {name: own[name] for name in (FORECASTER, *sorted(own.keys() - {FORECASTER}))}
    title = f"{' and '.join(known.symbols)}, {context.partition_key}"
    return dg.MaterializeResult(
        metadata={
            "scores out of sample": frame(scores),
            "inputs outside the training range": _shares(trained.scaler.outside_share(known.values[ends])),
            "PIT": picture(pit_histogram(ordered[FORECASTER], f"Forecaster's PIT, {title}"), "PIT"),
            "coverage": picture(reliability(ordered, f"Coverage, {title}"), "coverage"),
            "dagster/partition_row_count": len(rows),
            "snapshot": commit.snapshot,
        },
        data_version=dg.DataVersion(commit.data_versions[FORECASTS.name][context.partition_key]),
    )


def _shares(outside: Mapping[str, float]) -> dg.MarkdownMetadataValue:
    """Share of the bars at which an input is beyond what the scaler saw in training; all inputs that ever are."""
    beyond = [{"input": name, "share of bars": share} for name, share in outside.items() if share > 0]
    return frame(pd.DataFrame(beyond, columns=["input", "share of bars"]).sort_values("share of bars", ascending=False))


@dg.asset_check(asset=forecasts, blocking=True)
def forecasts_schema(warehouse: Warehouse) -> dg.AssetCheckResult:
    """Every stored forecast has its types, its bounds and a key of its own."""
    require_rows(warehouse, FORECASTS)
    return schema_result(FORECASTS, warehouse)


@dg.asset_check(asset=forecasts)
def forecasts_beat_riskmetrics(warehouse: Warehouse) -> dg.AssetCheckResult:
    """The quality floor: in every fold, on every symbol, a lower mean NLL than RiskMetrics."""
    rows = stored(warehouse, FORECASTS)
    means = rows.groupby(["fold", "symbol", "model"])["nll"].mean().unstack().dropna(subset=[BASELINE])
    worse = means[means[FORECASTER] >= means[BASELINE]]
    return dg.AssetCheckResult(
        passed=worse.empty,
        description=None
        if worse.empty
        else f"{len(worse)} of {len(means)} folds and symbols miss the floor: do not trade on this forecaster",
        metadata={"mean NLL (nats)": frame(means.reset_index())},
    )


@dg.asset_check(asset=forecasts)
def forecasts_coverage(warehouse: Warehouse) -> dg.AssetCheckResult:
    """The 95% intervals hold 93 to 97% of the outcomes, the documents' target for calibration."""
    rows = stored(warehouse, FORECASTS)
    own = rows[rows["model"] == FORECASTER]
    shares = (own["pit"].sub(0.5).abs() <= 0.475).groupby([own["fold"], own["symbol"]]).mean().rename("coverage_95")
    low, high = DOCUMENTED_COVERAGE
    return dg.AssetCheckResult(
        passed=bool(shares.between(low, high).all()),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"share of outcomes inside the 95% interval": frame(shares.reset_index())},
    )
