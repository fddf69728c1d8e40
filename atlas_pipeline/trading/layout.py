"""What the numbers of an account and of a context mean, in their order; it imports without numba and torch.

The simulator and the observation are compiled over these layouts; tables of the ledger are declared from them.
"""

from __future__ import annotations

HOLD, BUY, SELL = 0, 1, 2
ACTIONS: tuple[str, ...] = ("HOLD", "BUY", "SELL")

# An account is a flat float64 vector: it is stored, batched and compiled as it is.
ACCOUNT: tuple[str, ...] = (
    "cash",
    "shares",
    "position",
    "entry_price",
    "equity",
    "peak",
    "sharpe_mean",
    "sharpe_second_moment",
    "steps",
)
CASH, SHARES, POSITION, ENTRY_PRICE, EQUITY, PEAK, SHARPE_MEAN, SHARPE_SECOND_MOMENT, STEPS = range(len(ACCOUNT))

CONTEXT: tuple[str, ...] = (
    "position",  # whole units of equity
    "exposure",  # shares * close / equity: what the position has drifted to
    "unrealised_return",  # of the open position since entry, in volatilities per bar, asinh
    "sharpe_mean",  # A, in volatilities * sqrt(eta): in units of its own sampling error
    "sharpe_deviation",  # sqrt(B), in volatilities
    "warmup",  # share of the reward's warm-up that has passed
    "forecast_location",  # of the coming return, in volatilities
    "forecast_scale",  # of the coming return, in volatilities
)
