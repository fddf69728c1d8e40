"""Advantages and loss of proximal policy optimisation, for training and online adaptation alike.

Loops, data and optimisers are not here: offline they are in `ppo`, online in the room `adaptation`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atlas_pipeline.config import PPOSettings


def gae(
    rewards: npt.ArrayLike,
    values: npt.ArrayLike,
    next_values: npt.ArrayLike,
    terminated: npt.ArrayLike,
    segment_end: npt.ArrayLike,
    gamma: float,
    gae_lambda: float,
    importance: npt.ArrayLike | None = None,
    importance_clip: float = 1.0,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Compute advantages and value targets on contiguous segments, corrected for another policy's actions.

    Without ``importance``: Schulman et al. (2016), "High-dimensional continuous control using generalized
    advantage estimation", eq. 16. With it: V-trace, Espeholt et al. (2018), "IMPALA", eq. 1 and remark 2
    (``c_i = lambda min(c_bar, w_i)``), with ``rho_bar = c_bar = importance_clip``::

        delta_t  = r_t + gamma V(s_{t+1}) - V(s_t)
        X_t      = min(rho_bar, w_t) delta_t + gamma lambda min(c_bar, w_t) X_{t+1}
        target_t = V(s_t) + X_t
        A_t      = delta_t + gamma lambda X_{t+1}

    The advantage of a_t carries no weight of its own: the probability ratio of the PPO loss is that weight.
    With all weights 1 both reduce exactly to the generalised advantage.

    Parameters
    ----------
    rewards, values, next_values : array_like, shape (T,) or (T, N)
        Time runs along the first axis. ``next_values[t]`` is the value of the state that followed step t,
        also where an episode was cut off there.
    terminated : array_like of bool, same shape
        Nothing follows step t: its next value counts as zero.
    segment_end : array_like of bool, same shape
        Row t+1 does not continue row t (end of an episode, of a rollout, of a stretch of stored experience).
        The last row ends a segment in any case.
    gamma, gae_lambda : float
        Discount and trace decay.
    importance : array_like, same shape, optional
        pi(a|s) / mu(a|s), the current policy over the one that acted; not negative.
    importance_clip : float
        rho_bar = c_bar.

    Returns
    -------
    advantages, targets : ndarray of float64, same shape

    Raises
    ------
    ValueError
        Where shapes differ, or an input is not finite or a weight negative.
    """
    reward = np.asarray(rewards, np.float64)
    named = {
        "values": np.asarray(values, np.float64),
        "next_values": np.asarray(next_values, np.float64),
        "importance": np.ones_like(reward) if importance is None else np.asarray(importance, np.float64),
    }
    flags = {"terminated": np.asarray(terminated, bool), "segment_end": np.asarray(segment_end, bool)}
    for name, array in (named | flags).items():
        if array.shape != reward.shape:
            raise ValueError(f"{name} has shape {array.shape}, rewards {reward.shape}: pass one entry a step")
    for name, array in ({"rewards": reward} | named).items():
        if not np.isfinite(array).all():
            where = np.argwhere(~np.isfinite(array))[0].tolist()
            raise ValueError(f"{name} is not finite at {where}: repair the experience or lower the learning rate")
    if (named["importance"] < 0).any():
        raise ValueError("importance has a negative weight: pass probability ratios, not their logarithms")
    value, weight = named["values"], np.minimum(named["importance"], importance_clip)
    delta = reward + gamma * np.where(flags["terminated"], 0.0, named["next_values"]) - value
    going_on = ~(flags["segment_end"] | flags["terminated"])
    advantages = np.empty_like(reward)
    correction = np.empty_like(reward)
    following = np.zeros_like(reward[0]) if len(reward) else reward
    for t in range(len(reward) - 1, -1, -1):
        carried = gamma * gae_lambda * np.where(going_on[t], following, 0.0)
        advantages[t] = delta[t] + carried
        correction[t] = following = weight[t] * (delta[t] + carried)
    return advantages, value + correction


def standardised(advantages: Tensor) -> Tensor:
    """Advantages with mean 0 and deviation 1 over the batch; a batch that does not vary becomes zero."""
    return (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)


class PPOLoss(NamedTuple):
    """The loss and its parts; ``total`` carries the gradient, the others are detached.

    ``critic`` is the squared error of the value times ``1 - gamma^2`` (see `ppo_loss`), ``entropy`` in nats,
    ``kl`` the approximate divergence from the policy that acted, ``clip_fraction`` the share of clipped
    ratios.
    """

    total: Tensor
    actor: Tensor
    critic: Tensor
    entropy: Tensor
    kl: Tensor
    clip_fraction: Tensor


def ppo_loss(
    logits: Tensor,
    values: Tensor,
    actions: Tensor,
    old_log_probabilities: Tensor,
    advantages: Tensor,
    targets: Tensor,
    config: PPOSettings,
    weights: Tensor | None = None,
) -> PPOLoss:
    """Clipped surrogate objective with value loss and entropy bonus.

    Schulman et al. (2017), "Proximal policy optimization algorithms", eq. 7 and 9. The squared error of the
    value is multiplied by ``1 - gamma^2``: discounted sums of uncorrelated rewards of variance one have
    variance ``1 / (1 - gamma^2)``, so the two losses are of one size whatever the discount.

    Parameters
    ----------
    logits : Tensor, shape (B, 3)
    values, old_log_probabilities, advantages, targets : Tensor, shape (B,)
        Advantages as they shall be used (`standardised`, as a rule); they, the targets and the old
        log-probabilities carry no gradient.
    actions : Tensor of int64, shape (B,)
    config : PPOSettings
        For gamma, ppo_epsilon, value_loss_coef and entropy_coef.
    weights : Tensor, shape (B,), optional
        Importance-sampling weights of prioritized replay; they multiply all three parts of a sample.

    Returns
    -------
    PPOLoss

    Raises
    ------
    FloatingPointError
        Where a part is not finite, naming it.
    """
    log_probabilities = torch.log_softmax(logits, dim=-1)
    log_probability = log_probabilities.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    log_ratio = log_probability - old_log_probabilities
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1.0 - config.ppo_epsilon, 1.0 + config.ppo_epsilon)
    surrogate = torch.minimum(ratio * advantages, clipped * advantages)
    error = (values - targets).square() * (1.0 - config.gamma**2)
    disorder = -(log_probabilities.exp() * log_probabilities).sum(-1)
    if weights is not None:
        surrogate, error, disorder = surrogate * weights, error * weights, disorder * weights
    actor, critic, entropy = -surrogate.mean(), error.mean(), disorder.mean()
    for name, part in (("actor", actor), ("critic", critic), ("entropy", entropy)):
        if not torch.isfinite(part):
            raise FloatingPointError(
                f"{name} loss is {float(part)}: "
                "a state, a reward or a weight is not finite, or the learning rate is too high"
            )
    with torch.no_grad():
        # Schulman's low-variance estimator of KL(old || new): mean of (r - 1) - log r.
        kl = (ratio - 1.0 - log_ratio).mean()
        clip_fraction = ((ratio - 1.0).abs() > config.ppo_epsilon).float().mean()
    total = actor + config.value_loss_coef * critic - config.entropy_coef * entropy
    return PPOLoss(total, actor.detach(), critic.detach(), entropy.detach(), kl, clip_fraction)
