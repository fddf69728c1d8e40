"""What is live and why: the gate judges every candidate that waits, and the alias follows its verdicts."""

from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import pandas as pd

from assets.adapter import lora_adapter
from assets.experiment import Experiment
from assets.loading import CODE_VERSION, model_rows
from assets.metadata import OWNERS, TRANSIENT, frame, picture, table_metadata
from assets.paper import LEDGER, paper_ledger
from assets.schema_check import schema_result
from assets.serving import champion_version, load_version, with_rules_of
from assets.verdicts import carry_out, decision_row, next_look, pending
from atlas_pipeline.adaptation.ledger import EQUITY, GATE_DECISIONS
from atlas_pipeline.market.instants import EPOCH
from resources.artifacts import Artifacts
from resources.compute import Compute
from resources.tracking import MODEL, Tracking
from resources.warehouse import Warehouse


@dg.asset(
    group_name="adaptation",
    deps=[lora_adapter, paper_ledger],
    pool="gpu",
    kinds={"mlflow", "duckdb"},
    owners=OWNERS,
    code_version=CODE_VERSION,
    retry_policy=TRANSIENT,
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(days=4)),
    metadata=table_metadata(GATE_DECISIONS),
)
def champion(
    context: dg.AssetExecutionContext,
    config: Experiment,
    artifacts: Artifacts,
    compute: Compute,
    tracking: Tracking,
    warehouse: Warehouse,
) -> dg.MaterializeResult:
    """The live model and why it is: verdicts of the gate on every candidate, and the registry's alias.

    Each candidate trades in shadow on the steps after its creation, beside the champion and the frozen base, net of
    costs. A verdict is written before the alias moves, so that a killed run carries it out when it goes on.
    """
    from atlas_pipeline.adaptation.contest import contest
    from atlas_pipeline.adaptation.plots import plot_shadow, plot_verdicts

    launched = config.load()
    with warehouse.session() as lake:
        equity = lake.read(EQUITY, where={"ledger": LEDGER}, columns=["symbol", "bar"])
        decided = lake.read(GATE_DECISIONS)
    bars, symbols = pd.DatetimeIndex(equity["bar"].unique()).sort_values(), equity["symbol"].nunique()
    pictures: dict[str, Any] = {}
    for candidate in pending(tracking, decided):
        end = next_look(candidate, decided, bars, symbols, launched.gate_minimum_steps)
        if end is None:
            context.log.info(f"version {candidate.version} waits for its next look")
            continue
        live = champion_version(tracking)
        created_at = datetime.fromisoformat(candidate.tags["created_at"])
        challenger, holder = load_version(candidate, artifacts), load_version(live, artifacts)
        with warehouse.session() as lake:
            rows = model_rows(lake, EPOCH, end, list(dict.fromkeys(challenger.features + holder.features)))
        outcome = contest(
            challenger,
            holder,
            rows,
            created_at,
            end,
            with_rules_of(live, launched),
            compute.inference(),
        )
        row = decision_row(candidate, live, outcome)
        warehouse.append(GATE_DECISIONS, row)
        context.log.info(f"version {candidate.version}: {outcome.decision.verdict}, {outcome.decision.reason}")
        pictures[f"shadow of version {candidate.version}"] = picture(
            plot_shadow(outcome, f"Version {candidate.version} in shadow: {outcome.decision.verdict}"), "shadow"
        )
        carry_out(tracking, candidate, outcome.decision.verdict)
    live = champion_version(tracking)
    with warehouse.session() as lake:
        decided = lake.read(GATE_DECISIONS)
        snapshot = lake.snapshot()
    columns = ["env_step", "candidate_version", "champion_version", "bar", "steps", "verdict", "reason"]
    return dg.MaterializeResult(
        metadata={
            "live version": str(live.version),
            "kind": live.tags["kind"],
            "fold": live.tags["fold"],
            "made at step": int(live.tags["env_step"]),
            "verdicts": frame(decided.sort_values(["bar", "env_step"]).tail(20)[columns]),
            "looks": picture(plot_verdicts(decided), "looks of the gate"),
            "dagster/row_count": len(decided),
            "snapshot": snapshot,
            "MLflow": tracking.ui_command,
            **pictures,
        },
        data_version=dg.DataVersion(str(live.version)),
    )


@dg.asset_check(asset=champion, blocking=True)
def champion_is_sound(artifacts: Artifacts, tracking: Tracking) -> dg.AssetCheckResult:
    """What the alias names loads: base, heads and adapter are whole and belong together."""
    version = champion_version(tracking)
    live = load_version(version, artifacts)
    return dg.AssetCheckResult(
        passed=live.base_sha256 == version.tags["base_hash"],
        metadata={"version": live.version, "base hash": live.base_sha256, "adapter hash": live.adapter.sha256},
    )


@dg.asset_check(asset=champion, blocking=True)
def gate_decisions_schema(warehouse: Warehouse) -> dg.AssetCheckResult:
    """Every verdict has its numbers and a key of its own."""
    return schema_result(GATE_DECISIONS, warehouse)


@dg.asset_check(asset=champion)
def champion_came_through_the_gate(tracking: Tracking, warehouse: Warehouse) -> dg.AssetCheckResult:
    """What is live is the first base, or the gate's table says that it was promoted."""
    live = champion_version(tracking)
    first = tracking.versions(MODEL)[0].version
    decided = warehouse.read(GATE_DECISIONS)
    promoted = decided.loc[decided["verdict"] == "promote", "candidate_version"]
    return dg.AssetCheckResult(
        passed=live.version == first or str(live.version) in set(promoted),
        metadata={"live version": str(live.version), "promoted": ", ".join(promoted)},
    )
