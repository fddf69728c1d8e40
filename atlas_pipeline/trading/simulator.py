"""The simulator's core: one account, one step, compiled; every consumer trades through it.

The policy's training, the backtest, paper trading and the gate's shadow runs all call `step`, so that a fill,
a cost and a reward are the same everywhere. Observations are in `state`, prices in `market_path`, the
environments that wrap the core in `environment`; orders are not vetted here, that is `risk`.

Time: the order decided at bar t fills in bar t+1. A step goes from the close of t to the close of t+1; its
net return has all costs inside. Prices are as traded: what a split or a dividend of bar t+1 brings to the shares held
into it is booked before the order fills, since prices of that bar trade without.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from atlas_pipeline.compiled import compiled
from atlas_pipeline.config import TradingSettings
from atlas_pipeline.trading.layout import (
    ACCOUNT,
    BUY,
    CASH,
    ENTRY_PRICE,
    EQUITY,
    HOLD,
    PEAK,
    POSITION,
    SELL,
    SHARES,
    SHARPE_MEAN,
    SHARPE_SECOND_MOMENT,
    STEPS,
)
from atlas_pipeline.trading.rewards import differential_sharpe, updated_moment

# Below a quarter of the market's volatility the account's deviation says how seldom it traded, not what it
# risks.
DEVIATION_FLOOR = 0.25


class Rules(NamedTuple):
    """What trading costs and how far a position may go; a tuple, because compiled code takes no dataclass.

    ``commission`` and ``slippage`` are fractions of the notional, positions whole multiples of equity,
    ``sharpe_warmup`` a number of steps.
    """

    commission: float
    slippage: float
    min_position: int
    max_position: int
    sharpe_eta: float
    sharpe_warmup: int

    @classmethod
    def of(cls, config: TradingSettings) -> Rules:
        """Take the rules from a configuration."""
        return cls(
            float(config.commission),
            float(config.slippage),
            int(config.min_position),
            int(config.max_position),
            float(config.sharpe_eta),
            int(config.sharpe_warmup),
        )


class Outcome(NamedTuple):
    """What one step did.

    ``reward`` is the differential Sharpe ratio of ``net_return`` (a fraction, costs inside). ``traded`` is in
    shares (negative: sold), ``price`` the adverse price paid per share (0 without a trade), ``commission``
    and ``slippage`` are in currency. ``ruined`` says that the equity is gone and the account closed. ``dividend`` is
    the cash booked for dividends, in currency (negative: a short pays them).
    """

    reward: float
    net_return: float
    traded: float
    price: float
    commission: float
    slippage: float
    ruined: bool
    dividend: float


def open_account(balance: float, volatility: float) -> npt.NDArray[np.float64]:
    """Open a new account: all in cash.

    Parameters
    ----------
    balance : float
        In currency, positive.
    volatility : float
        Of the market at the first bar, percent per bar. The second moment of the differential Sharpe ratio
        opens at its square, so that the ratio starts at zero and at the market's scale whatever happens
        during warm-up.

    Returns
    -------
    ndarray of float64, shape (len(ACCOUNT),)

    Raises
    ------
    ValueError
        Where balance or volatility is not positive and finite.
    """
    for name, value in (("balance", balance), ("volatility", volatility)):
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value!r}: an account opens with a positive, finite number")
    account = np.zeros(len(ACCOUNT))
    reopen(account, float(balance), float(volatility))
    return account


@compiled
def reopen(account: npt.NDArray[np.float64], balance: float, volatility: float) -> None:
    """Turn the account, in place, into a new one (`open_account`)."""
    account[:] = 0.0
    account[CASH] = balance
    account[EQUITY] = balance
    account[PEAK] = balance
    account[SHARPE_SECOND_MOMENT] = (volatility / 100.0) ** 2


@compiled
def target_position(position: float, action: int, rules: Rules) -> float:
    """Move the position by the action, in whole units of equity, within the rules' bounds."""
    if action == HOLD:
        return position
    change = 1.0 if action == BUY else -1.0
    return min(max(position + change, float(rules.min_position)), float(rules.max_position))


