"""The policy and its critic: two small networks on the same state; PPO and the market are elsewhere."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

ACTION_COUNT = 3


def _trunk(state_dim: int, hidden: int, outputs: int, output_gain: float) -> nn.Sequential:
    layers = nn.Sequential(
        nn.Linear(state_dim, hidden),
        nn.LayerNorm(hidden),
        nn.GELU(),
        nn.Linear(hidden, hidden),
        nn.LayerNorm(hidden),
        nn.GELU(),
        nn.Linear(hidden, outputs),
    )
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight, 2**0.5 if layer.out_features == hidden else output_gain)
            nn.init.zeros_(layer.bias)
    return layers


class ActorCritic(nn.Module):
    """Categorical policy over HOLD, BUY, SELL, and the value of the state.

    Actor and critic share no weights: with a frozen embedding there is nothing to gain from it, and the
    critic's gradient would otherwise compete with the policy's. Weights are orthogonal, the policy's last
    layer small, so that the first policy is close to uniform (Andrychowicz et al. 2021, "What matters in
    on-policy reinforcement learning?", sec. 3.2).

    The state is standardised inside, by buffers that are saved with the weights (`fit_standardisation`).

    Parameters
    ----------
    state_dim : int
        Length of the state.
    hidden : int
        Width of the two hidden layers of each network.
    value_scale : float
        The critic's last layer works in units of this many rewards; it is a buffer, loaded with the weights.
    """

    state_mean: Tensor
    state_deviation: Tensor
    value_scale: Tensor

    def __init__(self, state_dim: int, hidden: int, value_scale: float = 1.0) -> None:
        super().__init__()
        self.actor = _trunk(state_dim, hidden, ACTION_COUNT, 0.01)
        self.critic = _trunk(state_dim, hidden, 1, 0.1)
        self.register_buffer("state_mean", torch.zeros(state_dim))
        self.register_buffer("state_deviation", torch.ones(state_dim))
        self.register_buffer("value_scale", torch.tensor(float(value_scale)))

    @property
    def state_dim(self) -> int:
        """Length of the state."""
        return len(self.state_mean)

    @torch.no_grad()
    def fit_standardisation(self, embeddings: Tensor) -> None:
        """Standardise the first columns of the state by the mean and deviation of these rows.

        Parameters
        ----------
        embeddings : Tensor, shape (n, d), d <= state_dim
            Of the bars the policy learns on, and of no later ones. A column that does not vary is only
            centred; the columns after d are left as they are.
        """
        width = embeddings.shape[1]
        deviation, mean = torch.std_mean(embeddings.double(), dim=0, correction=0)
        constant = deviation <= 1e-6 * (1.0 + mean.abs())
        self.state_mean[:width] = mean.float()
        self.state_deviation[:width] = torch.where(constant, torch.ones_like(deviation), deviation).float()

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and value.

        Parameters
        ----------
        state : Tensor, shape (B, state_dim)
            Embedding, then context, not standardised.

        Returns
        -------
        logits : Tensor, shape (B, 3)
        value : Tensor, shape (B,)
            In units of the reward.
        """
        # Beyond ten deviations there is no data to learn from; an unseen extreme must not decide alone.
        inputs = ((state - self.state_mean) / self.state_deviation).clamp(-10.0, 10.0)
        value = cast(Tensor, self.critic(inputs)).squeeze(-1) * self.value_scale
        return self.actor(inputs), value
