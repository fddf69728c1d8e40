import dataclasses

import numpy as np
import pytest
import torch

from atlas_pipeline.adaptation.experience import Experience, ExperienceError
from atlas_pipeline.adaptation.online_update import _learner, new_replay, update_adapter
from atlas_pipeline.adaptation.paper import LedgerRows, LedgerState, trade
from atlas_pipeline.adaptation.replay import PrioritizedReplayBuffer
from atlas_pipeline.trading.ppo_loss import gae
from atlas_pipeline.training.checkpoint import tensors_digest
from atlas_pipeline.training.hardware import resolve
from atlas_pipeline.windows.index import gather


@pytest.fixture(scope="module")
def ledger(base, panel, config, hardware):
    rows = LedgerRows()
    for _, more in trade(LedgerState("main"), base.market_paths(panel, None, None, hardware), base, config, 0):
        rows.extend(more)
    return rows.frames()["experience"]


@pytest.fixture(scope="module")
def first(ledger, panel, base, config, hardware):
    return update_adapter(until(ledger, 120), panel, base, new_replay(config), config, hardware, 0)


def until(ledger, step):
    return ledger[ledger["env_step"] <= step]


def learner(ledger, panel, live, config, hardware):
    steps = Experience.of(ledger, panel, config.seq_length)
    return _learner(steps, panel, live, config, hardware, resolve(hardware), 0)


def test_learns_an_adapter_that_knows_its_origin(first, base, config):
    adapter = first.adapter
    assert adapter.env_step == 120
    assert adapter.parent == base.adapter.sha256
    assert (adapter.base_sha256, adapter.policy_sha256) == (base.base_sha256, base.policy_sha256)
    assert adapter.config_digest == config.digest()
    moved = [float(t.abs().max()) for name, t in adapter.tensors.items() if "lora_B" in name]
    assert all(0 < size < 1e-2 for size in moved)
    base.with_adapter(adapter, "1")


def test_reports_the_metrics_of_the_documents_of_origin(first, config):
    assert {
        "online/actor_loss",
        "online/critic_loss",
        "online/entropy",
        "online/per_beta",
    } <= first.metrics.keys()
    assert all(np.isfinite(value) for value in first.metrics.values())
    assert 0 < first.metrics["online/entropy"] <= np.log(3)
    assert first.metrics["online/per_beta"] == config.per_beta + config.per_beta_increment


def test_base_heads_and_buffer_stay_as_they_are(ledger, panel, base, config, hardware):
    replay = new_replay(config)
    before = (
        tensors_digest(base.forecaster.model.state_dict()),
        tensors_digest(base.actor_critic.state_dict()),
    )
    assert all(p.requires_grad for p in base.actor_critic.parameters())
    update_adapter(until(ledger, 60), panel, base, replay, config, hardware, 0)
    after = tensors_digest(base.forecaster.model.state_dict()), tensors_digest(base.actor_critic.state_dict())
    assert before == after
    assert len(replay) == 0
    assert all(p.requires_grad for p in base.actor_critic.parameters())


def test_only_lora_matrices_learn(ledger, panel, base, config, hardware):
    network = learner(ledger, panel, base, config, hardware).network
    trainable = [name for name, p in network.named_parameters() if p.requires_grad]
    assert len(trainable) == 2 * 4 * config.n_layers
    assert all("lora_" in name for name in trainable)


def test_same_call_same_adapter(first, ledger, panel, base, config, hardware):
    again = update_adapter(until(ledger, 120), panel, base, new_replay(config), config, hardware, 0)
    assert again.adapter.sha256 == first.adapter.sha256
    assert again.metrics == first.metrics
    np.testing.assert_array_equal(again.replay.priorities, first.replay.priorities)
    other = update_adapter(until(ledger, 120), panel, base, new_replay(config), config, hardware, 1)
    assert other.adapter.sha256 != first.adapter.sha256


def test_bars_after_the_step_change_nothing(first, ledger, panel, base, config, hardware):
    last = until(ledger, 120)["next_bar"].max().value // 1000
    later = panel.available_at > last
    changed = dataclasses.replace(
        panel,
        values=np.where(later[:, None], np.float32(9), panel.values),
        prices=np.where(later[:, None], 1e6, panel.prices),
    )
    again = update_adapter(until(ledger, 120), changed, base, new_replay(config), config, hardware, 0)
    assert again.adapter.sha256 == first.adapter.sha256


def test_priorities_and_beta_are_carried_on(first, ledger, panel, base, config, hardware):
    live = base.with_adapter(first.adapter, "1")
    carried = PrioritizedReplayBuffer.from_state_dict(first.replay.state_dict())
    second = update_adapter(until(ledger, 200), panel, live, carried, config, hardware, 0)
    assert second.adapter.parent == first.adapter.sha256
    assert second.metrics["online/per_beta"] == pytest.approx(config.per_beta + 2 * config.per_beta_increment)
    held = second.replay.experience["env_step"]
    np.testing.assert_array_equal(held[: len(first.replay)], first.replay.experience["env_step"])
    # Every step but the last of each symbol, each once.
    assert sorted(held) == list(range(1, 199))
    kept = second.replay.priorities[: len(first.replay)] == first.replay.priorities
    assert 0 < kept.mean() < 1


