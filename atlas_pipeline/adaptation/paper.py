"""Trading on paper, bar by bar, as pure functions over the ledger's tables.

There is no state beside the tables: ``restore`` rebuilds it, and a bar that is traded again gives the same
rows, so a ledger that was stopped anywhere goes on as if it had not been. Reading and writing tables is the
warehouse's work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from atlas_pipeline.adaptation.ledger import (
    CONTEXT_COLUMNS,
    DECISIONS,
    EQUITY,
    EXPERIENCE,
    FILLS,
    LEDGER_TABLES,
)
from atlas_pipeline.config import Config
from atlas_pipeline.market.instants import microseconds
from atlas_pipeline.market.table import PANDAS_DTYPE, Table
from atlas_pipeline.trading.layout import ACCOUNT, STEPS
from atlas_pipeline.trading.market_path import MarketPath
from atlas_pipeline.trading.policy import decide
from atlas_pipeline.trading.simulator import Rules, open_account, step
from atlas_pipeline.trading.state import context_vector, state_vector

if TYPE_CHECKING:
    import pandas as pd

    from atlas_pipeline.adaptation.serving import LivePolicy

Row = dict[str, Any]


class LedgerError(RuntimeError):
    """The tables of a ledger do not fit each other, or the bars do not continue them."""


@dataclass(frozen=True, eq=False)
class OpenAccount:
    """One account after a bar, and the decision taken there, which fills in the next.

    ``account`` is float64 [len(ACCOUNT)] marked at the bar's close; ``decision`` is the row of DECISIONS.
    """

    account: npt.NDArray[np.float64]
    decision: Row


@dataclass(frozen=True, eq=False)
class LedgerState:
    """A ledger after its last bar.

    ``bar`` is int64 microseconds since 1970 UTC (None before the first); ``env_steps`` counts steps over all
    symbols; ``accounts`` holds the open accounts by symbol, ``closed`` the symbols whose account was ruined.
    """

    ledger: str
    bar: int | None = None
    env_steps: int = 0
    accounts: Mapping[str, OpenAccount] = field(default_factory=dict)
    closed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class LedgerRows:
    """Rows of one or more bars, by table name, in the order of ``LEDGER_TABLES``."""

    rows: dict[str, list[Row]] = field(default_factory=lambda: {table.name: [] for table in LEDGER_TABLES})

    def extend(self, other: LedgerRows) -> None:
        """Take in the rows of later bars."""
        for name, rows in other.rows.items():
            self.rows[name].extend(rows)

    def frames(self) -> dict[str, pd.DataFrame]:
        """Make one frame a table, columns and types as declared.

        Write them in one transaction; where that is not possible, in this order: a bar counts as traded once
        its decisions are there, and whatever else of it is there already will be written again identically.
        """
        return {table.name: _frame(table, self.rows[table.name]) for table in LEDGER_TABLES}


def action_uniform(seed: int, ledger: str, symbol: str, bar: int) -> float:
    """Draw the number in [0, 1) that decides the action of this bar; the same however often it is drawn.

    Counter-based: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox).
    """
    words = hashlib.sha256(f"{ledger}\0{symbol}\0{bar}".encode()).digest()
    key = np.random.SeedSequence([seed, *np.frombuffer(words, "<u4").tolist()])
    return float(np.random.Generator(np.random.Philox(key)).random())


def trade_bar(
    state: LedgerState, paths: Sequence[MarketPath], bar: int, policy: LivePolicy, config: Config, seed: int
) -> tuple[LedgerState, LedgerRows]:
    """Trade one bar: fill the orders of the bar before, take stock, decide.

    Parameters
    ----------
    state
        The ledger after the bar before; not changed.
    paths
        One a symbol; those without this bar are left alone, their orders fill in their own next bar.
    bar
        Instant the bar is complete, microseconds since 1970 UTC; later than the state's.
    policy
        Whose actions are sampled, and whose version stands in the rows.
    config
        Costs, bounds, the fill price and the opening balance.
    seed
        Of the sampled actions, see ``action_uniform``.

    Returns
    -------
    state, rows
        The ledger after the bar, and what is to be appended.

    Raises
    ------
    LedgerError
        Where the bar is not later than the state's.
    FloatingPointError
        Where the policy's output is not finite.
    """
    if state.bar is not None and bar <= state.bar:
        raise LedgerError(
            f"ledger {state.ledger!r} has traded {_instant(state.bar)}; {_instant(bar)} is not later: "
            "trade the bars after it only"
        )
    rules = Rules.of(config)
    rows = LedgerRows()
    accounts, closed, env_steps = dict(state.accounts), set(state.closed), state.env_steps
    for path in sorted(paths, key=lambda each: each.symbol):
        index = int(np.searchsorted(path.available_at, bar))
        if index == len(path) or path.available_at[index] != bar or path.symbol in closed:
            continue
        key: Row = {"ledger": state.ledger, "symbol": path.symbol, "bar": bar}
        close, net_return, split, dividend, ruined = float(path.close[index]), 0.0, 1.0, 0.0, False
        held = accounts.pop(path.symbol, None)
        if held is None:
            account = open_account(config.initial_balance, float(path.volatility[index]))
        else:
            account, before = held.account.copy(), held.decision
            fill_price = float(path.fills(config.fill)[index])
            opening = account[STEPS] == 0
            split = float(path.split[index])
            outcome = step(
                account,
                before["action"],
                fill_price,
                close,
                before["volatility"],
                rules,
                split,
                float(path.dividend[index]),
            )
            net_return, dividend, ruined = outcome.net_return, outcome.dividend, outcome.ruined
            env_steps += 1
            if outcome.traded != 0:
                rows.rows[FILLS.name].append(
                    {
                        **key,
                        "decided_at": before["bar"],
                        "action": before["action"],
                        "quantity": outcome.traded,
                        "price": outcome.price,
                        "commission": outcome.commission,
                        "slippage": outcome.slippage,
                    }
                )
            kept = ("ledger", "symbol", "bar", "action", "log_probability", "value", "model_version")
            rows.rows[EXPERIENCE.name].append(
                {name: before[name] for name in (*kept, *CONTEXT_COLUMNS)}
                | {
                    "next_bar": bar,
                    "env_step": env_steps,
                    "reward": outcome.reward,
                    "net_return": net_return,
                    "terminated": ruined,
                    "episode_start": bool(opening),
                }
            )
        entries = dict(zip(ACCOUNT, account.tolist(), strict=True))
        booked = {"net_return": net_return, "split": split, "dividend": dividend}
        rows.rows[EQUITY.name].append({**key, "close": close, **entries, **booked})
        if ruined:
            closed.add(path.symbol)
            continue
        decision = key | _decide(account, path, index, policy, rules, action_uniform(seed, *key.values()))
        rows.rows[DECISIONS.name].append(decision)
        accounts[path.symbol] = OpenAccount(account, decision)
    return LedgerState(state.ledger, bar, env_steps, accounts, frozenset(closed)), rows


def trade(
    state: LedgerState, paths: Sequence[MarketPath], policy: LivePolicy, config: Config, seed: int
) -> Iterator[tuple[LedgerState, LedgerRows]]:
    """Trade every bar of the paths that is later than the state's, one after another; see ``trade_bar``."""
    bars = np.unique(np.concatenate([path.available_at for path in paths])) if paths else np.empty(0, np.int64)
    for bar in bars[np.searchsorted(bars, state.bar, side="right") if state.bar is not None else 0 :].tolist():
        state, rows = trade_bar(state, paths, bar, policy, config, seed)
        yield state, rows


