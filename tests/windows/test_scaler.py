from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from atlas_pipeline.config import Config, ScalerKind
from atlas_pipeline.windows.folds import Fold, Split
from atlas_pipeline.windows.index import window_ends
from atlas_pipeline.windows.panel import PRICES, Panel
from atlas_pipeline.windows.scaled_windows import ScaledWindows
from atlas_pipeline.windows.scaler import (
    SCALERS,
    InstanceScaler,
    MinMaxScaler,
    RobustScaler,
    Scaler,
    ScalerLeakError,
    restore,
)

FOLD = Fold(2002, Config(seq_length=16, batch_size=8, accumulation_steps=1, policy_years=1, feature_size=2))
CPU = torch.device("cpu")
kinds = pytest.mark.parametrize("kind", sorted(SCALERS))

# Up to a tenth of the largest number of float32, down to the smallest normal one, and zero.
HUGE = 2.0**124
numbers = st.floats(-HUGE, HUGE, width=32, allow_subnormal=False)
columns = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40), elements=numbers)


def fitted(kind: type[Scaler], values: np.ndarray) -> Scaler:
    """A scaler whose training rows these are."""
    rows, features = values.shape
    one = np.ones(rows)
    panel = Panel(
        symbols=("A",),
        features=tuple(f"f{place}" for place in range(features)),
        symbol=np.zeros(rows, np.int32),
        available_at=np.arange(rows, dtype=np.int64),
        values=values,
        prices=np.ones((rows, len(PRICES))),
        volatility=one,
        split=one,
        dividend=one,
    )
    none = np.empty(0, np.int64)
    return kind.fit(panel, Split(none, none, datetime(2000, 1, 1, tzinfo=UTC), 2000))


def trained(panel: Panel, kind: str = "robust") -> Scaler:
    split = FOLD.split(panel)
    return SCALERS[kind].fit(panel.before(split.train_end), split)


def test_the_configuration_knows_every_kind():
    assert set(SCALERS) == set(ScalerKind.__args__)


@kinds
def test_rows_that_are_not_training_rows_are_refused(make_panel, kind):
    panel = make_panel(rows=700)
    split = FOLD.split(panel)
    with pytest.raises(ScalerLeakError, match=r"not training rows of fold 2002.*panel\.before"):
        SCALERS[kind].fit(panel, split)
    with pytest.raises(ScalerLeakError, match="not training rows"):
        SCALERS[kind].fit(panel.before(FOLD.fit_end), split)


@kinds
def test_another_fold_s_rows_are_refused(make_panel, kind):
    panel = make_panel(rows=700)
    scaler = trained(panel, kind)
    assert scaler.transform(panel.values, 2002).shape == panel.values.shape
    with pytest.raises(ScalerLeakError, match=r"fitted for fold 2002, .*rows for fold 2003: fit one on the training"):
        scaler.transform(panel.values, 2003)
    with pytest.raises(ScalerLeakError, match="fold 2003"):
        ScaledWindows(panel, window_ends(panel, 16), scaler, 2003, 16, CPU)


@kinds
def test_what_comes_after_training_changes_nothing(make_panel, kind):
    panel = make_panel(rows=700)
    split = FOLD.split(panel)
    changed = panel.values.copy()
    changed[panel.available_at >= panel.available_at[split.validation].min()] *= 50
    one, other = (trained(each, kind) for each in (panel, replace(panel, values=changed)))
    for name, array in one.state()[0].items():
        np.testing.assert_array_equal(array, other.state()[0][name])
    assert one.state()[1] == other.state()[1]


@kinds
def test_a_feature_without_values_is_named(make_panel, kind):
    panel = make_panel(rows=700)
    split = FOLD.split(panel)
    values = panel.values.copy()
    values[:, 1] = np.nan
    panel = replace(panel, values=values)
    with pytest.raises(ScalerLeakError, match=r"\['z'\] have no value before .*: choose a set of features without"):
        SCALERS[kind].fit(panel.before(split.train_end), split)


