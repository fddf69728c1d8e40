"""Trading on paper: decisions, fills, equity and experience, bar by bar. Adapters are ``adapter``'s."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg
import numpy as np
import pandas as pd
from pydantic import Field

from assets.experiment import Experiment
from assets.features import features
from assets.loading import CODE_VERSION, model_rows
from assets.metadata import OWNERS, TRANSIENT, frame, permanent, picture, table_metadata
from assets.policy import policy
from assets.schema_check import schema_result, stored
from assets.serving import champion_version, load_version, with_rules_of
from atlas_pipeline.adaptation.ledger import DECISIONS, EQUITY, EXPERIENCE, FILLS, LEDGER_TABLES
from atlas_pipeline.market.bars import QUARANTINED_BARS
from atlas_pipeline.market.instants import EPOCH, microseconds
from atlas_pipeline.market.table import Table
from resources.artifacts import Artifacts
from resources.compute import Compute
from resources.market import Market
from resources.tracking import Tracking
from resources.warehouse import Warehouse

if TYPE_CHECKING:
    from atlas_pipeline.windows.panel import Panel
    from resources.lake import Lake

LEDGER = "paper"
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
        state = restore(LEDGER, *(ledger_rows(lake, table) for table in (EQUITY, DECISIONS, EXPERIENCE)))
        rows = model_rows(lake, EPOCH, now + ONE_MICROSECOND, live.features)
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
        equity = ledger_rows(lake, EQUITY)
        version_of_data = lake.data_version(EQUITY)
        recent = ledger_rows(lake, FILLS).tail(10)
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


def ledger_rows(lake: "Lake", table: Table) -> pd.DataFrame:
    """Read the ledger's rows of one of its tables."""
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
    results = [schema_result(table, warehouse) for table in LEDGER_TABLES]
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
