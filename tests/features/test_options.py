"""Contract by contract: what a chain's quotes give, and what they cannot."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_pipeline.features import black_scholes
from atlas_pipeline.features.option_contracts import compute_option_features
from atlas_pipeline.features.options import OPTION_CONTRACT, OPTION_FEATURES, OPTION_UNDERLYING, OPTIONS_SET
from tests.features.option_chains import apple_chain, make_chain

GREEKS = ("delta", "gamma", "vega", "theta")
PROXIES = tuple(f"{name}_proxy" for name in GREEKS)


def test_every_column_is_a_declared_feature():
    names = [feature.name for feature in OPTION_CONTRACT]
    assert [column.name for column in OPTION_FEATURES.columns][5:-2] == names
    assert len(set(names)) == len(names) and set(OPTIONS_SET) == {feature.name for feature in OPTION_UNDERLYING}
    for feature in (*OPTION_CONTRACT, *OPTION_UNDERLYING):
        assert feature.formula and feature.source and feature.unit and feature.inputs


def test_a_chain_gives_its_volatilities_and_its_forward_back():
    chain = make_chain(carry=0.03, rate=0.01)
    features = compute_option_features(chain, rate=0.01)
    OPTION_FEATURES.schema().validate(features, lazy=True)
    np.testing.assert_allclose(features["implied_carry"], 0.03, atol=1e-9)
    np.testing.assert_allclose(features["forward"], 100 * np.exp(0.03 * features["years_to_expiry"]), rtol=1e-10)
    near = features[features["strike"].between(85, 115) & (features["years_to_expiry"] > 0.03)]
    expected = 0.2 - 0.3 * np.log(near["strike"] / 100)
    np.testing.assert_allclose(near["implied_volatility"], expected, rtol=1e-6)
    assert (features["volatility_source"] == np.where(features["implied_volatility"].notna(), "mid", "none")).all()
    # Saturday's contract ends with Friday's close.
    saturday = features[features["expiry"] == "2015-02-07"]
    assert saturday["years_to_expiry"].iloc[0] == pytest.approx(32 / 365)
    put = features["right"] == "put"
    assert (features.loc[put, "delta"].dropna() < 0).all() and (features.loc[~put, "delta"].dropna() > 0).all()


def test_dividends_do_not_pass_for_a_difference_between_puts_and_calls():
    chain = make_chain(carry=-0.03, smile=lambda strike, years: np.full_like(strike, 0.2))
    near = chain["strike"].between(95, 105) & (chain["expiry"] == "2015-04-17")
    told = compute_option_features(chain)[near.to_numpy()]
    np.testing.assert_allclose(told["implied_volatility"], 0.2, rtol=1e-6)
    # Of one right alone there is no parity, and the rate stands in, by a point of volatility and more.
    for right in ("call", "put"):
        alone = compute_option_features(chain[chain["right"] == right])
        assert alone["implied_carry"].isna().all()
        assert (alone["forward"] == 100.0).all()
        off = alone.loc[near[chain["right"] == right].to_numpy(), "implied_volatility"] - 0.2
        assert (off.abs() > 0.01).all()


def test_one_wild_quote_does_not_move_the_forward():
    chain = make_chain()
    wild = (chain["strike"] == 100) & (chain["right"] == "call")
    broken = chain.assign(bid=chain["bid"].where(~wild, 0.5 * chain["bid"]), ask=chain["ask"].where(~wild))
    np.testing.assert_allclose(compute_option_features(broken)["implied_carry"], 0.0, atol=1e-9)
    low = chain.assign(bid=chain["bid"].where(~wild, 0.6 * chain["bid"]), ask=chain["ask"].where(~wild, chain["bid"]))
    np.testing.assert_allclose(compute_option_features(low)["implied_carry"], 0.0, atol=1e-9)


def test_the_vendors_volatility_counts_where_the_quote_confirms_it():
    # Quotes so narrow that they tell volatilities apart in the money too; far in it none does.
    chain = make_chain(half_spread=1e-6)
    chain = chain[chain["strike"].between(90, 110) & (chain["expiry"] > "2015-01-16")].reset_index(drop=True)
    solved = compute_option_features(chain)
    true = solved["implied_volatility"].to_numpy()
    wide = (chain["strike"] == 100).to_numpy()
    vendors = np.where(wide, true * (1 + 1e-7), true * 1.5)
    vendors[(chain["strike"] == 102.5).to_numpy()] = 0.0
    vendors[(chain["strike"] == 97.5).to_numpy()] = 1e-5  # a well-known placeholder
    vendors[(chain["strike"] == 95).to_numpy()] = np.nan
    given_some = compute_option_features(chain.assign(implied_volatility=vendors))
    assert (given_some["volatility_source"] == np.where(wide, "vendor", "mid")).all()
    np.testing.assert_array_equal(given_some["implied_volatility"], np.where(wide, vendors, true))
    # Without a bid the interval from nothing to the ask would confirm whatever is low enough.
    nobody = compute_option_features(chain.assign(implied_volatility=vendors, bid=0.0))
    assert (nobody["volatility_source"] == "none").all()


@pytest.mark.parametrize("column", ["bid", "ask"])
@pytest.mark.parametrize("value", [math.nan, 0.0])
def test_nothing_quoted_is_null_not_a_number(column, value):
    chain = make_chain().assign(**{column: value})
    features = compute_option_features(chain if column == "bid" else chain.assign(bid=value))
    assert features[["mid", "implied_carry", "implied_volatility", *GREEKS, *PROXIES]].isna().all(axis=None)
    assert features[["moneyness", "years_to_expiry", "forward", "moneyness_root_time"]].notna().all(axis=None)
    assert (features["volatility_source"] == "none").all()


def test_an_expired_contract_and_an_empty_chain_have_no_values():
    chain = make_chain()
    late = chain.assign(available_at=chain["expiry"].max().tz_localize("UTC") + pd.Timedelta(days=1))
    features = compute_option_features(late)
    known = ["moneyness", "years_to_expiry", "mid"]
    assert (features["years_to_expiry"] < 0).all()
    rest = [f.name for f in OPTION_CONTRACT if f.name not in (*known, "log_volume_log_moneyness")]
    assert features[rest].isna().all(axis=None)
    OPTION_FEATURES.schema().validate(compute_option_features(chain[:0]), lazy=True)


def test_interactions_are_those_of_the_documents_with_their_logs_mended():
    chain = make_chain()
    volume = np.arange(len(chain), dtype="float64")
    volume[5] = np.nan
    features = compute_option_features(chain.assign(volume=volume))
    m, years = features["moneyness"], features["years_to_expiry"]
    expected = {
        "moneyness_root_time": m * np.sqrt(years),
        "log_moneyness_log_days": np.log(m) * np.log(1 + 365 * years),
        "squared_moneyness_time": (100 / features["strike"] - 1) ** 2 * years,
        "log_volume_log_moneyness": np.log(volume + 1) * np.abs(np.log(m)),
        "at_the_money_root_time": np.exp(-(np.log(m) ** 2)) * np.sqrt(years),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(features[name], values, rtol=1e-12, atol=1e-15, err_msg=name)
    assert features["log_volume_log_moneyness"].isna().sum() == 1
    assert features["log_volume_log_moneyness"].iloc[0] == 0.0


def grid():
    """Moneyness, days, volatilities and rights of the table in the module's docstring, at an underlying of 100."""
    moneyness, days, volatility, call = (
        axis.ravel()
        for axis in np.meshgrid(
            np.linspace(0.8, 1.2, 41), [7, 14, 30, 60, 90, 180, 365], np.linspace(0.1, 0.6, 11), [True, False]
        )
    )
    spot = np.full(len(moneyness), 100.0)
    return spot, spot / moneyness, days / 365, volatility, call


