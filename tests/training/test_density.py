from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from atlas_pipeline.training.calibration import LEVELS, coverage
from atlas_pipeline.training.density import DensityForecast, crps, nll, pit, scores, sharpness


def make(df: list[float], skew: list[float] | None = None) -> DensityForecast:
    n = len(df)
    return DensityForecast(
        np.linspace(-0.5, 0.5, n),
        np.linspace(0.5, 2.0, n),
        np.array(df),
        None if skew is None else np.array(skew),
    )


FORECAST = make([2.5, 6.0, np.inf, 40.0, np.inf])
TARGET = np.array([0.1, -3.0, 0.4, 2.0, -6.0])
SKEWED = make([2.5, 6.0, np.inf, 40.0, np.inf], [-0.7, 0.3, -0.2, 0.9, 0.5])


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


def test_without_skew_it_is_the_students_t_that_it_was():
    import scoringrules

    t, normal = np.isfinite(FORECAST.df), np.isinf(FORECAST.df)
    z = (TARGET - FORECAST.location) / FORECAST.scale
    expected = np.empty(5)
    expected[t] = scoringrules.crps_t(z[t], FORECAST.df[t], 0.0, 1.0)
    expected[normal] = scoringrules.crps_normal(z[normal], 0.0, 1.0)
    np.testing.assert_allclose(crps(TARGET, FORECAST), expected * FORECAST.scale, rtol=1e-12)
    student = stats.t(FORECAST.df, FORECAST.location, FORECAST.scale)
    np.testing.assert_allclose(nll(TARGET, FORECAST), -student.logpdf(TARGET), rtol=1e-12)
    np.testing.assert_allclose(pit(TARGET, FORECAST), student.cdf(TARGET), rtol=1e-12)
    np.testing.assert_allclose(FORECAST.interval(0.95), student.ppf([[0.025], [0.975]]), rtol=1e-12)
    np.testing.assert_allclose(FORECAST.standard_deviation, student.std(), rtol=1e-12)
    np.testing.assert_array_equal(FORECAST.mean, FORECAST.location)
    np.testing.assert_array_equal(FORECAST.median, FORECAST.location)


def test_a_skewed_density_is_one_and_has_the_moments_and_the_probabilities_it_says():
    for i in range(5):
        one = SKEWED[[i]]

        def expected(function, one=one):
            def integrand(y):
                return function(y) * np.exp(-nll(np.array([y]), one)[0])

            mode = one.location[0]
            parts = (integrate.quad(integrand, *ends, limit=400)[0] for ends in ((-np.inf, mode), (mode, np.inf)))
            return sum(parts)

        assert expected(lambda y: 1.0) == pytest.approx(1, abs=1e-7)
        mean = expected(lambda y: y)
        assert one.mean[0] == pytest.approx(mean, abs=1e-6)
        assert pit(one.location, one)[0] == pytest.approx((1 - one.skew[0]) / 2, abs=1e-12)
        if one.df[0] > 4:
            assert one.standard_deviation[0] ** 2 == pytest.approx(expected(lambda y: y**2) - mean**2, rel=1e-6)
        below = integrate.quad(lambda y, one=one: np.exp(-nll(np.array([y]), one)[0]), -np.inf, TARGET[i])[0]
        assert pit(TARGET[[i]], one)[0] == pytest.approx(below, abs=1e-7)
    for probability in (0.001, 0.2, 0.5, 0.8, 0.999):
        np.testing.assert_allclose(pit(SKEWED.quantile(probability), SKEWED), probability, rtol=1e-10)
    low, high = SKEWED.interval(np.array([0.5, 0.8, 0.95, 0.5, 1.0]))
    np.testing.assert_allclose(pit(high, SKEWED) - pit(low, SKEWED), [0.5, 0.8, 0.95, 0.5, 1.0], rtol=1e-10)
    assert np.isinf(SKEWED[[4]].interval(1.0)).all()


def test_the_crps_of_a_skewed_density_is_the_integral_that_defines_it():
    for i in range(5):
        one = SKEWED[[i]]
        for y in (TARGET[i], -4.0, 5.0):
            ends = sorted([y, one.location[0]])

            def cdf(x, one=one):
                return pit(np.array([x]), one)[0]

            def squared(x, y=y, cdf=cdf):
                return (cdf(x) - (x >= y)) ** 2

            pieces = ((-np.inf, ends[0]), tuple(ends), (ends[1], np.inf))
            whole = sum(integrate.quad(squared, *piece, limit=200)[0] for piece in pieces)
            assert crps(np.array([y]), one)[0] == pytest.approx(whole, rel=1e-6)


def test_the_mirror_image_has_the_mirrored_scores():
    mirrored = DensityForecast(-SKEWED.location, SKEWED.scale, SKEWED.df, -SKEWED.skew)
    np.testing.assert_allclose(nll(-TARGET, mirrored), nll(TARGET, SKEWED), rtol=1e-12)
    np.testing.assert_allclose(crps(-TARGET, mirrored), crps(TARGET, SKEWED), rtol=1e-9)
    np.testing.assert_allclose(pit(-TARGET, mirrored), 1 - pit(TARGET, SKEWED), atol=1e-12)


@pytest.mark.parametrize(("df", "skew"), [(3.0, 0.4), (8.0, -0.15), (50.0, 0.0)])
def test_given_its_moments_it_is_archs_skewed_t(df: float, skew: float):
    from arch.univariate import SkewStudent

    y = np.linspace(-9, 7, 41)
    forecast = DensityForecast.of_moments(np.full(41, 0.1), np.full(41, 1.7), df, skew)
    law, parameters = SkewStudent(), np.array([df, skew])
    expected = law.loglikelihood(parameters, y - 0.1, np.full(41, 1.7**2), individual=True)
    np.testing.assert_allclose(-nll(y, forecast), expected, rtol=1e-12)
    np.testing.assert_allclose(pit(y, forecast), law.cdf((y - 0.1) / 1.7, parameters), rtol=1e-9)
    np.testing.assert_allclose(forecast.quantile(0.05), 0.1 + 1.7 * law.ppf(0.05, parameters), rtol=1e-12)
    np.testing.assert_allclose(forecast.mean, 0.1, rtol=1e-12)
    np.testing.assert_allclose(forecast.standard_deviation, 1.7, rtol=1e-12)


def test_the_deviation_of_too_heavy_a_tail_is_infinite():
    assert np.isinf(make([2.0, 1.5], [0.3, 0.0]).standard_deviation).all()


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


def test_scores_have_every_level_and_name_what_they_measure():
    found = scores(TARGET, FORECAST)
    assert set(found) == {
        "nll",
        "crps",
        "mae",
        *(f"{name}_{level * 100:.0f}" for name in ("coverage", "width") for level in LEVELS),
        "calibration_error",
        "n",
    }
    assert found["mae"] == pytest.approx(np.abs(TARGET - FORECAST.location).mean())


def test_sharpness_is_the_mean_width():
    standard = DensityForecast(np.zeros(2), np.array([1.0, 3.0]), np.full(2, np.inf))
    assert sharpness(standard, 0.95) == pytest.approx(2 * 2 * 1.959964, rel=1e-6)
