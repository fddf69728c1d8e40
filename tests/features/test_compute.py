import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import talib

from atlas_pipeline.config import Config
from atlas_pipeline.features.compute import compute_features
from atlas_pipeline.features.coverage import coverage
from atlas_pipeline.features.registry import ATLAS8, FEATURES, MODEL_INPUTS, REGISTRY, SETS
from atlas_pipeline.features.schema import FeatureSchemaError, validate_features


@pytest.fixture(scope="module")
def features(bundled_bars) -> pd.DataFrame:
    return compute_features(bundled_bars)


@pytest.mark.parametrize("symbol", ["SP500", "NASDAQ"])
def test_the_eight_equal_talib(bundled_bars, features, symbol):
    own = bundled_bars[bundled_bars["symbol"] == symbol]
    high, low, close = (own[name].to_numpy() for name in ("high", "low", "close"))
    upper, _, lower = talib.BBANDS(close, 20, 2, 2)
    log_returns = np.concatenate([[np.nan], np.diff(np.log(close))])
    expected = {
        "Close": close,
        "RSI": talib.RSI(close, 14),
        "MACD": talib.MACD(close, 12, 26, 9)[0],
        "BB_Position": (close - lower) / (upper - lower),
        "ATR": talib.ATR(high, low, close, 14),
        "Volatility": talib.STDDEV(log_returns, 20, 1),
        "ROC": talib.ROC(close, 10),
        "Momentum": talib.MOM(close, 10),
    }
    assert tuple(expected) == SETS["atlas8"] == tuple(feature.name for feature in ATLAS8)
    mine = features[features["symbol"] == symbol]
    for name, values in expected.items():
        np.testing.assert_array_equal(mine[name].isna(), np.isnan(values), err_msg=name)
        np.testing.assert_allclose(mine[name], values, rtol=0, atol=1e-9, err_msg=name)


def test_the_table_is_what_the_registry_says(features):
    assert list(features.columns) == list(FEATURES.names)
    pd.testing.assert_frame_equal(validate_features(features), features)
    assert len(MODEL_INPUTS) == Config().feature_size == 8
    # DuckDB's column names ignore case.
    assert len({name.lower() for name in FEATURES.names}) == len(FEATURES.names)
    for feature in REGISTRY.values():
        assert feature.formula, feature.name
        assert feature.source, feature.name
        assert feature.unit, feature.name
        for _, own in features.groupby("symbol"):
            assert int(own[feature.name].isna().sum()) == feature.warmup, feature.name
            assert own[feature.name].iloc[: feature.warmup].isna().all(), feature.name


def test_model_inputs_are_stationary(features):
    """Their level in the last years is that of the first, where the index itself has doubled."""
    years = features["available_at"].dt.year
    early, late = features[years <= 2006], features[years >= 2011]
    for name in MODEL_INPUTS:
        shift = abs(late[name].median() - early[name].median()) / features[name].std()
        assert shift < 1.2, name
        assert features[name].abs().max() < 5, name
    assert features["return_scaled"].abs().max() <= 1 / np.sqrt(1 - Config().volatility_decay)
    moved = abs(late["Close"].median() - early["Close"].median()) / early["Close"].std()
    assert moved > 1.2


def test_volatility_is_that_of_riskmetrics(bundled_bars, features):
    close = bundled_bars.loc[bundled_bars["symbol"] == "SP500", "close"].to_numpy()
    squares = (100 * np.diff(np.log(close))) ** 2
    expected = pd.Series([squares[:20].mean(), *squares[20:]]).ewm(alpha=0.06, adjust=False).mean() ** 0.5
    mine = features.loc[features["symbol"] == "SP500", "volatility_ewma"].to_numpy()
    np.testing.assert_allclose(mine[20:], expected, rtol=1e-12)


def test_the_decay_is_a_setting(bundled_bars, features):
    other = compute_features(bundled_bars, volatility_decay=0.5)
    assert not other["volatility_ewma"].equals(features["volatility_ewma"])
    pd.testing.assert_frame_equal(other[list(SETS["atlas8"])], features[list(SETS["atlas8"])])


@pytest.mark.parametrize("month", ["1999-01", "1999-02", "2008-10", "2018-12"])
def test_a_month_equals_the_same_rows_of_a_full_recomputation(bundled_bars, features, month):
    until = compute_features(bundled_bars[bundled_bars["month"] <= month])
    mine, full = (frame[frame["month"] == month].reset_index(drop=True) for frame in (until, features))
    pd.testing.assert_frame_equal(mine, full, check_exact=True)


