"""Jobs: which assets are materialized together, and the maintenance of the lake."""

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from resources.artifacts import Artifacts
from resources.tracking import Tracking
from resources.warehouse import Warehouse

UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]

ingest = dg.define_asset_job(
    "ingest",
    selection=["bars", "resampled_bars", "features"],
    executor_def=dg.in_process_executor,
    description="Ingest months of bars, validate and resample them and compute their features.",
)

poll_snapshots = dg.define_asset_job(
    "poll_snapshots",
    selection=["quotes", "option_chain", "microstructure_features", "option_features"],
    executor_def=dg.in_process_executor,
    description="Store quotes and option chains as a live source gives them now, with their features.",
)

build_panels = dg.define_asset_job(
    "build_panels",
    selection=["panel"],
    executor_def=dg.in_process_executor,
    description="Lay out each year's features as the contiguous file that models read.",
)

train_fold = dg.define_asset_job(
    "train_fold",
    selection=["forecaster", "forecasts", "embeddings", "policy", "backtest"],
    executor_def=dg.in_process_executor,
    description="Pretrain the forecaster, train the policy on its embeddings, judge both out of sample.",
)

train_task = dg.define_asset_job(
    "train_task",
    selection=["forecaster", "predictions"],
    executor_def=dg.in_process_executor,
    description="Pretrain a forecaster whose head says no density, such as direction or quantiles, and judge it.",
)

trade_on_paper = dg.define_asset_job(
    "trade_on_paper",
    selection=["bars", "features", "paper_ledger", "champion"],
    executor_def=dg.in_process_executor,
    description="Ingest up to the project's clock, trade every new bar on paper, let the gate judge what waits.",
)

adapt = dg.define_asset_job(
    "adapt",
    selection=["lora_adapter", "champion"],
    executor_def=dg.in_process_executor,
    description="Make the adapter that is due from the ledger's experience and enter it as challenger.",
)


@dg.op(pool="lake", description="Compact small files and expire snapshots that no model or checkpoint names.")
def compact_lake(
    context: dg.OpExecutionContext, artifacts: Artifacts, tracking: Tracking, warehouse: Warehouse
) -> None:
    """Compact the lake, keeping every snapshot that a registered model or a kept checkpoint names."""
    outcome = warehouse.compact(keep=tracking.named_snapshots() | artifacts.named_snapshots())
    context.log.info(f"compacted: {outcome}")


@dg.job(executor_def=dg.in_process_executor, description="Compaction, expiry and orphan clean-up of the lake.")
def maintain_lake() -> None:
    """Run the lake's maintenance."""
    compact_lake()


JOBS: list[dg.JobDefinition | UnresolvedAssetJobDefinition] = [
    ingest,
    poll_snapshots,
    build_panels,
    train_fold,
    train_task,
    trade_on_paper,
    adapt,
    maintain_lake,
]