@compiled
def _trade(
    account: npt.NDArray[np.float64], target: float, price: float, rules: Rules
) -> tuple[float, float, float, float]:
    """Bring the account to ``target`` units of the equity that is left after the trade's own costs.

    Solves ``(q + d) p = target (E - |d| p k)`` for the traded shares d, k being the cost of a unit of
    notional: a long position of one unit leaves no borrowed cash behind, and fees scale equity without
    changing exposure.
    """
    equity = account[CASH] + account[SHARES] * price
    gap = target * equity - account[SHARES] * price
    side = 1.0 if gap > 0.0 else -1.0
    paid_price = price * (1.0 + rules.slippage * side)
    rate = rules.slippage + rules.commission * (1.0 + rules.slippage * side)
    traded = -account[SHARES] if target == 0.0 else gap / (price * (1.0 + side * target * rate))
    slippage = abs(traded) * price * rules.slippage
    commission = abs(traded) * paid_price * rules.commission
    before = account[SHARES]
    after = before + traded
    account[CASH] -= traded * price + slippage + commission
    account[SHARES] = after
    account[POSITION] = target
    if after == 0.0:
        account[ENTRY_PRICE] = 0.0
    elif before * after <= 0.0:
        account[ENTRY_PRICE] = paid_price
    elif abs(after) > abs(before):
        account[ENTRY_PRICE] = (account[ENTRY_PRICE] * before + paid_price * traded) / after
    return traded, paid_price, commission, slippage


@compiled
def _book(account: npt.NDArray[np.float64], split: float, dividend: float, close: float) -> float:
    """Bring a split and a dividend to the shares held; the cash paid for them, negative for a short.

    The entry price follows on the scale of total returns (`market.adjustment.forward_factors`): an open position's gain
    is no smaller for being paid out.
    """
    account[SHARES] *= split
    cash = account[SHARES] * dividend
    account[CASH] += cash
    account[ENTRY_PRICE] /= split * (1.0 + dividend / close)
    return cash


@compiled
def step(
    account: npt.NDArray[np.float64],
    action: int,
    fill_price: float,
    close: float,
    volatility: float,
    rules: Rules,
    split: float = 1.0,
    dividend: float = 0.0,
) -> Outcome:
    """Advance one account by one bar, in place.

    Parameters
    ----------
    account : ndarray of float64, shape (len(ACCOUNT),)
        Marked at the close of bar t; afterwards at the close of bar t+1.
    action : int
        Decided at bar t: 0 HOLD (never trades: shares are kept), 1 BUY, 2 SELL (one unit of equity each).
    fill_price, close : float
        Undisturbed price at which the order fills in bar t+1, and that bar's close; currency per share.
    volatility : float
        Of the market, percent per bar, known at bar t.
    rules : Rules
        Costs and bounds.
    split : float
        Shares in bar t+1 for one in bar t.
    dividend : float
        Cash paid in bar t+1 on each share held into it, counted after the split; currency per share.

    Returns
    -------
    Outcome

    Raises
    ------
    ValueError
        Where the action is none of the three.

    Notes
    -----
    Equity after equals equity before plus ``shares held to the fill * (fill_price + dividend - previous close /
    split)``, shares counted after the split, plus ``shares held after it * (close - fill_price)`` less commission and
    slippage. Cash paid earns nothing until it is traded. An account whose equity reaches zero is liquidated and never
    trades again.
    """
    if action < HOLD or action > SELL:
        raise ValueError("action must be 0 (HOLD), 1 (BUY) or 2 (SELL)")
    before = account[EQUITY]
    if before <= 0.0:
        return Outcome(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, True, 0.0)
    paid = 0.0
    if split != 1.0 or dividend != 0.0:
        paid = _book(account, split, dividend, close)
    traded, price, commission, slippage = 0.0, 0.0, 0.0, 0.0
    target = target_position(account[POSITION], action, rules)
    if target != account[POSITION]:
        if account[CASH] + account[SHARES] * fill_price <= 0.0:
            target = 0.0
        traded, price, commission, slippage = _trade(account, target, fill_price, rules)
    equity = account[CASH] + account[SHARES] * close
    if equity <= 0.0:
        closed, price, extra_commission, extra_slippage = _trade(account, 0.0, close, rules)
        traded += closed
        commission += extra_commission
        slippage += extra_slippage
        equity = account[CASH]
    account[EQUITY] = equity
    account[PEAK] = max(account[PEAK], equity)
    net_return = equity / before - 1.0
    reward = 0.0
    if account[STEPS] >= rules.sharpe_warmup:
        reward = differential_sharpe(
            net_return,
            account[SHARPE_MEAN],
            account[SHARPE_SECOND_MOMENT],
            DEVIATION_FLOOR * volatility / 100.0,
        )
    account[SHARPE_MEAN] = updated_moment(account[SHARPE_MEAN], net_return, rules.sharpe_eta)
    account[SHARPE_SECOND_MOMENT] = updated_moment(
        account[SHARPE_SECOND_MOMENT], net_return * net_return, rules.sharpe_eta
    )
    account[STEPS] += 1.0
    return Outcome(reward, net_return, traded, price, commission, slippage, equity <= 0.0, paid)
