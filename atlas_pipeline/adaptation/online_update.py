"""The online update: what the ledger has just experienced, turned into the next adapter.

Only the LoRA matrices learn; base and heads stay frozen. The losses are ``trading.ppo_loss``'s, the buffer is
``replay``'s, segments are ``experience``'s, the layers are ``lora``'s, the verdict is ``gate``'s.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from atlas_pipeline.adaptation.experience import Experience, ExperienceError
from atlas_pipeline.adaptation.lora import Adapter, attach, extract
from atlas_pipeline.adaptation.replay import PrioritizedReplayBuffer
from atlas_pipeline.adaptation.serving import LivePolicy
from atlas_pipeline.config import Config, Hardware
from atlas_pipeline.models.actor_critic import ActorCritic
from atlas_pipeline.models.forecaster import Forecaster
from atlas_pipeline.trading.ppo_loss import PPOLoss, gae, ppo_loss, standardised
from atlas_pipeline.training.hardware import Compute, settings
from atlas_pipeline.windows.index import gather
from atlas_pipeline.windows.panel import Panel

if TYPE_CHECKING:
    import pandas as pd

# An advantage is summed along its segment until what is left out weighs less than this.
TRACE_REMAINDER = 0.01
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
    replay: PrioritizedReplayBuffer,
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
        Model inputs; of it only windows that end at a step's bar are read.
    live
        What is continued: base, heads and adapter.
    replay
        The buffer as the update before left it (``new_replay`` at first). It is not changed.
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
    steps = Experience.of(experience, panel, live.forecaster.config.seq_length)
    env_step = int(steps.env_step.max())
    generator = np.random.default_rng([seed, env_step])
    buffer = PrioritizedReplayBuffer.from_state_dict(replay.state_dict())
    with settings(hardware) as compute, torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator.integers(2**63)))
        learner = _Learner(steps, panel, live, config, hardware, compute, int(generator.integers(2**31)))
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


def _admit(buffer: PrioritizedReplayBuffer, learner: _Learner) -> None:
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


class _Learner:
    """The network that learns, and what it says of the steps; its opinions are kept until it changes."""

    def __init__(
        self,
        steps: Experience,
        panel: Panel,
        live: LivePolicy,
        config: Config,
        hardware: Hardware,
        compute: Compute,
        seed: int,
    ) -> None:
        self.steps = steps
        self.config = config
        self.compute = compute
        self.batch = AUTOMATIC_BATCH if hardware.batch_size == "auto" else hardware.batch_size
        self.seq_length = live.forecaster.config.seq_length
        network = copy.deepcopy(live.forecaster.model).requires_grad_(False)
        network._modules["backbone"] = attach(network.backbone, config, live.adapter, seed)
        self.network: Forecaster = network.to(compute.device).eval()
        self.heads: ActorCritic = (
            copy.deepcopy(live.actor_critic).requires_grad_(False).to(compute.device).eval()
        )
        scaled = live.forecaster.scaler.transform(panel.values)
        self.inputs = torch.from_numpy(scaled).to(compute.device)
        self._forget()

    def _forget(self) -> None:
        self._values = np.full(len(self.steps), np.nan)
        self._log_probabilities = np.full(len(self.steps), np.nan)

    def _act(self, rows: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Logits [n, 3] and values [n] in the states of these steps."""
        ends = torch.from_numpy(self.steps.ends[rows]).to(self.compute.device)
        contexts = torch.from_numpy(self.steps.contexts[rows]).to(self.compute.device)
        with self.compute.autocast():
            embedding = self.network.embed(gather(self.inputs, ends, self.seq_length))
        logits, values = self.heads(torch.cat([embedding, contexts], dim=-1))
        return logits, values

    def _judge(self, rows: npt.NDArray[np.int64]) -> None:
        """Fill in values and log-probabilities of the actions taken, where they are not yet known."""
        missing = rows[np.isnan(self._values[rows])]
        for start in range(0, len(missing), self.batch):
            chosen = missing[start : start + self.batch]
            with torch.inference_mode():
                logits, values = self._act(chosen)
                taken = torch.from_numpy(self.steps.actions[chosen]).to(logits.device)
                log_probability = logits.log_softmax(-1).gather(-1, taken[:, None])[:, 0]
            if not (torch.isfinite(values).all() and torch.isfinite(log_probability).all()):
                raise FloatingPointError(
                    f"the network's output at step {self.steps.env_step[chosen[0]]} or soon after is not "
                    "finite: return to the last sound adapter"
                )
            self._values[chosen] = values.double().cpu().numpy()
            self._log_probabilities[chosen] = log_probability.double().cpu().numpy()

    def _next_values(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Values of the states that followed complete steps; 0 where none did."""
        goes_on = self.steps.follows[rows] & ~self.steps.terminated[rows]
        self._judge(np.union1d(rows, rows[goes_on] + 1))
        following = np.zeros(len(rows))
        following[goes_on] = self._values[rows[goes_on] + 1]
        return following

    def errors(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Temporal-difference errors ``r + gamma V(s') - V(s)`` of complete steps, float64 [n]."""
        following = self._next_values(rows)
        return self.steps.rewards[rows] + self.config.gamma * following - self._values[rows]

    def advantages(
        self, rows: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Advantages and value targets of these steps, from the contiguous segments that begin at them."""
        steps, config = self.steps, self.config
        length = math.ceil(math.log(TRACE_REMAINDER) / math.log(config.gamma * config.gae_lambda))
        segment = steps.segments(rows, length)
        following = self._next_values(segment)
        ends = np.append(np.diff(segment) != 1, True) | ~steps.follows[segment]
        advantages, targets = gae(
            steps.rewards[segment],
            self._values[segment],
            following,
            steps.terminated[segment],
            ends,
            config.gamma,
            config.gae_lambda,
            np.exp(self._log_probabilities[segment] - steps.log_probabilities[segment]),
            config.importance_clip,
        )
        places = np.searchsorted(segment, rows)
        return advantages[places], targets[places]

    def learn(
        self,
        rows: npt.NDArray[np.int64],
        advantages: npt.NDArray[np.float64],
        targets: npt.NDArray[np.float64],
        weights: npt.NDArray[np.float64],
        generator: np.random.Generator,
    ) -> dict[str, float]:
        """Move the LoRA matrices; means of the parts of the loss over all passes."""
        from peft.tuners.lora import LoraLayer

        device = self.compute.device

        def column(array: npt.NDArray[np.float64]) -> Tensor:
            return torch.from_numpy(array).float().to(device)

        actions = torch.from_numpy(self.steps.actions[rows]).to(device)
        old = column(self.steps.log_probabilities[rows])
        advantage, target = standardised(column(advantages)), column(targets)
        # Of mean one: the loss keeps its size, whatever the least priority in the buffer is.
        weight = column(weights / weights.mean())
        learned = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(learned, lr=self.config.lora_learning_rate)
        for module in self.network.modules():
            if isinstance(module, LoraLayer):
                # The base's own dropout stays off: its noise would be in the ratio to the policy that acted.
                module.lora_dropout.train()
        parts: list[PPOLoss] = []
        for _ in range(self.config.online_epochs):
            order = generator.permutation(len(rows))
            for start in range(0, len(rows), self.batch):
                batch = order[start : start + self.batch]
                logits, values = self._act(rows[batch])
                chosen = torch.from_numpy(batch).to(device)
                loss = ppo_loss(
                    logits,
                    values,
                    actions[chosen],
                    old[chosen],
                    advantage[chosen],
                    target[chosen],
                    self.config,
                    weight[chosen],
                )
                optimizer.zero_grad()
                loss.total.backward()
                norm = nn.utils.clip_grad_norm_(learned, self.config.gradient_clip)
                if not torch.isfinite(norm):
                    raise FloatingPointError(
                        f"the gradient of the online update is {float(norm)}: lower lora_learning_rate, or "
                        "return to the last sound adapter"
                    )
                optimizer.step()
                parts.append(loss)
        self.network.eval()
        self._forget()
        names = {"actor": "actor_loss", "critic": "critic_loss"}
        return {
            f"online/{names.get(name, name)}": float(
                torch.stack([getattr(part, name) for part in parts]).mean()
            )
            for name in ("actor", "critic", "entropy", "kl", "clip_fraction")
        }
