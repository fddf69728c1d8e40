import numpy as np
import pytest

from atlas_pipeline.adaptation.gate import MAXIMUM_WAIT, ShadowResult, difference_bounds, judge
from atlas_pipeline.config import Config

CONFIG = Config()


def result(returns, drawdown=0.05, steps=None):
    return ShadowResult(np.asarray(returns), drawdown, 0.1, len(returns) if steps is None else steps)


def market(bars=300, seed=0):
    return np.random.default_rng(seed).normal(0, 0.01, bars)


def test_better_is_promoted_and_keeps_its_numbers():
    champion = market()
    better = champion + np.random.default_rng(1).normal(0.001, 0.003, 300)
    decision = judge(result(better), result(champion), result(champion), CONFIG)
    assert decision.verdict == "promote"
    assert 0 < decision.numbers["over_champion_lower"] < decision.numbers["over_champion_mean"]
    assert decision.numbers["over_champion_mean"] == pytest.approx((better - champion).mean())
    assert decision.numbers["candidate_total_return"] == pytest.approx(np.prod(1 + better) - 1)
    assert judge(result(better), result(champion), result(champion), CONFIG) == decision


def test_worse_is_refused():
    champion = market()
    worse = champion - 0.0005 + np.random.default_rng(1).normal(0, 0.002, 300)
    decision = judge(result(worse), result(champion), result(champion), CONFIG)
    assert decision.verdict == "refuse"
    assert "champion" in decision.reason


def test_better_than_the_champion_but_worse_than_the_base_is_refused():
    base = market()
    decision = judge(result(base - 0.001), result(base - 0.002), result(base), CONFIG)
    assert decision.verdict == "refuse"
    assert "base" in decision.reason


def test_an_identical_candidate_waits_and_is_refused_in_the_end():
    returns = market(300)
    assert judge(result(returns), result(returns), result(returns), CONFIG).verdict == "wait"
    steps = MAXIMUM_WAIT * CONFIG.gate_minimum_steps
    late = result(returns, steps=steps)
    decision = judge(late, late, late, CONFIG)
    assert decision.verdict == "refuse"
    assert str(steps) in decision.reason


def test_too_few_steps_wait_however_good():
    champion = market(CONFIG.gate_minimum_steps - 1)
    decision = judge(result(champion + 0.01), result(champion), result(champion), CONFIG)
    assert decision.verdict == "wait"
    assert "over_champion_mean" not in decision.numbers


def test_broken_outputs_are_refused_at_once():
    champion = market(5)
    broken = champion.copy()
    broken[3:] = np.nan
    assert judge(result(broken), result(champion), result(champion), CONFIG).verdict == "refuse"


def test_more_risk_is_refused_even_if_it_earned_more():
    champion = market()
    decision = judge(result(champion + 0.002, drawdown=0.10), result(champion), result(champion), CONFIG)
    assert decision.verdict == "refuse"
    assert "drawdown" in decision.reason
    allowed = judge(result(champion + 0.002, drawdown=0.07), result(champion), result(champion), CONFIG)
    assert allowed.verdict == "promote"


def test_noise_is_promoted_no_more_often_than_the_bound_says():
    generator = np.random.default_rng(3)
    promoted = 0
    for trial in range(60):
        champion = generator.normal(0, 0.01, 250)
        candidate = champion + generator.normal(0, 0.003, 250)
        promoted += judge(result(candidate), result(champion), result(champion), CONFIG, trial).verdict == "promote"
    # One-sided 90% bound: 6 of 60 expected; 14 or more has a probability below 0.2%.
    assert promoted < 14


def test_bounds_widen_with_dependence():
    generator = np.random.default_rng(0)
    noise = generator.normal(size=2000)
    dependent = np.convolve(generator.normal(size=2019), np.ones(20) / np.sqrt(20), mode="valid")
    lower, upper = difference_bounds(np.column_stack([noise, noise]), 0.9, 0)
    assert upper[0] - lower[0] == pytest.approx(2 * 1.2816 / np.sqrt(2000), rel=0.15)
    lower, upper = difference_bounds(dependent[:, None], 0.9, 0)
    assert upper[0] - lower[0] > 2.5 * 2 * 1.2816 / np.sqrt(2000)


def test_refuses_results_that_cannot_be_compared():
    with pytest.raises(ValueError, match="same bars"):
        judge(result(market(300)), result(market(299)), result(market(300)), CONFIG)
    with pytest.raises(ValueError, match="champion is not finite"):
        judge(result(market(300)), result(np.full(300, np.nan)), result(market(300)), CONFIG)
