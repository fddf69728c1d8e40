"""The adaptation stage: trading on paper, and the adapters made from what it brought. The gate is ``champion``'s."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import numpy as np
import pandas as pd
from pydantic import Field

from assets.experiment import Experiment
from assets.features import features
from assets.loading import CODE_VERSION, model_rows
from assets.metadata import OWNERS, TRANSIENT, frame, permanent, picture, table_metadata
from assets.partitions import ADAPTER_STEPS, adapter_step_key
from assets.policy import policy
from assets.schema_check import schema_result, stored
from assets.serving import champion_version, load_version, with_rules_of
from atlas_pipeline.adaptation.ledger import DECISIONS, EQUITY, EXPERIENCE, FILLS, GATE_DECISIONS, LEDGER_TABLES
from atlas_pipeline.config import AdaptationSettings, PPOSettings, digest_of
from atlas_pipeline.market.bars import QUARANTINED_BARS
from atlas_pipeline.market.table import Table
from atlas_pipeline.training.errors import CorruptCheckpointError
from atlas_pipeline.windows.panel import EPOCH, microseconds
from resources.artifacts import Artifacts
from resources.compute import Compute
from resources.market import Market
from resources.rows import content_version
from resources.tracking import CHALLENGER, MODEL, ModelVersion, Tracking
from resources.warehouse import Warehouse

if TYPE_CHECKING:
    from atlas_pipeline.windows.panel import Panel
    from resources.lake import Lake

LEDGER = "paper"
ADAPTER_FILE = "adapter.safetensors"
REPLAY_FILE = "replay.safetensors"
BALANCE_TOLERANCE = 1e-9
"""Relative: some hundred roundings of float64."""
ONE_MICROSECOND = timedelta(microseconds=1)


class PaperTrading(Experiment):
    """How far one materialization trades."""

    until_step: int | None = Field(
        default=None, description="Stop at the bar that reaches this environment step; unset, trade up to the clock."
    )


@dg.asset(
    group_name="adaptation",
    deps=[features, policy],
    pool="lake",
    kinds={"pytorch", "duckdb"},
    owners=OWNERS,
    code_version=CODE_VERSION,
    retry_policy=TRANSIENT,
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(days=4)),
    metadata=table_metadata(EQUITY),
)
def paper_ledger(
    context: dg.AssetExecutionContext,
    config: PaperTrading,
    artifacts: Artifacts,
    compute: Compute,
    market: Market,
    tracking: Tracking,
    warehouse: Warehouse,
) -> dg.MaterializeResult:
    """Decisions, fills, equity and experience of trading on paper, appended bar by bar up to the project's clock.

    What trades is what the registry's champion alias names when the run begins. Actions are sampled and their
    probabilities stored, so that adapters can learn from them. A killed run goes on at the bar it was at.
    """
    from atlas_pipeline.adaptation.paper import LedgerError, restore, trade

    version = champion_version(tracking)
    learned = with_rules_of(version, config.load())
    live = load_version(version, artifacts)
    now = market.now()
    traded = 0
    with warehouse.session() as lake, permanent(LedgerError, FloatingPointError, ValueError):
        state = restore(LEDGER, *(_ledger_rows(lake, table) for table in (EQUITY, DECISIONS, EXPERIENCE)))
        rows = model_rows(lake, EPOCH, now + ONE_MICROSECOND)
        first = datetime.fromisoformat(version.tags["trades_from"])
        if state.bar is not None:
            first = (EPOCH + timedelta(microseconds=state.bar)) + ONE_MICROSECOND
        last = _last_bar(rows, first, now, config.until_step, state.env_steps)
        _require_sessions(rows, market, first, last, lake.read(QUARANTINED_BARS, columns=["symbol", "available_at"]))
        context.log.info(f"version {live.version} trades from {first:%Y-%m-%d} to {last:%Y-%m-%d}")
        for after, made in trade(
            state,
            live.market_paths(rows, first, last + ONE_MICROSECOND, compute.inference()),
            live,
            learned,
            learned.seed,
        ):
            frames = made.frames()
            state = after
            with lake.transaction() as transaction:
                for table in LEDGER_TABLES:
                    transaction.append(table, frames[table.name])
            traded += 1
            if traded % 50 == 0:
                context.log.info(f"{traded} bars traded, step {state.env_steps}")
            if config.until_step is not None and state.env_steps >= config.until_step:
                break
        snapshot = lake.snapshot()
        equity = _ledger_rows(lake, EQUITY)
        version_of_data = lake.data_version(EQUITY)
        recent = _ledger_rows(lake, FILLS).tail(10)
    from atlas_pipeline.adaptation.plots import plot_ledger

    return dg.MaterializeResult(
        metadata={
            "bars traded now": traded,
            "environment steps": state.env_steps,
            "last bar": "none" if state.bar is None else f"{(EPOCH + timedelta(microseconds=state.bar)):%Y-%m-%d}",
            "traded by version": live.version,
            "accounts": frame(_accounts(equity)),
            "latest fills": frame(recent),
            "dagster/row_count": len(equity),
            "snapshot": snapshot,
            **({"equity": picture(plot_ledger(equity), "equity")} if len(equity) else {}),
        },
        data_version=dg.DataVersion(version_of_data),
    )


def _ledger_rows(lake: "Lake", table: Table) -> pd.DataFrame:
    return lake.read(table, where={"ledger": LEDGER})


def _last_bar(rows: "Panel", first: datetime, now: datetime, until_step: int | None, steps: int) -> datetime:
    """Instant of the last bar to trade: the clock's, or the one that reaches ``until_step``."""
    if until_step is None:
        return now
    if steps >= until_step:
        return first - ONE_MICROSECOND
    ahead = np.unique(rows.available_at[rows.available_at >= microseconds(first)])
    # An account's first bar only opens it: it takes one bar more than steps.
    bars = -(-(until_step - steps) // len(rows.symbols)) + (steps == 0)
    return now if bars >= len(ahead) else EPOCH + timedelta(microseconds=int(ahead[bars - 1]))


def _require_sessions(rows: "Panel", market: Market, first: datetime, last: datetime, refused: pd.DataFrame) -> None:
    """Refuse to trade over a session that a symbol has no features of: nobody saw that bar.

    A bar that validation refused was seen; its symbol stands aside there and its order fills in its next bar.
    """
    if first > last:
        return
    expected = market.sessions(first, last)
    expected = expected[(expected["available_at"] >= first) & (expected["available_at"] <= last)]
    for number, symbol in enumerate(rows.symbols):
        known = pd.to_datetime(rows.available_at[rows.symbol == number], unit="us", utc=True)
        excused = refused.loc[refused["symbol"] == symbol, "available_at"]
        due = expected[expected["available_at"] >= known.min()]
        missing = due.loc[~due["available_at"].isin(known) & ~due["available_at"].isin(excused), "session"]
        if len(missing):
            raise dg.Failure(
                f"{len(missing)} sessions of {symbol} up to {last:%Y-%m-%d} have no features, the first "
                f"{missing.iloc[0]:%Y-%m-%d}: materialize bars and features of {missing.iloc[0]:%Y-%m} first",
                allow_retries=False,
            )


def _accounts(equity: pd.DataFrame) -> pd.DataFrame:
    latest = equity.sort_values("bar").groupby("symbol").tail(1)
    return latest[["symbol", "bar", "equity", "position", "shares", "cash", "steps"]]


@dg.asset_check(asset=paper_ledger, blocking=True)
def paper_ledger_keys(warehouse: Warehouse) -> dg.AssetCheckResult:
    """Every table of the ledger has its types, its bounds and one row a key."""
    with warehouse.session() as lake:
        results = [schema_result(table, lake.read(table), warehouse) for table in LEDGER_TABLES]
    return dg.AssetCheckResult(
        passed=all(result.passed for result in results),
        description="; ".join(result.description for result in results if result.description) or None,
        metadata={table.name: result.metadata["rows"] for table, result in zip(LEDGER_TABLES, results, strict=True)},
    )


@dg.asset_check(asset=paper_ledger, blocking=True)
def paper_ledger_balances(warehouse: Warehouse) -> dg.AssetCheckResult:
    """Cash and shares at the close are the equity of every bar, and net returns link one bar's equity to the next's."""
    equity = stored(warehouse, EQUITY).sort_values(["ledger", "symbol", "bar"])
    gap = (equity["cash"] + equity["shares"] * equity["close"] - equity["equity"]).abs() / equity["equity"].abs()
    before = equity.groupby(["ledger", "symbol"])["equity"].shift()
    drift = (equity["equity"] / before - 1 - equity["net_return"]).abs().fillna(0.0)
    worst = float(max(gap.max(), drift.max()))
    return dg.AssetCheckResult(passed=worst < BALANCE_TOLERANCE, metadata={"largest relative gap": worst})


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
    with warehouse.session() as lake:
        snapshot = lake.snapshot()
        experience = _ledger_rows(lake, EXPERIENCE)
        experience = experience[experience["env_step"] <= step]
        reached = _reached(experience, step)
        rows = model_rows(lake, EPOCH, reached + ONE_MICROSECOND)
        decisions = _ledger_rows(lake, DECISIONS)
        promoted = lake.read(GATE_DECISIONS, where={"ledger": LEDGER, "verdict": "promote"})
    version = champion_version(tracking)
    live = load_version(version, artifacts)
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


def _replay_before(artifacts: Artifacts, tracking: Tracking, step: int, live: ModelVersion) -> Path | None:
    """File of the replay buffer that the last adapter on the same base and heads left; None before the first."""
    earlier = [
        version
        for version in tracking.versions(MODEL)
        if version.tags["kind"] == "adapter"
        and all(version.tags[part] == live.tags[part] for part in ("base_hash", "policy"))
        and int(version.tags["env_step"]) < step
    ]
    if earlier:
        latest = max(earlier, key=lambda version: (int(version.tags["env_step"]), int(version.version)))
        return artifacts.absolute(latest.tags["adapter"]).with_name(REPLAY_FILE)
    return None
