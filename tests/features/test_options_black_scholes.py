import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_pipeline.features import black_scholes

SPOT, RATIO, YEARS = st.floats(1, 5000), st.floats(0.5, 2.0), st.floats(0.01, 3)
VOLATILITY, RATE, CARRY = st.floats(0.05, 2), st.floats(-0.02, 0.1), st.floats(-0.1, 0.1)
CONTRACT = st.tuples(SPOT, RATIO, YEARS, VOLATILITY, RATE, CARRY, st.booleans())
EPS = np.finfo("float64").eps


def reference_price(spot, strike, years, volatility, rate, carry, call):
    normal = NormalDist()
    d1 = (math.log(spot / strike) + (carry + volatility**2 / 2) * years) / (volatility * math.sqrt(years))
    d2 = d1 - volatility * math.sqrt(years)
    sign = 1 if call else -1
    held, discount = math.exp((carry - rate) * years), math.exp(-rate * years)
    return sign * (spot * held * normal.cdf(sign * d1) - strike * discount * normal.cdf(sign * d2))


def greeks(spot, strike, years, volatility, rate, carry, call):
    one = [np.array([value]) for value in (spot, strike, years, volatility)]
    return [found[0] for found in black_scholes.greeks(*one, rate, np.array([carry]), np.array([call]))]


def implied(price, spot, strike, years, rate, carry, call):
    one = [np.array([value]) for value in (price, spot, strike, years)]
    return black_scholes.implied_volatility(*one, rate, np.array([carry]), np.array([call]))[0]


@settings(max_examples=100, deadline=None)
@given(CONTRACT)
def test_price_and_greeks_agree_with_the_closed_form(contract):
    spot, ratio, years, volatility, rate, carry, call = contract
    strike = spot * ratio

    def price(s=spot, t=years, v=volatility):
        return black_scholes.price(s, strike, t, v, rate, carry, call)

    assert price() == pytest.approx(reference_price(spot, strike, *contract[2:]), abs=1e-9 * spot)
    delta, gamma, vega, theta = greeks(spot, strike, *contract[2:])
    # Central differences: their error is of the order of the square of the step, and of rounding over the step.
    step = spot * 1e-4
    assert delta == pytest.approx((price(s=spot + step) - price(s=spot - step)) / (2 * step), abs=1e-4)
    curvature = (price(s=spot + step) - 2 * price() + price(s=spot - step)) / step**2
    assert gamma * spot == pytest.approx(curvature * spot, abs=1e-3 + 1e-2 * gamma * spot)
    assert vega / spot == pytest.approx(
        (price(v=volatility + 1e-5) - price(v=volatility - 1e-5)) / 2e-5 / spot, abs=1e-4
    )
    moment = years * 1e-4
    decay = -(price(t=years + moment) - price(t=years - moment)) / (2 * moment)
    assert theta / spot == pytest.approx(decay / spot, abs=1e-4)


@settings(max_examples=100, deadline=None)
@given(CONTRACT)
def test_put_call_parity(contract):
    spot, ratio, years, volatility, rate, carry, _ = contract
    rest = (spot * ratio, years, volatility, rate, carry)
    held, discount = math.exp((carry - rate) * years), math.exp(-rate * years)
    forward = spot * held - rest[0] * discount
    call, put = (black_scholes.price(spot, *rest, right) for right in (True, False))
    assert call - put == pytest.approx(forward, abs=8 * EPS * (spot + rest[0]) * max(held, discount))
    of_call, of_put = greeks(spot, *rest, True), greeks(spot, *rest, False)
    assert of_call[0] - of_put[0] == pytest.approx(held, abs=1e-14)
    assert of_call[1:3] == of_put[1:3]
    moved = -(carry - rate) * spot * held - rate * rest[0] * discount
    assert of_call[3] - of_put[3] == pytest.approx(moved, abs=1e-13 * (spot + rest[0]))


@settings(max_examples=100, deadline=None)
@given(CONTRACT, st.floats(1.001, 1.5))
def test_prices_rise_with_volatility_and_lean_with_the_underlying(contract, more):
    spot, ratio, years, volatility, rate, carry, call = contract
    strike, rounding = spot * ratio, 8 * EPS * spot * (1 + ratio)

    def price(s=spot, k=strike, v=volatility):
        return black_scholes.price(s, k, years, v, rate, carry, call)

    sign = 1 if call else -1
    assert price(v=volatility * more) >= price() - rounding
    assert sign * (price(s=spot * more) - price()) >= -more * rounding
    assert sign * (price() - price(k=strike * more)) >= -more * rounding


