"""Seeds and steps of the recurrences, one row at a time and in any parts."""

from itertools import pairwise

import numpy as np
import pytest

from atlas_pipeline.features.compute import trailing_volatility
from atlas_pipeline.features.kernels.recurrences import (
    MEMORY,
    SEEDED,
    exponential_averages,
    indicators,
    moves,
    seed_indicators,
    volatilities,
)
from tests.features.kernels.blocks import DECAY, columns
from tests.features.kernels.talib_columns import drawn


def test_moves_are_rise_fall_and_true_range_over_their_periods():
    close = np.array([10.0, 12.0, 12.0, 9.0, 9.5])
    high = np.array([10.5, 12.5, 12.25, 11.0, 9.75])
    low = np.array([9.5, 11.0, 12.0, 8.75, 9.25])
    rise, fall, extent = np.empty((3, 4))
    moves(high, low, close, rise, fall, extent)
    np.testing.assert_allclose(rise * 14, [2, 0, 0, 0.5], rtol=1e-15)
    np.testing.assert_allclose(fall * 14, [0, 0, 3, 0], rtol=1e-15)
    # A gap over the close before belongs to the range: up at the first, down at the third.
    np.testing.assert_allclose(extent * 14, [2.5, 0.25, 3.25, 0.75], rtol=1e-15)


def run(inputs, young):
    """Averages of a series, row by row as seeds up to ``young``, then in one block."""
    _, high, low, close = inputs[:4]
    rise, fall, extent, line = np.empty((4, len(close)))
    moves(*(np.concatenate([values[:1], values]) for values in (high, low, close)), rise, fall, extent)
    memory = np.zeros(len(MEMORY))
    seed_indicators(memory, 0, close[:young], rise[:young], fall[:young], extent[:young], line[:young])
    indicators(memory, close[young:], rise[young:], fall[young:], extent[young:], line[young:])
    return memory, np.array([rise, fall, extent, line])


@pytest.mark.parametrize("young", [SEEDED, SEEDED + 1, 100, 300])
def test_past_the_seeds_both_loops_are_the_same_bits(young):
    inputs = drawn("walk", 100.0)
    for found, expected in zip(run(inputs, young), run(inputs, SEEDED), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_seeds_end_where_the_first_average_begins():
    inputs = drawn("walk", 100.0)
    assert not np.array_equal(run(inputs, SEEDED - 1)[1], run(inputs, SEEDED)[1])
    changes = np.diff(inputs[3])
    rise, moved, _, line = run(inputs, SEEDED)[1]
    assert rise[14] == pytest.approx(changes[:14].clip(min=0).mean(), rel=1e-14)
    assert moved[14] == pytest.approx(np.abs(changes[:14]).mean(), rel=1e-14)
    assert line[25] == pytest.approx(inputs[3, 14:26].mean() - inputs[3, :26].mean(), abs=1e-12)


@pytest.mark.parametrize("cuts", [[7], [20, 21], [1, 2, 3, 25, 26, 27, 150]])
def test_parts_change_no_bit(cuts):
    close = drawn("walk", 100.0)[3]
    returns = np.diff(np.log(close), prepend=np.nan)
    wholes = {}
    for name, kernel, given in (("averages", exponential_averages, ()), ("variances", volatilities, (DECAY,))):
        values = close if name == "averages" else returns
        for parts in ([], cuts):
            memory, out = np.zeros(len(MEMORY)), np.full((2, len(close)), np.nan)
            edges = [0, *parts, len(close)]
            for begin, end in pairwise(edges):
                kernel(memory, begin, *given, values[begin:end], out[0, begin:end], out[1, begin:end])
            expected = wholes.setdefault(name, (memory, out))
            np.testing.assert_array_equal(memory, expected[0])
            np.testing.assert_array_equal(out, expected[1])


def test_averages_forget_what_was_in_the_memory_before_the_series_began():
    close = drawn("walk", 100.0)[3]
    returns = np.diff(np.log(close), prepend=5.0)
    for kernel, given in ((exponential_averages, (close,)), (volatilities, (DECAY, returns))):
        found = []
        for before in (0.0, 3.0):
            out = np.empty((2, len(close)))
            kernel(np.full(len(MEMORY), before), 0, *given, *out)
            found.append(out)
        np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("count", [0, 1, 20, 21, 22, 300])
def test_the_trailing_volatility_of_one_series_is_the_column(count):
    inputs = drawn("walk", 100.0, count)
    np.testing.assert_array_equal(trailing_volatility(inputs[3], DECAY), columns(inputs)["volatility_ewma"])
