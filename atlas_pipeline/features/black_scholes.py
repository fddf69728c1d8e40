"""Prices, greeks and implied volatilities of European options, compiled.

Black and Scholes, Journal of Political Economy 81 (1973) 637, eq. 13, with a cost of carry b beside the rate r: the
forward is ``F = S·exp(b·T)``. Without dividends b = r; a continuous yield q makes b = r − q (Merton, Bell Journal of
Economics 4 (1973) 141, sec. 7). What a chain says about b, and what American exercise adds, stands in
``option_contracts``.
"""

from __future__ import annotations

import math

import numpy as np

from atlas_pipeline.compiled import compiled

Array = np.ndarray

LOWEST, HIGHEST = 1e-4, 10.0
_CONVERGED = 1e-7
_HALLEY_STEPS = 20
_STEPS = 80
_DENSITY = 1.0 / math.sqrt(2.0 * math.pi)


@compiled
def _normal_cdf(x: float) -> float:
    # By erfc, which keeps its digits in the lower tail, where far out-of-the-money options live.
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


@compiled
def price(spot: float, strike: float, years: float, volatility: float, rate: float, carry: float, call: bool) -> float:
    """Price one option.

    Parameters
    ----------
    spot, strike : float
        In currency.
    years : float
        Time to expiry, above 0.
    volatility : float
        Per root year, above 0.
    rate : float
        Continuously compounded, per year.
    carry : float
        Growth of the forward, continuously compounded, per year.
    call : bool
        False for a put.
    """
    spread = volatility * math.sqrt(years)
    d1 = (math.log(spot / strike) + carry * years) / spread + spread / 2.0
    paid = spot * math.exp((carry - rate) * years)
    discounted = strike * math.exp(-rate * years)
    if call:
        return paid * _normal_cdf(d1) - discounted * _normal_cdf(d1 - spread)
    return discounted * _normal_cdf(spread - d1) - paid * _normal_cdf(-d1)


@compiled
def prices(
    spot: Array, strike: Array, years: Array, volatility: Array, rate: float, carry: Array, call: Array
) -> Array:
    """Price options, as ``price`` does one.

    Parameters
    ----------
    spot, strike, years, volatility, carry : float64[n]
    rate : float
    call : bool[n]

    Returns
    -------
    float64[n]
        NaN where an input is missing or not positive, or the option has expired.
    """
    result = np.full(len(spot), np.nan)
    for row in range(len(spot)):
        if spot[row] > 0.0 and strike[row] > 0.0 and years[row] > 0.0 and volatility[row] > 0.0:
            result[row] = price(spot[row], strike[row], years[row], volatility[row], rate, carry[row], call[row])
    return result


@compiled
def _normalised(x: float, spread: float) -> float:
    """Price over ``exp(−r·T)·√(F·K)`` of the right that is out of the money, ``x = −|ln(F / K)|``, spread = σ·√T."""
    return math.exp(x / 2.0) * _normal_cdf(x / spread + spread / 2.0) - math.exp(-x / 2.0) * _normal_cdf(
        x / spread - spread / 2.0
    )


@compiled
def _spread_of(target: float, x: float, low: float, high: float) -> float:
    """Find the spread whose normalised price is the target, between two whose prices lie around it.

    Halley's iteration on the log of the price, from its inflection (Manaster and Koehler, Journal of Finance 37 (1982)
    227), takes four steps on average, each of which triples the digits. A step out of the bracket, and any after
    twenty, halves the bracket instead, so that nothing can diverge or go on.
    """
    spread = min(max(math.sqrt(-2.0 * x) if x < 0.0 else target / _DENSITY, low), high)
    for step in range(_STEPS):
        found = _normalised(x, spread)
        if found < target:
            low = spread
        else:
            high = spread
        following = -1.0
        slope = _DENSITY * math.exp(-0.5 * (x * x / (spread * spread) + spread * spread / 4.0))
        if step < _HALLEY_STEPS and found > 0.0 and slope > 0.0:
            newton = math.log(target / found) * found / slope
            bend = 1.0 + 0.5 * newton * (x * x / spread**3 - spread / 4.0 - slope / found)
            following = spread + (newton / bend if bend > 0.1 else newton)
            if low <= following <= high and abs(following - spread) <= _CONVERGED * spread:
                return following
        if not low <= following <= high:
            following = 0.5 * (low + high)
        spread = following
    return spread


