"""What a chain says about its underlying: on surfaces that are known, with holes, and with its future changed."""

import math
from functools import cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_pipeline.features.option_contracts import compute_option_features
from atlas_pipeline.features.option_surface import _between, aggregate_option_features
from atlas_pipeline.features.options import OPTION_UNDERLYING, UNDERLYING_OPTION_FEATURES
from tests.features.option_chains import apple_chain, make_chain

NAMES = [feature.name for feature in OPTION_UNDERLYING]
SURFACE = NAMES[:3]


def aggregated(chain):
    found = aggregate_option_features(chain, compute_option_features(chain))
    UNDERLYING_OPTION_FEATURES.schema().validate(found, lazy=True)
    return found


def one(chain):
    (row,) = aggregated(chain).to_dict("records")
    return row


def test_level_and_slope_are_those_of_constant_maturities():
    def variance(years):
        return 0.002 + 0.05 * years

    # Total variance linear in time and volatility linear in ln K, between strikes and expiries as well as at them.
    row = one(make_chain(lambda strike, years: np.sqrt(variance(years) / years) - 0.3 * np.log(strike / 100)))
    near, far = (math.sqrt(variance(days / 365) / (days / 365)) for days in (30, 90))
    assert row["symbol"] == "AAA" and row["month"] == "2015-01"
    assert row["atm_volatility"] == pytest.approx(near, abs=1e-6)
    assert row["term_slope"] == pytest.approx(far - near, abs=1e-6)


def test_the_level_is_at_the_forward_between_two_strikes():
    # Half a year's carry of 6% moves the forward by more than a strike; 90 and 102 days from here there is one.
    row = one(make_chain(lambda strike, years: 0.2 - 0.3 * np.log(strike / (100 * np.exp(0.06 * years))), carry=0.06))
    assert row["atm_volatility"] == pytest.approx(0.2, abs=1e-6)
    assert row["term_slope"] == pytest.approx(0.0, abs=1e-6)


def test_the_skew_is_that_at_a_delta_of_a_quarter():
    def smile(strike, years):
        return 0.2 - 0.3 * np.log(strike / 100) + 0.0 * years

    chain = make_chain(smile)
    row = one(chain)
    # On this smile the deltas are -0.25 and 0.25 where these equations hold, at 30 days.
    years = 30 / 365

    def strike_of(quantile, sign):
        strike = 100.0
        for _ in range(200):
            spread = smile(strike, years) * math.sqrt(years)
            strike = 100 * math.exp(sign * quantile * spread + spread**2 / 2)
        return strike

    quartile = 0.6744897501960817
    put, call = smile(strike_of(quartile, -1), years), smile(strike_of(quartile, 1), years)
    # Linear in delta between strikes of 2.5, where the smile is linear in ln K.
    assert row["put_call_skew"] == pytest.approx((put - call) / 0.2, abs=0.01)
    flat = one(make_chain(lambda strike, years: np.full_like(strike, 0.3)))
    assert flat["put_call_skew"] == pytest.approx(0.0, abs=1e-6)
    assert one(make_chain(lambda k, t: 0.2 + 0.3 * np.log(k / 100)))["put_call_skew"] < -0.05


def test_the_slope_of_the_term_structure_does_not_pass_for_skew():
    # Flat in the strike and steep in time; of the nearer expiry only the puts reach a delta of a quarter.
    chain = make_chain(lambda strike, years: 0.1 + 0.5 * np.sqrt(years) + 0 * strike)
    short = (chain["expiry"] < "2015-02-01") & (chain["right"] == "call") & (chain["strike"] > 100)
    assert one(chain[~short])["put_call_skew"] == pytest.approx(0.0, abs=1e-6)


def test_counts_and_shares_are_those_of_the_whole_chain():
    chain = make_chain()
    put = (chain["right"] == "put").to_numpy()
    row = one(chain.assign(volume=np.where(put, 1.0, 3.0), open_interest=np.where(put, 2.0, np.nan)))
    assert row["put_volume_share"] == 0.25
    assert row["put_interest_share"] == 1.0
    assert row["contracts"] == compute_option_features(chain)["implied_volatility"].notna().sum()


@pytest.mark.parametrize("counted", [math.nan, 0.0])
def test_where_nothing_was_quoted_or_traded_there_is_no_value(counted):
    row = one(make_chain().assign(bid=np.nan, volume=counted, open_interest=counted))
    assert row["contracts"] == 0
    assert all(math.isnan(row[name]) for name in NAMES if name != "contracts")


def test_a_chain_that_does_not_reach_around_a_maturity_or_strike_says_nothing():
    whole = make_chain()
    # The first expiry a month away: before it no variance is known but that of no time, so that its volatility counts.
    month = one(whole[whole["expiry"] > "2015-01-16"])
    assert month["atm_volatility"] == pytest.approx(0.2, abs=1e-6)
    quarter = one(whole[whole["expiry"] > "2015-02-20"])
    assert all(math.isnan(quarter[name]) for name in SURFACE)
    earlier = one(whole[whole["expiry"] < "2015-03-01"])
    assert earlier["atm_volatility"] > 0 and math.isnan(earlier["term_slope"])
    apart = one(whole[(whole["expiry"] == "2015-01-16") | (whole["expiry"] == "2015-04-17")])
    assert math.isnan(apart["atm_volatility"])
    above = one(whole[whole["strike"] > 100])
    assert all(math.isnan(above[name]) for name in SURFACE)
    # Neighbours that are too far apart are none.
    holed = whole[~whole["strike"].between(90, 111)]
    assert math.isnan(one(holed)["atm_volatility"])
    assert one(whole[~whole["strike"].between(95, 105)])["atm_volatility"] == pytest.approx(0.2, abs=1e-3)


