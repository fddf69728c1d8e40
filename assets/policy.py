"""The policy stage: the frozen backbone's state at every bar, the policy trained on it, and its backtest."""

import dagster as dg
import pandas as pd

from assets.experiment import Experiment
from assets.features import panel
from assets.forecaster import forecaster
from assets.loading import (
    CODE_VERSION,
    load_forecaster,
    load_paths,
    open_panels,
    paths_file,
    policy_file,
    snapshot_of,
)
from assets.metadata import OWNERS, frame, permanent, picture, table_metadata
from assets.partitions import FOLDS, YEARS_UP_TO_THE_FOLD
from assets.schema_check import require_rows, schema_result, stored
from assets.serving import register_base
from atlas_pipeline.adaptation.ledger import EQUITY
from atlas_pipeline.config import DENSITY_HEADS, PPOSettings, TradingSettings
from atlas_pipeline.trading.backtest_table import BACKTEST, BACKTEST_SCORES
from resources.artifacts import Artifacts
from resources.compute import Compute
from resources.tracking import Tracking
from resources.warehouse import Warehouse


@dg.asset(
    group_name="policy",
    deps=[forecaster, dg.AssetDep(panel, partition_mapping=YEARS_UP_TO_THE_FOLD)],
    partitions_def=FOLDS,
    pool="gpu",
    kinds={"pytorch", "safetensors"},
    owners=OWNERS,
    code_version=CODE_VERSION,
)
def embeddings(
    context: dg.AssetExecutionContext,
    config: Experiment,
    artifacts: Artifacts,
    compute: Compute,
    warehouse: Warehouse,
) -> dg.MaterializeResult:
    """The frozen backbone's state and forecast at every bar of the policy years and the fold's year.

    Market bars do not depend on our actions, so this is computed once, whatever the policy does. The backbone was
    fitted on none of these bars' labels.
    """
    from atlas_pipeline.trading.market_path import market_paths
    from atlas_pipeline.trading.path_file import write_paths
    from atlas_pipeline.training.forecast import forecast
    from atlas_pipeline.windows.folds import Fold

    learned = config.load()
    if learned.head not in DENSITY_HEADS:
        raise dg.Failure(
            f"head={learned.head!r} says no density, whose mean and scale a policy reads: choose one of "
            f"{', '.join(DENSITY_HEADS)}",
            allow_retries=False,
        )
    fold = Fold(int(context.partition_key), learned)
    known = open_panels(artifacts, learned, fold.end)
    trained = load_forecaster(artifacts, learned, fold)
    ends = fold.window_ends(known, fold.policy_start, fold.end)
    said = forecast(known, trained, ends, compute.inference())
    with permanent(ValueError):
        paths = market_paths(known, ends, said.embeddings, said.density.mean, said.density.scale)
    file = paths_file(artifacts, learned, context.partition_key, trained.base_hash, known.sha256())
    provenance = {
        "snapshot": str(snapshot_of(warehouse, known, fold.end)),
        "code_version": CODE_VERSION,
        "config": learned.digest(),
        "base_hash": trained.base_hash,
    }
    with artifacts.publish("embeddings", context.partition_key, file.parent.name, provenance) as made:
        digest = write_paths(paths, made / file.name, trained.base_hash)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(ends),
            "bars by symbol": frame(
                pd.DataFrame(
                    {
                        "symbol": path.symbol,
                        "bars": len(path),
                        "first": pd.to_datetime(path.available_at[0], unit="us"),
                        "last": pd.to_datetime(path.available_at[-1], unit="us"),
                    }
                    for path in paths
                )
            ),
            "dimensions": learned.d_model,
            "base hash": trained.base_hash,
            "file": dg.MetadataValue.path(str(file)),
        },
        data_version=dg.DataVersion(digest),
    )


@dg.asset(
    group_name="policy",
    deps=[embeddings],
    partitions_def=FOLDS,
    pool="gpu",
    kinds={"pytorch", "mlflow"},
    owners=OWNERS,
    code_version=CODE_VERSION,
)
def policy(
    context: dg.AssetExecutionContext,
    config: Experiment,
    artifacts: Artifacts,
    compute: Compute,
    tracking: Tracking,
    warehouse: Warehouse,
) -> dg.MaterializeResult:
    """Actor and critic trained by PPO on the policy years, and registered with their forecaster as a base.

    The first base ever becomes the champion; a later one waits for the gate like every candidate.
    """
    from atlas_pipeline.trading.comparison import during
    from atlas_pipeline.trading.plots import training_curve
    from atlas_pipeline.trading.policy_bundle import load_trained_policy, save_trained_policy
    from atlas_pipeline.trading.policy_checkpoint import PolicyCheckpointError
    from atlas_pipeline.trading.ppo import train_policy
    from atlas_pipeline.training.errors import CorruptCheckpointError
    from atlas_pipeline.training.hardware import settings
    from atlas_pipeline.windows.folds import Fold

    learned = config.load()
    fold = Fold(int(context.partition_key), learned)
    paths, base_hash = load_paths(artifacts, learned, fold)
    file = policy_file(artifacts, learned, fold, paths)
    snapshot = snapshot_of(warehouse, open_panels(artifacts, learned, fold.end), fold.end)
    tags = {
        "snapshot": str(snapshot),
        "code_version": CODE_VERSION,
        "config": learned.digest(),
        "base_hash": base_hash,
        "fold": context.partition_key,
    }
    with (
        permanent(ValueError, FloatingPointError, PolicyCheckpointError, CorruptCheckpointError),
        tracking.run(
            f"policy {context.partition_key}",
            experiment="policy",
            key=f"policy/{context.partition_key}/{file.parent.name}",
            tags=tags,
        ) as run,
    ):
        run.log_params(learned.values(TradingSettings, PPOSettings))
        if file.exists():
            trained = load_trained_policy(artifacts.verify(file.parent) / file.name)
            context.log.info("the same paths and configuration were learned before: taken from its checkpoint")
        else:

            def report(steps: int, values: dict[str, float]) -> None:
                run.log_metrics(values, step=steps)
                context.log.info(f"{steps:,} steps, entropy {values['entropy']:.2f} nats")

            with settings(compute.hardware()):
                trained = train_policy(
                    [during(path, fold.policy_start, fold.start) for path in paths],
                    learned,
                    checkpoint_dir=artifacts.working_directory("policy", context.partition_key, file.parent.name),
                    metrics=report,
                )
            with artifacts.publish("policy", context.partition_key, file.parent.name, tags) as made:
                save_trained_policy(trained, made / file.name)
        artifacts.discard_working_directory("policy", context.partition_key, file.parent.name)
    traded = warehouse.read(EQUITY, columns=["bar"])["bar"]
    created_at = max(fold.start, traded.max().to_pydatetime()) if len(traded) else fold.start
    version = register_base(tracking, artifacts, learned, fold, file, created_at, tags)
    return dg.MaterializeResult(
        metadata={
            "environment steps": learned.ppo_steps,
            "kept after steps": trained.steps,
            "held-out Sharpe ratio (best of several looks)": trained.held_out_sharpe,
            "learned on": f"{fold.policy_start:%Y-%m-%d} to {fold.start:%Y-%m-%d}",
            "model version": version,
            "base hash": base_hash,
            "config hash": learned.digest(),
            "snapshot": snapshot,
            "weights": dg.MetadataValue.path(str(file)),
            "MLflow": tracking.ui_command,
            "training": picture(
                training_curve(trained.history, f"Policy of fold {context.partition_key}"), "training curve"
            ),
        },
        data_version=dg.DataVersion(file.parent.name),
    )


