import math
from datetime import UTC, datetime
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_pipeline.features import black_scholes
from atlas_pipeline.features.options import (
    OPTION_FEATURES,
    UNDERLYING_OPTION_FEATURES,
    aggregate_option_features,
    compute_option_features,
)
from atlas_pipeline.market.files import FileSet, FilesSource
from atlas_pipeline.market.option_chain import validate_option_chain

CONTRACT = st.tuples(
    st.floats(10, 1000), st.floats(0.5, 2.0), st.floats(0.01, 3), st.floats(0.05, 2), st.floats(0, 0.1), st.booleans()
)


def reference_price(spot, strike, years, volatility, rate, call):
    normal = NormalDist()
    d1 = (math.log(spot / strike) + (rate + volatility**2 / 2) * years) / (volatility * math.sqrt(years))
    d2 = d1 - volatility * math.sqrt(years)
    sign = 1 if call else -1
    return sign * (spot * normal.cdf(sign * d1) - strike * math.exp(-rate * years) * normal.cdf(sign * d2))


@settings(max_examples=100, deadline=None)
@given(CONTRACT)
def test_price_and_greeks_agree_with_the_closed_form(contract):
    spot, ratio, years, volatility, rate, call = contract
    strike = spot * ratio
    assert black_scholes.price(spot, strike, years, volatility, rate, call) == pytest.approx(
        reference_price(spot, strike, years, volatility, rate, call), abs=1e-9 * spot
    )

    def price(s=spot, t=years, v=volatility):
        return black_scholes.price(s, strike, t, v, rate, call)

    one = [np.array([value]) for value in (spot, strike, years, volatility)]
    delta, gamma, vega, theta = (g[0] for g in black_scholes.greeks(*one, rate, np.array([call])))
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
def test_implied_volatility_gives_the_price_back(contract):
    spot, ratio, years, volatility, rate, call = contract
    strike = spot * ratio
    target = black_scholes.price(spot, strike, years, volatility, rate, call)
    arrays = [np.array([value]) for value in (target, spot, strike, years)]
    found = black_scholes.implied_volatility(*arrays, rate, np.array([call]))[0]
    intrinsic = max(0.0, (spot - strike * math.exp(-rate * years)) * (1 if call else -1))
    if target - intrinsic > 1e-9 * spot:
        assert black_scholes.price(spot, strike, years, found, rate, call) == pytest.approx(target, abs=1e-11 * spot)


@pytest.mark.parametrize(
    ("price", "spot", "strike", "years"),
    [
        (5.0, 105.0, 100.0, 0.5),  # at intrinsic value
        (4.0, 105.0, 100.0, 0.5),  # below it
        (105.0, 105.0, 100.0, 0.5),  # the underlying itself
        (10.0, 105.0, 100.0, 0.0),  # expired
        (math.nan, 105.0, 100.0, 0.5),
        (10.0, math.nan, 100.0, 0.5),
        (0.0, 105.0, 100.0, 0.5),
    ],
)
def test_no_volatility_gives_these_prices(price, spot, strike, years):
    arrays = [np.array([value]) for value in (price, spot, strike, years)]
    found = black_scholes.implied_volatility(*arrays, 0.0, np.array([True]))
    assert math.isnan(found[0])
    assert all(math.isnan(g[0]) for g in black_scholes.greeks(*arrays[1:], found, 0.0, np.array([True])))


@pytest.fixture
def chain() -> pd.DataFrame:
    """Quotes around Black-Scholes prices of a smile, of two expiries, the nearer one too near."""
    available_at = pd.Timestamp(datetime(2015, 1, 5, 21, tzinfo=UTC)).as_unit("us")
    rows = []
    for expiry, close in (("2015-01-09", "2015-01-09 21:00"), ("2015-02-07", "2015-02-06 21:00")):
        years = (pd.Timestamp(close, tz="UTC") - available_at) / pd.Timedelta(days=365)
        for strike in np.arange(70.0, 131.0, 2.5):
            volatility = 0.2 - 0.3 * math.log(strike / 100)
            for right in ("call", "put"):
                mid = black_scholes.price(100.0, strike, years, volatility, 0.0, right == "call")
                rows.append(("AAA", available_at, pd.Timestamp(expiry), right, strike, 0.999 * mid, 1.001 * mid))
    frame = pd.DataFrame(rows, columns=["underlying", "available_at", "expiry", "right", "strike", "bid", "ask"])
    frame = frame.assign(session=pd.Timestamp("2015-01-05"), underlying_close=100.0, bid_size=1.0, ask_size=1.0)
    return validate_option_chain(
        frame.assign(last=np.nan, volume=np.nan, open_interest=np.nan, implied_volatility=np.nan)
    )[0]


def test_a_chain_gives_its_volatilities_back(chain):
    features = compute_option_features(chain)
    OPTION_FEATURES.schema().validate(features, lazy=True)
    far = features[(features["expiry"] == "2015-02-07") & features["strike"].between(85, 115)]
    expected = 0.2 - 0.3 * np.log(far["strike"] / 100)
    np.testing.assert_allclose(far["implied_volatility"], expected, rtol=1e-6)
    # Saturday's contract ends with Friday's close.
    assert far["years_to_expiry"].iloc[0] == pytest.approx(32 / 365)
    assert (far.loc[far["right"] == "put", "delta"] < 0).all()
    assert (far["theta"] < 0).all()


def test_the_underlying_gets_level_and_skew(chain):
    found = aggregate_option_features(compute_option_features(chain))
    UNDERLYING_OPTION_FEATURES.schema().validate(found, lazy=True)
    assert len(found) == 1
    row = found.iloc[0]
    assert row["symbol"] == "AAA"
    assert row["days_to_expiry"] == 32.0
    assert row["atm_volatility"] == pytest.approx(0.2, abs=1e-6)
    # Puts at a delta of -0.25 lie near 96.5, calls at 0.25 near 104: 0.3 * ln(104 / 96.5), within a strike's step.
    assert row["put_call_skew"] == pytest.approx(0.3 * math.log(104 / 96.5), abs=0.01)


def test_nothing_quoted_is_null_not_a_number(chain):
    features = compute_option_features(chain.assign(bid=np.nan))
    assert features[["mid", "implied_volatility", "delta", "vega"]].isna().all(axis=None)
    found = aggregate_option_features(features).iloc[0]
    assert found["contracts"] == 0
    assert math.isnan(found["atm_volatility"])
    OPTION_FEATURES.schema().validate(compute_option_features(chain[:0]), lazy=True)
    UNDERLYING_OPTION_FEATURES.schema().validate(aggregate_option_features(features[:0]), lazy=True)


def test_real_chains_on_both_sides_of_a_split():
    path = Path(__file__).resolve().parents[3] / "shared" / "data" / "options_chain.parquet"
    if not path.is_file():
        pytest.skip("no ../shared/data beside the repository: a real option chain is tested only with it")
    source = FilesSource(option_chain=FileSet(path, {"session": "date"}))
    chain, _ = validate_option_chain(
        source.option_chain(["AAPL"], datetime(2014, 1, 1, tzinfo=UTC), datetime(2015, 1, 1, tzinfo=UTC))
    )
    found = aggregate_option_features(compute_option_features(chain))
    assert found["atm_volatility"].between(0.15, 0.30).all()
    # A 7:1 split divides prices, not volatilities.
    assert abs(found["atm_volatility"].diff().iloc[1]) < 0.05
