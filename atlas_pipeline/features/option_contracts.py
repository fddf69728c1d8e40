"""The features of each option contract by itself; what they are is declared in ``options``.

Contracts are priced as European ones on the forward that the chain itself implies by put-call parity, expiry by expiry:
without it dividends and borrowing fees would pass for a difference between the volatilities of puts and calls, of a
point or more in a skew of a few. It is simple and robust: at the strikes around the forward both mids are tight, the
median of five ignores one bad quote, and early exercise is worth least there. The discount rate cannot be had from one
chain so well (it is the slope of small differences over strikes) and is worth little: it stays a parameter.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from atlas_pipeline.features.options import (
    CONTRACT,
    DAYS_OF_YEAR,
    MID,
    NONE,
    OPTION_FEATURES,
    PARITY_MINIMUM,
    PARITY_STRIKES,
    VENDOR,
)
from atlas_pipeline.market.calendars import XNYS, sessions
from atlas_pipeline.market.option_chain import CALL
from atlas_pipeline.market.table import PANDAS_DTYPE

Floats = np.ndarray


def compute_option_features(chain: pd.DataFrame, *, rate: float = 0.0, calendar: str = XNYS) -> pd.DataFrame:
    """Compute the features of each contract.

    Parameters
    ----------
    chain
        Validated rows of ``OPTION_CHAIN``.
    rate
        Risk-free rate, continuously compounded, per year: it discounts, and carries the forwards that the chain itself
        does not tell.
    calendar
        The exchange whose last session up to ``expiry`` ends the contract (contracts of old expire on a
        Saturday).

    Returns
    -------
    pandas.DataFrame
        Rows of ``OPTION_FEATURES``, in the order of ``chain``; null where there is no mid, no volatility that
        gives it, or no time left. A vendor's volatility counts only where the quote has both sides and the price that
        it gives lies between them: vendors fill in placeholders where there is nothing to invert.
    """
    from atlas_pipeline.features import black_scholes

    frame = chain[[column.name for column in CONTRACT]].reset_index(drop=True)
    if frame.empty:
        return pd.DataFrame(
            {column.name: pd.Series(dtype=PANDAS_DTYPE[column.dtype]) for column in OPTION_FEATURES.columns}
        )
    spot, strike, bid, ask, volume, vendors = (
        chain[name].to_numpy(dtype="float64")
        for name in ("underlying_close", "strike", "bid", "ask", "volume", "implied_volatility")
    )
    call = (chain["right"] == CALL).to_numpy()
    # A bid of nothing is nobody's.
    mid = np.where(bid > 0, (bid + ask) / 2, np.nan)
    remaining = _last_closes(frame["expiry"], calendar) - frame["available_at"]
    years = remaining.dt.total_seconds().to_numpy() / (86_400.0 * DAYS_OF_YEAR)
    implied_carry = _implied_carry(frame, spot, mid, years, rate)
    carry = np.where(np.isnan(implied_carry), rate, implied_carry)

    priced = black_scholes.prices(spot, strike, years, vendors, rate, carry, call)
    confirmed = (vendors >= black_scholes.LOWEST) & (bid > 0) & (bid <= priced) & (priced <= ask)
    solved = black_scholes.implied_volatility(np.where(confirmed, np.nan, mid), spot, strike, years, rate, carry, call)
    volatility = np.where(confirmed, vendors, solved)
    delta, gamma, vega, theta = black_scholes.greeks(spot, strike, years, volatility, rate, carry, call)
    nothing = np.zeros_like(carry)
    proxies = black_scholes.greeks(spot, strike, years, volatility, 0.0, nothing, call)

    living = np.where(years > 0, years, np.nan)
    moneyness = spot / strike
    log_moneyness, root = np.log(moneyness), np.sqrt(living)
    return frame.assign(
        moneyness=moneyness,
        years_to_expiry=years,
        mid=mid,
        implied_carry=implied_carry,
        forward=spot * np.exp(carry * living),
        implied_volatility=volatility,
        delta=delta,
        gamma=gamma,
        vega=vega,
        theta=theta,
        delta_proxy=proxies[0],
        gamma_proxy=proxies[1],
        vega_proxy=proxies[2],
        theta_proxy=proxies[3],
        moneyness_root_time=moneyness * root,
        log_moneyness_log_days=log_moneyness * np.log1p(living * DAYS_OF_YEAR),
        squared_moneyness_time=(moneyness - 1) ** 2 * living,
        log_volume_log_moneyness=np.log1p(volume) * np.abs(log_moneyness),
        at_the_money_root_time=np.exp(-(log_moneyness**2)) * root,
        volatility_source=np.select([confirmed, ~np.isnan(solved)], [VENDOR, MID], NONE),
        month=chain["month"].to_numpy(),
    ).astype({"volatility_source": "str", "month": "str"})[list(OPTION_FEATURES.names)]


def _last_closes(expiries: pd.Series, calendar: str) -> pd.Series:
    """Find the close of the last session on or before each expiry."""
    first, last = expiries.min() - pd.Timedelta(days=10), expiries.max()
    known = sessions(first, last, calendar)
    days = expiries.to_numpy(dtype="datetime64[us]")
    position = np.searchsorted(known["session"].to_numpy(), days, side="right") - 1
    return known["available_at"].iloc[position].reset_index(drop=True)


def _implied_carry(frame: pd.DataFrame, spot: Floats, mid: Floats, years: Floats, rate: float) -> Floats:
    """Growth of the forward that put-call parity implies, the same for every contract of an expiry; NaN where none."""
    expiry = frame.groupby(["underlying", "available_at", "expiry"], sort=False).ngroup().to_numpy()
    call = (frame["right"] == CALL).to_numpy()
    usable = np.isfinite(mid) & (years > 0)
    sides = []
    for right in (call, ~call):
        rows = np.flatnonzero(usable & right)
        keys = {"expiry": expiry[rows], "strike": frame["strike"].to_numpy()[rows]}
        sides.append(pd.DataFrame({**keys, "mid": mid[rows], "row": rows}))
    pairs = sides[0].merge(sides[1], on=["expiry", "strike"], suffixes=("_of_call", "_of_put"))
    difference = pairs["mid_of_call"] - pairs["mid_of_put"]
    row = pairs["row_of_call"].to_numpy()
    pairs = pairs.assign(
        apart=difference.abs(), forward=pairs["strike"] + np.exp(rate * years[row]) * difference
    ).sort_values(["expiry", "apart", "strike"])
    nearest = pairs[pairs.groupby("expiry").cumcount() < PARITY_STRIKES].groupby("expiry")["forward"]
    known = nearest.median()[nearest.size() >= PARITY_MINIMUM]
    forward = known[known > 0].reindex(expiry).to_numpy()
    with np.errstate(divide="ignore"):
        return np.where(years > 0, np.log(forward / spot) / years, np.nan)
