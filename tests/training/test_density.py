from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from atlas_pipeline.training.density import DensityForecast, coverage, crps, nll, pit, scores


def make(df: list[float]) -> DensityForecast:
    n = len(df)
    return DensityForecast(np.linspace(-0.5, 0.5, n), np.linspace(0.5, 2.0, n), np.array(df))


FORECAST = make([2.5, 6.0, np.inf, 40.0, np.inf])
TARGET = np.array([0.1, -3.0, 0.4, 2.0, -6.0])


def frozen(i: int):
    if np.isinf(FORECAST.df[i]):
        return stats.norm(FORECAST.location[i], FORECAST.scale[i])
    return stats.t(FORECAST.df[i], FORECAST.location[i], FORECAST.scale[i])


def test_likelihood_pit_and_deviation_are_those_of_the_distribution():
    for i in range(5):
        one = FORECAST[[i]]
        assert nll(TARGET[[i]], one)[0] == pytest.approx(-frozen(i).logpdf(TARGET[i]), rel=1e-12)
        assert pit(TARGET[[i]], one)[0] == pytest.approx(frozen(i).cdf(TARGET[i]), rel=1e-12)
        assert one.standard_deviation[0] == pytest.approx(frozen(i).std(), rel=1e-12)
        low, high = one.interval(0.8)
        assert frozen(i).cdf([low[0], high[0]]) == pytest.approx([0.1, 0.9])


def test_crps_is_the_integral_that_defines_it():
    for i in range(5):
        cdf, y = frozen(i).cdf, TARGET[i]
        below, _ = integrate.quad(lambda x, cdf=cdf: cdf(x) ** 2, -np.inf, y)
        above, _ = integrate.quad(lambda x, cdf=cdf: (1 - cdf(x)) ** 2, y, np.inf)
        assert crps(TARGET, FORECAST)[i] == pytest.approx(below + above, rel=1e-6)


def test_true_densities_are_calibrated_and_false_ones_are_not():
    random = np.random.default_rng(0)
    n = 20_000
    truth = DensityForecast(np.zeros(n), np.full(n, 2.0), np.full(n, 4.0))
    outcome = 2.0 * random.standard_t(4, n)
    transform = pit(outcome, truth)
    for level in (0.5, 0.8, 0.95):
        # Four binomial standard errors of 20,000 draws.
        assert coverage(transform, level) == pytest.approx(level, abs=0.015)
    assert stats.kstest(transform, "uniform").pvalue > 1e-4
    narrow = DensityForecast(truth.location, truth.scale / 2, truth.df)
    assert coverage(pit(outcome, narrow), 0.95) < 0.85
    assert scores(outcome, truth)["nll"] < scores(outcome, narrow)["nll"]
    assert scores(outcome, truth)["crps"] < scores(outcome, narrow)["crps"]


def test_scores_have_every_level():
    assert set(scores(TARGET, FORECAST)) == {"nll", "crps", "coverage_50", "coverage_80", "coverage_95", "n"}
