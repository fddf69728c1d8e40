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

BACKTEST_SCORES = Table(
    name="backtest_scores",
    description="What each strategy earned out of sample in each fold's year, over all symbols, net of costs",
    columns=(
        Column("fold", "string", "year the strategy is judged on"),
        Column("strategy", "string", "policy, policy_sampled, buy_and_hold or momentum"),
        Column("total_return", "float64", "of the accounts' common equity", unit="fraction"),
        Column("sharpe_ratio", "float64", "annualised, without a risk-free rate", nullable=True),
        Column("sharpe_lower", "float64", "lower end of its 95% interval", nullable=True),
        Column("sharpe_upper", "float64", "upper end of its 95% interval", nullable=True),
        Column("max_drawdown", "float64", "largest fall from a peak", unit="fraction", minimum=0.0),
        Column("win_rate", "float64", "share of winning bars in the market", unit="fraction", nullable=True),
        Column("turnover", "float64", "traded notional", unit="multiples of equity a year", minimum=0.0),
        Column("portfolio_value", "float64", "final equity, mean over symbols", unit="currency"),
        Column("episode_reward", "float64", "summed differential Sharpe ratio, mean over symbols"),
    ),
    key=("fold", "strategy"),
    partition_by="fold",
)
