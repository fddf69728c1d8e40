"""The moving average of a fit's weights, which is what a fit is judged by and leaves behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of a model's parameters, in float32 beside the model.

    The decay starts low and rises to its value, ``min(decay, (1 + t) / (10 + t))`` after t steps (the rule of
    TensorFlow's ``ExponentialMovingAverage``), so that a short fit is not stuck at its initial weights.

    Parameters
    ----------
    model
        Its parameters are averaged, batch norm's running statistics among them; it has no other state.
    decay
        Share of the old average kept at each step, in the long run.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        # Walking the modules for them costs more than a small network's update.
        self._parameters = dict(model.named_parameters())
        self.weights = {name: p.detach().float().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's present parameters into the average."""
        self.steps += 1
        share = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        present = [p.detach().float() for p in self._parameters.values()]
        torch._foreach_lerp_(list(self.weights.values()), present, share)

    def load(self, weights: Mapping[str, Tensor], steps: int) -> None:
        """Go on from an average of so many steps."""
        for name, weight in self.weights.items():
            weight.copy_(weights[name])
        self.steps = steps

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
