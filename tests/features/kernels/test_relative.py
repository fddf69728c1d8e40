"""The trailing volatility against pandas, and that its multiples mean the same at every level."""

import math

import numpy as np
import pandas as pd
import pytest

from atlas_pipeline.features.relative import RELATIVE
from tests.features.kernels.blocks import DECAY, columns, real_rows, rows_of
from tests.features.kernels.talib_columns import drawn

NAMES = tuple(feature.name for feature in RELATIVE)


def test_the_volatility_is_that_of_riskmetrics(bundled_bars):
    inputs = real_rows(bundled_bars[bundled_bars["symbol"] == "SP500"])
    squares = (100 * np.diff(np.log(inputs[3]))) ** 2
    for decay, found in ((DECAY, columns(inputs)["volatility_ewma"]), (0.8, fast(inputs))):
        average = pd.Series([squares[:20].mean(), *squares[20:]]).ewm(alpha=1 - decay, adjust=False).mean()
        # Sums of squares, none subtracted: exact to a few units of the last place of the logarithms.
        np.testing.assert_allclose(found[20:], average**0.5, rtol=1e-11)
        assert np.isnan(found[:20]).all()


def fast(inputs):
    found = columns(inputs)
    return found["volatility_ewma"] * np.exp(found["volatility_ratio"])


def test_no_return_is_further_out_than_its_own_weight_allows():
    close = np.full(200, 100.0)
    close[:50] += np.random.default_rng(0).normal(size=50)
    close[120:] = 1e6
    found = columns(rows_of(close))["relative_return"]
    assert found[120] == pytest.approx(1 / math.sqrt(1 - DECAY), rel=1e-3)
    assert np.nanmax(np.abs(found)) <= 1 / math.sqrt(1 - DECAY) * (1 + 1e-12)


def test_a_price_that_stands_still_for_long_has_no_multiples():
    """Halted for years: the variance decays to nothing, and a range in its units would be infinite as float32."""
    close = np.full(12_000, 100.0)
    close[:50] += np.random.default_rng(0).normal(size=50)
    found = columns(rows_of(close))
    for name in ("relative_range", "relative_gap", "log_volatility", "volatility_ratio"):
        assert np.isnan(found[name][2_000:]).all(), name
        with np.errstate(over="raise"):
            found[name].astype(np.float32)


def test_a_price_that_never_moved_has_no_volatility_to_measure_by():
    found = columns(drawn("constant", 50.0, 60))
    assert (found["volatility_ewma"][20:] == 0.0).all()
    for name in (*NAMES[:5], "volatility_ratio", "log_volatility"):
        assert np.isnan(found[name]).all(), name


@pytest.mark.parametrize("scale", [1e-150, 1e-12, 1e12, 1e100])
def test_the_currency_is_of_no_account(scale):
    plain, scaled = columns(drawn("walk", 1.0)), columns(drawn("walk", scale))
    # Logarithms near 300 have digits of 6e-14, in units of a volatility of 0.01.
    for name in NAMES:
        np.testing.assert_allclose(scaled[name], plain[name], rtol=1e-10, atol=1e-10, err_msg=name)


def test_multiples_keep_their_level_where_the_index_does_not(bundled_bars):
    """Their median in the last years is that of the first, where the index itself has doubled."""
    own = bundled_bars[bundled_bars["symbol"] == "NASDAQ"]
    found = pd.DataFrame(columns(real_rows(own)))
    years = own["available_at"].dt.year.to_numpy()
    early, late = found[years <= 2006], found[years >= 2011]
    shift = {name: abs(late[name].median() - early[name].median()) / found[name].std() for name in (*NAMES, "Close")}
    assert shift.pop("Close") > 1.2
    # A level by its name: after the crash of 2000 the index was twice as volatile as after 2011.
    assert shift.pop("log_volatility") < 1.5
    assert max(shift.values()) < 0.3
    assert found[list(NAMES)].abs().max().max() < 25
