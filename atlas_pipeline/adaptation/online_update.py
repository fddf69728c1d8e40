"""The online update: what the ledger has just experienced, turned into the next adapter.

Only the LoRA matrices learn; base and heads stay frozen. How they learn is ``learner``'s, the buffer is
``replay``'s, segments are ``experience``'s, the layers are ``lora``'s, the verdict is ``gate``'s.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atlas_pipeline.adaptation.experience import Experience, ExperienceError
from atlas_pipeline.adaptation.learner import AdapterLearner
from atlas_pipeline.adaptation.lora import Adapter, attach, extract
from atlas_pipeline.adaptation.replay import PrioritizedReplayBuffer
from atlas_pipeline.adaptation.serving import LivePolicy
from atlas_pipeline.config import Config, Hardware
from atlas_pipeline.training.hardware import Compute, settings
from atlas_pipeline.windows.panel import Panel
from atlas_pipeline.windows.scaled_windows import ScaledWindows

if TYPE_CHECKING:
    import pandas as pd

AUTOMATIC_BATCH = 64
STEP = "env_step"


@dataclass(frozen=True, eq=False)
class AdapterUpdate:
    """The next adapter, what learning it was like, and the buffer with its priorities carried on."""

    adapter: Adapter
    metrics: dict[str, float]
    replay: PrioritizedReplayBuffer


def new_replay(config: Config) -> PrioritizedReplayBuffer:
    """Make the empty buffer of a ledger: it holds numbers of environment steps, the ledger the rest."""
    return PrioritizedReplayBuffer(
        config.per_buffer_size,
        config.per_alpha,
        config.per_beta,
        config.per_beta_increment,
        config.per_epsilon,
    )


def update_adapter(
    experience: pd.DataFrame,
    panel: Panel,
    live: LivePolicy,
    replay: PrioritizedReplayBuffer | None,
    config: Config,
    hardware: Hardware,
    seed: int,
) -> AdapterUpdate:
    """Learn the next adapter from a ledger's experience.

    1. Steps that the buffer has not seen enter it with their temporal-difference error under the live policy.
    2. ``online_batch_size`` steps are drawn by priority.
    3. On the contiguous segments that begin at them, values and action probabilities are computed again
    under the
       live policy; advantages are generalised ones with truncated importance weights
       (``trading.ppo_loss.gae``).
    4. ``online_epochs`` passes of the PPO loss, weighted for the uneven draw, move the LoRA matrices.
    5. The steps drawn get their errors under the new policy as priorities.

    Parameters
    ----------
    experience
        Rows of EXPERIENCE of one ledger up to the step the adapter is named by, and no later ones; with all
        the steps that the buffer holds.
    panel
        Holds the features the base reads; only windows that end at a step's bar are read.
    live
        What is continued: base, heads and adapter.
    replay
        The buffer as the update before left it; it is not changed. None begins an empty one.
    config
        Sections ``AdaptationSettings`` and ``PPOSettings``, and ``gradient_clip``.
    hardware
        Device, precision, threads and physical batch.
    seed
        With the step it decides every random number: the same call gives the same adapter.

    Returns
    -------
    AdapterUpdate
        Metrics: ``online/actor_loss``, ``online/critic_loss``, ``online/entropy`` (nats), ``online/kl``
        (nats, from the policy that acted) and ``online/clip_fraction``, means over the passes;
        ``online/per_beta``.

    Raises
    ------
    ExperienceError
        Where experience, panel and buffer do not fit each other, or no two consecutive steps are there.
    FloatingPointError
        Where a loss, a gradient or a network's output is not finite.
    """
    panel = panel.select(live.features)
    steps = Experience.of(experience, panel, live.forecaster.config.seq_length)
    env_step = int(steps.env_step.max())
    generator = np.random.default_rng([seed, env_step])
    buffer = new_replay(config) if replay is None else PrioritizedReplayBuffer.from_state_dict(replay.state_dict())
    with settings(hardware, live.forecaster.config) as compute, torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator.integers(2**63)))
        learner = _learner(steps, panel, live, config, hardware, compute, int(generator.integers(2**31)))
        _admit(buffer, learner)
        drawn = buffer.sample(config.online_batch_size, generator)
        rows = steps.rows_of(drawn.experience[STEP])
        advantages, targets = learner.advantages(rows)
        metrics = learner.learn(rows, advantages, targets, drawn.weights, generator)
        buffer.update_priorities(drawn.indices, learner.errors(rows))
        tensors = extract(learner.network.backbone)
    adapter = Adapter(
        base_sha256=live.base_sha256,
        policy_sha256=live.policy_sha256,
        config_digest=config.digest(),
        env_step=env_step,
        parent=live.adapter.sha256,
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        tensors=tensors,
    )
    return AdapterUpdate(adapter, {**metrics, "online/per_beta": buffer.beta}, buffer)


def _admit(buffer: PrioritizedReplayBuffer, learner: AdapterLearner) -> None:
    """Let the complete steps that the buffer has not seen enter it, oldest first."""
    steps = learner.steps
    new = steps.complete
    if len(buffer):
        held = buffer.experience[STEP]
        new &= ~np.isin(steps.env_step, held)
        if len(buffer) == buffer.capacity:
            new &= steps.env_step > held.min()
    rows = np.flatnonzero(new)
    rows = rows[np.argsort(steps.env_step[rows])][-buffer.capacity :]
    if not len(rows) and not len(buffer):
        raise ExperienceError(f"none of {len(steps)} steps is followed by the next: wait for more bars")
    if len(rows):
        buffer.add({STEP: steps.env_step[rows]}, learner.errors(rows))


def _learner(
    steps: Experience,
    panel: Panel,
    live: LivePolicy,
    config: Config,
    hardware: Hardware,
    compute: Compute,
    seed: int,
) -> AdapterLearner:
    """Copy the live network, with its adapter as LoRA layers; ``live`` stays as it is."""
    network = copy.deepcopy(live.forecaster.model).requires_grad_(False)
    network._modules["backbone"] = attach(network.backbone, config, live.adapter, seed)
    heads = copy.deepcopy(live.actor_critic).requires_grad_(False)
    base = live.forecaster
    inputs = ScaledWindows(panel, steps.ends, base.scaler, base.fold, base.config.seq_length, compute.device)

    def windows(rows: npt.NDArray[np.int64]) -> Tensor:
        return inputs(torch.from_numpy(steps.ends[rows]).to(compute.device))

    batch = AUTOMATIC_BATCH if hardware.batch_size == "auto" else hardware.batch_size
    return AdapterLearner(
        network.to(compute.device), heads.to(compute.device).eval(), steps, windows, config, compute, batch
    )
