from __future__ import annotations

import torch

from atlas_pipeline.models.actor_critic import ActorCritic


def test_shapes_and_a_first_policy_close_to_uniform() -> None:
    model = ActorCritic(20, 16)
    logits, value = model(torch.randn(5, 20))
    assert (logits.shape, value.shape) == ((5, 3), (5,))
    assert (torch.softmax(logits, -1) - 1 / 3).abs().max() < 0.02
    assert model.state_dim == 20


def test_standardises_the_embedding_and_only_it() -> None:
    torch.manual_seed(0)
    embeddings = torch.randn(500, 6) * 5 + 3
    embeddings[:, 2] = 7.0
    plain, fitted = ActorCritic(8, 16), ActorCritic(8, 16)
    fitted.load_state_dict(plain.state_dict())
    fitted.fit_standardisation(embeddings)
    context = torch.randn(500, 2)
    standard = (embeddings - embeddings.mean(0)) / embeddings.std(0, correction=0).clamp_min(1e-30)
    standard[:, 2] = 0.0
    expected = plain(torch.cat([standard, context], 1))
    found = fitted(torch.cat([embeddings, context], 1))
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_scale_and_standardisation_travel_with_the_weights() -> None:
    trained = ActorCritic(8, 16, value_scale=7.0)
    trained.fit_standardisation(torch.randn(50, 6) * 3)
    other = ActorCritic(8, 16)
    other.load_state_dict(trained.state_dict())
    state = torch.randn(4, 8)
    for a, b in zip(trained(state), other(state), strict=True):
        assert torch.equal(a, b)


def test_an_unseen_extreme_does_not_decide_alone() -> None:
    model = ActorCritic(4, 16)
    far, further = torch.tensor([[0.0, 0.0, 0.0, 50.0]]), torch.tensor([[0.0, 0.0, 0.0, 1e9]])
    assert torch.equal(model(far)[0], model(further)[0])