def test_features_of_another_chain_are_refused():
    chain = make_chain()
    features = compute_option_features(chain)
    with pytest.raises(ValueError, match="249 rows of features are not those of the chain's 250"):
        aggregate_option_features(chain, features[:-1])
    with pytest.raises(ValueError, match="in its order"):
        aggregate_option_features(chain, features[::-1])


def test_an_empty_chain_gives_an_empty_table():
    chain = make_chain()[:0]
    assert aggregated(chain).empty


@cache
def history():
    """Two underlyings on five days, their levels rising."""
    chains = []
    for number in range(5):
        for underlying, level in (("AAA", 0.2), ("BBB", 0.4)):
            chain = make_chain(
                lambda strike, years, own=level + 0.01 * number: own - 0.2 * np.log(strike / 100),
                at=f"2015-01-{5 + number:02d} 21:00",
                underlying=underlying,
            )
            chains.append(chain.assign(volume=10.0 * (1 + chain.index % 7), open_interest=5.0))
    return pd.concat(chains, ignore_index=True)


def test_each_underlying_and_instant_has_its_own_row():
    found = aggregated(history())
    assert found["symbol"].tolist() == ["AAA"] * 5 + ["BBB"] * 5
    np.testing.assert_allclose(found["atm_volatility"][:5], 0.2 + 0.01 * np.arange(5), atol=1e-6)
    np.testing.assert_allclose(found["atm_volatility"][5:], 0.4 + 0.01 * np.arange(5), atol=1e-6)
    # Alone an instant says the same as among others, bit for bit.
    for (underlying, _), own in history().groupby(["underlying", "available_at"]):
        alone = aggregated(own.reset_index(drop=True))
        row = found[(found["symbol"] == underlying) & (found["available_at"] == own["available_at"].iloc[0])]
        pd.testing.assert_frame_equal(alone, row.reset_index(drop=True), check_exact=True)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 3), st.sampled_from(["cut off", "changed", "permuted", "emptied"]), st.integers(0, 2**32 - 1))
def test_later_rows_change_nothing_earlier(day, how, seed):
    chain, random = history(), np.random.default_rng(seed)
    cut = chain["available_at"].unique()[day]
    future = (chain["available_at"] > cut).to_numpy()
    numbers = ["bid", "ask", "volume", "open_interest", "underlying_close"]
    values = chain[numbers].to_numpy(copy=True)
    if how == "changed":
        values[future] *= np.exp(random.normal(0, 0.5, (future.sum(), 1)))
    elif how == "permuted":
        values[future] = values[future][random.permutation(future.sum())]
    elif how == "emptied":
        values[future] = np.nan
    altered = chain.assign(**{name: values[:, column] for column, name in enumerate(numbers)})
    altered["underlying_close"] = altered["underlying_close"].fillna(100.0)
    altered = altered[~future] if how == "cut off" else altered
    before, after = aggregated(chain), aggregated(altered)
    kept = before[before["available_at"] <= cut].reset_index(drop=True)
    pd.testing.assert_frame_equal(after[after["available_at"] <= cut].reset_index(drop=True), kept, check_exact=True)


POINTS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.25, 1.0, 3.0]), st.floats(0.1, 1)),
    max_size=12,
    unique_by=lambda point: point[:2],
)


@settings(max_examples=200, deadline=None)
@given(POINTS, st.sampled_from([0.0, 0.25, 0.6]), st.sampled_from([1.5, math.inf]))
def test_between_equals_interpolating_group_by_group(points, target, widest):
    group = np.array([point[0] for point in points], dtype="int64")
    coordinate, value = (np.array([point[number] for point in points]) for number in (1, 2))
    found = _between(group, coordinate, value, target, 3, widest)
    for number in range(3):
        own = sorted(point[1:] for point in points if point[0] == number)
        low, high = [p for p in own if p[0] <= target][-1:], [p for p in own if p[0] >= target][:1]
        expected = math.nan
        if low and high and high[0][0] - low[0][0] <= widest:
            expected = float(np.interp(target, [low[0][0], high[0][0]], [low[0][1], high[0][1]]))
        assert found[number] == pytest.approx(expected, rel=1e-12, nan_ok=True)


def test_real_chains_on_both_sides_of_a_split():
    found = aggregated(apple_chain())
    assert found["atm_volatility"].between(0.15, 0.30).all()
    # A 7:1 split divides prices, not volatilities.
    assert abs(found["atm_volatility"].diff().iloc[1]) < 0.05
    assert found["put_call_skew"].abs().max() < 0.1
    assert found["term_slope"].between(0.0, 0.1).all(), "earnings come in July"
    assert found["put_volume_share"].between(0.2, 0.5).all()
    # Of the second day the vendor has no open interest.
    assert found["put_interest_share"].isna().tolist() == [False, True]
    assert (found["contracts"] > 1_500).all()
