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
from atlas_pipeline.training.garch_contest import contest_table
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
    for fold, own in warehouse.read(FORECASTS).groupby("fold"):
        _print(console, f"Density forecasts of {fold}, out of sample", _densities(score_table(own)))
        _print(console, f"Forecaster against the best GARCH model of {fold}", _contest(contest_table(own)))
    for fold, own in warehouse.read(BACKTEST_SCORES).groupby("fold"):
        _print(console, f"Trading in {fold}, out of sample, net of costs", _strategies(own))
        earned = own.set_index("strategy")["total_return"]
        own_return, market_return = earned["policy"], earned["buy_and_hold"]
        verdict = "earned more than" if own_return > market_return else "lost to"
        console.print(f"The policy {verdict} buy-and-hold: {own_return:+.1%} against {market_return:+.1%}.\n")
    verdicts = _latest_verdicts(warehouse.read(GATE_DECISIONS))
    _print(console, "Adapters and the gate's verdicts (net return in shadow)", _verdicts(verdicts))
    for decision in verdicts.itertuples():
        console.print(f"  {decision.env_step:06d} {decision.verdict}: {decision.reason}", highlight=False)


def _tables(warehouse: Warehouse) -> pd.DataFrame:
    with warehouse.session() as lake:
        counts, changes = lake.row_counts(), lake.last_changes()
        return pd.DataFrame(
            [
                {
                    "table": table.name,
                    "rows": counts.get(table.name, 0),
                    "duplicate keys": len(lake.duplicates(table)) if table.name in counts else 0,
                    "last snapshot": changes.get(table.name, ""),
                }
                for table in TABLES
            ]
        )


def _densities(scores: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "symbol": scores["symbol"],
            "model": scores["model"],
            "NLL (nats)": scores["nll"].map("{:.3f}".format),
            "CRPS (%)": scores["crps"].map("{:.4f}".format),
            "MAE (%)": scores["mae"].map("{:.4f}".format),
            "95% coverage": scores["coverage_95"].map("{:.1%}".format),
            "95% width (%)": scores["width_95"].map("{:.2f}".format),
            "calibrated at (%)": scores["calibrated"],
            "bars": scores["bars"],
        }
    )


def _contest(contest: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "symbol": contest["symbol"],
            "model": contest["opponent"],
            "its NLL (nats)": contest["best_garch"].map("{:.3f}".format),
            "forecaster's": contest["forecaster"].map("{:.3f}".format),
            "difference": contest["difference"].map("{:+.4f}".format),
            "Diebold-Mariano": contest["dm_statistic"].map("{:+.2f}".format),
            "p": contest["dm_p_value"].map("{:.3f}".format),
        }
    )


def _strategies(scores: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "strategy": scores["strategy"],
            "return": scores["total_return"].map("{:+.1%}".format),
            "Sharpe (95%)": [
                f"{row.sharpe_ratio:.2f} ({row.sharpe_lower:.2f} to {row.sharpe_upper:.2f})"
                for row in scores.itertuples()
            ],
            "drawdown": scores["max_drawdown"].map("{:.1%}".format),
            "win rate": scores["win_rate"].map("{:.1%}".format),
            "turnover": scores["turnover"].map("{:.1f}".format),
        }
    )


def _latest_verdicts(decisions: pd.DataFrame) -> pd.DataFrame:
    return decisions.sort_values("bar").groupby("candidate_version").tail(1).sort_values("env_step")


def _verdicts(latest: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "adapter": latest["env_step"].map("{:06d}".format),
            "version": latest["candidate_version"],
            "verdict": latest["verdict"],
            "shadow steps": latest["steps"],
            **{
                contender: latest[f"{contender}_total_return"].map("{:+.2%}".format)
                for contender in ("candidate", "champion", "base")
            },
        }
    )


def _print(console: Console, title: str, rows: pd.DataFrame) -> None:
    shown = RichTable(title=title, title_justify="left", title_style="bold")
    for name in rows.columns:
        text = name in ("table", "symbol", "model", "strategy", "adapter", "verdict")
        shown.add_column(str(name), justify="left" if text else "right")
    for row in rows.itertuples(index=False, name=None):
        shown.add_row(*map(str, row))
    console.print(shown)
