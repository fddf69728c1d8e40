"""The forecaster stage: pretraining before a fold. What it says of the fold's year is in ``forecasts``."""

import dagster as dg

from assets.experiment import Experiment
from assets.features import panel
from assets.loading import CODE_VERSION, forecaster_folder, open_panels, snapshot_of
from assets.metadata import OWNERS, permanent, picture, shares
from assets.partitions import FOLDS, YEARS_BEFORE_THE_FOLD
from atlas_pipeline.config import DataSettings, ModelSettings, TrainingSettings
from resources.artifacts import Artifacts
from resources.compute import Compute
from resources.tracking import Tracking
from resources.warehouse import Warehouse


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
    """Forecaster pretrained on data whose labels end before the fold's policy years.

    A killed run goes on from its last checkpoint; the same configuration and data are not trained twice.
    """
    from atlas_pipeline.training.bundle import TrainedForecaster
    from atlas_pipeline.training.calibration import coverage_band
    from atlas_pipeline.training.errors import CorruptCheckpointError
    from atlas_pipeline.training.fit import fit_forecaster
    from atlas_pipeline.training.loop import NonFiniteLossError
    from atlas_pipeline.training.memory import DeviceMemoryError
    from atlas_pipeline.training.plots import LOSS_LABELS, learning_curve
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
        permanent(
            InsufficientHistoryError, ScalerLeakError, CorruptCheckpointError, NonFiniteLossError, DeviceMemoryError
        ),
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
                losses = ", ".join(f"{name} {value:.4f}" for name, value in values.items() if name.endswith("loss"))
                context.log.info(f"evaluation {epoch}: {losses}, {values['windows_per_second']:.0f} windows a second")

            def report_steps(step: int, values: dict[str, float]) -> None:
                run.log_metrics(values, step=step)

            working = artifacts.working_directory(*key)
            trained = fit_forecaster(
                known, fold, learned, compute.hardware(), working, metrics=report, step_metrics=report_steps
            )
            with artifacts.publish(*key, provenance) as made:
                trained.save(made)
        artifacts.discard_working_directory(*key)
    metrics = trained.metrics
    last = metrics["epochs"][int(metrics["best_epoch"]) - 1]
    calibration = {}
    if "val/coverage_95" in last:
        low, high = coverage_band(int(metrics["validation_windows"]), 0.95)
        calibration = {
            "95% coverage on validation": last["val/coverage_95"],
            "99% band of that coverage, if calibrated": f"{low:.4f} to {high:.4f}",
        }
    return dg.MaterializeResult(
        metadata={
            f"validation {LOSS_LABELS[metrics['loss']]}": metrics[f"val/{metrics['loss']}"],
            **calibration,
            "backbone": learned.backbone + (f", {learned.members} averaged" if learned.members > 1 else ""),
            "head": learned.head,
            "horizons (bars)": ", ".join(map(str, learned.horizons)),
            "features": f"{learned.features}: {', '.join(trained.scaler.features)}",
            "scaler": trained.scaler.kind,
            "inputs outside the training range, on validation": shares(metrics["validation_outside_training_range"]),
            "training windows": metrics["training_windows"],
            "validation windows": metrics["validation_windows"],
            "epochs": len(metrics["epochs"]),
            "physical batch": metrics["physical_batch"],
            "precision": metrics["precision"],
            "steps skipped, batches halved": f"{metrics['skipped_steps']}, {metrics['out_of_memory_halvings']}",
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
