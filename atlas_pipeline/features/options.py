"""Features of option chains: contract by contract, and what a chain as a whole says about its underlying.

The formulas of an option's price stand in ``black_scholes``.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from atlas_pipeline.market.bars import AVAILABLE_AT, MONTH
from atlas_pipeline.market.calendars import XNYS, sessions
from atlas_pipeline.market.option_chain import CALL, OPTION_CHAIN, PUT
from atlas_pipeline.market.table import Column, Table

_CONTRACT = tuple(column for column in OPTION_CHAIN.columns if column.name in OPTION_CHAIN.key)
_DAYS_OF_YEAR = 365.0
_SKEW_DELTA = 0.25
_TARGET_DAYS = 30.0
_MINIMUM_DAYS = 7.0


def _nullable(name: str, description: str, unit: str) -> Column:
    return Column(name, "float64", description, unit, nullable=True)


OPTION_FEATURES = Table(
    name="option_features",
    description="Features of option contracts, one row a contract and instant",
    columns=(
        *_CONTRACT,
        Column("moneyness", "float64", "Underlying over strike, S / K", "ratio", minimum=0.0),
        Column(
            "years_to_expiry",
            "float64",
            "To the close of the last session",
            "years of 365 days",
        ),
        _nullable("mid", "(bid + ask) / 2; null without both", "currency"),
        _nullable("implied_volatility", "Volatility that gives the mid; null where none does", "per root year"),
        _nullable("delta", "Change of the price with the underlying's", "ratio"),
        _nullable("gamma", "Change of delta with the underlying's price", "per currency"),
        _nullable("vega", "Change of the price with volatility", "currency per unit of volatility"),
        _nullable("theta", "Change of the price with time", "currency per year"),
        MONTH,
    ),
    key=OPTION_CHAIN.key,
    partition_by="month",
    time="available_at",
)

UNDERLYING_OPTION_FEATURES = Table(
    name="underlying_option_features",
    description="What an option chain says about its underlying, from the expiry nearest to 30 days",
    columns=(
        Column("symbol", "string", "The underlying"),
        AVAILABLE_AT,
        Column(
            "contracts",
            "int64",
            "Contracts with an implied volatility in that expiry",
            "contracts",
            minimum=0,
        ),
        _nullable("days_to_expiry", "Days to that expiry", "days"),
        _nullable("atm_volatility", "Mean implied volatility of call and put at the nearest strike", "per root year"),
        _nullable(
            "put_call_skew",
            "Implied volatility of the put with delta nearest −0.25 less that of the call nearest 0.25",
            "per root year",
        ),
        MONTH,
    ),
    key=("symbol", "available_at"),
    partition_by="month",
    time="available_at",
)


def compute_option_features(chain: pd.DataFrame, *, rate: float = 0.0, calendar: str = XNYS) -> pd.DataFrame:
    """Compute the features of each contract by itself.

    Parameters
    ----------
    chain
        Validated rows of ``OPTION_CHAIN``.
    rate
        Risk-free rate, continuously compounded, per year.
    calendar
        The exchange whose last session up to ``expiry`` ends the contract (contracts of old expire on a
        Saturday).

    Returns
    -------
    pandas.DataFrame
        Rows of ``OPTION_FEATURES``, in the order of ``chain``; null where there is no mid, no volatility that
        gives it, or no time left.
    """
    from atlas_pipeline.features import black_scholes

    frame = chain[[column.name for column in _CONTRACT]].reset_index(drop=True)
    if frame.empty:
        return frame.reindex(columns=list(OPTION_FEATURES.names)).astype({"month": "str"})
    spot = chain["underlying_close"].to_numpy(dtype="float64")
    strike = chain["strike"].to_numpy(dtype="float64")
    call = (chain["right"] == CALL).to_numpy()
    mid = ((chain["bid"] + chain["ask"]) / 2).to_numpy(dtype="float64")
    remaining = _last_closes(frame["expiry"], calendar) - frame["available_at"]
    years = remaining.dt.total_seconds().to_numpy() / (86_400.0 * _DAYS_OF_YEAR)
    volatility = black_scholes.implied_volatility(mid, spot, strike, years, rate, call)
    delta, gamma, vega, theta = black_scholes.greeks(spot, strike, years, volatility, rate, call)
    computed = {
        "moneyness": spot / strike,
        "years_to_expiry": years,
        "mid": mid,
        "implied_volatility": volatility,
        "delta": delta,
        "gamma": gamma,
        "vega": vega,
        "theta": theta,
        "month": chain["month"].to_numpy(),
    }
    return frame.assign(**computed).astype({"month": "str"})[list(OPTION_FEATURES.names)]


def aggregate_option_features(features: pd.DataFrame) -> pd.DataFrame:
    """Reduce the contracts of each underlying and instant to its at-the-money level and its skew.

    The expiry is the one nearest to 30 days, at least 7 days away, that has an implied volatility.

    Parameters
    ----------
    features
        Rows of ``OPTION_FEATURES``.

    Returns
    -------
    pandas.DataFrame
        Rows of ``UNDERLYING_OPTION_FEATURES``; values are null where no such expiry, or no contract, exists.
    """
    rows = []
    for (underlying, available_at, month), contracts in features.groupby(["underlying", "available_at", "month"]):
        days = contracts["years_to_expiry"] * _DAYS_OF_YEAR
        usable = contracts[(days >= _MINIMUM_DAYS) & contracts["implied_volatility"].notna()]
        row = {"symbol": underlying, "available_at": available_at, "month": month, "contracts": 0}
        if len(usable):
            usable = usable.assign(days=days[usable.index])
            nearest = usable.iloc[int((usable["days"] - _TARGET_DAYS).abs().argmin())]
            chosen = usable[usable["expiry"] == nearest["expiry"]]
            row |= {
                "contracts": len(chosen),
                "days_to_expiry": float(nearest["days"]),
                "atm_volatility": _at_the_money(chosen),
                "put_call_skew": _at_delta(chosen, PUT, -_SKEW_DELTA) - _at_delta(chosen, CALL, _SKEW_DELTA),
            }
        rows.append(row)
    frame = pd.DataFrame(rows, columns=list(UNDERLYING_OPTION_FEATURES.names))
    numbers = dict.fromkeys(("days_to_expiry", "atm_volatility", "put_call_skew"), "float64")
    return frame.astype(
        {
            "symbol": "str",
            "available_at": "datetime64[us, UTC]",
            "contracts": "int64",
            "month": "str",
            **numbers,
        }
    )


def _last_closes(expiries: pd.Series, calendar: str) -> pd.Series:
    """Find the close of the last session on or before each expiry."""
    first, last = expiries.min() - pd.Timedelta(days=10), expiries.max()
    known = sessions(first, last, calendar)
    days = expiries.to_numpy(dtype="datetime64[us]")
    position = np.searchsorted(known["session"].to_numpy(), days, side="right") - 1
    return known["available_at"].iloc[position].reset_index(drop=True)


def _at_the_money(contracts: pd.DataFrame) -> float:
    distance = np.log(contracts["moneyness"]).abs()
    nearest = contracts["strike"].iloc[int(distance.argmin())]
    return float(contracts.loc[contracts["strike"] == nearest, "implied_volatility"].mean())


def _at_delta(contracts: pd.DataFrame, right: str, delta: float) -> float:
    of_right = contracts[contracts["right"] == right]
    if of_right.empty:
        return float("nan")
    return float(of_right["implied_volatility"].iloc[int((of_right["delta"] - delta).abs().argmin())])
