from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from atlas_pipeline.training.calibration import calibration_error, coverage, coverage_band, within_band


def test_the_band_holds_its_probability_and_no_narrower_one_does():
    for n, level in ((250, 0.95), (1006, 0.5), (12, 0.8)):
        low, high = coverage_band(n, level, 0.99)
        law = stats.binom(n, level)
        below, above = round(low * n), round(high * n)
        assert law.cdf(above) - law.cdf(below - 1) >= 0.99
        assert law.cdf(below - 1) <= 0.005 and law.sf(above) <= 0.005
        assert law.cdf(below) > 0.005 and law.sf(above - 1) > 0.005


def test_a_known_band():
    # R: qbinom(c(.005, .995), 1000, .95) / 1000
    assert coverage_band(1000, 0.95) == pytest.approx((0.931, 0.967))


def test_uniform_transforms_are_inside_and_narrow_forecasts_outside():
    transform = np.random.default_rng(0).random(2000)
    assert all(within_band(transform, level) for level in (0.5, 0.8, 0.95))
    wide = 0.5 + (transform - 0.5) / 2
    assert not any(within_band(wide, level) for level in (0.5, 0.8, 0.95))
    assert coverage(wide, 0.5) == 1.0


def test_calibration_error_is_nought_where_uniform_and_known_where_not():
    grid = (np.arange(10_000) + 0.5) / 10_000
    assert calibration_error(grid) == pytest.approx(0, abs=1e-4)
    # All outcomes at the median: observed minus nominal is -q below 0.5 and 1 - q above.
    q = np.arange(1, 100) / 100
    expected = np.sqrt(np.mean(np.where(q < 0.5, -q, 1 - q) ** 2))
    assert calibration_error(np.full(50, 0.5)) == pytest.approx(expected, rel=1e-9)
    random = np.random.default_rng(1)
    squares = [calibration_error(random.random(100)) ** 2 for _ in range(400)]
    assert np.mean(squares) == pytest.approx(1 / 600, rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"), [((0, 0.95), "n=0"), ((10, 1.0), "level=1.0"), ((10, 0.5, 1.5), "confidence=1.5")]
)
def test_what_is_no_band_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        coverage_band(*arguments)
