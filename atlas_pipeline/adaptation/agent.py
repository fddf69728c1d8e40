"""The agent of a plain Python user: network, policy, replay and online update in one module.

The pipeline does not use it: there the same parts are separate assets, each with its own file and version.
Both learn online through ``learner``.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from atlas_pipeline.adaptation.experience import Experience
from atlas_pipeline.adaptation.learner import AdapterLearner
from atlas_pipeline.adaptation.lora import Adapter, attach, extract
from atlas_pipeline.adaptation.replay import PrioritizedReplayBuffer
from atlas_pipeline.config import DENSITY_HEADS, Config
from atlas_pipeline.models.densities import DensityHead
from atlas_pipeline.models.forecaster import Forecaster
from atlas_pipeline.trading.ppo import new_policy
from atlas_pipeline.training.checkpoint import read_tensors, write_tensors
from atlas_pipeline.training.errors import CorruptCheckpointError
from atlas_pipeline.training.hardware import Compute

_REMEDY = "save the agent again, or train it anew"
NOTHING_FOLLOWS = -1


class ActionDistribution(Categorical):
    """A categorical distribution that remembers what was last sampled from it.

    ``actor_critic_step`` is told states and rewards but not the action taken, and without it nothing can be
    learned.
    """

    drawn: Tensor | None = None

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Sample actions, int64 [*sample_shape, batch]."""
        self.drawn = super().sample(torch.Size(sample_shape))
        return self.drawn


