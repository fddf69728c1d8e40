"""Heads: from an embedding to a density of the return, and that density's negative log-likelihood.

Location and scale are multiples of the trailing volatility, so that what a head learns is how the coming bar
differs from the recent ones. Putting the unit back is ``training.forecast``'s work; scores of finished
forecasts are ``training.density``'s.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from atlas_pipeline.config import Config, ModelSettings

# A variance below this share of the trailing one is a numerical accident, not a forecast.
SMALLEST_SCALE = 1e-3
# Above 2 the variance exists; the margin keeps it from exploding.
SMALLEST_DF = 2.1
# Daily returns standardised by a trailing volatility have a kurtosis that about five to eight degrees fit
# (Bollerslev, Review of Economics and Statistics 69, 1987, table 1).
INITIAL_DF = 6.0


class Density(NamedTuple):
    """A density a window: ``location`` and ``scale`` [batch]; ``df`` [batch], or None where Gaussian."""

    location: Tensor
    scale: Tensor
    df: Tensor | None

    def variance(self) -> Tensor:
        """Return the variance [batch] in the square of the location's unit."""
        if self.df is None:
            return self.scale**2
        return self.scale**2 * self.df / (self.df - 2)


def _inverse_softplus(value: float) -> float:
    return math.log(math.expm1(value))


class GaussianHead(nn.Module):
    """Mean and softplus variance of a normal density; starts at mean 0 and variance 1.

    Parameters
    ----------
    d_model
        Width of the embedding.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.projection = _small_linear(d_model, (0.0, _inverse_softplus(1.0)))

    def forward(self, embedding: Tensor) -> Density:
        """Return the densities of embeddings [batch, d_model]."""
        mean, variance = self.projection(embedding).unbind(-1)
        return Density(mean, (functional.softplus(variance) + SMALLEST_SCALE**2).sqrt(), None)


class StudentTHead(nn.Module):
    """Location, scale and degrees of freedom of Student's t; starts at location 0 and variance 1.

    Returns have fat tails: under a normal density the few large ones would decide what is learned.

    Parameters
    ----------
    d_model
        Width of the embedding.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        scale = math.sqrt((INITIAL_DF - 2) / INITIAL_DF)
        self.projection = _small_linear(
            d_model, (0.0, _inverse_softplus(scale), _inverse_softplus(INITIAL_DF - SMALLEST_DF))
        )

    def forward(self, embedding: Tensor) -> Density:
        """Return the densities of embeddings [batch, d_model]."""
        location, scale, df = self.projection(embedding).unbind(-1)
        return Density(location, functional.softplus(scale) + SMALLEST_SCALE, functional.softplus(df) + SMALLEST_DF)


HEADS: dict[str, type[GaussianHead] | type[StudentTHead]] = {
    "gaussian": GaussianHead,
    "student_t": StudentTHead,
}


def make_head(config: ModelSettings | Config) -> GaussianHead | StudentTHead:
    """Make the head that the configuration names."""
    return HEADS[config.head](config.d_model)


def density_nll(density: Density, target: Tensor) -> Tensor:
    """Return the negative log-likelihood [batch], nats, of targets [batch] in the density's unit.

    Normal: ``log(2 pi s^2)/2 + (y - m)^2/(2 s^2)``. Student's t with location and scale: Bishop, Pattern
    Recognition and Machine Learning, 2006, eq. 2.159 with precision ``1/s^2``.
    """
    z = (target - density.location) / density.scale
    if density.df is None:
        return 0.5 * math.log(2 * math.pi) + density.scale.log() + 0.5 * z**2
    df = density.df
    return (
        torch.lgamma(df / 2)
        - torch.lgamma((df + 1) / 2)
        + 0.5 * torch.log(math.pi * df)
        + density.scale.log()
        + (df + 1) / 2 * torch.log1p(z**2 / df)
    )


def _small_linear(d_model: int, start: tuple[float, ...]) -> nn.Linear:
    # Weights near zero: at first every window gets the density of the biases.
    linear = nn.Linear(d_model, len(start))
    nn.init.normal_(linear.weight, std=1e-3)
    with torch.no_grad():
        linear.bias.copy_(torch.tensor(start))
    return linear
