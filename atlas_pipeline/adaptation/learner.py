"""Learning LoRA matrices from stored experience: opinions of states, advantages, and passes of the PPO loss.

Which experience, which base and what becomes of the matrices is decided by ``online_update`` and ``agent``;
the losses are ``trading.ppo_loss``'s, segments ``experience``'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from atlas_pipeline.adaptation.experience import Experience
from atlas_pipeline.config import Config
from atlas_pipeline.models.actor_critic import ActorCritic
from atlas_pipeline.models.forecaster import Forecaster
from atlas_pipeline.trading.ppo_loss import PPOLoss, gae, ppo_loss, standardised
from atlas_pipeline.training.hardware import Compute

# An advantage is summed along its segment until what is left out weighs less than this.
TRACE_REMAINDER = 0.01


class AdapterLearner:
    """A network with LoRA layers that learns, and what it says of the steps; kept until it changes.

    Parameters
    ----------
    network
        Its backbone comes from ``lora.attach``; changed in place by ``learn``.
    heads
        The actor-critic; stays as it is.
    steps
        What is learned from.
    windows
        Model inputs [n, seq_length, features] of the states of these rows of ``steps``, on the device.
    config
        Sections ``AdaptationSettings`` and ``PPOSettings``, and ``gradient_clip``.
    compute
        Device and precision; network and heads are there already.
    batch
        Windows processed at once.
    """

    def __init__(
        self,
        network: Forecaster,
        heads: ActorCritic,
        steps: Experience,
        windows: Callable[[npt.NDArray[np.int64]], Tensor],
        config: Config,
        compute: Compute,
        batch: int,
    ) -> None:
        self.network = network.eval()
        self.heads = heads
        self.steps = steps
        self.windows = windows
        self.config = config
        self.compute = compute
        self.batch = batch
        self._forget()

    def _forget(self) -> None:
        self._values = np.full(len(self.steps), np.nan)
        self._log_probabilities = np.full(len(self.steps), np.nan)

    def _act(self, rows: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Logits [n, 3] and values [n] in the states of these steps."""
        contexts = torch.from_numpy(self.steps.contexts[rows]).to(self.compute.device)
        with self.compute.autocast():
            embedding = self.network.embed(self.windows(rows))
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

    def advantages(self, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
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
            f"online/{names.get(name, name)}": float(torch.stack([getattr(part, name) for part in parts]).mean())
            for name in ("actor", "critic", "entropy", "kl", "clip_fraction")
        }