@compiled
def implied_volatility(
    prices: Array, spot: Array, strike: Array, years: Array, rate: float, carry: Array, call: Array
) -> Array:
    """Find the volatility that gives each price, between 1e-4 and 10, to the digits that the price holds.

    An option on the wrong side of its value in the money is looked at as the other right of the same strike (put-call
    parity), whose price is all time value: subtracting the intrinsic value afterwards would cost digits. The price
    rises with volatility, so that there is one answer.

    Parameters
    ----------
    prices, spot, strike : float64[n]
        In currency.
    years : float64[n]
        Time to expiry.
    rate : float
        Continuously compounded, per year.
    carry : float64[n]
        Growth of the forward, continuously compounded, per year.
    call : bool[n]
        False for puts.

    Returns
    -------
    float64[n]
        Per root year; NaN where an input is missing, the option has expired, or no volatility between the
        bounds gives the price (at or below intrinsic value, above the underlying).
    """
    result = np.full(len(prices), np.nan)
    for row in range(len(prices)):
        s, k, t, b = spot[row], strike[row], years[row], carry[row]
        if not (prices[row] > 0.0 and s > 0.0 and k > 0.0 and t > 0.0 and math.isfinite(b)):
            continue
        paid, discounted = s * math.exp((b - rate) * t), k * math.exp(-rate * t)
        intrinsic = paid - discounted if call[row] else discounted - paid
        target = (prices[row] - max(intrinsic, 0.0)) / math.sqrt(paid * discounted)
        x = -abs(math.log(paid / discounted))
        low, high = LOWEST * math.sqrt(t), HIGHEST * math.sqrt(t)
        if _normalised(x, low) < target < _normalised(x, high):
            result[row] = _spread_of(target, x, low, high) / math.sqrt(t)
    return result


@compiled
def greeks(
    spot: Array, strike: Array, years: Array, volatility: Array, rate: float, carry: Array, call: Array
) -> tuple[Array, Array, Array, Array]:
    """Compute delta, gamma, vega and theta.

    Parameters
    ----------
    spot, strike, years, volatility, carry : float64[n]
        As in ``implied_volatility``.
    rate : float
        Continuously compounded, per year.
    call : bool[n]
        False for puts.

    Returns
    -------
    tuple of float64[n]
        Delta (per unit of the underlying), gamma (its derivative), vega (price per unit of volatility) and
        theta (price per year that passes); NaN where volatility, time or carry is missing or not positive.
    """
    rows = len(spot)
    delta, gamma = np.full(rows, np.nan), np.full(rows, np.nan)
    vega, theta = np.full(rows, np.nan), np.full(rows, np.nan)
    for row in range(rows):
        s, k, t, v, b = spot[row], strike[row], years[row], volatility[row], carry[row]
        if not (s > 0.0 and k > 0.0 and t > 0.0 and v > 0.0 and math.isfinite(b)):
            continue
        root = math.sqrt(t)
        spread = v * root
        d1 = (math.log(s / k) + b * t) / spread + spread / 2.0
        held = math.exp((b - rate) * t)
        density = held * _DENSITY * math.exp(-d1 * d1 / 2.0)
        discounted = k * math.exp(-rate * t)
        sign = 1.0 if call[row] else -1.0
        delta[row] = sign * held * _normal_cdf(sign * d1)
        gamma[row] = density / (s * spread)
        vega[row] = s * density * root
        theta[row] = (
            -s * density * v / (2.0 * root)
            - (b - rate) * s * delta[row]
            - sign * rate * discounted * _normal_cdf(sign * (d1 - spread))
        )
    return delta, gamma, vega, theta
