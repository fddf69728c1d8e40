from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from atlas_pipeline.config import Config
from atlas_pipeline.windows.folds import Fold
from atlas_pipeline.windows.scaler import RobustScaler, ScalerLeakError

FOLD = Fold(2002, Config(seq_length=16, batch_size=8, accumulation_steps=1, policy_years=1, feature_size=2))


def test_it_refuses_rows_that_are_not_training_rows(make_panel):
    panel = make_panel(rows=700)
    split = FOLD.split(panel)
    with pytest.raises(ScalerLeakError, match=r"not training rows.*panel\.before"):
        RobustScaler.fit(panel, split)
    with pytest.raises(ScalerLeakError, match="not training rows"):
        RobustScaler.fit(panel.before(FOLD.fit_end), split)


def test_it_is_unchanged_by_what_comes_after_training(make_panel):
    panel = make_panel(rows=700)
    split = FOLD.split(panel)
    changed = panel.values.copy()
    changed[panel.available_at >= panel.available_at[split.validation].min()] *= 50
    one, other = (RobustScaler.fit(p.before(split.train_end), split) for p in (panel, replace(panel, values=changed)))
    np.testing.assert_array_equal(one.centre, other.centre)
    np.testing.assert_array_equal(one.scale, other.scale)


def test_normal_inputs_get_unit_scale_and_outliers_are_clipped(make_panel):
    panel = make_panel(rows=700)
    split = FOLD.split(panel)
    scaler = RobustScaler.fit(panel.before(split.train_end), split, clip=4.0)
    scaled = scaler.transform(panel.values)
    assert np.isnan(scaled[:5, 0]).all()
    # 900 normal draws: the standard error of a robust scale is about 4%.
    assert np.nanstd(scaled, axis=0) == pytest.approx([1, 1], abs=0.15)
    assert scaler.transform(np.float32([[1e6, -1e6]])).tolist() == [[4.0, -4.0]]
    assert scaled.dtype == np.float32


def test_a_feature_without_values_is_named(make_panel):
    panel = make_panel(rows=700)
    split = FOLD.split(panel)
    values = panel.values.copy()
    values[:, 1] = np.nan
    with pytest.raises(ScalerLeakError, match=r"\['z'\] have no value"):
        RobustScaler.fit(replace(panel, values=values).before(split.train_end), split)