def test_symbols_do_not_touch_each_other(bundled_bars, features):
    alone = compute_features(bundled_bars[bundled_bars["symbol"] == "NASDAQ"])
    together = features[features["symbol"] == "NASDAQ"].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, together, check_exact=True)
    shuffled = pd.concat([group for _, group in bundled_bars.groupby("symbol", sort=False)][::-1])
    pd.testing.assert_frame_equal(compute_features(shuffled), features, check_exact=True)
    mixed = bundled_bars.sort_values("available_at", kind="stable")
    pd.testing.assert_frame_equal(compute_features(mixed), features, check_exact=True)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, -3.0])
@pytest.mark.parametrize("column", ["high", "low", "close"])
def test_a_missing_bar_starts_every_feature_anew(make_bars, walk, bad, column):
    bars = make_bars(walk(160))
    bars.loc[70, column] = bad
    found = compute_features(bars)
    names = list(REGISTRY)
    assert found.loc[70, names].isna().all()
    for part in (bars[:70], bars[71:]):
        alone = compute_features(part)
        together = found[found["available_at"].isin(part["available_at"])].reset_index(drop=True)
        pd.testing.assert_frame_equal(alone, together, check_exact=True)
    counts = coverage(found).set_index("feature")
    assert counts.loc["RSI", ["rows", "warm_up", "undefined"]].tolist() == [160, 14, 15]
    assert counts.loc["Close", "valid_share"] == 159 / 160


def test_a_price_that_never_moves_has_no_scaled_features_and_no_infinite_ones(make_bars):
    found = compute_features(make_bars(np.full(60, 50.0)))
    assert (found["BB_Position"][19:] == 0.5).all()
    assert (found["RSI"][14:] == 50.0).all()
    assert (found["volatility_ewma"][20:] == 0.0).all()
    assert found[["return_scaled", "macd_scaled", "log_volatility", "volatility_ratio"]].isna().all(axis=None)
    validate_features(found)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_scaled_features_do_not_depend_on_the_currency(make_bars, walk, scale):
    close = walk()
    plain, scaled = compute_features(make_bars(close)), compute_features(make_bars(close * scale))
    for name in MODEL_INPUTS:
        np.testing.assert_allclose(plain[name], scaled[name], rtol=1e-7, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("count", [0, 1, 2, 10, 11, 20, 21, 34])
def test_short_series(make_bars, walk, count):
    found = compute_features(make_bars(walk(count)))
    assert len(found) == count
    validate_features(found)
    for feature in REGISTRY.values():
        assert int(found[feature.name].notna().sum()) == max(0, count - feature.warmup), feature.name


def test_unusable_bars_are_refused(make_bars, walk):
    bars = make_bars(walk(30))
    with pytest.raises(ValueError, match=r"lack the columns \['high'\]"):
        compute_features(bars.drop(columns="high"))
    with pytest.raises(ValueError, match=r"'AAA' \(1d\) do not increase in time at 2015-01-04"):
        compute_features(pd.concat([bars[:4], bars[3:]]))
    with pytest.raises(ValueError, match="sort them"):
        compute_features(bars[::-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="RSI"), "RSI"),
        (lambda frame: frame.assign(extra=1.0), "extra"),
        (lambda frame: pd.concat([frame, frame[:1]]), "symbol"),
        (lambda frame: frame.assign(ATR=-1.0), r"ATR: greater_than_or_equal_to\(0.0\)"),
        (lambda frame: frame.assign(ROC=np.inf), r"\['ROC'\] are infinite"),
        (lambda frame: frame.assign(RSI=101.0), "above 100"),
        (lambda frame: frame.assign(MACD="high"), "MACD"),
    ],
)
def test_each_broken_schema_is_named(make_bars, walk, change, message):
    with pytest.raises(FeatureSchemaError, match=message):
        validate_features(change(compute_features(make_bars(walk(60)))))


def test_names_can_be_looked_up_without_numba_or_torch():
    code = (
        "import sys; from atlas_pipeline.features import registry, schema, coverage, causality, compute; "
        "found = {'numba', 'torch', 'pandera', 'arch'} & set(sys.modules); assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
