import dataclasses

import numpy as np
import pytest
import torch
from torch.distributions import Categorical

from atlas_pipeline import Config, SOTATradingAgent, TimeSeriesDataset, TradingEnvironment
from atlas_pipeline.trading.layout import CONTEXT
from atlas_pipeline.training.checkpoint import tensors_digest, write_tensors
from atlas_pipeline.training.errors import CorruptCheckpointError


@pytest.fixture
def small(config):
    return dataclasses.replace(config, online_update_freq=40, online_batch_size=32, batch_size=16)


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(0)
    close = 100 * np.exp(generator.normal(0, 0.01, 140).cumsum())
    features = generator.normal(size=(140, 8)).astype(np.float32)
    return features, close


def states(config, count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    series = torch.randn(count, config.seq_length, config.feature_size, generator=generator)
    return series, torch.randn(count, len(CONTEXT), generator=generator)


def trade(agent, data, config, steps):
    """The loop that the documents of origin show, with prices."""
    features, close = data
    environment = TradingEnvironment(features, 10_000.0, config.seq_length, prices=close, config=config)
    agent.eval()
    torch.manual_seed(0)
    time_series, context = environment.reset()
    errors = []
    for _ in range(steps):
        with torch.no_grad():
            action = agent(time_series, context)["action_distribution"].sample()
        following, reward, done, _ = environment.step(action.item())
        result = agent.actor_critic_step(
            time_series,
            context,
            torch.FloatTensor([reward]),
            following[0],
            following[1],
            torch.FloatTensor([float(done)]),
        )
        errors.append(float(result["td_error"]))
        time_series, context = following
        if done:
            break
    return errors


def test_has_the_size_that_was_promised():
    agent = SOTATradingAgent(Config())
    assert sum(p.numel() for p in agent.parameters()) == pytest.approx(4.8e6, rel=0.05)


def test_forward_gives_what_was_promised(small):
    agent = SOTATradingAgent(small)
    time_series, context = states(small)
    output = agent(time_series, context)
    shapes = {name: tuple(value.shape) for name, value in output.items() if isinstance(value, torch.Tensor)}
    width = small.d_model
    assert shapes == {
        "embedding": (3, width),
        "price_mean": (3, 1),
        "price_variance": (3, 1),
        "value": (3, 1),
        "state": (3, width + len(CONTEXT)),
    }
    assert isinstance(output["action_distribution"], Categorical)
    assert output["action_distribution"].probs.shape == (3, 3)
    assert (output["price_variance"] > 0).all()


def test_equal_configurations_make_equal_agents(small):
    one, other = SOTATradingAgent(small), SOTATradingAgent(small)
    assert tensors_digest(one.state_dict()) == tensors_digest(other.state_dict())


def test_pretrains_in_a_plain_loop(small, data):
    agent = SOTATradingAgent(small)
    features = data[0].copy()
    features[1:, 0] = 0.9 * features[:-1, 1]  # the next close can be known
    loader = torch.utils.data.DataLoader(TimeSeriesDataset(features, small.seq_length), batch_size=32)
    optimizer = torch.optim.Adam(agent.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        for window, target in loader:
            output = agent(window, torch.zeros(len(window), len(CONTEXT)))
            loss = torch.nn.functional.gaussian_nll_loss(output["price_mean"], target, output["price_variance"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.2


def test_learns_online_by_itself(small, data):
    agent = SOTATradingAgent(small)
    x = states(small)
    errors = trade(agent, data, small, 39)
    assert agent.online_metrics == {}
    assert np.isfinite(errors).all()
    before = agent.eval()(*x)["embedding"]
    frozen = tensors_digest(agent.policy.state_dict())
    agent = SOTATradingAgent(small)
    trade(agent, data, small, 40)
    assert {"online/actor_loss", "online/critic_loss", "online/entropy", "online/per_beta"} <= set(agent.online_metrics)
    trainable = [name for name, p in agent.named_parameters() if p.requires_grad]
    assert len(trainable) == 2 * 4 * small.n_layers
    assert all("lora_" in name for name in trainable)
    assert not torch.equal(agent.eval()(*x)["embedding"], before)
    assert tensors_digest(agent.policy.state_dict()) == frozen
    trade(agent, data, small, 100)
    assert agent.env_steps == 140
    assert agent.online_metrics["online/per_beta"] == pytest.approx(0.4 + 3 * 0.001)


def test_is_deterministic(small, data):
    one, other = SOTATradingAgent(small), SOTATradingAgent(small)
    trade(one, data, small, 45)
    trade(other, data, small, 45)
    assert tensors_digest(one.state_dict()) == tensors_digest(other.state_dict())


def test_td_error_is_that_of_the_definition(small):
    agent = SOTATradingAgent(small).eval()
    (x, c), (y, d) = states(small), states(small, seed=1)
    value, following = agent(x, c)["value"][:, 0], agent(y, d)["value"][:, 0]
    reward, done = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 0.0, 1.0])
    result = agent.actor_critic_step(x, c, reward, y, d, done, action=torch.tensor([0, 1, 2]))
    expected = reward + small.gamma * following * (1 - done) - value
    torch.testing.assert_close(result["td_error"], expected.detach(), rtol=0, atol=1e-5)
    torch.testing.assert_close(result["value"], value.detach(), rtol=0, atol=1e-5)
    assert torch.equal(result["reward"], reward)
    np.testing.assert_allclose(
        agent.replay.priorities, (result["td_error"].abs().numpy() + 1e-6) ** small.per_alpha, rtol=1e-5
    )


def test_segments_follow_the_environment(small):
    agent = SOTATradingAgent(small)
    action, zero = torch.tensor([1, 2]), torch.zeros(2)
    chain = [states(small, 2, seed) for seed in range(5)]
    for step in range(3):
        agent.actor_critic_step(*chain[step], zero, *chain[step + 1], zero, action=action)
    # The first environment is reset here: its state is another than the one it had come to.
    reset = torch.cat([chain[4][0][:1], chain[3][0][1:]]), torch.cat([chain[4][1][:1], chain[3][1][1:]])
    agent.actor_critic_step(*reset, zero, *chain[0], zero, action=action)
    steps, places = agent._experience()
    assert sorted(places.tolist()) == list(range(8))
    segments = {tuple(places[steps.segments(np.array([row]), 10)].tolist()) for row in range(8)}
    assert segments - {()} == {(0, 2), (2,), (1, 3, 5), (3, 5), (5,)}


def test_a_ring_that_has_come_round_still_links_right(small):
    agent = SOTATradingAgent(dataclasses.replace(small, per_buffer_size=5, online_update_freq=10_000))
    chain = [states(small, 1, seed) for seed in range(13)]
    zero, action = torch.zeros(1), torch.tensor([1])
    for step in range(12):
        agent.actor_critic_step(*chain[step], zero, *chain[step + 1], zero, action=action)
    steps, _ = agent._experience()
    np.testing.assert_array_equal(steps.env_step, [7, 8, 9, 10, 11])
    np.testing.assert_array_equal(steps.follows, [True] * 4 + [False])


def test_the_action_must_be_known(small):
    agent = SOTATradingAgent(small)
    x, c = states(small)
    step = (x, c, torch.zeros(3), x, c, torch.zeros(3))
    with pytest.raises(ValueError, match="is not known"):
        agent.actor_critic_step(*step)
    agent(x, c)
    with pytest.raises(ValueError, match="is not known"):
        agent.actor_critic_step(*step)
    agent(x + 1, c)["action_distribution"].sample()
    with pytest.raises(ValueError, match="other states"):
        agent.actor_critic_step(*step)
    drawn = agent(x, c)["action_distribution"].sample()
    agent.actor_critic_step(*step)
    np.testing.assert_array_equal(agent.replay.experience["action"], drawn)


def test_a_checkpoint_carries_base_and_adapter(small, data, tmp_path):
    agent = SOTATradingAgent(small)
    x = states(small)
    agent.save_checkpoint(tmp_path / "before.safetensors")
    trade(agent, data, small, 40)
    agent.save_checkpoint(tmp_path / "after.safetensors")
    again = SOTATradingAgent.load_from_checkpoint(tmp_path / "after.safetensors")
    assert again.config == small
    assert again.env_steps == 40
    assert torch.equal(again.eval()(*x)["state"], agent.eval()(*x)["state"])
    assert [n for n, p in again.named_parameters() if p.requires_grad] == [
        n for n, p in agent.named_parameters() if p.requires_grad
    ]
    fresh = SOTATradingAgent.load_from_checkpoint(tmp_path / "before.safetensors")
    assert torch.equal(fresh.eval()(*x)["state"], SOTATradingAgent(small).eval()(*x)["state"])


def test_a_checkpoint_that_is_none_is_refused(tmp_path):
    path = tmp_path / "agent.safetensors"
    with pytest.raises(CorruptCheckpointError, match=r"agent\.safetensors"):
        SOTATradingAgent.load_from_checkpoint(path)
    write_tensors(path, {"weight": torch.zeros(1)}, {"about": "else"})
    with pytest.raises(CorruptCheckpointError, match="not an agent"):
        SOTATradingAgent.load_from_checkpoint(path)
