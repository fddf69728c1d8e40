"""The head that says quantiles of the return, which no shape of a density binds."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from atlas_pipeline.config import Config
from atlas_pipeline.models.head import PredictionHead

LEVELS = (0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975)
"""The bounds of the central 50, 80 and 95% intervals, and the median."""
# Quantiles of a standard normal variable.
_START = (-1.959964, -1.281552, -0.674490, 0.0, 0.674490, 1.281552, 1.959964)


def pinball(target: Tensor, quantiles: Tensor) -> Tensor:
    """Return the pinball loss ``max(p (y - q), (p - 1) (y - q))`` of ``LEVELS``: Koenker and Bassett, 1978, eq. 2.1.

    Parameters
    ----------
    target
        [...].
    quantiles
        [..., levels], in the same unit.

    Returns
    -------
    Tensor [..., levels]
    """
    excess = target.unsqueeze(-1) - quantiles
    level = torch.tensor(LEVELS, dtype=quantiles.dtype, device=quantiles.device)
    return torch.maximum(level * excess, (level - 1) * excess)


class QuantileHead(PredictionHead):
    """Quantiles at ``LEVELS`` in multiples of the trailing volatility; starts at those of a standard normal.

    The first output is the lowest quantile, the others softplus steps from one to the next: they never cross.
    """

    loss_name: ClassVar[str] = "pinball_loss"

    def __init__(self, config: Config) -> None:
        steps = [math.log(math.expm1(after - before)) for before, after in pairwise(_START)]
        super().__init__(config, (_START[0], *steps))

    @property
    def quantities(self) -> tuple[str, ...]:
        """One name a level."""
        return tuple(f"quantile_{level}" for level in LEVELS)

    def values(self, outputs: Tensor) -> Tensor:
        """Return the quantiles, increasing."""
        return torch.cat([outputs[..., :1], functional.softplus(outputs[..., 1:])], dim=-1).cumsum(dim=-1)

    def loss(self, outputs: Tensor, target: Tensor, unit: Tensor) -> Tensor:
        """Return the mean pinball loss over the levels, in multiples of the unit."""
        return self.value_losses(self.values(outputs), target, unit).mean(dim=-1)

    def value_losses(self, values: Tensor, target: Tensor, unit: Tensor) -> Tensor:
        """Return the pinball loss of each quantile, in multiples of the unit."""
        return pinball(target, values)