def restore(ledger: str, equity: pd.DataFrame, decisions: pd.DataFrame, experience: pd.DataFrame) -> LedgerState:
    """Rebuild a ledger's state after its last traded bar from its tables alone.

    A bar counts as traded once its decisions are there. Later rows of the other tables, which a stop between
    two writes may leave, are ignored; trading that bar again writes the same.

    Raises
    ------
    LedgerError
        Where an account's row is missing for the bar of its last decision.
    """
    mine = {
        table.name: frame.loc[frame["ledger"] == ledger]
        for table, frame in ((DECISIONS, decisions), (EQUITY, equity), (EXPERIENCE, experience))
    }
    if mine[DECISIONS.name].empty:
        return LedgerState(ledger)
    last = mine[DECISIONS.name]["bar"].max()
    stock = mine[EQUITY.name]
    stock = stock[stock["bar"] <= last].sort_values("bar").groupby("symbol").tail(1).set_index("symbol")
    pending = mine[DECISIONS.name].sort_values("bar").groupby("symbol").tail(1)
    accounts, closed = {}, set()
    for row in pending.to_dict("records"):
        symbol = row["symbol"]
        account = stock.loc[symbol] if symbol in stock.index else None
        if account is None or account["bar"] < row["bar"]:
            raise LedgerError(
                f"ledger {ledger!r} has a decision of {symbol} at {row['bar']} but no account at that bar: "
                "restore the table 'equity' from an earlier snapshot, or start another ledger"
            )
        if account["equity"] <= 0:
            closed.add(symbol)
            continue
        if account["bar"] > row["bar"]:
            raise LedgerError(
                f"ledger {ledger!r} has an account of {symbol} at {account['bar']} but no decision there: "
                "restore the table 'decisions' from an earlier snapshot, or start another ledger"
            )
        numbers = account[list(ACCOUNT)].to_numpy(np.float64)
        accounts[symbol] = OpenAccount(
            numbers, {str(name): value for name, value in row.items()} | {"bar": microseconds(row["bar"])}
        )
    steps = mine[EXPERIENCE.name]
    known = steps.loc[steps["next_bar"] <= last, "env_step"]
    env_steps = 0 if known.empty else int(known.max())
    return LedgerState(ledger, microseconds(last), env_steps, accounts, frozenset(closed))


def _decide(
    account: npt.NDArray[np.float64],
    path: MarketPath,
    index: int,
    policy: LivePolicy,
    rules: Rules,
    uniform: float,
) -> Row:
    volatility = float(path.volatility[index])
    location, scale = float(path.forecast_location[index]), float(path.forecast_scale[index])
    context = context_vector(account, float(path.close[index]), volatility, location, scale, rules)
    states = state_vector(path.embedding[index], context)[None]
    actions, log_probabilities, values = decide(policy.actor_critic, states, np.array([uniform]))
    return {
        "action": int(actions[0]),
        "log_probability": float(log_probabilities[0]),
        "value": float(values[0]),
        "forecast_location": location,
        "forecast_scale": scale,
        "volatility": volatility,
        **dict(zip(CONTEXT_COLUMNS, context.tolist(), strict=True)),
        "model_version": policy.version,
        "base_sha256": policy.base_sha256,
        "policy_sha256": policy.policy_sha256,
        "adapter_sha256": policy.adapter.sha256,
    }


def _frame(table: Table, rows: list[Row]) -> pd.DataFrame:
    import pandas as pd

    columns = {}
    for column in table.columns:
        values = [row[column.name] for row in rows]
        if column.dtype == "timestamp":
            columns[column.name] = pd.Series(pd.DatetimeIndex(np.array(values, "datetime64[us]"), tz="UTC"))
        else:
            columns[column.name] = pd.Series(values, dtype=PANDAS_DTYPE[column.dtype])
    return pd.DataFrame(columns)


def _instant(bar: int) -> str:
    return str(np.datetime64(bar, "us"))
