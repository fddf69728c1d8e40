"""LoRA adapters made from the ledger's experience. Whether one goes live is ``champion``'s to say."""

from datetime import datetime
from pathlib import Path

import dagster as dg
import pandas as pd

from assets.experiment import Experiment
from assets.loading import CODE_VERSION, model_rows
from assets.metadata import OWNERS, permanent
from assets.paper import LEDGER, ONE_MICROSECOND, ledger_rows, paper_ledger
from assets.partitions import ADAPTER_STEPS, adapter_step_key
from assets.serving import champion_version, load_version
from atlas_pipeline.adaptation.ledger import DECISIONS, EXPERIENCE, GATE_DECISIONS
from atlas_pipeline.config import AdaptationSettings, PPOSettings, digest_of
from atlas_pipeline.market.instants import EPOCH
from atlas_pipeline.training.errors import CorruptCheckpointError
from resources.artifacts import Artifacts
from resources.compute import Compute
from resources.rows import content_version
from resources.tracking import CHALLENGER, MODEL, ModelVersion, Tracking
from resources.warehouse import Warehouse

ADAPTER_FILE = "adapter.safetensors"
REPLAY_FILE = "replay.safetensors"


@dg.asset(
    group_name="adaptation",
    deps=[paper_ledger],
    partitions_def=ADAPTER_STEPS,
    pool="gpu",
    kinds={"pytorch", "mlflow"},
    owners=OWNERS,
    code_version=CODE_VERSION,
)
def lora_adapter(
    context: dg.AssetExecutionContext,
    config: Experiment,
    artifacts: Artifacts,
    compute: Compute,
    tracking: Tracking,
    warehouse: Warehouse,
) -> dg.MaterializeResult:
    """One LoRA adapter, made from the ledger's experience up to its step and entered as challenger.

    It continues what is live, with the replay priorities of the adapter before it. The base stays frozen.
    """
    from atlas_pipeline.adaptation.lora import save_adapter
    from atlas_pipeline.adaptation.online_update import ExperienceError, update_adapter
    from atlas_pipeline.adaptation.replay_file import load_replay, save_replay

    learned = config.load()
    step = int(context.partition_key)
    version = champion_version(tracking)
    live = load_version(version, artifacts)
    with warehouse.session() as lake:
        snapshot = lake.snapshot()
        experience = ledger_rows(lake, EXPERIENCE)
        experience = experience[experience["env_step"] <= step]
        reached = _reached(experience, step)
        rows = model_rows(lake, EPOCH, reached + ONE_MICROSECOND, live.features)
        decisions = ledger_rows(lake, DECISIONS)
        promoted = lake.read(GATE_DECISIONS, where={"ledger": LEDGER, "verdict": "promote"})
    made_before = [
        each
        for each in _adapters_of(tracking, version)
        if int(each.tags["env_step"]) == step and each.tags["config"] == learned.digest()
    ]
    if live.adapter.env_step >= step and made_before:
        context.log.info(f"version {made_before[-1].version} was made at this step before, and is or was live since")
        return dg.MaterializeResult(
            metadata={
                "model version": made_before[-1].version,
                "adapter hash": made_before[-1].tags["sha256"],
                "file": dg.MetadataValue.path(str(artifacts.absolute(made_before[-1].tags["adapter"]))),
            },
            data_version=dg.DataVersion(made_before[-1].tags["sha256"]),
        )
    if live.adapter.env_step >= step:
        raise dg.Failure(
            f"adapter {context.partition_key} would continue version {live.version}, which learned up to step "
            f"{live.adapter.env_step}: only later adapters can be made",
            allow_retries=False,
        )
    experience = own_experience(experience, decisions, live.base_sha256, live.policy_sha256)
    earlier = _replay_before(artifacts, tracking, step, version)
    folder = artifacts.directory(
        "lora_adapter",
        context.partition_key,
        digest_of(
            [
                learned.digest(AdaptationSettings, PPOSettings),
                learned.gradient_clip,
                learned.seed,
                live.adapter.sha256,
                content_version(EXPERIENCE, experience),
                rows.sha256(),
                None if earlier is None else artifacts.relative(earlier),
                CODE_VERSION,
            ]
        ),
    )
    tags = {
        "snapshot": str(snapshot),
        "code_version": CODE_VERSION,
        "config": learned.digest(),
        "base_hash": live.base_sha256,
        "continues": str(version.version),
    }
    with (
        permanent(ExperienceError, CorruptCheckpointError, FloatingPointError),
        tracking.run(
            f"adapter {context.partition_key}",
            experiment="adaptation",
            key=f"adapter/{context.partition_key}/{folder.name}",
            tags=tags,
        ) as run,
    ):
        update = update_adapter(
            experience,
            rows,
            live,
            None if earlier is None else load_replay(artifacts.verify(earlier.parent) / earlier.name),
            learned,
            compute.inference(),
            learned.seed,
        )
        with artifacts.publish("lora_adapter", context.partition_key, folder.name, tags) as made:
            save_replay(update.replay, made / REPLAY_FILE)
            save_adapter(update.adapter, made / ADAPTER_FILE)
        run.log_params(learned.values(AdaptationSettings, PPOSettings))
        run.log_metrics(update.metrics, step=step)
    registered = tracking.register(
        MODEL,
        folder,
        key=f"adapter/{context.partition_key}/{folder.name}",
        tags={
            **tags,
            "kind": "adapter",
            "fold": version.tags["fold"],
            "trading": version.tags["trading"],
            "forecaster": version.tags["forecaster"],
            "policy": version.tags["policy"],
            "adapter": artifacts.relative(folder / ADAPTER_FILE),
            "sha256": update.adapter.sha256,
            "env_step": str(step),
            "created_at": _judged_from(reached, version, promoted).isoformat(),
            "trades_from": version.tags["trades_from"],
        },
    )
    tracking.set_alias(MODEL, CHALLENGER, registered)
    return dg.MaterializeResult(
        metadata={
            **{name: float(value) for name, value in update.metrics.items()},
            "parameters": update.adapter.parameter_count,
            "experience": len(experience),
            "model version": registered,
            "continues version": str(version.version),
            "base hash": live.base_sha256,
            "adapter hash": update.adapter.sha256,
            "config hash": learned.digest(),
            "snapshot": snapshot,
            "file": dg.MetadataValue.path(str(folder / ADAPTER_FILE)),
            "MLflow": tracking.ui_command,
        },
        data_version=dg.DataVersion(update.adapter.sha256),
    )


