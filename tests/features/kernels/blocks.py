"""Rows of bars drawn by hypothesis, and the kernels run over them in blocks of any size, in float64."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from hypothesis import strategies as st

from atlas_pipeline.features.kernels.series import FEATURE_COUNT, HISTORY, INPUTS, SCRATCH, STATE, features_of_block
from atlas_pipeline.features.registry import REGISTRY

Array = np.ndarray
DECAY = 0.94
NAMES = tuple(REGISTRY)
SCALES = (1.0, 1e-150, 1e-12, 1e12, 1e100)
"""Levels of prices: squares of the smallest and largest are still normal numbers."""


def features_in_blocks(inputs: Array, cuts: Iterable[int] = ()) -> Array:
    """Features (float64 [FEATURE_COUNT, n]) of one series without a hole, cut into blocks before these rows."""
    rows = inputs.shape[1]
    found = np.full((FEATURE_COUNT, rows), np.nan)
    if rows == 0:
        return found
    joined = np.concatenate([np.repeat(inputs[:, :1], HISTORY, axis=1), inputs], axis=1)
    memory = np.zeros(STATE)
    for begin, end in pairwise(sorted({0, rows, *cuts})):
        block = np.ascontiguousarray(joined[:, begin : HISTORY + end])
        scratch, made = np.full((SCRATCH, block.shape[1]), np.nan), np.full((FEATURE_COUNT, end - begin), np.nan)
        features_of_block(memory, DECAY, block, end - begin, scratch, made)
        found[:, begin:end] = made
    return found


def columns(inputs: Array, cuts: Iterable[int] = ()) -> dict[str, Array]:
    """Features by name."""
    return dict(zip(NAMES, features_in_blocks(inputs, cuts), strict=True))


def rows_of(close: Array, spread: float = 0.01, volume: float | Array = 1.0, index: float | Array = 20.0) -> Array:
    """Inputs of a close, opened where it closed before, high and low a spread around both."""
    close = np.asarray(close, dtype="float64")
    opening = np.concatenate([close[:1], close[:-1]])
    inputs = np.empty((len(INPUTS), len(close)))
    inputs[0], inputs[3] = opening, close
    inputs[1], inputs[2] = np.maximum(opening, close) * (1 + spread), np.minimum(opening, close) * (1 - spread)
    inputs[4], inputs[5] = volume, index
    return inputs


def real_rows(bars) -> Array:
    """Inputs of stored bars, without an index."""
    return np.array([bars[name].to_numpy() for name in INPUTS[:5]] + [np.full(len(bars), np.nan)])


@st.composite
def drawn_rows(draw: st.DrawFn, counts: st.SearchStrategy[int]) -> Array:
    """Inputs of one series without a hole: walks, ticks and constants at any level, some opens and volumes missing."""
    rows = draw(counts)
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    volatility = draw(st.sampled_from([0.01, 0.0, 1e-4, 0.3]))
    close = np.exp(volatility * random.normal(size=rows).cumsum())
    tick = draw(st.sampled_from([0.0, 0.01, 0.5]))
    if tick:
        # Prices stand still, rise and fall by the same, and repeat their extrema.
        close = np.maximum(np.round(close / tick), 1.0) * tick
    close *= draw(st.sampled_from(SCALES))
    inputs = rows_of(close, draw(st.sampled_from([0.0, 0.001, 0.05])))
    inputs[0] *= np.exp(draw(st.sampled_from([0.0, 0.002])) * random.normal(size=rows))
    inputs[1], inputs[2] = np.maximum(inputs[1], inputs[0]), np.minimum(inputs[2], inputs[0])
    inputs[4] = np.round(draw(st.sampled_from([1e6, 3.0])) * random.exponential(size=rows))
    if draw(st.booleans()):
        inputs[4] = draw(st.sampled_from([0.0, 7.0]))
    inputs[5] = np.round(15 * np.exp(0.05 * random.normal(size=rows).cumsum()), 2)
    if rows:
        missing = st.lists(st.integers(0, rows - 1), max_size=3)
        for kind in (0, 4, 5):
            inputs[kind, draw(missing)] = np.nan
        inputs[4, draw(missing)] = 0.0
    return inputs
