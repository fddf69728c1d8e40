from __future__ import annotations

import numpy as np
import pytest

from atlas_pipeline.training.calibration import coverage, coverage_band
from atlas_pipeline.training.conformal import conformal_coverage, conformal_levels


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("narrow", [0.5, 2.0])
def test_exchangeable_outcomes_are_covered_however_wrong_the_density_is(level: float, narrow: float):
    uniform = np.random.default_rng(3).random(4000)
    transform = 0.5 + np.sign(uniform - 0.5) * np.abs(uniform - 0.5) ** narrow * 0.5 ** (1 - narrow)
    low, high = coverage_band(len(transform), level)
    assert not low <= coverage(transform, level) <= high
    assert low <= conformal_coverage(transform, conformal_levels(transform, level, rate=0.0)) <= high
    assert low <= conformal_coverage(transform, conformal_levels(transform, level)) <= high


def test_an_outcome_touches_no_interval_before_it_is_known():
    transform = np.random.default_rng(0).random(120)
    changed = transform.copy()
    changed[60:] = 0.999
    for horizon in (1, 5):
        one, other = (conformal_levels(values, 0.8, horizon=horizon) for values in (transform, changed))
        np.testing.assert_array_equal(one[: 60 + horizon], other[: 60 + horizon])
        assert (one[60 + horizon :] != other[60 + horizon :]).any()


def test_the_adaptive_bound_holds_for_any_outcomes():
    random = np.random.default_rng(1)
    n, rate, level = 1500, 0.02, 0.9
    adversaries = {
        "a shift": np.concatenate([0.5 + 0.1 * (random.random(750) - 0.5), random.random(750)]),
        "ever further out": 0.5 + 0.5 * np.linspace(0, 1 - 1e-9, n),
        "always at the median": np.full(n, 0.5),
    }
    for name, transform in adversaries.items():
        levels = conformal_levels(transform, level, rate=rate)
        # An interval of level 0 is empty: it misses whatever comes.
        missed = ((np.abs(2 * transform - 1) > levels) | (levels == 0)).mean()
        assert abs(missed - (1 - level)) <= (level + rate) / (rate * n), name


def test_the_rank_is_that_of_split_conformal_prediction():
    earlier = 0.5 + np.arange(1, 20) / 40
    (found,) = conformal_levels(np.array([0.5]), 0.95, rate=0.0, earlier=earlier)
    # 19 scores of 0.05 to 0.95: the 19th of them, as ceil(20 · 0.95) asks.
    assert found == pytest.approx(0.95)
    assert conformal_levels(np.array([0.5]), 0.95, earlier=earlier[:18])[0] == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"level": 1.0}, "level=1.0"), ({"rate": -0.1}, "rate=-0.1"), ({"horizon": 0}, "horizon=0")],
)
def test_what_cannot_be_adjusted_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        conformal_levels(np.array([0.5]), **({"level": 0.9} | arguments))
