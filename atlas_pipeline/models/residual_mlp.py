"""The residual network on summary features of the window: the plain backbone that the others have to beat.

A window is summed up feature by feature: its last value, and over its newest 5, 21, 63 and 252 bars (as many of these
as are shorter than the window) and over all of it the mean, the standard deviation and the slope; a window of one bar
is its last value alone.

The network is a projection and residual blocks with the norm inside them (He et al., Identity Mappings, ECCV 2016,
fig. 4e; Ba et al., 2016, for layer norm). From the summaries to the embedding leads a path without norm or activation:
a log scale linear in log ranges is a HAR model (Corsi, J. of Financial Econometrics 7 (2009) 174), and the blocks learn
what it misses. With ``input_units``, bounded units of each summary stand beside the summary on that path, which is then
an additive model; what only several inputs together say is left to the blocks.

A document of origin has norm and activation on the path, and weights for ReLU (He et al., ICCV 2015, eq. 10); both
forecast daily indices worse, the latter because seeds differ more. Weights here are of the same rule for the slope √5,
a sixth of that variance.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from atlas_pipeline.config import Config
from atlas_pipeline.models.backbone import Backbone, StochasticDepth, make_norm

# A week, a month, a quarter and a year of trading days.
SUMMARY_LENGTHS = (5, 21, 63, 252)
# Of the leaky ReLU that Kaiming's rule is told of; torch's own for a linear layer.
INITIAL_SLOPE = 5**0.5


def summary_lengths(seq_length: int) -> tuple[int, ...]:
    """Lengths in bars that a window of ``seq_length`` bars is summed up over; none where it is one bar."""
    if seq_length == 1:
        return ()
    return (*(length for length in SUMMARY_LENGTHS if length < seq_length), seq_length)


def window_summaries(x: Tensor) -> Tensor:
    """Sum up windows.

    Parameters
    ----------
    x
        Windows [batch, seq_length, features].

    Returns
    -------
    Tensor [batch, features * (1 + 3 * lengths)]
        Last values, then for each length means, population standard deviations and slopes. A slope is the least-squares
        line's rise over the length, in the feature's own unit.
    """
    parts = [x[:, -1]]
    for length in summary_lengths(x.shape[1]):
        newest = x[:, -length:]
        mean = newest.mean(dim=1)
        centred = newest - mean.unsqueeze(1)
        time = torch.linspace(-0.5, 0.5, length, dtype=x.dtype, device=x.device)
        slope = (centred * time[:, None]).sum(dim=1) / time.square().sum()
        # The square root's gradient at zero is infinite.
        parts += [mean, (centred.square().mean(dim=1) + 1e-12).sqrt(), slope]
    return torch.cat(parts, dim=1)


class InputUnits(nn.Module):
    """Bounded units of each input: ``tanh(weight x + bias)``, their own for each, before inputs are mixed.

    Embeddings of numerical inputs (Gorishniy, Rubachev and Babenko, NeurIPS 2022), whose sum is a neural additive model
    (Agarwal et al., NeurIPS 2021). In training all units of an input are dropped at once, as sec. 3 of the latter does,
    so that no input is leant on. Weights and biases begin standard normal: scaled inputs have about unit variance.
    """

    def __init__(self, inputs: int, units: int, dropout: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, units))
        self.bias = nn.Parameter(torch.randn(inputs, units))
        self.dropout = nn.Dropout1d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return units [batch, inputs * units] of inputs [batch, inputs]."""
        units = torch.tanh(x.unsqueeze(-1) * self.weight + self.bias)
        return cast(Tensor, self.dropout(units)).flatten(1)


class ResidualBlock(nn.Module):
    """Norm, expansion to ``ff_dim``, ReLU, contraction and dropout beside a path that nothing interrupts."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.norm = make_norm(config)
        self.expansion = nn.Linear(config.d_model, config.ff_dim)
        self.contraction = nn.Linear(config.ff_dim, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.depth = StochasticDepth(layer, config.n_layers, config.stochastic_depth)

    def forward(self, x: Tensor) -> Tensor:
        """Return hidden values [batch, 1, d_model] of values of the same shape."""
        branch = self.contraction(torch.relu(self.expansion(self.norm(x))))
        return cast(Tensor, x + self.depth(self.dropout(branch)))


class ResidualMLP(Backbone):
    """The backbone; its one token is its embedding.

    Parameters
    ----------
    config
        The model's and the window's settings; ``n_layers`` counts the blocks.
    """

    lora_targets: tuple[str, ...] = ("expansion", "contraction")

    def __init__(self, config: Config) -> None:
        super().__init__()
        summaries = config.feature_size * (1 + 3 * len(summary_lengths(config.seq_length)))
        self.projection = nn.Linear(summaries, config.d_model)
        self.units: InputUnits | None = None
        if config.input_units:
            self.units = InputUnits(summaries, config.input_units, config.input_dropout)
            self.unit_projection = nn.Linear(summaries * config.input_units, config.d_model, bias=False)
        self.blocks = nn.ModuleList(ResidualBlock(config, number) for number in range(1, config.n_layers + 1))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_uniform_(module.weight, a=INITIAL_SLOPE)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return one token [batch, 1, d_model] of windows [batch, seq_length, features]."""
        with torch.autocast(x.device.type, enabled=False):
            summaries = window_summaries(x.to(self.projection.weight.dtype))
        # As in the patch embedding, the sum of the blocks keeps the weights' precision under autocast.
        tokens = self.projection(summaries).to(summaries.dtype).unsqueeze(1)
        if self.units is not None:
            tokens = tokens + self.unit_projection(self.units(summaries)).to(summaries.dtype).unsqueeze(1)
        for block in self.blocks:
            tokens = self.through(block, tokens)
        return tokens
