import math

import numpy as np
import pytest
from scipy import stats

from atlas_pipeline.market import simulation_kernels as kernels

COUNT = 40_000


def extremes(ends, variance=1.0, seed=0):
    uniforms = 1 - np.random.default_rng(seed).random((len(ends), 2))
    tops = np.array([kernels.highest(end, variance, u) for end, u in zip(ends, uniforms[:, 0], strict=True)])
    rows = zip(ends, tops, uniforms[:, 1], strict=True)
    return tops, np.array([kernels.lowest(end, top, variance, u) for end, top, u in rows])


def assert_mean(values, expected):
    # Four standard errors: one in 16,000 draws of the seed would miss it.
    assert abs(values.mean() - expected) < 4 * values.std() / math.sqrt(len(values))


def test_of_a_bridge_that_ends_where_it_began_the_moments_are_the_closed_forms():
    top, bottom = extremes(np.zeros(COUNT))
    # The maximum is Rayleigh; the range is Kuiper's statistic (Kuiper 1960): mean √(π/2), mean square π²/6.
    assert_mean(top, math.sqrt(math.pi / 8))
    assert_mean(-bottom, math.sqrt(math.pi / 8))
    assert_mean(top - bottom, math.sqrt(math.pi / 2))
    assert_mean((top - bottom) ** 2, math.pi**2 / 6)
    # (π²/6 − 1) / 2 is the mean of the product.
    expected = ((math.pi**2 / 6 - 1) / 2 - math.pi / 8) / (1 / 2 - math.pi / 8)
    assert np.corrcoef(top, -bottom)[0, 1] == pytest.approx(expected, abs=4 / math.sqrt(COUNT))


def test_of_a_brownian_motion_the_mean_square_of_the_range_is_parkinsons():
    variance = 4.0
    ends = np.random.default_rng(1).normal(0, math.sqrt(variance), COUNT)
    top, bottom = extremes(ends, variance)
    # Parkinson, Journal of Business 53, 1980; Feller 1951 has the mean.
    assert_mean((top - bottom) ** 2, 4 * math.log(2) * variance)
    assert_mean(top - bottom, math.sqrt(8 / math.pi * variance))


def test_lows_of_a_bridge_are_highs_of_the_one_upside_down():
    ends = np.full(COUNT, 0.7)
    _, bottom = extremes(ends)
    top, _ = extremes(-ends, seed=1)
    assert stats.ks_2samp(-bottom, top).pvalue > 0.01


@pytest.mark.parametrize("end", [-60.0, -3.0, -1e-9, 0.0, 1e-9, 3.0, 60.0])
@pytest.mark.parametrize("first", [1e-16, 0.5, 1.0])
@pytest.mark.parametrize("second", [1e-16, 0.5, 1.0])
def test_no_draw_is_beyond_the_ends_or_infinite(end, first, second):
    top = kernels.highest(end, 1.0, first)
    bottom = kernels.lowest(end, top, 1.0, second)
    assert max(0.0, end) <= top < max(0.0, end) + 10
    # A standard deviation of 1e-4 of the bar is what the solver leaves.
    assert min(0.0, end) - 10 < bottom <= min(0.0, end) + 1e-4


def test_depth_is_a_probability_whose_slope_is_its_derivative():
    for end, top in ((0.3, 0.9), (-0.8, 0.4), (0.0, 0.7)):
        depths = max(0.0, -end) + np.linspace(1e-6, 3, 400)
        found = np.array([kernels.depth_beyond(depth, end, top) for depth in depths])
        assert found[0, 0] == pytest.approx(1, abs=1e-4) and found[-1, 0] == pytest.approx(0, abs=1e-4)
        assert (np.diff(found[:, 0]) < 1e-12).all()
        # The trapezoid's error is of the order of the step squared.
        np.testing.assert_allclose(np.gradient(found[:, 0], depths)[1:-1], found[1:-1, 1], atol=2e-3)