class SOTATradingAgent(nn.Module):
    """Forecaster, actor-critic and their online adaptation.

    A plain ``nn.Module``: pretrain it with any loop on ``price_mean`` and ``price_variance``. The first
    online update freezes everything but the LoRA matrices that it adds to the backbone.

    Parameters
    ----------
    config
        The experiment. ``online_update_freq`` environment steps are one online update apart.

    Raises
    ------
    ValueError
        Where its head says no density.

    Attributes
    ----------
    forecaster, policy
        The networks; the state is the embedding and ``trading.state.CONTEXT``.
    replay
        What was experienced. A step at the default size takes 17 kB, so a full buffer of 100,000 takes 1.7
        GB.
    env_steps
        Environment steps so far: calls of ``actor_critic_step`` times their batch.
    online_metrics
        Of the last online update; empty before the first.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.forecaster = Forecaster(config)
        if not isinstance(self.forecaster.head, DensityHead):
            raise ValueError(
                f"Config.head={config.head!r} says no density, whose mean and variance the agent gives: use one of "
                f"{', '.join(DENSITY_HEADS)}"
            )
        self.forecaster.backbone.gradient_checkpointing = config.gradient_checkpointing
        self.policy = new_policy(config.d_model, config)
        self.replay = PrioritizedReplayBuffer(
            config.per_buffer_size,
            config.per_alpha,
            config.per_beta,
            config.per_beta_increment,
            config.per_epsilon,
        )
        self.env_steps = 0
        self.online_metrics: dict[str, float] = {}
        self._adapting = False
        self._distribution: ActionDistribution | None = None
        self._seen: tuple[Tensor, Tensor] | None = None
        self._following: tuple[npt.NDArray[np.int64], Tensor, Tensor] | None = None

    def forward(self, time_series: Tensor, context: Tensor) -> dict[str, Any]:
        """Forecast, and act.

        Parameters
        ----------
        time_series
            float32 [batch, seq_length, features].
        context
            float32 [batch, len(CONTEXT)].

        Returns
        -------
        dict
            ``embedding`` [batch, d_model]; ``price_mean`` and ``price_variance`` [batch, horizons], of the targets;
            ``action_distribution``, a ``Categorical`` over HOLD, BUY, SELL; ``value`` [batch, 1]; ``state``
            [batch, d_model + len(CONTEXT)].
        """
        embedding, outputs = self.forecaster(time_series)
        density = cast(DensityHead, self.forecaster.head).density(outputs)
        state = torch.cat([embedding, context], dim=-1)
        logits, value = self.policy(state)
        distribution = ActionDistribution(logits=logits, validate_args=False)
        self._distribution, self._seen = distribution, (time_series.detach(), context.detach())
        return {
            "embedding": embedding,
            "price_mean": density.mean(),
            "price_variance": density.variance(),
            "action_distribution": distribution,
            "value": value[:, None],
            "state": state,
        }

    def actor_critic_step(
        self,
        time_series: Tensor,
        context: Tensor,
        reward: Tensor,
        next_time_series: Tensor,
        next_context: Tensor,
        done: Tensor,
        *,
        action: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Store one step of each environment in the batch; learn once ``online_update_freq`` have come together.

        Parameters
        ----------
        time_series, context
            The states acted on, as for ``forward``.
        reward
            float32 [batch].
        next_time_series, next_context
            The states that followed. Where the next call starts from them, the steps are one segment.
        done
            1 where nothing follows, float32 [batch].
        action
            int64 [batch]; by default what was last sampled from ``forward``'s distribution for these states.

        Returns
        -------
        dict
            ``td_error`` (``r + gamma V(s') - V(s)``), ``value`` and ``reward``, each [batch].

        Raises
        ------
        ValueError
            Where no action is given and none was sampled for these states.
        """
        taken = self._taken(time_series, context) if action is None else action.reshape(-1)
        training = self.training
        self.eval()
        with torch.no_grad():
            both = self.forecaster.embed(torch.cat([time_series, next_time_series]))
            logits, values = self.policy(torch.cat([both, torch.cat([context, next_context])], dim=-1))
        self.train(training)
        value, following = values.chunk(2)
        log_probability = logits[: len(value)].log_softmax(-1).gather(-1, taken[:, None])[:, 0]
        td_error = reward.reshape(-1) + self.config.gamma * (1 - done.reshape(-1)) * following - value
        count = len(value)
        places = self.replay.add(
            {
                "env_step": np.arange(self.env_steps, self.env_steps + count),
                "time_series": _array(time_series),
                "context": _array(context),
                "action": _array(taken).astype(np.int64),
                "log_probability": _array(log_probability).astype(np.float64),
                "reward": _array(reward.reshape(-1)).astype(np.float64),
                "done": _array(done.reshape(-1)) > 0,
                "next_place": np.full(count, NOTHING_FOLLOWS),
            },
            _array(td_error),
        )
        self._link(places, time_series, context)
        self._following = places, next_time_series.detach().clone(), next_context.detach().clone()
        before = self.env_steps // self.config.online_update_freq
        self.env_steps += count
        if self.env_steps // self.config.online_update_freq > before:
            self.online_fine_tune()
        return {"td_error": td_error, "value": value, "reward": reward.reshape(-1)}

    def online_fine_tune(self) -> dict[str, float]:
        """Update the LoRA matrices from the replay buffer; see ``learner.AdapterLearner``.

        Called by ``actor_critic_step``. The base and the heads are frozen from the first call on.

        Returns
        -------
        dict
            ``online/actor_loss``, ``online/critic_loss``, ``online/entropy``, ``online/per_beta``,
            ``online/kl``, ``online/clip_fraction``.

        Raises
        ------
        ReplayError
            Where nothing was experienced yet.
        FloatingPointError
            Where a loss or a gradient is not finite.
        """
        if not self._adapting:
            self._begin_adapting({})
        generator = np.random.default_rng([self.config.seed, self.env_steps])
        drawn = self.replay.sample(self.config.online_batch_size, generator)
        steps, places = self._experience()
        position = np.empty(len(self.replay), np.int64)
        position[places] = np.arange(len(places))
        rows = position[drawn.indices]
        learnable = steps.complete[rows]
        if not learnable.any():
            return self.online_metrics
        rows, indices = rows[learnable], drawn.indices[learnable]
        device = self.policy.state_mean.device
        series = self.replay.experience["time_series"]
        compute = Compute(
            device=device,
            dtype=torch.bfloat16 if self.config.use_amp and device.type == "cuda" else torch.float32,
            gradient_checkpointing=self.config.gradient_checkpointing,
            compile="off",
            deterministic=False,
        )
        training = self.training
        learner = AdapterLearner(
            self.forecaster,
            self.policy.eval(),
            steps,
            lambda chosen: torch.from_numpy(series[steps.ends[chosen]]).to(device),
            self.config,
            compute,
            self.config.batch_size,
        )
        with torch.random.fork_rng():
            torch.manual_seed(int(generator.integers(2**63)))
            advantages, targets = learner.advantages(rows)
            metrics = learner.learn(rows, advantages, targets, drawn.weights[learnable], generator)
        self.replay.update_priorities(indices, learner.errors(rows))
        self.train(training)
        self.online_metrics = {**metrics, "online/per_beta": self.replay.beta}
        return self.online_metrics

    def save_checkpoint(self, path: str | Path) -> str:
        """Write weights, LoRA matrices and configuration to one safetensors file; the replay buffer is left out.

        Returns
        -------
        str
            SHA-256 (hex) of the weights.
        """
        lora = extract(self.forecaster.backbone) if self._adapting else {}
        weights = {
            name.replace(".base_layer.", "."): tensor
            for name, tensor in self.state_dict().items()
            if ".lora_" not in name
        }
        tensors = weights | {f"lora.{name}": tensor for name, tensor in lora.items()}
        record = {"config": dataclasses.asdict(self.config), "env_steps": self.env_steps}
        return write_tensors(Path(path), tensors, record)

    @classmethod
    def load_from_checkpoint(cls, path: str | Path) -> SOTATradingAgent:
        """Read an agent that ``save_checkpoint`` wrote; nothing in the file is executed.

        Raises
        ------
        CorruptCheckpointError
            Where the file is missing, damaged or something else; it is named.
        """
        tensors, record = read_tensors(Path(path), _REMEDY)
        if record.keys() != {"config", "env_steps"}:
            raise CorruptCheckpointError(f"{path} is not an agent: {_REMEDY}")
        agent = cls(Config(**record["config"]))
        agent.env_steps = record["env_steps"]
        lora = {name.removeprefix("lora."): t for name, t in tensors.items() if name.startswith("lora.")}
        agent.load_state_dict({name: t for name, t in tensors.items() if not name.startswith("lora.")})
        if lora:
            agent._begin_adapting(lora)
        return agent

    def _begin_adapting(self, tensors: dict[str, Tensor]) -> None:
        config = self.config
        adapter = Adapter("", "", "", rank=config.lora_rank, alpha=config.lora_alpha, tensors=tensors)
        self.requires_grad_(False)
        backbone = attach(self.forecaster.backbone, config, adapter, config.seed)
        self.forecaster._modules["backbone"] = backbone.to(self.policy.state_mean.device)
        self._adapting = True

    def _taken(self, time_series: Tensor, context: Tensor) -> Tensor:
        sampled = None if self._distribution is None else self._distribution.drawn
        if sampled is None or self._seen is None or sampled.shape != time_series.shape[:1]:
            raise ValueError(
                "the action taken is not known: sample it from forward's action_distribution, or pass action="
            )
        if not (torch.equal(self._seen[0], time_series) and torch.equal(self._seen[1], context)):
            raise ValueError("forward was last called with other states than these: pass action=")
        return sampled

    def _link(self, places: npt.NDArray[np.int64], time_series: Tensor, context: Tensor) -> None:
        """Mark the steps before as followed by these, where these states are the ones they led to."""
        if self._following is None or self._following[1].shape != time_series.shape:
            return
        before, series, account = self._following
        same = (series == time_series).flatten(1).all(-1) & (account == context).all(-1)
        linked = _array(same)
        self.replay.experience["next_place"][before[linked]] = places[linked]

    def _experience(self) -> tuple[Experience, npt.NDArray[np.int64]]:
        """The replay buffer as segments: its steps so ordered that what follows stands next, and their places."""
        held = self.replay.experience
        following, done = held["next_place"], held["done"]
        going_on = (following != NOTHING_FOLLOWS) & ~done
        begins = np.ones(len(self.replay), bool)
        begins[following[going_on]] = False
        places: list[int] = []
        for first in np.flatnonzero(begins):
            place = int(first)
            places.append(place)
            while going_on[place]:
                place = int(following[place])
                places.append(place)
        order = np.array(places)
        steps = Experience(
            env_step=held["env_step"][order],
            ends=order,
            contexts=held["context"][order],
            actions=held["action"][order],
            log_probabilities=held["log_probability"][order],
            rewards=held["reward"][order],
            terminated=done[order],
            follows=going_on[order],
        )
        return steps, order


def _array(tensor: Tensor) -> npt.NDArray[Any]:
    return tensor.detach().cpu().numpy()
