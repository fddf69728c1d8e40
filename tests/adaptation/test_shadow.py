import dataclasses

import numpy as np
import pytest
import torch

from atlas_pipeline.adaptation.gate import judge
from atlas_pipeline.adaptation.shadow import SAMPLED_PATHS, broken, shadow
from atlas_pipeline.models.actor_critic import ActorCritic
from atlas_pipeline.trading.backtest import trade_policy
from atlas_pipeline.trading.layout import CONTEXT
from atlas_pipeline.trading.market_path import MarketPath

BARS = 300


class Contender:
    """Heads alone: all that a shadow run asks of a policy."""

    def __init__(self, weights, bias=(0.0, 0.0, 0.0)):
        self.actor_critic = ActorCritic(2 + len(CONTEXT), 4)
        self.actor_critic.actor = torch.nn.Linear(2 + len(CONTEXT), 3)
        with torch.no_grad():
            self.actor_critic.actor.weight.zero_()
            self.actor_critic.actor.weight[:, :2] = torch.tensor(weights)
            self.actor_critic.actor.bias.copy_(torch.tensor(bias))


NOTHING = [[0.0, 0.0]] * 3
INDIFFERENT = Contender(NOTHING, (2.0, 0.0, 0.0))
KNOWING = Contender([[0.0, 0.0], [4.0, 0.0], [-4.0, 0.0]])
CONTRARY = Contender([[0.0, 0.0], [-4.0, 0.0], [4.0, 0.0]])
# Trades at every bar.
RESTLESS = Contender([[-9.0, 0.0], [0.0, 9.0], [0.0, -9.0]], (-30.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def market():
    """The first number of the embedding hints at the return after the fill, the second alternates."""
    generator = np.random.default_rng(0)
    paths = []
    for symbol in ("AAA", "BBB"):
        returns = generator.normal(0, 0.01, BARS)
        hint = np.append(returns[2:] / 0.01, [0, 0]) + generator.normal(0, 2, BARS)
        close = 100 * np.exp(returns.cumsum())
        ones = np.ones(BARS)
        alternating = np.tile([1.0, -1.0], BARS // 2)
        embedding = np.column_stack([hint, alternating]).astype(np.float32)
        bars = np.arange(BARS, dtype=np.int64)
        paths.append(MarketPath(symbol, bars, close, close, ones, embedding, 0 * ones, ones, ones, 0 * ones))
    return paths


def run(policy, market, config):
    return shadow(policy, market, config, 0)


def test_counts(market, config):
    result = run(INDIFFERENT, market, config)
    assert result.steps == 2 * (BARS - 1)
    assert len(result.net_returns) == BARS - 1
    assert 0 < result.turnover < 1
    assert 0 < result.max_drawdown < 1


def test_better_is_promoted(market, config):
    champion = run(INDIFFERENT, market, config)
    decision = judge(run(KNOWING, market, config), champion, champion, config)
    assert decision.verdict == "promote", decision.reason


def test_worse_and_restless_are_refused(market, config):
    champion = run(INDIFFERENT, market, config)
    assert judge(run(CONTRARY, market, config), champion, champion, config).verdict == "refuse"
    costly = dataclasses.replace(config, commission=1e-3, slippage=1e-3)
    restless = run(RESTLESS, market, costly)
    assert restless.turnover > 0.9
    indifferent = run(INDIFFERENT, market, costly)
    assert judge(restless, indifferent, indifferent, costly).verdict == "refuse"


def test_identical_contenders_do_not_differ_at_all(market, config):
    one, other = run(KNOWING, market, config), run(KNOWING, market, config)
    np.testing.assert_array_equal(one.net_returns, other.net_returns)
    assert judge(one, other, other, config).verdict == "wait"


def test_outputs_that_are_not_finite_are_refused(market, config):
    champion = run(INDIFFERENT, market, config)
    diverged = run(Contender(NOTHING, (float("nan"), 0.0, 0.0)), market, config)
    assert np.isnan(diverged.net_returns).all()
    assert judge(diverged, champion, champion, config).verdict == "refuse"
    assert judge(broken(market), champion, champion, config).verdict == "refuse"


@pytest.mark.parametrize(("splits", "dividends"), [({}, {}), ({20: 7.0, 90: 0.5}, {30: 0.4, 90: 0.3})])
def test_a_certain_policy_trades_as_the_backtest_does(market, config, as_traded, splits, dividends):
    certain = Contender([[0.0, 0.0], [1e6, 0.0], [-1e6, 0.0]])
    path = as_traded(market[0], splits, dividends)
    result = run(certain, [path], config)
    track = trade_policy(certain.actor_critic, path, config)
    np.testing.assert_allclose(result.net_returns, track.net_return, rtol=0, atol=1e-15)
    assert result.turnover == pytest.approx(track.traded.mean())


def test_common_random_numbers_narrow_the_difference(market, config):
    almost = Contender([[0.0, 0.0], [0.05, 0.0], [-0.05, 0.0]], (2.0, 0.0, 0.0))
    champion = run(INDIFFERENT, market, config).net_returns
    together = (run(almost, market, config).net_returns - champion).std()
    apart = (shadow(almost, market, config, 1).net_returns - champion).std()
    assert together < 0.7 * apart
    assert SAMPLED_PATHS >= 32


def test_refuses_what_cannot_be_run(market, config):
    with pytest.raises(ValueError, match="at least two bars"):
        shadow(INDIFFERENT, [], config, 0)
    with pytest.raises(ValueError, match="at least two bars"):
        shadow(INDIFFERENT, [market[0].between(0, 1)], config, 0)
    with pytest.raises(ValueError, match="different bars"):
        shadow(INDIFFERENT, [market[0], market[1].between(0, 100)], config, 0)
