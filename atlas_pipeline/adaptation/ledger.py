"""The tables of trading on paper and of the gate. How their rows come about is in ``paper`` and ``gate``."""

from __future__ import annotations

from atlas_pipeline.market.table import Column, Table
from atlas_pipeline.trading.layout import ACCOUNT, CONTEXT

KEY = ("ledger", "symbol", "bar")
CONTEXT_COLUMNS = tuple(f"context_{name}" for name in CONTEXT)

_LEDGER = Column("ledger", "string", "name of the paper ledger; each has its own accounts")
_SYMBOL = Column("symbol", "string", "instrument")
_ACTION = Column("action", "int32", "0 HOLD, 1 BUY, 2 SELL, one unit of equity each", minimum=0)
_MODEL_VERSION = Column("model_version", "string", "version of the model that decided, as the registry names it")
_CONTEXT = tuple(
    Column(column, "float32", f"the policy's context {name!r} at the bar of the decision")
    for column, name in zip(CONTEXT_COLUMNS, CONTEXT, strict=True)
)
# Everything the simulator carries from bar to bar: with the decision of the same bar an account resumes
# exactly.
_ACCOUNT_MEANING = {
    "cash": ("cash after the bar", "currency"),
    "shares": ("shares held, as they trade at the bar; negative when short", "shares"),
    "position": ("target of the last trade", "units of equity"),
    "entry_price": (
        "average price paid for the shares held, less the splits and dividends since; 0 without any",
        "currency per share",
    ),
    "equity": ("cash and shares at the bar's close", "currency"),
    "peak": ("largest equity so far", "currency"),
    "sharpe_mean": ("moment A of the differential Sharpe ratio", ""),
    "sharpe_second_moment": ("moment B of the differential Sharpe ratio", ""),
    "steps": ("environment steps of this account", "steps"),
}

DECISIONS = Table(
    "decisions",
    "What the live policy decided at each bar, with what it saw and which weights decided.",
    (
        _LEDGER,
        _SYMBOL,
        Column("bar", "timestamp", "instant the bar of the decision is complete", "UTC"),
        _ACTION,
        Column("log_probability", "float64", "of the sampled action, under the policy that sampled it", "nats"),
        Column("value", "float64", "the critic's estimate of the discounted rewards to come"),
        Column("forecast_location", "float64", "of the coming return's density, by the frozen base", "percent"),
        Column("forecast_scale", "float64", "of the coming return's density, by the frozen base", "percent"),
        Column("volatility", "float64", "trailing volatility known at the bar", "percent per bar", minimum=0),
        *_CONTEXT,
        _MODEL_VERSION,
        Column("base_sha256", "string", "of the forecaster"),
        Column("policy_sha256", "string", "of the actor-critic"),
        Column("adapter_sha256", "string", "of the LoRA adapter"),
    ),
    key=KEY,
    time="bar",
)

FILLS = Table(
    "fills",
    "Every trade on paper: the order of one bar, filled in the next at an adverse price.",
    (
        _LEDGER,
        _SYMBOL,
        Column("bar", "timestamp", "instant the bar of the fill is complete", "UTC"),
        Column("decided_at", "timestamp", "bar of the decision", "UTC"),
        _ACTION,
        Column("quantity", "float64", "bought, or sold where negative", "shares"),
        Column("price", "float64", "paid or received, slippage inside", "currency per share", minimum=0),
        Column("commission", "float64", "fee", "currency", minimum=0),
        Column("slippage", "float64", "cost of the adverse price", "currency", minimum=0),
    ),
    key=KEY,
    time="bar",
)

EQUITY = Table(
    "equity",
    "Each account after each bar: the simulator's whole state, and the bar's net return.",
    (
        _LEDGER,
        _SYMBOL,
        Column("bar", "timestamp", "instant the bar is complete", "UTC"),
        Column("close", "float64", "what the shares are valued at", "currency per share", minimum=0),
        *(Column(name, "float64", *_ACCOUNT_MEANING[name]) for name in ACCOUNT),
        Column("net_return", "float64", "of equity over the bar, costs and dividends inside", "fraction"),
        Column("split", "float64", "shares held after the bar's splits for one before; 1 without", minimum=0),
        Column("dividend", "float64", "cash booked for dividends; negative: a short paid them", "currency"),
    ),
    key=KEY,
    time="bar",
)

EXPERIENCE = Table(
    "experience",
    "Environment steps to learn from: state, action and the reward that the next bar brought.",
    (
        _LEDGER,
        _SYMBOL,
        Column("bar", "timestamp", "bar of the state and the action", "UTC"),
        Column("next_bar", "timestamp", "bar that brought the reward, from which on the step is known", "UTC"),
        Column(
            "env_step",
            "int64",
            "running number of the step over all symbols of the ledger, from 1",
            minimum=1,
        ),
        *_CONTEXT,
        _ACTION,
        Column("log_probability", "float64", "of the action under the policy that sampled it", "nats"),
        Column("value", "float64", "the critic's estimate at the decision"),
        Column("reward", "float64", "differential Sharpe ratio of the net return"),
        Column("net_return", "float64", "of equity over the step, costs inside", "fraction"),
        Column("terminated", "bool", "the account was ruined in this step"),
        Column("episode_start", "bool", "the account opened at this bar"),
        _MODEL_VERSION,
    ),
    key=KEY,
    time="next_bar",
)

GATE_DECISIONS = Table(
    "gate_decisions",
    "Every verdict of the promotion gate, with the numbers it rests on.",
    (
        _LEDGER,
        Column("candidate_sha256", "string", "adapter judged"),
        Column("bar", "timestamp", "last bar of the shadow run", "UTC"),
        Column("env_step", "int64", "environment step of the adapter's creation", minimum=0),
        Column("candidate_version", "string", "of the candidate in the registry"),
        Column("champion_version", "string", "of the model that was live"),
        Column("verdict", "string", "promote, refuse or wait"),
        Column("reason", "string", "why, in one sentence"),
        Column("steps", "int64", "shadow steps: bars times symbols since the creation", minimum=0),
        *(
            Column(f"{contender}_{measure}", "float64", f"{meaning} of the {contender}", unit, nullable=True)
            for contender in ("candidate", "champion", "base")
            for measure, meaning, unit in (
                ("total_return", "net return over the shadow run", "fraction"),
                ("max_drawdown", "largest fall from a peak", "fraction"),
                ("turnover", "traded notional over equity", "per bar"),
            )
        ),
        *(
            Column(f"over_{other}_{measure}", "float64", f"{meaning} over the {other}", "per bar", nullable=True)
            for other in ("champion", "base")
            for measure, meaning in (
                ("mean", "mean difference of the candidate's net return"),
                ("lower", "one-sided lower bound of that difference"),
                ("upper", "one-sided upper bound of that difference"),
            )
        ),
    ),
    key=("ledger", "candidate_sha256", "bar"),
    time="bar",
)

LEDGER_TABLES = (FILLS, EQUITY, EXPERIENCE, DECISIONS)
