"""A frame that breaks its table is refused, and the message names the feature, the value and the remedy."""

import numpy as np
import pandas as pd
import pytest

from atlas_pipeline.features.compute import compute_features
from atlas_pipeline.features.registry import REGISTRY
from atlas_pipeline.features.schema import FeatureSchemaError, validate_features


@pytest.fixture
def frame(make_bars, walk) -> pd.DataFrame:
    return compute_features(make_bars(walk(60)))


def test_what_is_computed_passes_unchanged(frame, bundled_bars):
    pd.testing.assert_frame_equal(validate_features(frame), frame)
    computed = compute_features(bundled_bars)
    pd.testing.assert_frame_equal(validate_features(computed), computed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="RSI"), "RSI"),
        (lambda frame: frame.assign(extra=1.0), "extra"),
        (lambda frame: pd.concat([frame, frame[:1]]), "symbol"),
        (lambda frame: frame.assign(ATR=-1.0), r"ATR: greater_than_or_equal_to\(0.0\) \(60 cases, first -1.0\)"),
        (lambda frame: frame.assign(MACD="high"), "MACD"),
    ],
)
def test_each_broken_schema_is_named(frame, change, message):
    with pytest.raises(FeatureSchemaError, match=f"{message}.*Recompute them with compute_features"):
        validate_features(change(frame))


@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("name", ["MACD", "return_1", "vix_return"])
def test_no_feature_is_infinite(frame, name, value):
    frame.loc[50, name] = value
    with pytest.raises(FeatureSchemaError, match=rf"\['{name}'\] are infinite: look for absurd prices"):
        validate_features(frame)


@pytest.mark.parametrize("name", [name for name, feature in REGISTRY.items() if feature.maximum is not None])
def test_every_maximum_is_held(frame, name):
    limit = REGISTRY[name].maximum
    frame.loc[50, name] = limit
    validate_features(frame)
    frame.loc[50, name] = limit + 0.5
    with pytest.raises(FeatureSchemaError, match=f"{name} reaches {limit + 0.5}, above {limit:g}. Recompute"):
        validate_features(frame)


@pytest.mark.parametrize("name", [name for name, feature in REGISTRY.items() if feature.minimum is not None])
def test_every_minimum_is_held(frame, name):
    frame.loc[50, name] = REGISTRY[name].minimum - 0.5
    with pytest.raises(FeatureSchemaError, match=f"{name}: greater_than_or_equal_to"):
        validate_features(frame)
