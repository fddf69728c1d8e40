"""Heads that say a density of the return: Gaussian, Student's t, and a Student's t that leans to one side.

Location and scale are multiples of the trailing volatility, so that what a head learns is how the coming bar
differs from the recent ones. Putting the unit back is ``training.forecast``'s work; scores of finished
forecasts are ``training.density``'s.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from atlas_pipeline.config import Config
from atlas_pipeline.models.head import Head

# A scale below this share of the trailing one is a numerical accident, not a forecast.
SMALLEST_SCALE = 1e-3
# Above 2 the variance exists; the margin keeps it from exploding.
SMALLEST_DF = 2.1
# No scale is 22,000 trailing volatilities; with so many degrees of freedom a t is normal in all digits of a float32.
LARGEST_LOGARITHM = 10.0
# Daily returns standardised by a trailing volatility have a kurtosis that about five to eight degrees fit
# (Bollerslev, Review of Economics and Statistics 69, 1987, table 1).
INITIAL_DF = 6.0
# At 1 all probability lies on one side, and an outcome on the other has none.
LARGEST_SKEW = 0.9


class Density(NamedTuple):
    """Densities: ``location`` and ``scale``, any shape; ``df``, or None where Gaussian; ``skew``, or None without.

    With z = (y - location) / scale the density is ``t(z / (1 + sign(z) skew), df) / scale``: Hansen, International
    Economic Review 35, 1994, eq. 10, up to location and scale. The location is the mode.
    """

    location: Tensor
    scale: Tensor
    df: Tensor | None = None
    skew: Tensor | None = None

    def mean(self) -> Tensor:
        """Return the mean; it is the location plus ``4 skew scale t(0, df) df / (df - 1)``."""
        return self.location if self.skew is None else self.location + self.scale * self._lean()

    def variance(self) -> Tensor:
        """Return the variance in the square of the location's unit: Hansen's b squared, in units of the scale."""
        inflation = 1.0 if self.df is None else self.df / (self.df - 2)
        if self.skew is None:
            return self.scale**2 * inflation
        return self.scale**2 * ((1 + 3 * self.skew**2) * inflation - self._lean() ** 2)

    def nll(self, target: Tensor) -> Tensor:
        """Return the negative log-likelihood, nats, of targets in the location's unit.

        Normal: ``log(2 pi s^2)/2 + (y - m)^2/(2 s^2)``. Student's t with location and scale: Bishop, Pattern
        Recognition and Machine Learning, 2006, eq. 2.159 with precision ``1/s^2``.
        """
        z = (target - self.location) / self.scale
        if self.skew is not None:
            z = z / (1 + torch.sign(z) * self.skew)
        if self.df is None:
            return 0.5 * math.log(2 * math.pi) + self.scale.log() + 0.5 * z**2
        df = self.df
        return (
            torch.lgamma(df / 2)
            - torch.lgamma((df + 1) / 2)
            + 0.5 * torch.log(math.pi * df)
            + self.scale.log()
            + (df + 1) / 2 * torch.log1p(z**2 / df)
        )

    def _lean(self) -> Tensor:
        assert self.skew is not None
        if self.df is None:
            return 4 * self.skew / math.sqrt(2 * math.pi)
        df = self.df
        peak = torch.exp(torch.lgamma((df + 1) / 2) - torch.lgamma(df / 2)) / torch.sqrt(math.pi * df)
        return 4 * self.skew * peak * df / (df - 1)


class DensityHead(Head):
    """A head that says a density; its loss is the negative log-likelihood.

    ``Config.log_sigma_penalty`` times the logarithm of the scale is added where asked, as a document of origin does.
    The likelihood has that term already: a second one makes every scale too small, so the weight is 0 by default.
    """

    loss_name: ClassVar[str] = "nll_loss"

    def __init__(self, config: Config, start: tuple[float, ...]) -> None:
        super().__init__(config, start)
        self.log_sigma_penalty = config.log_sigma_penalty

    @property
    def quantities(self) -> tuple[str, ...]:
        """Parameters of ``training.density.DensityForecast``."""
        return ("location", "scale", "df", "skew")

    @abstractmethod
    def density(self, outputs: Tensor) -> Density:
        """Return the densities, [batch, horizons], of the outputs of ``forward``."""

    def values(self, outputs: Tensor) -> Tensor:
        """Return location, scale, degrees of freedom (infinite where normal) and skew (0 without)."""
        density = self.density(outputs)
        df = torch.full_like(density.scale, math.inf) if density.df is None else density.df
        skew = torch.zeros_like(density.scale) if density.skew is None else density.skew
        return torch.stack([density.location, density.scale, df, skew], dim=-1)

    def loss(self, outputs: Tensor, target: Tensor, unit: Tensor) -> Tensor:
        """Return the negative log-likelihood of the target in its unit, and the penalty."""
        density = self.density(outputs)
        likelihood = density.nll(target)
        return likelihood + self.log_sigma_penalty * density.scale.log() if self.log_sigma_penalty else likelihood

    def reported(self, outputs: Tensor, target: Tensor, unit: Tensor) -> Tensor:
        """Return the negative log-likelihood of the return in percent, nats."""
        return self.density(outputs).nll(target) + unit.log()


class GaussianHead(DensityHead):
    """Mean and softplus variance of a normal density; starts at mean 0 and variance 1."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, (0.0, _inverse_softplus(1.0)))

    def density(self, outputs: Tensor) -> Density:
        """Return normal densities."""
        mean, variance = outputs.unbind(-1)
        return Density(mean, (functional.softplus(variance) + SMALLEST_SCALE**2).sqrt())


class StudentTHead(DensityHead):
    """Location, scale and degrees of freedom of Student's t; starts at location 0 and variance 1.

    Returns have fat tails: under a normal density the few large ones would decide what is learned. The network says the
    logarithm of the scale, as EGARCH does of the variance (Nelson, Econometrica 59 (1991) 347): volatilities multiply.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config, _STUDENT_T)

    def density(self, outputs: Tensor) -> Density:
        """Return Student's t densities."""
        location, log_scale, log_df = outputs.unbind(-1)
        return Density(location, _exponential(log_scale) + SMALLEST_SCALE, _exponential(log_df) + SMALLEST_DF)


class SkewedTHead(DensityHead):
    """Student's t with a skew of its own, at most ``LARGEST_SKEW``; starts as ``StudentTHead`` does, without skew.

    Falls of the market are larger and fewer than its rises: the mode lies above the mean.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config, (*_STUDENT_T, 0.0))

    def density(self, outputs: Tensor) -> Density:
        """Return two-piece Student's t densities."""
        location, log_scale, log_df, skew = outputs.unbind(-1)
        scale, df = _exponential(log_scale) + SMALLEST_SCALE, _exponential(log_df) + SMALLEST_DF
        return Density(location, scale, df, LARGEST_SKEW * torch.tanh(skew))


def _exponential(logarithm: Tensor) -> Tensor:
    return logarithm.clamp(max=LARGEST_LOGARITHM).exp()


def _inverse_softplus(value: float) -> float:
    return math.log(math.expm1(value))


_STUDENT_T = (
    0.0,
    0.5 * math.log((INITIAL_DF - 2) / INITIAL_DF),
    math.log(INITIAL_DF - SMALLEST_DF),
)
