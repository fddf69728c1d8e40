"""The eight features bar by bar are, bit for bit, those of the block."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_pipeline.features.atlas8 import ATLAS8
from atlas_pipeline.features.kernels.atlas8_step import STEP_STATE, step_atlas8
from tests.features.kernels.blocks import drawn_rows, features_in_blocks
from tests.features.kernels.talib_columns import KINDS, drawn


def stepped(inputs, dtype=np.float64, saved_at=()):
    """The eight, bar by bar; before some rows the state is copied, as if it were saved and read again."""
    state, out = np.zeros(STEP_STATE), np.full((inputs.shape[1], len(ATLAS8)), np.inf, dtype)
    for row, (high, low, close) in enumerate(inputs[1:4].T):
        if row in saved_at:
            state = np.frombuffer(state.tobytes()).copy()
        step_atlas8(state, high, low, close, out[row])
    return out.T


@pytest.mark.parametrize("kind", KINDS)
def test_steps_change_no_bit(kind):
    inputs = drawn(kind, 100.0, 700)
    np.testing.assert_array_equal(stepped(inputs, saved_at=(1, 20, 333)), features_in_blocks(inputs)[: len(ATLAS8)])


@settings(max_examples=60, deadline=None)
@given(drawn_rows(st.integers(0, 120)))
def test_steps_of_any_series_change_no_bit(inputs):
    np.testing.assert_array_equal(stepped(inputs), features_in_blocks(inputs)[: len(ATLAS8)])


def test_stored_steps_are_rounded_as_stored_features():
    inputs = drawn("walk", 100.0)
    expected = features_in_blocks(inputs)[: len(ATLAS8)].astype(np.float32)
    np.testing.assert_array_equal(stepped(inputs, np.float32), expected)
