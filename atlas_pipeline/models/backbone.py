"""What every backbone promises, and the parts they share: norms, stochastic depth, checkpointed layers.

The backbones themselves are in ``patchtst``, ``mamba``, ``residual_mlp`` and ``recursive``; their registry is in
``registry``; heads are in ``heads``.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from atlas_pipeline.config import Config

NORM_EPSILON = 1e-5
# Share of the new batch in batch norm's running statistics, torch's own.
BATCH_NORM_MOMENTUM = 0.1


class Backbone(nn.Module, ABC):
    """A window in, tokens out; and the one embedding that is made of them.

    Attributes
    ----------
    gradient_checkpointing
        Where True, training keeps only each layer's input and computes the rest again in the backward pass
        (Chen et al., 2016, arXiv:1604.06174): less memory, about a third more time. Same result.
    lora_targets
        Last names of the linear layers that low-rank adapters go on.
    """

    lora_targets: tuple[str, ...]

    def __init__(self) -> None:
        super().__init__()
        self.gradient_checkpointing = False

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return tokens [batch, tokens, d_model] of windows [batch, seq_length, features]."""

    def pool(self, tokens: Tensor) -> Tensor:
        """Return the embedding [batch, d_model] of tokens [batch, tokens, d_model]: the newest token.

        It has brought to it what it needs of the others, and the newest bars, which matter most for the next, are
        not averaged away.
        """
        return tokens[:, -1]

    def iterations(self, x: Tensor, steps: int | None = None) -> list[Tensor]:
        """Return the tokens that have a loss each: after each step of ``recursive``, or of each member of an ensemble.

        Parameters
        ----------
        x
            Windows [batch, seq_length, features].
        steps
            Supervision steps to make; None makes all. A backbone without any makes its tokens once.
        """
        return [self(x)]

    def through(self, layer: nn.Module, tokens: Tensor) -> Tensor:
        """Pass tokens through a layer, checkpointed where ``gradient_checkpointing`` says so."""
        if not (self.gradient_checkpointing and self.training):
            return cast(Tensor, layer(tokens))
        norms = [module for module in layer.modules() if isinstance(module, BatchNorm)]
        if not norms:
            return cast(Tensor, checkpoint(layer, tokens, use_reentrant=False))

        def contexts() -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
            # The second computation of a batch must not enter its statistics a second time.
            return contextlib.nullcontext(), _still(norms)

        return cast(Tensor, checkpoint(layer, tokens, use_reentrant=False, context_fn=contexts))


class BatchNorm(nn.Module):
    """Batch norm (Ioffe and Szegedy, ICML 2015) of each of ``width`` features over batch and tokens.

    What PatchTST uses (Nie et al., ICLR 2023, sec. 3.1). Its statistics in training are those of the physical batch,
    so results depend on how the hardware splits the effective one. The running ones are parameters without gradient,
    so that whatever saves, averages or hashes a network's parameters has them too.

    Parameters
    ----------
    width
        Size of the last dimension.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.running_mean = nn.Parameter(torch.zeros(width), requires_grad=False)
        self.running_variance = nn.Parameter(torch.ones(width), requires_grad=False)
        self.momentum = BATCH_NORM_MOMENTUM

    def forward(self, x: Tensor) -> Tensor:
        """Return normalised tokens [batch, tokens, width] of tokens of the same shape."""
        normalised = functional.batch_norm(
            x.flatten(0, 1),
            self.running_mean,
            self.running_variance,
            self.weight,
            self.bias,
            self.training,
            self.momentum,
            NORM_EPSILON,
        )
        return normalised.view_as(x)


@contextlib.contextmanager
def _still(norms: list[BatchNorm]) -> Iterator[None]:
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm in norms:
            norm.momentum = BATCH_NORM_MOMENTUM


def make_norm(config: Config) -> nn.Module:
    """Make the norm over ``d_model`` that ``config.norm`` names.

    ``layer``: Ba et al., 2016, arXiv:1607.06450. ``rms``: Zhang and Sennrich, NeurIPS 2019. ``batch``: ``BatchNorm``.
    """
    if config.norm == "layer":
        return nn.LayerNorm(config.d_model, eps=NORM_EPSILON)
    if config.norm == "rms":
        return nn.RMSNorm(config.d_model, eps=NORM_EPSILON)
    return BatchNorm(config.d_model)


class StochasticDepth(nn.Module):
    """Drops a residual branch for whole windows in training (Huang et al., ECCV 2016, sec. 3).

    What survives is divided by its probability, so that evaluation needs no correction; in expectation that is the
    paper's rule.

    Parameters
    ----------
    layer, layers
        Number of this layer, from 1, and their count L: it survives with probability ``1 - layer / L * rate``.
    rate
        Probability with which the last layer is dropped.
    """

    def __init__(self, layer: int, layers: int, rate: float) -> None:
        super().__init__()
        self.survival = 1.0 - layer / layers * rate

    def forward(self, branch: Tensor) -> Tensor:
        """Return the branch [batch, ...], in training zero for the windows that drop it."""
        if not self.training or self.survival == 1.0:
            return branch
        kept = torch.full((len(branch), *[1] * (branch.ndim - 1)), self.survival, device=branch.device).bernoulli()
        return branch * (kept / self.survival).to(branch.dtype)
