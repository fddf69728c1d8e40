"""Learning rate over the steps of a fit, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

# The rate at the last step, as a share of the peak.
FINAL_SHARE = 0.01


def cosine_with_warmup(step: int, total: int, warmup_fraction: float) -> float:
    """Share of the peak learning rate at a step: linear to 1, then a half cosine to 1%.

    Loshchilov and Hutter, SGDR, ICLR 2017, eq. 5, without restarts; warm-up as in Goyal et al., 2017, sec.
    2.2.

    Parameters
    ----------
    step
        Optimizer steps done, from 0.
    total
        Steps of the whole fit.
    warmup_fraction
        Share of the steps in which the rate rises.
    """
    warmup = max(1, round(total * warmup_fraction))
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * progress))


class WeightAverage:
    """Exponential moving average of a model's parameters, in float32 beside the model.

    The decay starts low and rises to its value, ``min(decay, (1 + t) / (10 + t))`` after t steps (the rule of
    TensorFlow's ``ExponentialMovingAverage``), so that a short fit is not stuck at its initial weights.

    Parameters
    ----------
    model
        Its parameters are averaged; it has no buffers.
    decay
        Share of the old average kept at each step, in the long run.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.weights = {name: p.detach().float().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the model's present parameters into the average."""
        self.steps += 1
        share = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, parameter in model.named_parameters():
            self.weights[name].lerp_(parameter.detach().float(), share)

    def copy(self) -> dict[str, Tensor]:
        """Copy the average; it is one that later updates do not change."""
        return {name: weight.clone() for name, weight in self.weights.items()}

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """Give the model the averaged parameters inside the context, and its own back afterwards."""
        own = {name: p.detach().clone() for name, p in model.named_parameters()}
        load_parameters(model, self.weights)
        try:
            yield
        finally:
            load_parameters(model, own)


@torch.no_grad()
def load_parameters(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into the model's parameters in place, so that an optimizer keeps its hold on them."""
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])
