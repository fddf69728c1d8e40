from __future__ import annotations

import math

import numpy as np
import pytest

from atlas_pipeline.training.comparison import diebold_mariano, mean_by_instant


def autocorrelated(random: np.random.Generator, n: int, mean: float = 0.0) -> np.ndarray:
    noise = random.standard_normal(n)
    return mean + noise + 0.4 * np.concatenate([[0], noise[:-1]])


@pytest.mark.parametrize("horizon", [1, 5, 12])
def test_the_statistic_is_that_of_a_regression_on_a_constant(horizon: int):
    import statsmodels.api as sm

    difference = autocorrelated(np.random.default_rng(0), 300, 0.1)
    found = diebold_mariano(difference, horizon)
    lags = max(horizon - 1, 5)
    fit = sm.OLS(difference, np.ones(300)).fit(cov_type="HAC", cov_kwds={"maxlags": lags})
    correction = (300 + 1 - 2 * horizon + horizon * (horizon - 1) / 300) / 300
    assert found.lags == lags and found.n == 300
    assert found.mean == pytest.approx(difference.mean())
    assert found.statistic == pytest.approx(fit.tvalues[0] * math.sqrt(correction), rel=1e-9)


def test_equal_forecasts_are_rejected_as_often_as_it_says_and_unequal_ones_more():
    random = np.random.default_rng(1)
    equal = np.mean([diebold_mariano(autocorrelated(random, 400)).p_value < 0.05 for _ in range(400)])
    # Newey and West's variance is somewhat small in finite samples.
    assert 0.03 < equal < 0.10
    unequal = np.mean([diebold_mariano(autocorrelated(random, 400, -0.25)).p_value < 0.05 for _ in range(50)])
    assert unequal > 0.8
    assert diebold_mariano(autocorrelated(random, 400, -0.5)).statistic < -3


def test_series_that_move_together_are_one_observation_an_instant():
    random = np.random.default_rng(2)
    shared = random.standard_normal(200)
    instants = np.tile(np.arange(200), 3)
    order = random.permutation(600)
    daily = mean_by_instant(np.tile(shared, 3)[order], instants[order])
    np.testing.assert_allclose(daily, shared, rtol=1e-12)
    assert diebold_mariano(daily).statistic == pytest.approx(diebold_mariano(shared).statistic)
    np.testing.assert_allclose(mean_by_instant(np.array([1.0, 2.0, 6.0]), np.array([9, 3, 9])), [2.0, 3.5])


def test_what_says_nothing_has_no_statistic():
    for difference in (np.zeros(100), np.full(50, 0.3), np.random.default_rng(0).random(19), np.empty(0)):
        found = diebold_mariano(difference)
        assert math.isnan(found.statistic) and math.isnan(found.p_value) and found.n == len(difference)


def test_a_loss_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="at bar 3 is nan"):
        diebold_mariano(np.array([0.0, 1.0, 2.0, np.nan] * 10))