@dg.asset_check(asset=lora_adapter, blocking=True)
def lora_adapters_fit_their_base(artifacts: Artifacts, tracking: Tracking) -> dg.AssetCheckResult:
    """Every registered adapter is whole, and names the base and the contents that its version was registered with."""
    from atlas_pipeline.adaptation.lora import AdapterBaseMismatchError, load_adapter

    broken, sound = [], 0
    for version in tracking.versions(MODEL):
        if version.tags["kind"] != "adapter":
            continue
        try:
            adapter = load_adapter(artifacts.absolute(version.tags["adapter"]), version.tags["base_hash"])
        except (CorruptCheckpointError, AdapterBaseMismatchError) as error:
            broken.append(f"version {version.version}: {error}")
            continue
        if adapter.sha256 == version.tags["sha256"]:
            sound += 1
        else:
            broken.append(f"version {version.version} was registered as another adapter than its file holds")
    return dg.AssetCheckResult(
        passed=not broken, description="; ".join(broken) or None, metadata={"adapters": sound, "damaged": len(broken)}
    )


def own_experience(
    experience: pd.DataFrame, decisions: pd.DataFrame, base_sha256: str, policy_sha256: str
) -> pd.DataFrame:
    """Rows of experience that this base and these heads made; another base's states mean something else."""
    made = decisions[(decisions["base_sha256"] == base_sha256) & (decisions["policy_sha256"] == policy_sha256)]
    chosen = experience.merge(made[["symbol", "bar"]], on=["symbol", "bar"])[list(experience.columns)]
    return chosen.sort_values("env_step", ignore_index=True)


def _judged_from(reached: datetime, parent: ModelVersion, promoted: pd.DataFrame) -> datetime:
    """First bar that an adapter may be judged on: its own, and no bar its parent learned from or was promoted on."""
    bars = [reached, datetime.fromisoformat(parent.tags["created_at"])]
    own = promoted.loc[promoted["candidate_version"] == str(parent.version), "bar"]
    return max([*bars, *(bar.to_pydatetime() for bar in own)])


def _reached(experience: pd.DataFrame, step: int) -> datetime:
    """Instant at which this environment step was known.

    Raises
    ------
    dagster.Failure
        Where the ledger has not come that far.
    """
    known = experience.loc[experience["env_step"] == step, "next_bar"]
    if known.empty:
        reached = int(experience["env_step"].max()) if len(experience) else 0
        raise dg.Failure(
            f"adapter {adapter_step_key(step)} needs {step} environment steps, the ledger has {reached}: "
            "materialize paper_ledger further first",
            allow_retries=False,
        )
    return known.iloc[0].to_pydatetime()


def _adapters_of(tracking: Tracking, live: ModelVersion) -> list[ModelVersion]:
    """Registered adapters of the same base and heads, oldest first."""
    return [
        version
        for version in tracking.versions(MODEL)
        if version.tags["kind"] == "adapter"
        and all(version.tags[part] == live.tags[part] for part in ("base_hash", "policy"))
    ]


def _replay_before(artifacts: Artifacts, tracking: Tracking, step: int, live: ModelVersion) -> Path | None:
    """File of the replay buffer that the last adapter on the same base and heads left; None before the first."""
    earlier = [version for version in _adapters_of(tracking, live) if int(version.tags["env_step"]) < step]
    if not earlier:
        return None
    latest = max(earlier, key=lambda version: (int(version.tags["env_step"]), version.version))
    return artifacts.absolute(latest.tags["adapter"]).with_name(REPLAY_FILE)
