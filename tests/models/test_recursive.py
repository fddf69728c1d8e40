"""The recursion and its deep supervision: steps, gradients, weights, curriculum."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from atlas_pipeline.config import Config
from atlas_pipeline.models.recursive import Recursive, iteration_weights, supervision_curriculum

TINY = Config(
    backbone="recursive", seq_length=32, patch_length=8, stride=8, d_model=16, n_heads=2, n_layers=2, ff_dim=32,
    feature_size=3, dropout=0.0, latent_steps=2, supervision_steps=4,
)  # fmt: skip


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Recursive(TINY)


def x(count=3):
    return torch.randn(count, 32, 3, generator=torch.Generator().manual_seed(1))


def test_one_network_makes_every_step(model):
    longer = Recursive(replace(TINY, supervision_steps=16, latent_steps=6))
    assert [p.shape for p in longer.parameters()] == [p.shape for p in model.parameters()]


def test_the_last_iteration_is_the_answer(model):
    iterations = model.iterations(x())
    assert len(iterations) == 4
    assert all(tokens.shape == (3, 4, 16) for tokens in iterations)
    assert torch.equal(iterations[-1], model(x()))
    assert not torch.equal(iterations[0], iterations[-1])


def test_fewer_steps_are_the_first_of_more(model):
    for short, long in zip(model.iterations(x(), 2), model.iterations(x()), strict=False):
        assert torch.equal(short, long)
    with pytest.raises(ValueError, match="steps=0"):
        model.iterations(x(), 0)


def test_the_recursion_is_the_papers(model):
    # Algorithm 1 of arXiv:2510.04871, written out for one supervision step.
    inputs = model.embedding(x())
    latent = model.transform(inputs)
    latent = model.transform(inputs + latent)
    torch.testing.assert_close(model.iterations(x(), 1)[0], model.transform(latent))


def test_a_step_s_gradient_stays_in_the_step(model):
    # Were the steps one graph, two losses would meet in it, and the second backward pass would find it freed.
    shared = list(model.layers.parameters())
    for tokens in model.iterations(x(), 2):
        tokens.square().sum().backward(inputs=shared)


def test_supervision_of_every_step_trains_every_parameter(model):
    steps = model.iterations(x())
    weights = iteration_weights(len(steps))
    loss = sum(w * (model.pool(tokens) - 1.0).square().mean() for w, tokens in zip(weights, steps, strict=True))
    loss.backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert [name for name in missing if not name.endswith("k_proj.bias")] == []


def test_weights_of_iterations():
    assert iteration_weights(4, "uniform") == (0.25,) * 4
    assert iteration_weights(3, "linear") == pytest.approx((1 / 6, 2 / 6, 3 / 6))
    assert iteration_weights(1) == (1.0,)
    for steps in range(1, 20):
        assert sum(iteration_weights(steps)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("arguments", "culprit"), [((0,), "steps=0"), ((3, "cubic"), "kind='cubic': use one of uniform, linear")]
)
def test_weights_that_cannot_be_are_refused(arguments, culprit):
    with pytest.raises(ValueError, match=culprit):
        iteration_weights(*arguments)


def test_the_curriculum_rises_from_one_step_to_all():
    stages = [supervision_curriculum(progress / 100, 8) for progress in range(101)]
    assert stages[0] == 1 and stages == sorted(stages)
    assert stages[49] == 7 and set(stages[50:]) == {8}
    # Equal stages: seven of them in the first half.
    assert {stages[:50].count(step) for step in range(1, 8)} <= {7, 8}
    assert supervision_curriculum(0.0, 8, ramp=0.0) == 8
    assert supervision_curriculum(0.3, 1) == 1


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [((1.1, 8), r"progress=1\.1"), ((0.5, 8, -0.1), r"ramp=-0\.1"), ((0.5, 0), "steps=0")],
)
def test_a_curriculum_that_cannot_be_is_refused(arguments, culprit):
    with pytest.raises(ValueError, match=culprit):
        supervision_curriculum(*arguments)