@dg.asset(
    group_name="policy",
    deps=[policy, embeddings],
    partitions_def=FOLDS,
    pool="lake",
    kinds={"numba", "duckdb"},
    owners=OWNERS,
    code_version=CODE_VERSION,
    metadata=table_metadata(BACKTEST),
)
def backtest(
    context: dg.AssetExecutionContext,
    config: Experiment,
    artifacts: Artifacts,
    tracking: Tracking,
    warehouse: Warehouse,
) -> dg.MaterializeResult:
    """Out-of-sample trading of the fold's year, net of costs, beside buy-and-hold and momentum."""
    from atlas_pipeline.trading.backtest import summary
    from atlas_pipeline.trading.comparison import compare
    from atlas_pipeline.trading.plots import equity_curves
    from atlas_pipeline.trading.policy_bundle import load_trained_policy
    from atlas_pipeline.training.errors import CorruptCheckpointError
    from atlas_pipeline.windows.folds import Fold

    learned = config.load()
    fold = Fold(int(context.partition_key), learned)
    paths, base_hash = load_paths(artifacts, learned, fold)
    file = policy_file(artifacts, learned, fold, paths)
    if not file.exists():
        raise dg.Failure(
            f"no policy of fold {fold.year} was learned with these settings: "
            "materialize policy with the same experiment and overrides",
            allow_retries=False,
        )
    with permanent(CorruptCheckpointError, ValueError):
        trained = load_trained_policy(artifacts.verify(file.parent) / file.name)
        tracks = compare(trained.model, paths, learned, fold.start, fold.end)
    rows = pd.concat(
        [track.frame(context.partition_key, name) for name, own in tracks.items() for track in own], ignore_index=True
    )
    scores = pd.DataFrame(
        [{"fold": context.partition_key, "strategy": name, **summary(own)} for name, own in tracks.items()]
    )[list(BACKTEST_SCORES.names)]
    with warehouse.transaction() as transaction:
        transaction.replace(BACKTEST, {context.partition_key: rows})
        transaction.replace(BACKTEST_SCORES, {context.partition_key: scores})
    commit = transaction.commit
    assert commit is not None
    with tracking.run(
        f"backtest {context.partition_key}",
        experiment="policy",
        key=f"backtest/{context.partition_key}/{file.parent.name}",
        tags={"snapshot": str(commit.snapshot), "config": learned.digest(), "base_hash": base_hash},
    ) as run:
        run.log_metrics(
            {
                f"{name}/{metric}": value
                for name, metrics in scores.drop(columns="fold").set_index("strategy").to_dict("index").items()
                for metric, value in metrics.items()
            },
            step=0,
        )
    return dg.MaterializeResult(
        metadata={
            "out of sample, net of costs": frame(scores),
            "equity": picture(equity_curves(tracks, f"Out of sample, {context.partition_key}"), "equity"),
            "dagster/partition_row_count": len(rows),
            "snapshot": commit.snapshot,
        },
        data_version=dg.DataVersion(commit.data_versions[BACKTEST.name][context.partition_key]),
    )


@dg.asset_check(asset=backtest, blocking=True)
def backtest_schema(warehouse: Warehouse) -> dg.AssetCheckResult:
    """Every stored step has its types, its bounds and a key of its own."""
    require_rows(warehouse, BACKTEST)
    return schema_result(BACKTEST, warehouse)


@dg.asset_check(asset=backtest)
def backtest_beats_buy_and_hold(warehouse: Warehouse) -> dg.AssetCheckResult:
    """In every fold the policy earns more, net of costs, than buying and holding."""
    scores = stored(warehouse, BACKTEST_SCORES)
    table = scores.pivot(index="fold", columns="strategy", values="total_return")
    return dg.AssetCheckResult(
        passed=bool((table["policy"] > table["buy_and_hold"]).all()),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"total return (fraction)": frame(table.reset_index())},
    )
