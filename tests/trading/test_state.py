from __future__ import annotations

import math

import numpy as np
import pytest

from atlas_pipeline.config import Config
from atlas_pipeline.trading.layout import BUY, CONTEXT, HOLD, SELL
from atlas_pipeline.trading.simulator import Rules, open_account, step
from atlas_pipeline.trading.state import context_vector, state_dim, state_vector

RULES = Rules.of(Config(commission=0.0, slippage=0.0))


def test_says_what_it_names() -> None:
    account = open_account(10_000.0, 2.0)
    step(account, SELL, 100.0, 100.0, 2.0, RULES)
    step(account, HOLD, 110.0, 110.0, 2.0, RULES)
    named = dict(zip(CONTEXT, context_vector(account, 110.0, 2.0, 0.1, 1.5, RULES).tolist(), strict=True))
    mean, second = 0.01 * -0.1, 0.99 * 0.99 * 4e-4 + 0.01 * 0.01
    assert named == pytest.approx(
        {
            "position": -1.0,
            "exposure": -11.0 / 9.0,
            "unrealised_return": math.asinh(-0.1 / 0.02),
            "sharpe_mean": mean / (0.02 * 0.1),
            "sharpe_deviation": math.sqrt(second) / 0.02,
            "warmup": 2 / 20,
            "forecast_location": 0.05,
            "forecast_scale": 0.75,
        },
        rel=1e-5,
    )


def test_does_not_depend_on_the_currency() -> None:
    contexts = []
    for unit in (1.0, 1000.0):
        account = open_account(10_000.0 * unit, 1.0)
        step(account, BUY, 100.0 * unit, 103.0 * unit, 1.0, RULES)
        contexts.append(context_vector(account, 103.0 * unit, 1.0, 0.0, 1.0, RULES))
    np.testing.assert_allclose(contexts[0], contexts[1], rtol=1e-6)


def test_is_finite_at_the_extremes() -> None:
    account = open_account(10_000.0, 1.0)
    step(account, SELL, 100.0, 199.9999, 1.0, RULES)
    assert np.isfinite(context_vector(account, 199.9999, 1.0, 0.0, 1.0, RULES)).all()
    step(account, HOLD, 250.0, 250.0, 1.0, RULES)
    context = context_vector(account, 250.0, 1.0, 0.0, 1.0, RULES)
    assert np.isfinite(context).all()
    assert context[1] == 0.0


def test_state_is_embedding_then_context() -> None:
    state = state_vector(np.ones((2, 5), np.float32), np.zeros((2, len(CONTEXT)), np.float32))
    assert state.shape == (2, state_dim(5))
    assert state[:, :5].all()
    assert not state[:, 5:].any()
