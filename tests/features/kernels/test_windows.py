"""Sums, moments and extrema of windows against exact arithmetic, with the bounds that the module states."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_pipeline.features.kernels.windows import moments_20, moments_100, window_maximum, window_sum

ROUNDING = 2.0**-53
WINDOWS = [1, 2, 3, 5, 20, 50, 60, 63, 64, 100, 200, 252]
MOMENTS = {20: (moments_20, 2), 100: (moments_100, 4)}


def sums(values, window):
    out = np.full(len(values), np.nan)
    window_sum(values, window, np.full((2, len(values)), np.nan), out)
    return out


def maxima(values, window):
    out = np.full(len(values), np.nan)
    window_maximum(values, window, np.full((2, len(values)), np.nan), out)
    return out


def moments(values, window):
    kernel, scratch = MOMENTS[window]
    total, squares = np.full((2, len(values)), np.nan)
    kernel(values, np.full((scratch, len(values)), np.nan), total, squares)
    return total, squares


def wide(count: int, seed: int = 0) -> np.ndarray:
    """Values of both signs over ten orders of magnitude."""
    random = np.random.default_rng(seed)
    return random.normal(size=count) * 10.0 ** random.uniform(-5, 5, count)


@pytest.mark.parametrize("window", WINDOWS)
def test_the_sum_of_the_millionth_row_is_as_exact_as_the_first(window):
    count = 1_000_000
    values = wide(count)
    found = sums(values, window)
    bound = 2 * math.log2(window) * ROUNDING
    for row in {*range(window - 1, window + 200), *range(count - 200, count), *range(window, count, 9973)}:
        own = values[row - window + 1 : row + 1].tolist()
        assert abs(found[row] - math.fsum(own)) <= bound * math.fsum(map(abs, own)), row
    # No trace of the rows before: the same bits from the window alone.
    np.testing.assert_array_equal(sums(values[-window - 50 :].copy(), window)[-50:], found[-50:])


def test_a_running_sum_would_be_seen():
    values = np.concatenate([[1e17], wide(100_000)])
    running = np.cumsum(values)
    error = abs(running[-1] - running[-21] - math.fsum(values[-20:]))
    assert error > 1e4 * 2 * math.log2(20) * ROUNDING * np.abs(values[-20:]).sum()


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("beyond", [0, 1, 7])
def test_short_inputs(window, beyond):
    values = np.random.default_rng(window).integers(-50, 50, window + beyond).astype(float)
    expected = [values[end - window : end].sum() for end in range(window, len(values) + 1)]
    np.testing.assert_array_equal(sums(values, window)[window - 1 :], expected)
    highest = [values[end - window : end].max() for end in range(window, len(values) + 1)]
    np.testing.assert_array_equal(maxima(values, window)[window - 1 :], highest)
    for count in {0, 1, window // 2, window - 1}:
        assert len(sums(values[:count], window)) == count
        assert len(maxima(values[:count], window)) == count


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.floats(-1e12, 1e12) | st.sampled_from([0.0, 1.0, -1.0]), max_size=80),
    st.sampled_from([1, 2, 3, 7, 20, 31, 60]),
)
def test_extrema_are_those_of_the_window(values, window):
    values = np.array(values, dtype="float64")
    found = maxima(values, window)
    for row in range(window - 1, len(values)):
        assert found[row] == max(values[row - window + 1 : row + 1])


@pytest.mark.parametrize("window", WINDOWS)
def test_extrema_of_a_long_series(window):
    values = np.round(np.random.default_rng(0).normal(size=3000).cumsum(), 1)
    expected = np.lib.stride_tricks.sliding_window_view(values, window).max(axis=1)
    np.testing.assert_array_equal(maxima(values, window)[window - 1 :], expected)


@pytest.mark.parametrize("window", WINDOWS)
def test_nan_spoils_the_sums_that_hold_it_and_no_other(window):
    values = wide(900)
    values[[5, 300, 303, 700]] = math.nan
    holds = np.lib.stride_tricks.sliding_window_view(np.isnan(values), window).any(axis=1)
    np.testing.assert_array_equal(np.isnan(sums(values, window)[window - 1 :]), holds)


@pytest.mark.parametrize("window", [20, 100])
def test_nan_spoils_the_moments_that_hold_it_and_no_other(window):
    values = wide(900)
    values[[5, 300, 303, 700]] = math.nan
    holds = np.lib.stride_tricks.sliding_window_view(np.isnan(values), window).any(axis=1)
    for found in moments(values, window):
        np.testing.assert_array_equal(np.isnan(found[window - 1 :]), holds)


def require_bounds(values: np.ndarray, window: int, rows) -> None:
    total, squares = moments(values, window)
    for row in rows:
        exact = [Fraction(value) for value in values[row - window + 1 : row + 1].tolist()]
        center = sum(exact) / window
        expected = sum((value - center) ** 2 for value in exact)
        level = max(abs(value) for value in exact)
        assert abs(Fraction(float(total[row])) - sum(exact)) <= 12 * Fraction(ROUNDING) * window * level
        if expected == 0:
            assert squares[row] == 0.0
            continue
        ratio = float(level) / math.sqrt(float(expected / window))
        assert abs(Fraction(float(squares[row])) / expected - 1) <= 30 * ROUNDING * ratio, row
        assert squares[row] > 0.0


@pytest.mark.parametrize("window", [20, 100])
@pytest.mark.parametrize("deviation", [1e-12, 1e-6, 1e-2, 1.0, 1e6])
def test_moments_keep_their_bound_at_every_level(window, deviation):
    random = np.random.default_rng(0)
    values = 1.0 + deviation * random.normal(size=2000)
    require_bounds(values, window, range(window - 1, 2000, 37))
    # A wandering level, as of prices; and one jump of ten orders within the window.
    walk = np.exp(0.01 * random.normal(size=2000).cumsum())
    require_bounds(walk + deviation * random.normal(size=2000), window, range(window - 1, 2000, 37))
    values[1000:] *= 1e10
    require_bounds(values, window, range(990, 1000 + window + 5))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(-1000, 1000), min_size=20, max_size=40),
    st.sampled_from([1.0, 0.1, 1e-150 / 3, 1e100]),
    st.sampled_from([0, 10**3, 10**9]),
)
def test_moments_of_any_twenty(ticks, scale, level):
    values = np.array([(tick + level) * scale for tick in ticks])
    require_bounds(values, 20, range(19, len(values)))


@pytest.mark.parametrize("window", [20, 100])
@pytest.mark.parametrize("value", [123.456, 1e-150, 0.1, 1e100, -7.3, 0.0])
def test_a_constant_window_has_no_deviation(window, value):
    values = np.concatenate([wide(37), np.full(window + 40, value), wide(30, seed=1)])
    squares = moments(values, window)[1]
    constant = slice(37 + window - 1, 37 + window + 40)
    assert (squares[constant] == 0.0).all()
    assert squares[constant.start - 1] > 0
    assert squares[constant.stop] > 0


@pytest.mark.parametrize("window", [20, 100])
def test_moments_do_not_drift(window):
    values = np.abs(wide(1_000_000))
    total, squares = moments(values, window)
    alone = moments(values[-window:].copy(), window)
    assert total[-1] == alone[0][-1]
    assert squares[-1] == alone[1][-1]
    require_bounds(values, window, range(999_900, 1_000_000, 9))