def proxy_errors(proxies, rate):
    """Largest and mean error against the true greeks, as shares of the value at the money; of delta as it is."""
    spot, strike, years, volatility, call = grid()
    true = black_scholes.greeks(spot, strike, years, volatility, rate, np.full(len(spot), rate), call)
    density = 1 / math.sqrt(2 * math.pi)
    root = np.sqrt(years)
    at_the_money = (1.0, density / (spot * volatility * root), spot * density * root,
                    spot * density * volatility / (2 * root))  # fmt: skip
    errors = [np.abs(mine - own) / scale for mine, own, scale in zip(proxies, true, at_the_money, strict=True)]
    return np.array([(error.max(), error.mean()) for error in errors])


@pytest.fixture(scope="module")
def proxies():
    spot, strike, years, volatility, call = grid()
    # Priced exactly and quoted at that, so that the chain gives the grid's volatilities back where a price holds them.
    return black_scholes.greeks(spot, strike, years, volatility, 0.0, np.zeros(len(spot)), call)


# The docstring of ``options``, to its three digits: what it says is never exceeded, and not stated loosely.
DOCUMENTED = {
    0.00: [(0, 0), (0, 0), (0, 0), (0, 0)],
    0.02: [(0.080, 0.009), (0.121, 0.013), (0.121, 0.013), (1.158, 0.089)],
    0.05: [(0.198, 0.023), (0.297, 0.031), (0.297, 0.031), (2.719, 0.219)],
}


@pytest.mark.parametrize("rate", DOCUMENTED)
def test_proxies_are_as_far_from_the_true_greeks_as_documented(proxies, rate):
    found, stated = proxy_errors(proxies, rate), np.array(DOCUMENTED[rate])
    # Where both are the same formula, rounding alone.
    assert (found <= stated + 1e-12).all()
    assert (found >= stated - 1e-3).all()
    if rate in (0.0, 0.05):
        declared = {feature.name: feature.parameters for feature in OPTION_CONTRACT}
        assert [declared[name][f"error_at_{rate:.0%}"] for name in PROXIES] == [largest for largest, _ in stated]


