"""What a chain says about its underlying: level, skew and slope of its volatilities, and where its trade lies.

The features are declared in ``options``. Volatilities are those of options that are out of the money, whose prices are
all time value, and are interpolated between neighbours only: where the chain has none on both sides there is no value.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from atlas_pipeline.features.options import (
    CONTRACT,
    DAYS_OF_YEAR,
    FAR_DAYS,
    MINIMUM_DAYS,
    NEAR_DAYS,
    SKEW_DELTA,
    UNDERLYING_OPTION_FEATURES,
    WIDEST_DELTAS,
    WIDEST_MATURITIES,
    WIDEST_STRIKES,
)
from atlas_pipeline.market.option_chain import PUT

Array = np.ndarray


def aggregate_option_features(chain: pd.DataFrame, features: pd.DataFrame) -> pd.DataFrame:
    """Reduce the contracts of each underlying and instant to what they say about it.

    Parameters
    ----------
    chain
        Rows of ``OPTION_CHAIN``.
    features
        What ``compute_option_features`` made of them.

    Returns
    -------
    pandas.DataFrame
        Rows of ``UNDERLYING_OPTION_FEATURES``, one an underlying and instant, sorted by its key; null where the chain
        cannot say.

    Raises
    ------
    ValueError
        Where ``features`` are not those of ``chain``, row by row.
    """
    keys = [column.name for column in CONTRACT]
    if not chain[keys].reset_index(drop=True).equals(features[keys].reset_index(drop=True)):
        raise ValueError(
            f"{len(features)} rows of features are not those of the chain's {len(chain)}: pass what "
            "compute_option_features made of this chain, in its order"
        )
    groups = features.groupby(["underlying", "available_at"])
    instant = groups.ngroup().to_numpy()
    frame = groups["month"].first().reset_index().rename(columns={"underlying": "symbol"})
    put = (features["right"] == PUT).to_numpy()
    level, lower, upper, far = _constant_maturities(features, instant, len(frame))
    return frame.assign(
        atm_volatility=level,
        put_call_skew=(lower - upper) / level,
        term_slope=far - level,
        put_volume_share=_share(chain["volume"], put, instant, len(frame)),
        put_interest_share=_share(chain["open_interest"], put, instant, len(frame)),
        contracts=np.bincount(instant, features["implied_volatility"].notna(), len(frame)),
    )[list(UNDERLYING_OPTION_FEATURES.names)]


def _constant_maturities(features: pd.DataFrame, instant: Array, count: int) -> tuple[Array, ...]:
    """Volatility at the forward, of the put and the call of the skew's delta, at 30 days; at the forward at 90."""
    put = (features["right"] == PUT).to_numpy()
    years, volatility, delta = (
        features[name].to_numpy() for name in ("years_to_expiry", "implied_volatility", "delta")
    )
    strike = np.log((features["strike"] / features["forward"]).to_numpy())
    expiry = features.groupby(["underlying", "available_at", "expiry"]).ngroup().to_numpy()
    expiries = int(expiry.max(initial=-1)) + 1
    known = np.isfinite(volatility) & (years * DAYS_OF_YEAR >= MINIMUM_DAYS)
    puts, calls = known & put & (strike <= 0), known & ~put & (strike >= 0)
    of_expiry, years_of_expiry = np.zeros(expiries, dtype="int64"), np.zeros(expiries)
    of_expiry[expiry], years_of_expiry[expiry] = instant, years

    def smile(side: Array, coordinate: Array, target: float, widest: float) -> Array:
        return _between(expiry[side], coordinate[side], volatility[side], target, expiries, widest)

    def at(days: float, smiles: Array) -> Array:
        found = np.isfinite(smiles)
        horizon, none = days / DAYS_OF_YEAR, np.zeros(count)
        # No time, no variance: of what lies before the first expiry, that is known too.
        total = _between(
            np.concatenate([np.arange(count), of_expiry[found]]),
            np.concatenate([none, years_of_expiry[found]]),
            np.concatenate([none, (smiles**2 * years_of_expiry)[found]]),
            horizon,
            count,
            WIDEST_MATURITIES * horizon,
        )
        return np.sqrt(total / horizon)

    level = smile(puts | calls, strike, 0.0, WIDEST_STRIKES)
    lower = smile(puts, -delta, SKEW_DELTA, WIDEST_DELTAS)
    upper = smile(calls, delta, SKEW_DELTA, WIDEST_DELTAS)
    # From the same expiries, lest the slope of the term structure pass for skew.
    both = np.where(np.isfinite(lower + upper), 1.0, np.nan)
    return at(NEAR_DAYS, level), at(NEAR_DAYS, lower * both), at(NEAR_DAYS, upper * both), at(FAR_DAYS, level)


def _between(group: Array, coordinate: Array, value: Array, target: float, groups: int, widest: float) -> Array:
    """Interpolate each group's values at a target, linearly between the two nearest coordinates around it.

    Returns
    -------
    float64[groups]
        NaN where a group has no coordinate at or below the target, none at or above it, or the two are further apart
        than ``widest``.
    """
    order = np.lexsort((coordinate, group))
    group, coordinate, value = group[order], coordinate[order], value[order]
    ends = np.full((2, 2, groups), np.nan)
    # Of what is written twice the last stays: the greatest at or below, and, backwards, the least at or above.
    for side, chosen in enumerate((np.flatnonzero(coordinate <= target), np.flatnonzero(coordinate >= target)[::-1])):
        ends[side, 0, group[chosen]], ends[side, 1, group[chosen]] = coordinate[chosen], value[chosen]
    (low, below), (high, above) = ends
    width = high - low
    weight = np.divide(target - low, width, out=np.full(groups, 0.5), where=width > 0)
    return np.where(width <= widest, below + weight * (above - below), np.nan)


def _share(counted: pd.Series, put: Array, instant: Array, count: int) -> Array:
    """Part of each instant's total that is the puts'; NaN where the total is nothing."""
    numbers = np.nan_to_num(counted.to_numpy(dtype="float64"))
    total = np.bincount(instant, numbers, count)
    return np.divide(
        np.bincount(instant, np.where(put, numbers, 0.0), count), total, out=np.full(count, np.nan), where=total > 0
    )
