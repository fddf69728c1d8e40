"""What the policy sees: the forecaster's embedding of the market, then the context of the account.

The reward depends on the account's exposure and on the moments of the differential Sharpe ratio, and those on
nothing but themselves and the market; with them in the context the decision problem is Markov given the
market's state. Equity, peak and prices in currency are left out: nothing that is rewarded depends on them.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from atlas_pipeline.compiled import compiled
from atlas_pipeline.trading.layout import (
    CASH,
    CONTEXT,
    ENTRY_PRICE,
    POSITION,
    SHARES,
    SHARPE_MEAN,
    SHARPE_SECOND_MOMENT,
    STEPS,
)
from atlas_pipeline.trading.simulator import Rules

# A short position whose equity is nearly gone has an exposure without bound.
EXPOSURE_LIMIT = 10.0


@compiled
def write_context(
    account: npt.NDArray[np.float64],
    close: float,
    volatility: float,
    forecast_location: float,
    forecast_scale: float,
    rules: Rules,
    out: npt.NDArray[np.float32],
) -> None:
    """Write the context of one account into ``out`` (float32, (len(CONTEXT),)); see `context_vector`."""
    unit = volatility / 100.0
    equity = account[CASH] + account[SHARES] * close
    exposure = account[SHARES] * close / equity if equity > 0.0 else 0.0
    unrealised = 0.0
    if account[SHARES] != 0.0:
        unrealised = (close / account[ENTRY_PRICE] - 1.0) * (1.0 if account[SHARES] > 0.0 else -1.0)
    out[0] = account[POSITION]
    out[1] = min(max(exposure, -EXPOSURE_LIMIT), EXPOSURE_LIMIT)
    out[2] = math.asinh(unrealised / unit)
    out[3] = account[SHARPE_MEAN] / (unit * math.sqrt(rules.sharpe_eta))
    out[4] = math.sqrt(account[SHARPE_SECOND_MOMENT]) / unit
    out[5] = min(account[STEPS] / rules.sharpe_warmup, 1.0) if rules.sharpe_warmup > 0 else 1.0
    out[6] = forecast_location / volatility
    out[7] = forecast_scale / volatility


def context_vector(
    account: npt.NDArray[np.float64],
    close: float,
    volatility: float,
    forecast_location: float,
    forecast_scale: float,
    rules: Rules,
) -> npt.NDArray[np.float32]:
    """Build the context of one account at one bar.

    Parameters
    ----------
    account : ndarray of float64, shape (len(ACCOUNT),)
        Marked at this bar's close.
    close : float
        Of this bar, currency per share.
    volatility : float
        Percent per bar, known at this bar, positive.
    forecast_location, forecast_scale : float
        Of the forecast return, percent.
    rules : Rules
        For the reward's adaptation rate and warm-up.

    Returns
    -------
    ndarray of float32, shape (len(CONTEXT),)
        In the order of `CONTEXT`.
    """
    out = np.empty(len(CONTEXT), np.float32)
    write_context(account, close, volatility, forecast_location, forecast_scale, rules, out)
    return out


def state_vector(embedding: npt.NDArray[np.float32], context: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Join embedding (..., d_model) and context (..., len(CONTEXT)): the policy's input."""
    return np.concatenate([embedding, context], axis=-1)


def state_dim(d_model: int) -> int:
    """Count the entries of the policy's input for an embedding of ``d_model`` numbers."""
    return d_model + len(CONTEXT)
