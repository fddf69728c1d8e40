from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_pipeline.config import Config
from atlas_pipeline.trading.ppo_loss import gae, ppo_loss, standardised

GAMMA, LAMBDA = 0.97, 0.9


def brute_force(
    reward: np.ndarray,
    value: np.ndarray,
    following: np.ndarray,
    terminated: np.ndarray,
    end: np.ndarray,
    weight: np.ndarray,
    clip: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The sums of the papers, term by term, each segment by itself."""
    delta = reward + GAMMA * np.where(terminated, 0, following) - value
    rho = np.minimum(weight, clip)
    stop = end | terminated
    count = len(reward)
    advantage, target = np.zeros(count), np.zeros(count)
    for s in range(count):
        product, total, own = 1.0, 0.0, 0.0
        for t in range(s, count):
            discount = (GAMMA * LAMBDA) ** (t - s)
            total += discount * product * rho[t] * delta[t]
            # The advantage's own step carries no weight, neither in its difference nor in its trace.
            unweighted = product / rho[s] if t > s else 1.0
            own += discount * unweighted * (rho[t] if t > s else 1.0) * delta[t]
            product *= rho[t]
            if stop[t]:
                break
        advantage[s], target[s] = own, value[s] + total
    return advantage, target


@given(st.integers(0, 10_000), st.integers(1, 25), st.floats(0.5, 2.0))
@settings(max_examples=100, deadline=None)
def test_equals_brute_force(seed: int, count: int, clip: float) -> None:
    random = np.random.default_rng(seed)
    arrays = [random.standard_normal(count) for _ in range(3)]
    terminated, end = random.random(count) < 0.1, random.random(count) < 0.2
    weight = np.exp(random.standard_normal(count))
    found = gae(*arrays, terminated, end, GAMMA, LAMBDA, weight, clip)
    expected = brute_force(*arrays, terminated, end, weight, clip)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_weights_of_one_are_exactly_generalised_advantages(seed: int) -> None:
    random = np.random.default_rng(seed)
    reward, value = random.standard_normal((2, 30, 4))
    following = np.concatenate([value[1:], random.standard_normal((1, 4))])
    terminated, end = random.random((2, 30, 4)) < 0.1
    plain = gae(reward, value, following, terminated, end, GAMMA, LAMBDA)
    weighted = gae(reward, value, following, terminated, end, GAMMA, LAMBDA, np.ones_like(reward), 1.0)
    np.testing.assert_array_equal(plain, weighted)
    expected = np.zeros_like(reward)
    running = np.zeros(4)
    for t in reversed(range(30)):
        delta = reward[t] + GAMMA * following[t] * ~terminated[t] - value[t]
        running = delta + GAMMA * LAMBDA * running * ~(terminated[t] | end[t])
        expected[t] = running
    np.testing.assert_allclose(plain[0], expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(plain[1], value + expected, rtol=1e-12, atol=1e-12)


def test_a_cut_off_episode_is_bootstrapped_and_a_terminated_one_is_not() -> None:
    advantage, _ = gae([1.0, 1.0], [0.0, 0.0], [5.0, 5.0], [False, True], [True, True], 0.5, 0.9)
    np.testing.assert_allclose(advantage, [1.0 + 0.5 * 5.0, 1.0])


def test_what_the_policy_would_never_do_adds_nothing_to_earlier_advantages() -> None:
    parts = ([0.0, 100.0], [0.0, 0.0], [0.0, 0.0], [False, False], [False, False], GAMMA, LAMBDA)
    assert gae(*parts, importance=[1.0, 0.0])[0][0] == 0.0
    assert gae(*parts)[0][0] == pytest.approx(GAMMA * LAMBDA * 100.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": [0.0]}, "values has shape"),
        ({"rewards": [float("nan"), 0.0]}, "rewards is not finite"),
        ({"importance": [-0.1, 1.0]}, "importance has a negative weight"),
    ],
)
def test_gae_refuses_broken_experience(change: dict[str, list[float]], message: str) -> None:
    arguments: dict[str, object] = {
        "rewards": [0.0, 0.0],
        "values": [0.0, 0.0],
        "next_values": [0.0, 0.0],
        "terminated": [False, False],
        "segment_end": [False, False],
        "gamma": GAMMA,
        "gae_lambda": LAMBDA,
    }
    with pytest.raises(ValueError, match=message):
        gae(**(arguments | change))  # type: ignore[arg-type]


def loss_of(log_ratio: float, advantage: float) -> tuple[float, float]:
    """Actor loss and its gradient by the log-probability, at one ratio."""
    logits = torch.zeros(1, 3, requires_grad=True)
    old = torch.log_softmax(logits, -1)[:, 0].detach() - log_ratio
    zero = torch.zeros(1)
    loss = ppo_loss(
        logits,
        zero,
        torch.zeros(1, dtype=torch.int64),
        old,
        torch.tensor([advantage]),
        zero,
        Config(entropy_coef=0.0),
    )
    loss.total.backward()
    return float(loss.actor), float(logits.grad[0, 0])  # type: ignore[index]


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "moves"),
    [
        (1.0, 2.0, -2.0, True),
        (1.5, 2.0, -1.2 * 2.0, False),
        (1.5, -2.0, 1.5 * 2.0, True),
        (0.5, 2.0, -0.5 * 2.0, True),
        (0.5, -2.0, 0.8 * 2.0, False),
    ],
)
def test_the_surrogate_is_clipped_on_the_greedy_side_only(
    ratio: float, advantage: float, expected: float, moves: bool
) -> None:
    loss, gradient = loss_of(math.log(ratio), advantage)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert (abs(gradient) > 1e-6) == moves


def test_parts_add_up_and_weights_scale_them() -> None:
    random = torch.Generator().manual_seed(0)
    config = Config()
    logits, values = torch.randn(8, 3, generator=random), torch.randn(8, generator=random)
    actions = torch.randint(3, (8,), generator=random)
    old, advantages, targets = (torch.randn(8, generator=random) * 0.1 - 1 for _ in range(3))
    plain = ppo_loss(logits, values, actions, old, advantages, targets, config)
    assert float(plain.critic) == pytest.approx(
        float((values - targets).square().mean()) * (1 - config.gamma**2), rel=1e-5
    )
    entropy = torch.distributions.Categorical(logits=logits).entropy().mean()
    assert float(plain.entropy) == pytest.approx(float(entropy), rel=1e-5)
    assert float(plain.total) == pytest.approx(
        float(plain.actor + config.value_loss_coef * plain.critic - config.entropy_coef * plain.entropy),
        rel=1e-5,
    )
    half = ppo_loss(logits, values, actions, old, advantages, targets, config, torch.full((8,), 0.5))
    assert float(half.total) == pytest.approx(0.5 * float(plain.total), rel=1e-5)


@pytest.mark.parametrize("broken", ["actor", "critic"])
def test_a_loss_that_is_not_finite_stops_training(broken: str) -> None:
    nan, fine = torch.tensor([float("nan")]), torch.zeros(1)
    with pytest.raises(FloatingPointError, match=f"{broken} loss is nan"):
        ppo_loss(
            torch.zeros(1, 3),
            nan if broken == "critic" else fine,
            torch.zeros(1, dtype=torch.int64),
            fine,
            nan if broken == "actor" else fine,
            fine,
            Config(),
        )


def test_standardised_advantages() -> None:
    result = standardised(torch.tensor([1.0, 2.0, 3.0]))
    assert float(result.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(result.std(correction=0)) == pytest.approx(1.0, rel=1e-5)
    assert standardised(torch.full((4,), 7.0)).abs().max() < 1e-6
