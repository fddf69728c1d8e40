"""Training the policy: proximal policy optimisation on the paths of the policy years.

The losses are in `ppo_loss`, collecting experience is in `rollout`, the file that a killed run goes on from
in `policy_checkpoint`.

Overfitting is the danger here: some thousand bars are walked through a hundred times, and a state of 264
numbers can tell every bar from every other. So the newest quarter of each path is held out: it is never
learned from, and of the policies met on the way the one with the best greedy Sharpe ratio there is kept. That
ratio is a maximum over several looks at one year, so it is flattered; it chooses, it promises nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from atlas_pipeline.config import Config
from atlas_pipeline.models.actor_critic import ActorCritic
from atlas_pipeline.trading.backtest import trade_policy
from atlas_pipeline.trading.market_path import MarketPath
from atlas_pipeline.trading.policy_checkpoint import PolicyCheckpoint, checkpoint_path
from atlas_pipeline.trading.ppo_loss import PPOLoss, gae, ppo_loss, standardised
from atlas_pipeline.trading.rollout import Experience, VectorEnvironment
from atlas_pipeline.trading.state import state_dim
from atlas_pipeline.trading.statistics import sharpe

HELD_OUT = 0.25
UPDATES_PER_LOOK = 5
# Decoupled, times the learning rate: 0.3% a step. Chosen on the control with one leaked column among 255 of noise,
# where it earns about a tenth more of what is attainable on unseen bars than 0.1 does; of market data it knows nothing.
WEIGHT_DECAY = 10.0
MINIMUM_BARS = 40


@dataclass(frozen=True)
class TrainedPolicy:
    """A policy and how it came about.

    ``steps`` is the number of environment steps after which the kept policy stood, ``held_out_sharpe`` its
    annualised ratio on the held-out bars (the best of several looks, so flattered), ``history`` one record of
    metrics an update.
    """

    model: ActorCritic
    steps: int
    held_out_sharpe: float
    history: list[dict[str, float]]


def new_policy(d_model: int, config: Config) -> ActorCritic:
    """Make the untrained network for embeddings of ``d_model`` numbers, by ``config.seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return ActorCritic(state_dim(d_model), config.policy_hidden, (1.0 - config.gamma**2) ** -0.5)


