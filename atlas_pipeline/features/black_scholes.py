"""Prices, greeks and implied volatilities of European options, compiled.

Black and Scholes, Journal of Political Economy 81 (1973) 637, eq. 13, without dividends. American options on
stocks that pay none are worth the same where they are calls, or where the rate is zero; elsewhere this is an
approximation.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

Array = np.ndarray

LOWEST, HIGHEST = 1e-4, 10.0
_HALVINGS = 60


@njit(cache=True)
def _normal_cdf(x: float) -> float:
    # By erfc, which keeps its digits in the lower tail, where far out-of-the-money options live.
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


@njit(cache=True)
def price(spot: float, strike: float, years: float, volatility: float, rate: float, call: bool) -> float:
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
    call : bool
        False for a put.
    """
    spread = volatility * math.sqrt(years)
    d1 = (math.log(spot / strike) + rate * years) / spread + spread / 2.0
    discounted = strike * math.exp(-rate * years)
    if call:
        return spot * _normal_cdf(d1) - discounted * _normal_cdf(d1 - spread)
    return discounted * _normal_cdf(spread - d1) - spot * _normal_cdf(-d1)


@njit(cache=True)
def implied_volatility(prices: Array, spot: Array, strike: Array, years: Array, rate: float, call: Array) -> Array:
    """Find the volatility that gives each price, by bisection between 1e-4 and 10.

    The price rises with volatility, so that the bracket always holds the one answer: nothing can diverge. An
    option on the wrong side of its value in the money is looked at as the other right of the same strike
    (put-call parity), whose price is all time value: subtracting the intrinsic value afterwards would cost
    digits.

    Parameters
    ----------
    prices, spot, strike : float64[n]
        In currency.
    years : float64[n]
        Time to expiry.
    rate : float
        Continuously compounded, per year.
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
        s, k, t = spot[row], strike[row], years[row]
        if not (prices[row] > 0.0 and s > 0.0 and k > 0.0 and t > 0.0):
            continue
        discounted = k * math.exp(-rate * t)
        right = call[row]
        target = prices[row]
        if right and s > discounted:
            target -= s - discounted
            right = False
        elif not right and s < discounted:
            target -= discounted - s
            right = True
        low, high = LOWEST, HIGHEST
        if not price(s, k, t, low, rate, right) < target < price(s, k, t, high, rate, right):
            continue
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            if price(s, k, t, middle, rate, right) < target:
                low = middle
            else:
                high = middle
        result[row] = 0.5 * (low + high)
    return result


@njit(cache=True)
def greeks(
    spot: Array, strike: Array, years: Array, volatility: Array, rate: float, call: Array
) -> tuple[Array, Array, Array, Array]:
    """Compute delta, gamma, vega and theta.

    Parameters
    ----------
    spot, strike, years, volatility : float64[n]
        As in ``implied_volatility``.
    rate : float
        Continuously compounded, per year.
    call : bool[n]
        False for puts.

    Returns
    -------
    tuple of float64[n]
        Delta (per unit of the underlying), gamma (its derivative), vega (price per unit of volatility) and
        theta (price per year); NaN where volatility or time is missing or not positive.
    """
    rows = len(spot)
    delta, gamma = np.full(rows, np.nan), np.full(rows, np.nan)
    vega, theta = np.full(rows, np.nan), np.full(rows, np.nan)
    for row in range(rows):
        s, k, t, v = spot[row], strike[row], years[row], volatility[row]
        if not (s > 0.0 and k > 0.0 and t > 0.0 and v > 0.0):
            continue
        spread = v * math.sqrt(t)
        d1 = (math.log(s / k) + rate * t) / spread + spread / 2.0
        density = math.exp(-d1 * d1 / 2.0) / math.sqrt(2.0 * math.pi)
        discounted = k * math.exp(-rate * t)
        decay = -s * density * v / (2.0 * math.sqrt(t))
        gamma[row] = density / (s * spread)
        vega[row] = s * density * math.sqrt(t)
        if call[row]:
            delta[row] = _normal_cdf(d1)
            theta[row] = decay - rate * discounted * _normal_cdf(d1 - spread)
        else:
            delta[row] = -_normal_cdf(-d1)
            theta[row] = decay + rate * discounted * _normal_cdf(spread - d1)
    return delta, gamma, vega, theta
