from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_pipeline.trading.rewards import DifferentialSharpeRatio, differential_sharpe

returns = st.floats(-0.2, 0.2)
deviations = st.floats(1e-3, 0.1)


@settings(deadline=None)  # the first call compiles
@given(returns, st.floats(-0.02, 0.02), deviations)
def test_is_the_equation_of_moody_and_saffell(net_return: float, mean: float, deviation: float) -> None:
    second = deviation**2 + mean**2
    numerator = second * (net_return - mean) - 0.5 * mean * (net_return**2 - second)
    expected = numerator / (second - mean**2) ** 1.5
    # Cancellation in B - A^2 loses some digits of the direct form.
    assert differential_sharpe(net_return, mean, second, 1e-9) == pytest.approx(expected, rel=1e-8, abs=1e-8)


@settings(deadline=None)
@given(st.floats(-0.05, 0.05), st.floats(-0.02, 0.02), st.floats(5e-3, 0.1))
def test_is_the_derivative_of_the_sharpe_ratio_by_eta(net_return: float, mean: float, deviation: float) -> None:
    second = deviation**2 + mean**2

    def sharpe(eta: float) -> float:
        a = mean + eta * (net_return - mean)
        b = second + eta * (net_return**2 - second)
        return a / math.sqrt(b - a * a)

    step = 1e-6
    numerical = (sharpe(step) - sharpe(-step)) / (2 * step)
    # Central difference: rounding of order 1e-16 / step, and a third derivative times step^2.
    assert differential_sharpe(net_return, mean, second, 1e-9) == pytest.approx(numerical, rel=1e-5, abs=1e-5)


def test_after_a_flat_past_a_gain_is_rewarded_and_bounded() -> None:
    assert differential_sharpe(0.01, 0.0, 0.0, 0.0025) == pytest.approx(4.0)
    # The unguarded quotient would be -5e5 here.
    assert abs(differential_sharpe(0.01, 1e-5, 2e-10, 0.0025)) < 5.0


def test_nothing_before_warmup_and_moments_follow_the_recursion() -> None:
    ratio = DifferentialSharpeRatio(eta=0.1, warmup=3, second_moment=1e-4)
    values = [0.01, -0.02, 0.005, 0.03]
    rewards = [ratio.update(value) for value in values]
    mean, second = 0.0, 1e-4
    for value in values[:3]:
        mean, second = 0.9 * mean + 0.1 * value, 0.9 * second + 0.1 * value**2
    assert rewards[:3] == [0.0, 0.0, 0.0]
    assert rewards[3] == pytest.approx(differential_sharpe(0.03, mean, second, 1e-4))
    assert ratio.mean == pytest.approx(0.9 * mean + 0.1 * 0.03)
    assert ratio.sharpe == pytest.approx(ratio.mean / math.sqrt(ratio.second_moment - ratio.mean**2))
    ratio.reset()
    assert (ratio.mean, ratio.second_moment, ratio.steps) == (0.0, 1e-4, 0)


def test_summed_rewards_are_the_change_of_the_sharpe_ratio() -> None:
    ratio = DifferentialSharpeRatio(eta=1e-4, warmup=0, second_moment=1e-4)
    total = sum(ratio.update(value) for value in np.random.default_rng(0).normal(0.001, 0.01, 500))
    # First order in eta: the remainder is eta^2 a step.
    assert 1e-4 * total == pytest.approx(ratio.sharpe, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "named"), [({"eta": 0.0}, "eta"), ({"minimum_deviation": 0.0}, "minimum_deviation")]
)
def test_refuses_what_cannot_work(arguments: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        DifferentialSharpeRatio(**arguments)  # type: ignore[arg-type]


def test_refuses_a_return_that_is_not_finite() -> None:
    with pytest.raises(ValueError, match="net_return=nan"):
        DifferentialSharpeRatio().update(float("nan"))