@settings(max_examples=300, deadline=None)
@given(CONTRACT)
def test_implied_volatility_gives_volatility_and_price_back(contract):
    spot, ratio, years, volatility, rate, carry, call = contract
    strike = spot * ratio
    target = black_scholes.price(spot, strike, *contract[2:])
    found = implied(target, spot, strike, years, rate, carry, call)
    paid, discounted = spot * math.exp((carry - rate) * years), strike * math.exp(-rate * years)
    intrinsic = max(0.0, (paid - discounted) * (1 if call else -1))
    vega = greeks(spot, strike, *contract[2:])[2]
    # What the price's own rounding is worth in volatility; in the money its digits hold the intrinsic value first.
    rounding = 8 * EPS * max(paid, discounted) / vega if vega > 0 else math.inf
    if rounding < 1e-4 and target - intrinsic > 0:
        assert abs(found - volatility) <= 1e-10 + rounding
        assert black_scholes.price(spot, strike, years, found, rate, carry, call) == pytest.approx(
            target, abs=1e-10 * vega + 16 * EPS * max(paid, discounted)
        )


def test_out_of_the_money_every_digit_is_found():
    random = np.random.default_rng(0)
    spot, strike = np.full(20_000, 100.0), 100 * np.exp(random.normal(0, 0.4, 20_000))
    years, volatility = random.uniform(0.005, 3, 20_000), np.exp(random.uniform(np.log(0.01), np.log(5), 20_000))
    carry = random.normal(0, 0.03, 20_000)
    call = spot * np.exp(carry * years) < strike
    prices = black_scholes.prices(spot, strike, years, volatility, 0.02, carry, call)
    found = black_scholes.implied_volatility(prices, spot, strike, years, 0.02, carry, call)
    # Below this a price is a difference of numbers that hold few digits more; above it comes near the underlying's.
    told = (prices > 1e-9) & (volatility * np.sqrt(years) < 5)
    assert told.mean() > 0.6
    np.testing.assert_allclose(found[told], volatility[told], rtol=0, atol=1e-10)
    # What cannot be told is either missing or near enough to give the price back.
    back = black_scholes.prices(spot, strike, years, found, 0.02, carry, call)
    np.testing.assert_allclose(back[~np.isnan(found)], prices[~np.isnan(found)], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(
    ("price", "spot", "strike", "years", "carry"),
    [
        (5.0, 105.0, 100.0, 0.5, 0.0),  # at intrinsic value
        (4.0, 105.0, 100.0, 0.5, 0.0),  # below it
        (105.0, 105.0, 100.0, 0.5, 0.0),  # the underlying itself
        (10.0, 105.0, 100.0, 0.0, 0.0),  # expired
        (10.0, 105.0, 100.0, -0.1, 0.0),
        (math.nan, 105.0, 100.0, 0.5, 0.0),
        (10.0, math.nan, 100.0, 0.5, 0.0),
        (10.0, 105.0, 100.0, 0.5, math.nan),
        (0.0, 105.0, 100.0, 0.5, 0.0),
    ],
)
def test_no_volatility_gives_these_prices(price, spot, strike, years, carry):
    found = implied(price, spot, strike, years, 0.0, carry, True)
    assert math.isnan(found)
    assert all(math.isnan(greek) for greek in greeks(spot, strike, years, found, 0.0, carry, True))


@pytest.mark.parametrize("volatility", [black_scholes.LOWEST * 1.01, black_scholes.HIGHEST * 0.99])
def test_volatilities_just_inside_the_bounds_are_found(volatility):
    price = black_scholes.price(100.0, 100.0, 0.1, volatility, 0.0, 0.0, True)
    assert implied(price, 100.0, 100.0, 0.1, 0.0, 0.0, True) == pytest.approx(volatility, rel=1e-9)


@pytest.mark.parametrize("volatility", [black_scholes.LOWEST * 0.5, black_scholes.HIGHEST * 1.1])
def test_volatilities_outside_the_bounds_are_none(volatility):
    price = black_scholes.price(100.0, 100.0, 0.1, volatility, 0.0, 0.0, True)
    assert math.isnan(implied(price, 100.0, 100.0, 0.1, 0.0, 0.0, True))
