"""How a policy's logits become actions: sampled with the caller's random numbers, or the likeliest one."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from atlas_pipeline.models.actor_critic import ActorCritic


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Normalise logits (..., 3) to log-probabilities."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def choose_actions(
    logits: NDArray[np.float32], uniforms: NDArray[np.float64] | None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Choose one action a row.

    Parameters
    ----------
    logits : ndarray, shape (B, 3)
    uniforms : ndarray of float64, shape (B,), or None
        Numbers in [0, 1) that decide by the inverse of the cumulative probabilities; None takes the likeliest
        action.

    Returns
    -------
    actions : ndarray of int64, shape (B,)
    log_probabilities : ndarray of float64, shape (B,)
        Of the actions under the sampled policy, in either case.
    """
    log_probabilities = log_softmax(logits)
    if uniforms is None:
        actions = logits.argmax(-1)
    else:
        cumulative = np.exp(log_probabilities[:, :-1]).cumsum(-1)
        actions = (uniforms[:, None] >= cumulative).sum(-1)
    return actions, np.take_along_axis(log_probabilities, actions[:, None], -1)[:, 0]


@torch.inference_mode()
def decide(
    model: ActorCritic, states: NDArray[np.float32], uniforms: NDArray[np.float64] | None
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Let the network act on states, float32 (B, state_dim).

    Returns
    -------
    actions, log_probabilities : ndarray, shape (B,)
        See `choose_actions`.
    values : ndarray of float64, shape (B,)

    Raises
    ------
    FloatingPointError
        Where the network's output is not finite.
    """
    logits, values = model(torch.from_numpy(states).to(model.state_mean.device))
    scores = logits.float().cpu().numpy()
    if not np.isfinite(scores).all():
        raise FloatingPointError(
            "the policy's output is not finite: its weights or the state are not; restore the last sound checkpoint"
        )
    actions, log_probabilities = choose_actions(scores, uniforms)
    return actions, log_probabilities, values.double().cpu().numpy()