def test_a_full_buffer_does_not_take_back_what_it_has_dropped(ledger, panel, base, config, hardware):
    small = dataclasses.replace(config, per_buffer_size=50)
    one = update_adapter(until(ledger, 120), panel, base, new_replay(small), small, hardware, 0)
    np.testing.assert_array_equal(np.sort(one.replay.experience["env_step"]), np.arange(69, 119))
    two = update_adapter(until(ledger, 130), panel, base, one.replay, small, hardware, 0)
    np.testing.assert_array_equal(np.sort(two.replay.experience["env_step"]), np.arange(79, 129))


def test_errors_are_those_of_the_definition(ledger, panel, base, config, hardware):
    experience = until(ledger, 60)
    mind = learner(experience, panel, base, config, hardware)
    steps = mind.steps
    values = torch.from_numpy(base.forecaster.scaler.transform(panel.values, base.forecaster.fold))
    with torch.no_grad():
        embedding = base.forecaster.model.embed(gather(values, torch.from_numpy(steps.ends), config.seq_length))
        _, expected = base.actor_critic(torch.cat([embedding, torch.tensor(steps.contexts)], dim=1))
    v = expected.double().numpy()
    rows = np.flatnonzero(steps.complete)
    np.testing.assert_allclose(mind.errors(rows), steps.rewards[rows] + config.gamma * v[rows + 1] - v[rows], atol=1e-5)
    # The ledger stored the value that the same policy had said.
    stored = experience.sort_values(["symbol", "bar"])["value"].to_numpy()
    np.testing.assert_allclose(v, stored, atol=1e-5)


def test_advantages_equal_those_of_whole_segments(ledger, panel, base, config, hardware):
    """With traces long enough nothing is cut; on-policy weights are one."""
    mind = learner(ledger, panel, base, config, hardware)
    steps = mind.steps
    rows = np.flatnonzero(steps.complete)
    advantages, targets = mind.advantages(rows)
    following = mind._next_values(rows)
    ends = np.append(np.diff(rows) != 1, True)
    expected, _ = gae(
        steps.rewards[rows],
        mind._values[rows],
        following,
        steps.terminated[rows],
        ends,
        config.gamma,
        config.gae_lambda,
    )
    np.testing.assert_allclose(advantages, expected, atol=1e-4)
    sparse = rows[::7]
    np.testing.assert_allclose(mind.advantages(sparse)[0], expected[::7], atol=0.02 * np.abs(expected).max())
    assert np.isfinite(targets).all()


def test_the_loss_falls_where_it_is_minimised(ledger, panel, base, config, hardware):
    """Control: enough passes over one draw raise the probability of what turned out well."""
    strong = dataclasses.replace(config, lora_learning_rate=3e-3, online_epochs=30, lora_dropout=0.0)
    mind = learner(ledger, panel, base, strong, hardware)
    rows = np.flatnonzero(mind.steps.complete)
    advantages, targets = mind.advantages(rows)
    before = mind._log_probabilities[rows].copy()
    value_error = np.square(mind._values[rows] - targets).mean()
    mind.learn(rows, advantages, targets, np.ones(len(rows)), np.random.default_rng(0))
    mind._judge(rows)
    gain = mind._log_probabilities[rows] - before
    assert np.corrcoef(gain, advantages)[0, 1] > 0.2
    assert np.square(mind._values[rows] - targets).mean() < value_error


def test_a_loss_that_is_not_finite_is_an_error(ledger, panel, base, config, hardware):
    broken = ledger.copy()
    broken["reward"] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        update_adapter(broken, panel, base, new_replay(config), config, hardware, 0)
    huge = dataclasses.replace(config, lora_learning_rate=1e30)
    with pytest.raises(FloatingPointError):
        update_adapter(ledger, panel, base, new_replay(config), huge, hardware, 0)


def test_a_gap_ends_a_segment(ledger, panel, config):
    gap = ledger.drop(ledger.index[(ledger["symbol"] == "AAA")][20])
    steps = Experience.of(gap, panel, config.seq_length)
    assert not steps.follows[19]
    assert steps.follows[18]
    np.testing.assert_array_equal(steps.segments(np.array([15]), 50), [15, 16, 17, 18])
    np.testing.assert_array_equal(steps.segments(np.array([2, 16]), 3), [2, 3, 4, 16, 17, 18])
    assert steps.segments(np.array([19]), 5).size == 0


def test_a_termination_ends_a_segment_and_can_be_learned_from(ledger, panel, config):
    ruined = ledger.reset_index(drop=True)
    ruined.loc[ruined.index[ruined["symbol"] == "AAA"][10], "terminated"] = True
    steps = Experience.of(ruined, panel, config.seq_length)
    np.testing.assert_array_equal(steps.segments(np.array([8]), 50), [8, 9, 10])


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda frame: frame.iloc[:1], "at least two steps"),
        (lambda frame: frame.assign(ledger=["a"] + ["b"] * (len(frame) - 1)), "one ledger"),
        (lambda frame: frame.assign(symbol="ZZZ"), "ZZZ"),
        (lambda frame: frame[frame["env_step"] % 4 == 1], "wait for more bars"),
    ],
)
def test_experience_that_does_not_fit_is_refused(ledger, panel, base, config, hardware, change, message):
    with pytest.raises(ExperienceError, match=message):
        update_adapter(change(ledger), panel, base, new_replay(config), config, hardware, 0)


def test_a_buffer_of_other_experience_is_refused(first, ledger, panel, base, config, hardware):
    with pytest.raises(ExperienceError, match="not in the experience"):
        update_adapter(ledger[ledger["env_step"] > 100], panel, base, first.replay, config, hardware, 0)