def test_the_documents_own_formulas_are_as_wrong_as_documented():
    spot, strike, years, volatility, call = grid()
    spread = volatility * np.sqrt(years)
    short = np.log(spot / strike) / spread
    density = np.exp(-(short**2) / 2) / math.sqrt(2 * math.pi)
    phi = np.array([0.5 * math.erfc(-d / math.sqrt(2)) for d in short])
    gamma = density / (spot * spread)
    true_vega = spot * np.exp(-((short + spread / 2) ** 2) / 2) / math.sqrt(2 * math.pi) * np.sqrt(years)
    found = proxy_errors((phi, gamma, true_vega, -gamma / (2 * years)), 0.0)
    stated = np.array([(1.000, 0.500), (0.122, 0.027), (0.0, 0.0), (1.000, 0.612)])
    assert (np.abs(found - stated) <= 1e-3).all()
    of_calls = np.abs(phi - black_scholes.greeks(spot, strike, years, volatility, 0.0, 0 * spot, call)[0])[call]
    assert of_calls.max() == pytest.approx(0.120, abs=1e-3) and of_calls.mean() == pytest.approx(0.026, abs=1e-3)


def test_proxies_of_a_chain_are_its_greeks_without_rate_and_carry():
    features = compute_option_features(make_chain(carry=0.0))
    quoted = features[features["implied_volatility"].notna()]
    assert len(quoted) > 50
    # The forward's own rounding, which one price of a hundred leaves at the fourteenth digit.
    for proxy, true in zip(PROXIES, GREEKS, strict=True):
        np.testing.assert_allclose(quoted[proxy], quoted[true], rtol=1e-6, atol=1e-9, err_msg=proxy)
    costly = compute_option_features(make_chain(carry=0.05, rate=0.05), rate=0.05)
    far = costly[(costly["expiry"] == "2015-04-17") & costly["strike"].between(95, 105)]
    assert ((far["delta_proxy"] - far["delta"]).abs() > 0.01).all()


@settings(max_examples=25, deadline=None)
@given(
    st.floats(0.05, 1.5), st.floats(-0.5, 0.5), st.floats(-0.05, 0.05), st.floats(0, 0.05), st.integers(0, 2**32 - 1)
)
def test_bounds_hold_and_contracts_do_not_see_one_another_s_rows(level, slope, carry, rate, seed):
    chain = make_chain(
        smile=lambda strike, years: np.maximum(level - slope * np.log(strike / 100), 0.02), carry=carry, rate=rate
    )
    random = np.random.default_rng(seed)
    holes = random.random(len(chain)) < 0.1
    chain = chain.assign(bid=chain["bid"].where(~holes))
    features = compute_option_features(chain, rate=rate)
    OPTION_FEATURES.schema().validate(features, lazy=True)
    assert not np.isinf(features.select_dtypes("number")).any(axis=None)
    assert features.loc[holes, "implied_volatility"].isna().all()
    for feature in OPTION_CONTRACT:
        values = features[feature.name].dropna()
        assert (values >= (-math.inf if feature.minimum is None else feature.minimum)).all(), feature.name
        assert (values <= (math.inf if feature.maximum is None else feature.maximum)).all(), feature.name
    # Any order of rows gives the same bits.
    order = random.permutation(len(chain))
    again = compute_option_features(chain.iloc[order], rate=rate)
    pd.testing.assert_frame_equal(again, features.iloc[order].reset_index(drop=True), check_exact=True)


def test_real_chains_on_both_sides_of_a_split():
    features = compute_option_features(apple_chain())
    OPTION_FEATURES.schema().validate(features, lazy=True)
    assert (features["volatility_source"] != "vendor").all()
    living = features[features["years_to_expiry"] > 0]
    assert living["implied_volatility"].notna().mean() > 0.85
    carry = living.groupby(["available_at", "expiry"])["implied_carry"].agg(["min", "max"])
    assert (carry["min"] == carry["max"]).all()
    # Dividends of 0.47 a quarter on 94, from August on; a split divides them with the price.
    long = carry["min"].unstack("available_at")["2014-08-16":]
    assert (long.index[0], len(long)) == (pd.Timestamp("2014-08-16"), 5)
    assert long.apply(lambda day: day.between(-0.02, -0.005)).all(axis=None)
    assert (long.diff(axis=1).iloc[:, 1].abs() < 0.001).all()
    # At one strike the two rights now have one volatility, but for the half spread of each.
    sides = living[living["delta"].abs().between(0.2, 0.8) & (living["years_to_expiry"] > 0.1)]
    both = sides.pivot_table(index=["available_at", "expiry", "strike"], columns="right", values="implied_volatility")
    assert (both["call"] - both["put"]).abs().median() < 0.002
    assert abs((both["call"] - both["put"]).median()) < 0.001