@kinds
def test_what_was_saved_is_the_same_scaler(make_panel, kind):
    panel = make_panel(rows=700)
    scaler = trained(panel, kind)
    again = restore(*scaler.state())
    assert type(again) is type(scaler) and again.state()[1] == scaler.state()[1]
    assert (again.fold, again.train_end, again.features) == (2002, scaler.train_end, ("x", "z"))
    np.testing.assert_array_equal(again.transform(panel.values, 2002), scaler.transform(panel.values, 2002))


def test_an_unknown_or_incomplete_record_is_refused(make_panel):
    arrays, record = trained(make_panel(rows=700)).state()
    with pytest.raises(ValueError, match="no scaler of kind 'quantile', only robust, min_max, instance"):
        restore(arrays, {**record, "kind": "quantile"})
    with pytest.raises(ValueError, match="'robust' is made of"):
        restore({"centre": arrays["centre"]}, record)


@kinds
def test_values_outside_the_training_range_are_flagged(make_panel, kind):
    panel = make_panel(rows=700)
    scaler = trained(panel, kind)
    seen = panel.before(scaler.train_end).values
    assert not scaler.outside(seen).any()
    high, low = np.nanmax(seen, axis=0), np.nanmin(seen, axis=0)
    rows = np.float32([high * 1.01, low * 1.01, (high + low) / 2, [np.nan, high[1] + 1]])
    assert scaler.outside(rows).tolist() == [[True, True], [True, True], [False, False], [False, True]]
    # Of the known values: three of the first feature, four of the second.
    assert scaler.outside_share(rows) == {"x": pytest.approx(2 / 3), "z": 3 / 4}
    assert np.isnan(scaler.outside_share(np.full((2, 2), np.nan, np.float32))["x"])


def test_normal_inputs_get_unit_scale_and_outliers_are_clipped(make_panel):
    panel = make_panel(rows=700)
    scaler = trained(panel)
    assert isinstance(scaler, RobustScaler)
    scaled = scaler.transform(panel.values, 2002)
    assert np.isnan(scaled[:5, 0]).all()
    # 900 normal draws: the standard error of a robust scale is about 4%.
    assert np.nanstd(scaled, axis=0) == pytest.approx([1, 1], abs=0.15)
    assert replace(scaler, clip=4.0).transform(np.float32([[1e6, -1e6]]), 2002).tolist() == [[4.0, -4.0]]
    assert scaled.dtype == np.float32


@settings(max_examples=60, deadline=None)
@given(values=columns, kind=st.sampled_from([RobustScaler, MinMaxScaler]))
def test_fitted_scalers_keep_the_order_of_values_and_their_bounds(values, kind):
    scaler = fitted(kind, values)
    least, greatest = (-scaler.clip, scaler.clip) if isinstance(scaler, RobustScaler) else (0.0, 1.0)
    beyond = np.vstack([values, 3 * values, -values])
    scaled = scaler.transform(beyond, 2000)
    assert scaled.min() >= least and scaled.max() <= greatest
    for column, own in zip(beyond.T, scaled.T, strict=True):
        assert (np.diff(own[np.argsort(column, kind="stable")]) >= 0).all()


@settings(max_examples=60, deadline=None)
@given(values=columns)
def test_min_max_is_that_of_scikit_learn_and_can_be_inverted(values):
    scaled = fitted(MinMaxScaler, values).transform(values, 2000).astype(np.float64)
    low, high = values.min(axis=0).astype(np.float64), values.max(axis=0).astype(np.float64)
    constant = high == low
    np.testing.assert_array_equal(scaled[:, constant], 0.0)
    moving = scaled[:, ~constant]
    np.testing.assert_array_equal(moving.min(axis=0), 0.0)
    np.testing.assert_array_equal(moving.max(axis=0), 1.0)
    # The scaled value is float32: a rounding is 6e-8 of the range.
    np.testing.assert_allclose(
        (low + scaled * (high - low) - values) / np.where(constant, 1.0, high - low), 0.0, atol=1e-7
    )


