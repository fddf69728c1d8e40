"""What every head promises: from an embedding to what is said of each horizon, and the loss of that.

The heads themselves are in ``densities``, ``quantiles`` and ``tasks``; their registry is in ``heads``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from atlas_pipeline.config import Config


class Head(nn.Module, ABC):
    """A linear layer on the embedding, and what its outputs mean.

    Returns are in multiples of ``unit``, the trailing volatility over the horizon in percent. All tensors are
    [batch, horizons, ...], in the order of ``Config.horizons``.

    Parameters
    ----------
    config
        ``d_model`` and ``horizons``.
    start
        Outputs of a horizon before anything is learned: what the biases begin as.

    Attributes
    ----------
    loss_name
        What the mean of ``reported`` is called in metrics, after ``train/`` and ``val/``.
    in_returns
        Whether ``values`` of a forecast are multiples of the unit.
    """

    loss_name: ClassVar[str]
    in_returns: ClassVar[bool] = True

    def __init__(self, config: Config, start: tuple[float, ...]) -> None:
        super().__init__()
        self.horizons = len(config.horizons)
        self.projection = nn.Linear(config.d_model, self.horizons * len(start))
        # Weights near zero: at first every window gets what the biases say.
        nn.init.normal_(self.projection.weight, std=1e-3)
        with torch.no_grad():
            self.projection.bias.copy_(torch.tensor(start * self.horizons))

    @property
    @abstractmethod
    def quantities(self) -> tuple[str, ...]:
        """Names of the last dimension of ``values``."""

    @abstractmethod
    def values(self, outputs: Tensor) -> Tensor:
        """Return what is said, [batch, horizons, quantities], of the outputs of ``forward``."""

    @abstractmethod
    def loss(self, outputs: Tensor, target: Tensor, unit: Tensor) -> Tensor:
        """Return what is minimised, [batch, horizons].

        Parameters
        ----------
        outputs
            Of ``forward``.
        target
            Returns in multiples of the unit, [batch, horizons].
        unit
            Percent, [batch, horizons].
        """

    def reported(self, outputs: Tensor, target: Tensor, unit: Tensor) -> Tensor:
        """Return the loss that metrics tell, [batch, horizons]; arguments as of ``loss``."""
        return self.loss(outputs, target, unit)

    def forward(self, embedding: Tensor) -> Tensor:
        """Return raw outputs [batch, horizons, outputs] of embeddings [batch, d_model], float32."""
        outputs: Tensor = self.projection(embedding)
        return outputs.unflatten(-1, (self.horizons, -1))


class PredictionHead(Head):
    """A head that says no density, whose values have a loss each, whoever said them."""

    @abstractmethod
    def value_losses(self, values: Tensor, target: Tensor, unit: Tensor) -> Tensor:
        """Return the loss of each value, [batch, horizons, quantities].

        Parameters
        ----------
        values
            Of this head or of a peer, [batch, horizons, quantities].
        target, unit
            As of ``loss``.
        """
