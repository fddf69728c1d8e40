"""The eight against TA-Lib, and the kernel of the eight alone against the one of all features."""

from itertools import pairwise

import numpy as np
import pytest

from atlas_pipeline.features.atlas8 import ATLAS8
from atlas_pipeline.features.kernels.atlas8 import BLOCK, HISTORY, SCRATCH, advance_atlas8
from atlas_pipeline.features.kernels.recurrences import MEMORY
from tests.features.kernels.blocks import columns, features_in_blocks, real_rows
from tests.features.kernels.talib_columns import KINDS, LEVELS, drawn, require_equal, talib_columns

IN_PRICES = ("Close", "MACD", "ATR", "Momentum")
PURE = ("RSI", "Volatility", "ROC")


def require_talibs(inputs):
    mine, theirs = columns(inputs), talib_columns(inputs)
    level = np.maximum.accumulate(inputs[1:4].max(axis=0))
    for name in IN_PRICES:
        require_equal(mine[name], theirs[name], level)
    for name in PURE:
        require_equal(mine[name], theirs[name])
    # Where TA-Lib's bands are, the close stands at the position: what is divided by a narrow band has fewer digits.
    position = mine["BB_Position"]
    require_equal(theirs["lower"] + position * (theirs["upper"] - theirs["lower"]), with_warmup(inputs[3], 19), level)


def with_warmup(values, rows):
    values = values.copy()
    values[:rows] = np.nan
    return values


@pytest.mark.parametrize("symbol", ["SP500", "NASDAQ"])
def test_talibs_on_real_bars(bundled_bars, symbol):
    inputs = real_rows(bundled_bars[bundled_bars["symbol"] == symbol])
    require_talibs(inputs)
    mine, theirs = columns(inputs), talib_columns(inputs)
    position = (inputs[3] - theirs["lower"]) / (theirs["upper"] - theirs["lower"])
    require_equal(mine["BB_Position"], position)


@pytest.mark.parametrize("scale", LEVELS)
@pytest.mark.parametrize("kind", KINDS)
def test_talibs_at_any_level(kind, scale):
    require_talibs(drawn(kind, scale, 1500))


@pytest.mark.parametrize("kind", KINDS)
def test_talibs_of_any_length(kind):
    inputs = drawn(kind, 100.0)
    for count in range(1, 301):
        require_talibs(np.ascontiguousarray(inputs[:, :count]))
    assert features_in_blocks(inputs[:, :0]).shape[1] == 0


def test_no_movement_is_the_middle_and_not_the_bottom():
    found = columns(drawn("constant", 7.0, 60))
    assert (found["RSI"][14:] == 50.0).all()
    assert (found["BB_Position"][19:] == 0.5).all()
    for name in ("MACD", "ATR", "Volatility", "ROC", "Momentum"):
        assert (found[name][34:] == 0.0).all(), name


@pytest.mark.parametrize("direction", [1, -1])
def test_rises_alone_are_a_hundred_and_falls_alone_zero(direction):
    steps = np.random.default_rng(0).uniform(0.001, 0.03, 400)
    inputs = drawn("walk", 1.0, 400)
    inputs[3] = 50 * np.exp(direction * steps.cumsum())
    inputs[1], inputs[2] = inputs[3] * 1.01, inputs[3] * 0.99
    assert (columns(inputs)["RSI"][14:] == (100.0 if direction > 0 else 0.0)).all()


def alone(inputs, dtype, cuts=()):
    """The eight by their own kernel, which is given the series in these parts."""
    count = inputs.shape[1]
    memory, history = np.zeros(len(MEMORY)), np.zeros((3, HISTORY))
    scratch = np.full((3 + SCRATCH, HISTORY + min(count, BLOCK)), np.nan)
    out = np.full((len(ATLAS8), count), np.inf, dtype)
    edges = sorted({0, count, *cuts})
    for begin, end in pairwise(edges):
        part = np.empty((len(ATLAS8), end - begin), dtype)
        advance_atlas8(memory, history, *(inputs[1:4, begin:end].copy()), scratch, part)
        out[:, begin:end] = part
    return out


@pytest.mark.parametrize("count", [1, 20, 21, 22, 300, BLOCK, BLOCK + 1, BLOCK + 25, 3 * BLOCK + 7])
def test_the_eight_alone_are_the_same_bits(count):
    inputs = drawn("walk", 100.0, count)
    expected = features_in_blocks(inputs)[: len(ATLAS8)]
    cuts = [cut for cut in (1, 2, 3, 24, 25, 26, 40, 299, BLOCK + 3, 2 * BLOCK + 30) if cut < count]
    for parts in ((), cuts):
        np.testing.assert_array_equal(alone(inputs, np.float64, parts), expected)