def split_paths(paths: list[MarketPath]) -> tuple[list[MarketPath], list[MarketPath]]:
    """Split each path by time: what is learned from, and the newest quarter that is only looked at.

    Raises
    ------
    ValueError
        Where there is no path, or one is too short to be split.
    """
    if not paths:
        raise ValueError("no market path to learn on: compute embeddings of the policy years first")
    for path in paths:
        if len(path) < MINIMUM_BARS:
            raise ValueError(
                f"{path.symbol}: {len(path)} bars are too few to learn a policy on and hold some out: "
                f"pass at least {MINIMUM_BARS}, or use more policy_years"
            )
    cuts = [int(len(path) * (1.0 - HELD_OUT)) for path in paths]
    return (
        [path.between(0, cut) for path, cut in zip(paths, cuts, strict=True)],
        [path.between(cut, len(path)) for path, cut in zip(paths, cuts, strict=True)],
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch on one thread: the batches are too small to share, and sums are the same everywhere."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@_one_thread()
def train_policy(
    paths: list[MarketPath],
    config: Config,
    *,
    checkpoint_dir: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    metrics: Callable[[int, dict[str, float]], None] | None = None,
) -> TrainedPolicy:
    """Learn a policy on market paths.

    Parameters
    ----------
    paths : list of MarketPath
        Of the policy years, one a symbol; embeddings by a forecaster that was not fitted on them.
    config : Config
        Sections ``TradingSettings`` and ``PPOSettings``; ``gradient_clip`` and ``seed``, from which the
        result follows entirely.
    checkpoint_dir : Path, optional
        Where a killed run finds its state: calling again with the same paths and configuration goes on from
        there and ends where the undisturbed run ends, bit for bit on one machine. Other paths or settings use
        another file.
    progress : callable, optional
        Called with steps done and steps in all, once an update.
    metrics : callable, optional
        Called with steps done and a record, once an update: ``episode_reward`` (mean over the episodes that
        ended), ``portfolio_value``, ``sharpe_ratio`` (annualised), ``max_drawdown``, ``actor_loss``,
        ``critic_loss``, ``entropy``, ``kl``, ``clip_fraction`` and, where it was looked at,
        ``held_out_sharpe``. Updates done before a resumption are not reported again; they are in the history.

    Returns
    -------
    TrainedPolicy

    Raises
    ------
    ValueError
        Where a path is too short, or paths have embeddings of different length.
    FloatingPointError
        Where a loss or the policy's output is not finite.
    CorruptCheckpointError, PolicyCheckpointError
        Where the checkpoint is damaged, or does not fit.
    """
    learned, held_out = split_paths(paths)
    widths = {path.embedding.shape[1] for path in paths}
    if len(widths) > 1:
        raise ValueError(f"embeddings have lengths {sorted(widths)}: use one forecaster for all paths")
    generator = torch.Generator().manual_seed(config.seed)
    model = new_policy(widths.pop(), config)
    model.fit_standardisation(torch.from_numpy(np.concatenate([path.embedding for path in learned])))
    optimizer = torch.optim.AdamW(_parameter_groups(model), lr=config.ppo_learning_rate, eps=1e-5)
    environment = VectorEnvironment.of(learned, config, _uniforms(generator, 2, config.ppo_environments))
    steps_per_update = config.ppo_environments * config.ppo_rollout
    updates = math.ceil(config.ppo_steps / steps_per_update)
    checkpoint = PolicyCheckpoint(model, optimizer, generator, environment)
    file = None if checkpoint_dir is None else checkpoint_path(checkpoint_dir, paths, config)
    if file is not None and file.exists():
        checkpoint.load(file)
    for update in range(checkpoint.update, updates):
        for group in optimizer.param_groups:
            group["lr"] = config.ppo_learning_rate * (1.0 - update / updates)
        experience = environment.rollout(
            model,
            _uniforms(generator, config.ppo_rollout, config.ppo_environments),
            _uniforms(generator, config.ppo_rollout, config.ppo_environments),
        )
        losses = _update(model, optimizer, environment, experience, config, generator)
        steps = (update + 1) * steps_per_update
        record = {"step": float(steps)} | _episodes(experience, learned[0].bars_per_year) | losses
        checkpoint.update = update + 1
        look = (update + 1) % UPDATES_PER_LOOK == 0 or update + 1 == updates
        if look:
            record["held_out_sharpe"] = held_out_sharpe(model, held_out, config)
            checkpoint.consider(record["held_out_sharpe"], steps)
        checkpoint.history.append(record)
        if metrics is not None:
            metrics(steps, {name: value for name, value in record.items() if name != "step"})
        # After the metrics: a kill between them reports an update twice, never not at all.
        if file is not None and look:
            checkpoint.save(file)
        if progress is not None:
            progress(min(steps, config.ppo_steps), config.ppo_steps)
    model.load_state_dict(checkpoint.best)
    return TrainedPolicy(model.eval(), checkpoint.best_steps, checkpoint.best_score, checkpoint.history)


def _parameter_groups(model: ActorCritic) -> list[dict[str, Any]]:
    """Decay matrices, and neither biases nor the gains of normalisation."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    return [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]


def held_out_sharpe(model: ActorCritic, paths: list[MarketPath], config: Config) -> float:
    """Annualised Sharpe ratio of the greedy policy over all bars of these paths; 0 where it never trades."""
    returns = np.concatenate([trade_policy(model, path, config).net_return for path in paths])
    ratio = sharpe(returns, paths[0].bars_per_year).ratio
    return 0.0 if math.isnan(ratio) else ratio


def _uniforms(generator: torch.Generator, *shape: int) -> np.ndarray:
    return torch.rand(shape, generator=generator, dtype=torch.float64).numpy()


def _next_values(model: ActorCritic, environment: VectorEnvironment, experience: Experience) -> np.ndarray:
    """Values of the states that followed; where an episode ended, of the state left behind."""
    following = np.empty_like(experience.values)
    following[:-1] = experience.values[1:]
    left = experience.ended.copy()
    left[-1] = True
    states = environment.states(experience.final_rows[left], experience.final_contexts[left])
    with torch.inference_mode():
        following[left] = model(torch.from_numpy(states))[1].double().numpy()
    return following


def _update(
    model: ActorCritic,
    optimizer: torch.optim.Optimizer,
    environment: VectorEnvironment,
    experience: Experience,
    config: Config,
    generator: torch.Generator,
) -> dict[str, float]:
    advantages, targets = gae(
        experience.rewards,
        experience.values,
        _next_values(model, environment, experience),
        experience.terminated,
        experience.ended,
        config.gamma,
        config.gae_lambda,
    )
    states = torch.from_numpy(environment.states(experience.rows, experience.contexts)).flatten(0, 1)
    columns = [
        torch.from_numpy(array).flatten().to(kind)
        for array, kind in (
            (experience.actions, torch.int64),
            (experience.log_probabilities, torch.float32),
            (advantages, torch.float32),
            (targets, torch.float32),
        )
    ]
    parts: list[PPOLoss] = []
    for _ in range(config.ppo_epochs):
        for batch in torch.randperm(len(states), generator=generator).split(config.ppo_minibatch):
            actions, old, advantage, target = (column[batch] for column in columns)
            logits, values = model(states[batch])
            loss = ppo_loss(logits, values, actions, old, standardised(advantage), target, config)
            optimizer.zero_grad()
            loss.total.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
            optimizer.step()
            parts.append(loss)
    names = ("actor", "critic", "entropy", "kl", "clip_fraction")
    means = {name: float(torch.stack([getattr(part, name) for part in parts]).mean()) for name in names}
    return {"actor_loss": means.pop("actor"), "critic_loss": means.pop("critic"), **means}


def _episodes(experience: Experience, bars_per_year: float) -> dict[str, float]:
    """Metrics of the episodes that ended in this rollout; none where none ended."""
    if not len(experience.episodes):
        return {}
    length, reward, total, squares, drawdown, equity = experience.episodes.T
    mean = total.sum() / length.sum()
    deviation = math.sqrt(max(squares.sum() / length.sum() - mean**2, 0.0))
    return {
        "episode_reward": float(reward.mean()),
        "portfolio_value": float(equity.mean()),
        "sharpe_ratio": float(mean / deviation * math.sqrt(bars_per_year)) if deviation > 0 else 0.0,
        "max_drawdown": float(drawdown.mean()),
    }
