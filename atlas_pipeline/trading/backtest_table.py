"""The table of out-of-sample trading; it imports without numba and torch, and nothing is computed here."""

from __future__ import annotations

from atlas_pipeline.market.table import Column, Table

BACKTEST = Table(
    name="backtest",
    description="Out-of-sample trading of each fold's year, bar by bar, beside its baselines",
    columns=(
        Column("fold", "string", "year the strategy is judged on"),
        Column("strategy", "string", "policy, policy_sampled, buy_and_hold or momentum"),
        Column("symbol", "string", "what is traded; each symbol has its own account"),
        Column("available_at", "timestamp", "instant the bar is complete"),
        Column("equity", "float64", "equity at the bar's close", unit="currency"),
        Column("position", "float64", "position held after the bar", unit="multiples of equity"),
        Column("traded", "float64", "traded notional in the bar", unit="fraction of equity", minimum=0.0),
        Column("net_return", "float64", "return of the bar, costs inside", unit="fraction"),
        Column("reward", "float64", "differential Sharpe ratio of the net return"),
    ),
    key=("fold", "strategy", "symbol", "available_at"),
    partition_by="fold",
    time="available_at",
)
