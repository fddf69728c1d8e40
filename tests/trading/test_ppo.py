from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from atlas_pipeline.config import Config
from atlas_pipeline.models.actor_critic import ActorCritic
from atlas_pipeline.trading import ppo
from atlas_pipeline.trading.backtest import trade
from atlas_pipeline.trading.market_path import MarketPath
from atlas_pipeline.trading.policy import choose_actions, decide
from atlas_pipeline.trading.policy_checkpoint import PolicyCheckpointError, checkpoint_path
from atlas_pipeline.trading.ppo import new_policy, split_paths, train_policy
from atlas_pipeline.trading.rollout import EPISODE_BARS, VectorEnvironment
from atlas_pipeline.training.errors import CorruptCheckpointError

Paths = Callable[..., MarketPath]
SMALL = Config(ppo_steps=12 * 8 * 16, ppo_environments=8, ppo_rollout=16, ppo_minibatch=64, policy_hidden=8)


def two_paths(simulated_path: Paths, bars: int = 120) -> list[MarketPath]:
    return [simulated_path(1, bars, 4, symbol="A"), simulated_path(2, bars, 4, symbol="B")]


def same(one: ActorCritic, other: ActorCritic) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("splits", [{}, dict.fromkeys(range(3, 400, 7), 2.0) | dict.fromkeys(range(5, 400, 7), 0.5)])
def test_many_accounts_are_each_what_one_account_would_be(simulated_path: Paths, as_traded, splits) -> None:
    dividends = dict.fromkeys(list(splits)[1:-1:2], 0.3)
    paths = [as_traded(path, splits, dividends) for path in two_paths(simulated_path, 400)]
    random = np.random.default_rng(0)
    environment = VectorEnvironment.of(paths, SMALL, random.random((2, 8)))
    model = new_policy(4, SMALL)
    first = environment.places.copy()
    experience = environment.rollout(model, random.random((64, 8)), random.random((64, 8)))
    joined = np.concatenate([path.close for path in paths])
    for n in range(8):
        length = int(np.argmax(experience.ended[:, n])) + 1 if experience.ended[:, n].any() else 64
        row = int(first[n, 0])
        path = paths[row // 400]
        start = row % 400
        own = experience.actions[:length, n]
        track = trade(path.between(start, start + length + 1), SMALL, lambda t, _, own=own: int(own[t]))
        np.testing.assert_array_equal(track.reward, experience.rewards[:length, n])
        assert joined[row] == path.close[start]
        np.testing.assert_array_equal(experience.rows[:length, n], row + np.arange(length))
    assert experience.ended.any()


def test_episodes_end_in_time_inside_their_path_and_are_all_counted(simulated_path: Paths) -> None:
    paths = two_paths(simulated_path, 300)
    random = np.random.default_rng(0)
    environment = VectorEnvironment.of(paths, SMALL, random.random((2, 8)))
    experience = environment.rollout(new_policy(4, SMALL), random.random((600, 8)), random.random((600, 8)))
    assert len(experience.episodes) == experience.ended.sum()
    assert experience.episodes[:, 0].max() <= EPISODE_BARS
    assert (experience.final_rows // 300 == experience.rows // 300).all()
    # Every bar but the last of each path is met as a start or on the way.
    assert set(np.unique(experience.rows)) <= set(range(600)) - {299, 599}
    going_on = ~experience.ended[:-1]
    np.testing.assert_array_equal(experience.rows[1:][going_on], experience.final_rows[:-1][going_on])
    np.testing.assert_array_equal(experience.contexts[1:][going_on], experience.final_contexts[:-1][going_on])


def test_sampled_actions_have_the_policys_frequencies() -> None:
    logits = np.log(np.array([[0.2, 0.5, 0.3]], np.float32)).repeat(20_000, 0)
    actions, log_probabilities = choose_actions(logits, np.random.default_rng(0).random(20_000))
    shares = np.bincount(actions, minlength=3) / 20_000
    # Four binomial standard errors.
    np.testing.assert_allclose(shares, [0.2, 0.5, 0.3], atol=0.015)
    np.testing.assert_allclose(log_probabilities, np.log([0.2, 0.5, 0.3])[actions], rtol=1e-5)
    assert (choose_actions(logits[:3], None)[0] == 1).all()


def test_a_policy_that_is_not_finite_does_not_trade() -> None:
    model = new_policy(4, SMALL)
    with torch.no_grad():
        model.actor[0].weight[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="restore the last sound checkpoint"):
        decide(model, np.ones((1, model.state_dim), np.float32), None)


def test_the_seed_decides_everything(simulated_path: Paths) -> None:
    paths = two_paths(simulated_path)
    torch.manual_seed(1)
    one = train_policy(paths, SMALL)
    torch.manual_seed(2)
    two = train_policy(paths, SMALL)
    assert same(one.model, two.model)
    assert one.history == two.history
    assert not same(one.model, train_policy(paths, replace(SMALL, seed=1)).model)


@pytest.mark.parametrize("killed_after", [1, 5, 6, 10, 12])
def test_killed_training_ends_where_undisturbed_training_does(
    simulated_path: Paths, tmp_path: Path, killed_after: int
) -> None:
    paths = two_paths(simulated_path)
    undisturbed = train_policy(paths, SMALL)

    class Killed(BaseException):
        pass

    def kill(steps: int, _: int) -> None:
        if steps >= killed_after * 8 * 16:
            raise Killed

    with pytest.raises(Killed):
        train_policy(paths, SMALL, checkpoint_dir=tmp_path, progress=kill)
    reported: list[int] = []
    resumed = train_policy(
        paths, SMALL, checkpoint_dir=tmp_path, metrics=lambda steps, _: reported.append(steps // 128)
    )
    assert same(undisturbed.model, resumed.model)
    assert undisturbed.history == resumed.history
    assert (undisturbed.steps, undisturbed.held_out_sharpe) == (resumed.steps, resumed.held_out_sharpe)
    last_save = killed_after if killed_after == 12 else killed_after // 5 * 5
    assert reported == list(range(last_save + 1, 13))


def test_other_data_or_settings_use_another_checkpoint(simulated_path: Paths, tmp_path: Path) -> None:
    paths = two_paths(simulated_path)
    moved = replace(paths[0], forecast_location=paths[0].forecast_location + 1)
    names = {
        checkpoint_path(tmp_path, *arguments)
        for arguments in (
            (paths, SMALL),
            ([moved, paths[1]], SMALL),
            (paths, replace(SMALL, commission=0.01)),
            (paths, replace(SMALL, seed=1)),
            (paths, replace(SMALL, batch_size=1)),
        )
    }
    assert len(names) == 4  # the forecaster's batch size changes nothing here


def test_a_damaged_or_foreign_checkpoint_is_named(simulated_path: Paths, tmp_path: Path) -> None:
    paths = two_paths(simulated_path)
    file = checkpoint_path(tmp_path, paths, SMALL)
    file.write_bytes(b"damaged")
    with pytest.raises(CorruptCheckpointError, match="delete it"):
        train_policy(paths, SMALL, checkpoint_dir=tmp_path)
    other = replace(SMALL, policy_hidden=4)
    train_policy(paths, other, checkpoint_dir=tmp_path)
    checkpoint_path(tmp_path, paths, other).replace(file)
    with pytest.raises(PolicyCheckpointError, match="does not fit this training"):
        train_policy(paths, SMALL, checkpoint_dir=tmp_path)


def test_metrics_are_reported_under_their_names(simulated_path: Paths) -> None:
    records: list[dict[str, float]] = []
    steps: list[tuple[int, int]] = []
    train_policy(
        two_paths(simulated_path),
        SMALL,
        progress=lambda done, total: steps.append((done, total)),
        metrics=lambda _, values: records.append(values),
    )
    assert steps[-1] == (SMALL.ppo_steps, SMALL.ppo_steps)
    assert len(records) == 12
    expected = {
        *("episode_reward", "portfolio_value", "sharpe_ratio", "max_drawdown"),
        *("actor_loss", "critic_loss", "entropy", "kl", "clip_fraction"),
    }
    assert expected <= records[-1].keys()
    assert sum("held_out_sharpe" in record for record in records) == 3


def test_the_best_policy_on_held_out_bars_is_kept(simulated_path: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([1.0, 3.0, 2.0])
    seen: list[ActorCritic] = []

    def score(model: ActorCritic, _: list[MarketPath], __: Config) -> float:
        copy = new_policy(4, SMALL)
        copy.load_state_dict(model.state_dict())
        seen.append(copy)
        return next(scores)

    monkeypatch.setattr(ppo, "held_out_sharpe", score)
    trained = train_policy(two_paths(simulated_path), SMALL)
    assert (trained.held_out_sharpe, trained.steps) == (3.0, 10 * 8 * 16)
    assert same(trained.model, seen[1])


def test_nothing_held_out_is_learned_from(simulated_path: Paths) -> None:
    """Change every held-out bar: the policies on the way, and the standardisation, stay what they were."""
    paths = two_paths(simulated_path)
    learned, held_out = split_paths(paths)
    assert [len(path) for path in learned + held_out] == [90, 90, 30, 30]
    changed = []
    for path in paths:
        embedding, close = path.embedding.copy(), path.close.copy()
        embedding[90:] += 5
        close[90:] *= 3
        changed.append(replace(path, embedding=embedding, close=close))

    def losses(on: list[MarketPath]) -> list[dict[str, float]]:
        return [
            {name: value for name, value in record.items() if name != "held_out_sharpe"}
            for record in train_policy(on, SMALL).history
        ]

    assert losses(paths) == losses(changed)


def test_refuses_too_little_history(simulated_path: Paths) -> None:
    with pytest.raises(ValueError, match="SIM: 39 bars are too few"):
        train_policy([simulated_path(0, 39, 4)], SMALL)
    with pytest.raises(ValueError, match="no market path"):
        train_policy([], SMALL)
    with pytest.raises(ValueError, match=r"lengths \[4, 5\]"):
        train_policy([simulated_path(0, 60, 4), simulated_path(0, 60, 5)], SMALL)


def test_leaves_torch_as_it_was(simulated_path: Paths) -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    train_policy(two_paths(simulated_path), replace(SMALL, ppo_steps=128))
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