@settings(max_examples=60, deadline=None)
@given(values=columns)
def test_robust_scaling_can_be_inverted_where_it_does_not_clip(values):
    scaler = fitted(RobustScaler, values)
    scaled = scaler.transform(values, 2000).astype(np.float64)
    inside = np.abs(scaled) < scaler.clip
    error = (scaler.centre + scaled * scaler.scale - values) / scaler.scale
    # Of at most 8 units of scale the last bit of float32 is below 1e-6.
    assert np.abs(error[inside]).max(initial=0.0) < 1e-6
    assert (scaled[values == scaler.centre] == 0).all()


@settings(max_examples=60, deadline=None)
@given(
    window=arrays(np.float32, (2, 12, 3), elements=st.floats(-1, 1, width=32)),
    size=st.sampled_from([1e-36, 1e-12, 1.0, 1e12, 1e36]),
    shift=st.sampled_from([0.0, 3.0]),
)
def test_instance_normalisation_knows_neither_level_nor_size(window, size, shift):
    scaler = fitted(InstanceScaler, window[0])
    normal = scaler.normalize(torch.from_numpy(window)).numpy()
    moved = scaler.normalize(torch.from_numpy(((window + np.float32(shift)) * np.float32(size)).astype(np.float32)))
    deviation = window.astype(np.float64).std(axis=1)
    # What spreads by a thousandth loses three digits of seven to a level of three.
    clear = np.broadcast_to((deviation > 1e-3)[:, None], window.shape)
    np.testing.assert_allclose(moved.numpy()[clear], normal[clear], atol=1e-2)
    expected = (window - window.mean(axis=1, keepdims=True, dtype=np.float64)) / np.where(deviation, deviation, 1.0)[
        :, None
    ]
    np.testing.assert_allclose(normal[clear], expected[clear], atol=1e-3)
    assert np.isfinite(normal).all() and np.abs(normal).max() <= np.sqrt(11) + 1e-3


@pytest.mark.parametrize("value", [0.0, 1.0, 100.1, -1e30, 1e-40])
def test_what_is_constant_in_a_window_is_zero(value):
    scaler = fitted(InstanceScaler, np.float32([[1.0], [2.0]]))
    assert not scaler.normalize(torch.full((2, 32, 1), value)).any()


def test_what_is_missing_stays_missing():
    rows = np.float32([[1.0], [np.nan], [2.0]])
    for kind in SCALERS.values():
        scaler = fitted(kind, rows)
        scaled = torch.from_numpy(scaler.transform(rows, 2000))
        assert scaled.isnan().flatten().tolist() == [False, True, False]
        assert scaler.normalize(scaled[None]).isnan()[0, 1]


@kinds
def test_no_missing_value_reaches_a_model(make_panel, kind):
    panel = make_panel(rows=700)
    values = panel.values.copy()
    values[300, 1], values[310, 0] = np.nan, np.inf
    broken = replace(panel, values=values)
    scaler = trained(broken, kind)
    ends = window_ends(broken, 16)
    assert not {*range(300, 326)} & set(ends.tolist())
    windows = ScaledWindows(broken, ends, scaler, 2002, 16, CPU)
    assert windows(torch.from_numpy(ends)).isfinite().all()
    for forced in (300, 310, 325):
        with pytest.raises(ValueError, match=rf"1 rows, the first {forced}, do not end a valid window of 16 bars"):
            ScaledWindows(broken, np.array([400, forced]), scaler, 2002, 16, CPU)


def test_a_panel_may_hold_more_than_is_read_but_not_less(make_panel):
    panel = make_panel(rows=700)
    scaler = trained(panel.select(["z"]))
    ends = window_ends(panel, 16)
    one = ScaledWindows(panel, ends, scaler, 2002, 16, CPU)(torch.from_numpy(ends))
    other = ScaledWindows(panel.select(["z"]), ends, scaler, 2002, 16, CPU)(torch.from_numpy(ends))
    assert torch.equal(one, other) and one.shape[2] == 1
    with pytest.raises(RuntimeError, match=r"lacks \['z'\]"):
        ScaledWindows(panel.select(["x"]), ends, scaler, 2002, 16, CPU)
