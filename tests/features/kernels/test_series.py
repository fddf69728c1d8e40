"""Every feature against its formula, and blocks of any size against one block."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_pipeline.features.kernels.atlas8 import BLOCK
from atlas_pipeline.features.kernels.series import HISTORY, INPUTS, STATE, advance
from atlas_pipeline.features.registry import REGISTRY
from tests.features.kernels.blocks import DECAY, NAMES, columns, drawn_rows, features_in_blocks
from tests.features.kernels.references import REFERENCES, Rows, tolerance

WARMUPS = sorted({feature.warmup for feature in REGISTRY.values()})
COUNTS = st.one_of(st.integers(0, 40), st.sampled_from(WARMUPS), st.integers(100, 320))


def test_every_feature_has_a_reference():
    assert tuple(REFERENCES) == NAMES


@settings(max_examples=300, deadline=None)
@given(inputs=drawn_rows(COUNTS), chosen=st.lists(st.integers(0, 320), max_size=6))
def test_every_feature_is_what_its_formula_says(inputs, chosen):
    found = columns(inputs)
    count = inputs.shape[1]
    for row in sorted({*(each for each in chosen if each < count), *(each for each in WARMUPS if each < count)}):
        rows = Rows.until(inputs, row)
        for name, feature in REGISTRY.items():
            mine = found[name][row]
            if row < feature.warmup:
                assert math.isnan(mine), (name, row)
                continue
            expected = REFERENCES[name](rows)
            if math.isnan(expected):
                assert math.isnan(mine), (name, row, mine)
                continue
            allowed = tolerance(name, rows, expected, feature.in_currency)
            assert abs(mine - expected) <= allowed, (name, row, mine, expected, allowed)


@settings(max_examples=100, deadline=None)
@given(
    inputs=drawn_rows(st.one_of(st.integers(1, 320), st.sampled_from([BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 9]))),
    cuts=st.lists(st.integers(1, 2 * BLOCK), max_size=12),
    single=st.integers(0, 2 * BLOCK),
)
def test_blocks_change_no_bit(inputs, cuts, single):
    count = inputs.shape[1]
    inside = {cut for cut in (*cuts, *range(single, single + 30)) if 0 < cut < count}
    np.testing.assert_array_equal(features_in_blocks(inputs, inside), features_in_blocks(inputs))


def test_rows_one_at_a_time_change_no_bit():
    inputs = drawn_series(700)
    np.testing.assert_array_equal(features_in_blocks(inputs, range(1, 700)), features_in_blocks(inputs))


def drawn_series(count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    close = 100 * np.exp(random.normal(0, 0.02, count).cumsum())
    inputs = np.array([close * np.exp(random.normal(0, 0.005, count)) for _ in INPUTS])
    inputs[1] = inputs[:4].max(axis=0)
    inputs[2] = inputs[:4].min(axis=0)
    inputs[4] = np.round(1e5 * random.exponential(size=count))
    return inputs


def advanced(inputs, begins_anew, split, dividend, cuts=(), block=BLOCK, dtype=np.float32):
    """Features of one series, which the kernel is given in these parts."""
    count = inputs.shape[1]
    states, histories = np.zeros((1, STATE)), np.zeros((1, len(INPUTS), HISTORY))
    out = np.full((len(NAMES), count), np.inf, dtype)
    usable = np.isfinite(inputs[1:4]).all(axis=0)
    edges = sorted({0, count, *(cut for cut in cuts if 0 < cut < count)})
    for begin, end in pairwise(edges):
        bounds = np.array([begin, end])
        advance(states, histories, DECAY, bounds, begins_anew, usable, split, dividend, inputs, out, block)
    return out


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 1000),
    count=st.one_of(st.integers(1, 120), st.sampled_from([BLOCK, 2 * BLOCK + 40])),
    unusable=st.lists(st.tuples(st.integers(0, 2 * BLOCK), st.integers(1, 3)), max_size=4),
    holes=st.lists(st.integers(0, 2 * BLOCK), max_size=3),
    splits=st.lists(st.tuples(st.integers(0, 2 * BLOCK), st.sampled_from([7.0, 0.1, 1.5])), max_size=3),
    dividends=st.lists(st.tuples(st.integers(0, 2 * BLOCK), st.floats(0.001, 3.0)), max_size=3),
    cuts=st.lists(st.integers(1, 2 * BLOCK), max_size=12),
    single=st.integers(0, 2 * BLOCK),
    block=st.sampled_from([1, 2, 61, 253, BLOCK, 4 * BLOCK]),
)
def test_parts_of_a_broken_series_change_no_bit(seed, count, unusable, holes, splits, dividends, cuts, single, block):
    inputs = drawn_series(count, seed)
    split, dividend, begins_anew = np.ones(count), np.zeros(count), np.zeros(count, dtype=bool)
    for row, kind in unusable:
        inputs[kind, row % count] = np.nan
    for row, value in splits:
        split[row % count] = value
    for row, value in dividends:
        dividend[row % count] = value
    begins_anew[[row % count for row in holes]] = True
    begins_anew[0] = True
    inputs[:4] /= np.cumprod(split)
    whole = advanced(inputs, begins_anew, split, dividend)
    assert not np.isinf(whole).any()
    parts = advanced(inputs, begins_anew, split, dividend, [*cuts, *range(single, single + 20)], block)
    np.testing.assert_array_equal(parts, whole)


def test_after_an_unusable_row_or_a_hole_a_series_is_one_that_begins():
    count, broken, hole = 900, 310, 640
    inputs = drawn_series(count)
    inputs[2, broken] = np.nan
    begins_anew = np.zeros(count, dtype=bool)
    begins_anew[[0, hole]] = True
    found = advanced(inputs, begins_anew, np.ones(count), np.zeros(count))
    for begin, end in ((0, broken), (broken + 1, hole), (hole, count)):
        alone = features_in_blocks(np.ascontiguousarray(inputs[:, begin:end]))
        np.testing.assert_array_equal(found[:, begin:end], alone.astype(np.float32))
    empty = found[:, broken]
    assert empty[NAMES.index("momentum_signal")] == -1.0
    assert np.isnan(np.delete(empty, NAMES.index("momentum_signal"))).all()


def test_split_and_dividend_are_taken_out_and_prices_stay_on_their_bars_scale():
    count = 400
    inputs = drawn_series(count)
    split, dividend, none = np.ones(count), np.zeros(count), np.zeros(count, dtype=bool)
    split[[150, 290]] = 8.0, 0.25
    shares = np.cumprod(split)
    traded = inputs.copy()
    traded[:4] /= shares
    traded[4] *= shares
    plain = advanced(inputs, none, np.ones(count), dividend)
    found = advanced(traded, none, split, dividend)
    for number, feature in enumerate(REGISTRY.values()):
        # Splits by powers of two: not a bit is lost.
        scale = shares if feature.in_currency else np.ones(count)
        np.testing.assert_array_equal(found[number], (plain[number] / scale).astype(np.float32), err_msg=feature.name)
    dividend[200] = 5.0
    paid = advanced(inputs, none, np.ones(count), dividend)
    gained = paid[NAMES.index("return_1")] - plain[NAMES.index("return_1")]
    assert gained[200] == pytest.approx(math.log(1 + 5.0 / inputs[3, 200]), rel=1e-6)
    assert np.abs(np.delete(gained, 200)[1:]).max() < 1e-7


def test_series_side_by_side_do_not_touch_each_other():
    one, other = drawn_series(300), drawn_series(1100, seed=1)
    both = np.concatenate([one, other], axis=1)
    count = both.shape[1]
    begins_anew, split, dividend = np.zeros(count, dtype=bool), np.ones(count), np.zeros(count)
    out = np.empty((len(NAMES), count), np.float32)
    states, histories = np.zeros((2, STATE)), np.zeros((2, len(INPUTS), HISTORY))
    bounds, usable = np.array([0, 300, count]), np.ones(count, dtype=bool)
    advance(states, histories, DECAY, bounds, begins_anew, usable, split, dividend, both, out, BLOCK)
    np.testing.assert_array_equal(out[:, :300], features_in_blocks(one).astype(np.float32))
    np.testing.assert_array_equal(out[:, 300:], features_in_blocks(other).astype(np.float32))
    assert (states[:, 0] == [300, 1100]).all()
    np.testing.assert_array_equal(histories[1], other[:, -HISTORY:])
