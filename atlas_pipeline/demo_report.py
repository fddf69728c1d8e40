"""The table that ``make demo`` ends with: what was made, how good it is, and what the gate said."""

from __future__ import annotations

import pandas as pd
from rich.console import Console
from rich.table import Table as RichTable

from assets.tables import RUN_FAILURES
from atlas_pipeline.adaptation.ledger import DECISIONS, EQUITY, EXPERIENCE, FILLS, GATE_DECISIONS
from atlas_pipeline.features.registry import FEATURES
from atlas_pipeline.market.bars import BAR_REVISIONS, BARS, CORPORATE_ACTIONS, QUARANTINED_BARS
from atlas_pipeline.trading.backtest_table import BACKTEST, BACKTEST_SCORES
from atlas_pipeline.training.forecast_table import FORECASTS, score_table
from resources.warehouse import Warehouse

TABLES = (
    BARS,
    QUARANTINED_BARS,
    BAR_REVISIONS,
    CORPORATE_ACTIONS,
    FEATURES,
    FORECASTS,
    BACKTEST,
    BACKTEST_SCORES,
    DECISIONS,
    FILLS,
    EQUITY,
    EXPERIENCE,
    GATE_DECISIONS,
    RUN_FAILURES,
)


def traded_steps(warehouse: Warehouse) -> int:
    """Environment steps that the paper ledger has behind it."""
    steps = warehouse.read(EXPERIENCE, columns=["env_step"])["env_step"]
    return int(steps.max()) if len(steps) else 0


def print_report(console: Console, warehouse: Warehouse) -> None:
    """Print the closing tables from what the warehouse holds."""
    _print(console, "Tables", _tables(warehouse))
    forecasts = warehouse.read(FORECASTS)
    for fold, own in forecasts.groupby("fold"):
        _print(console, f"Density forecasts, {fold}, out of sample (NLL in nats, CRPS in percent)", score_table(own))
    for fold, own in warehouse.read(BACKTEST_SCORES).groupby("fold"):
        scores = own.drop(columns="fold")
        _print(console, f"Trading, {fold}, out of sample, net of costs", scores)
        earned = scores.set_index("strategy")["total_return"]
        verdict = "earned more than" if earned["policy"] > earned["buy_and_hold"] else "lost to"
        own_return, market_return = earned["policy"], earned["buy_and_hold"]
        verdict = "earned more than" if own_return > market_return else "lost to"
        console.print(f"In {fold} the policy {verdict} buy-and-hold: {own_return:+.1%} against {market_return:+.1%}.")
    _print(console, "Adapters and the gate's verdicts", _verdicts(warehouse.read(GATE_DECISIONS)))


def _tables(warehouse: Warehouse) -> pd.DataFrame:
    with warehouse.session() as lake:
        counts = lake.row_counts()
        return pd.DataFrame(
            [
                {
                    "table": table.name,
                    "rows": counts.get(table.name, 0),
                    "duplicate keys": len(lake.duplicates(table)) if table.name in counts else 0,
                    "snapshot": lake.snapshot(),
                }
                for table in TABLES
            ]
        )


def _verdicts(decisions: pd.DataFrame) -> pd.DataFrame:
    latest = decisions.sort_values("bar").groupby(["env_step", "candidate_version"]).tail(1).sort_values("env_step")
    return pd.DataFrame(
        {
            "adapter": latest["env_step"].map("{:06d}".format),
            "version": latest["candidate_version"],
            "verdict": latest["verdict"],
            "shadow steps": latest["steps"],
            "candidate": latest["candidate_total_return"].map("{:+.2%}".format),
            "champion": latest["champion_total_return"].map("{:+.2%}".format),
            "base": latest["base_total_return"].map("{:+.2%}".format),
            "why": latest["reason"],
        }
    )


def _print(console: Console, title: str, rows: pd.DataFrame) -> None:
    shown = RichTable(title=title, title_justify="left", title_style="bold")
    for name, kind in rows.dtypes.items():
        shown.add_column(str(name), justify="right" if pd.api.types.is_numeric_dtype(kind) else "left")
    for row in rows.itertuples(index=False, name=None):
        shown.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row))
    console.print(shown)
