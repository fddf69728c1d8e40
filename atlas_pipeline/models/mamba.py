"""The Mamba backbone: selective state space layers on patches, causal and linear in their number.

Gu and Dao, Mamba: Linear-Time Sequence Modeling with Selective State Spaces, 2023, arXiv:2312.00752. With
``patch_length=1, stride=1`` every bar is a token. The recurrence is computed by a parallel scan in plain torch
(``linear_recurrence``), by blocks of tokens so that its memory stays small. Attention is ``patchtst``.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from atlas_pipeline.config import Config
from atlas_pipeline.models.backbone import Backbone, StochasticDepth, make_norm
from atlas_pipeline.models.patchtst import PatchEmbedding

# The paper's sizes (sec. 3.4 and app. E): inner width over d_model, length of the convolution, and the range that the
# first steps are drawn from.
EXPANSION = 2
CONVOLUTION_LENGTH = 4
SMALLEST_STEP, LARGEST_STEP = 1e-3, 1e-1
# Tokens whose states are in memory at once.
BLOCK = 64


def _scan(decay: Tensor, added: Tensor) -> Tensor:
    # Blelloch, Prefix Sums and Their Applications, CMU-CS-90-190, 1990, sec. 1.4: two neighbours are one step of a
    # recurrence of half the length; its states are every second one, and the others follow. Linear work, no division.
    length = added.shape[1]
    if length == 1:
        return added
    even = slice(0, length - length % 2, 2)
    pairs = torch.addcmul(added[:, 1::2], decay[:, 1::2], added[:, even])
    states = torch.empty_like(added)
    states[:, 1::2] = _scan(decay[:, 1::2] * decay[:, even], pairs)
    states[:, :1] = added[:, :1]
    states[:, 2::2] = torch.addcmul(added[:, 2::2], decay[:, 2::2], states[:, 1 : length - 1 : 2])
    return states


class _Recurrence(torch.autograd.Function):
    # Its gradient is the same recurrence backwards, so that only decays and states are kept.
    @staticmethod
    def forward(ctx: Any, decay: Tensor, added: Tensor, initial: Tensor) -> Tensor:
        first = torch.addcmul(added[:, 0], decay[:, 0], initial)
        states = _scan(decay, torch.cat([first.unsqueeze(1), added[:, 1:]], dim=1))
        ctx.save_for_backward(decay, initial, states)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        decay, initial, states = ctx.saved_tensors
        following = torch.cat([decay[:, 1:], torch.zeros_like(decay[:, :1])], dim=1)
        of_added = _scan(following.flip(1), gradient.flip(1)).flip(1)
        before = torch.cat([initial.unsqueeze(1), states[:, :-1]], dim=1)
        return of_added * before, of_added, of_added[:, 0] * decay[:, 0]


def linear_recurrence(decay: Tensor, added: Tensor, initial: Tensor) -> Tensor:
    """Solve ``h_t = decay_t * h_{t-1} + added_t`` for all t at once.

    Equal to the sequential recurrence up to the order of additions.

    Parameters
    ----------
    decay, added
        Same shape [batch, length, ...] and dtype.
    initial
        State before the first, [batch, ...].

    Returns
    -------
    Tensor [batch, length, ...]
        The states.
    """
    return cast(Tensor, _Recurrence.apply(decay, added, initial))


def _scan_block(
    inputs: Tensor, step: Tensor, read_in: Tensor, read_out: Tensor, rate: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    decay = torch.exp(step.unsqueeze(-1) * rate)
    added = (step * inputs).unsqueeze(-1) * read_in.unsqueeze(2)
    states = linear_recurrence(decay, added, state)
    return torch.einsum("btdn,btn->btd", states, read_out), states[:, -1]


def selective_scan(inputs: Tensor, step: Tensor, rate: Tensor, read_in: Tensor, read_out: Tensor) -> Tensor:
    """Run the selective state space ``h_t = exp(step_t A) h_{t-1} + step_t B_t x_t``, ``y_t = C_t h_t``.

    Gu and Dao, 2023, eq. 2 and algorithm 2, with A's zero-order hold and B's first-order approximation as in the
    authors' code. States start at zero. Beyond ``BLOCK`` tokens the states are computed again in the backward pass, as
    the authors' kernel does.

    Parameters
    ----------
    inputs, step
        x and its positive step, [batch, length, channels].
    rate
        A, negative, [channels, states].
    read_in, read_out
        B and C, [batch, length, states].

    Returns
    -------
    Tensor [batch, length, channels]
        y.
    """
    state = inputs.new_zeros(inputs.shape[0], *rate.shape)
    series = (inputs, step, read_in, read_out)
    again = inputs.shape[1] > BLOCK and torch.is_grad_enabled()
    outputs = []
    for start in range(0, inputs.shape[1], BLOCK):
        block = (*(values[:, start : start + BLOCK] for values in series), rate, state)
        if again:
            output, state = checkpoint(_scan_block, *block, use_reentrant=False, preserve_rng_state=False)
        else:
            output, state = _scan_block(*block)
        outputs.append(output)
    return torch.cat(outputs, dim=1)


class SelectiveStateSpace(nn.Module):
    """Projection, causal convolution, selective state space and gate (Gu and Dao, 2023, fig. 3).

    Step, B and C are functions of the token, linear ones; the step through softplus.

    Parameters
    ----------
    config
        ``d_model``, ``state_size``.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = EXPANSION * config.d_model
        rank = math.ceil(config.d_model / 16)
        self.sizes = (rank, config.state_size, config.state_size)
        self.in_proj = nn.Linear(config.d_model, 2 * width, bias=False)
        self.convolution = nn.Conv1d(width, width, CONVOLUTION_LENGTH, groups=width, padding=CONVOLUTION_LENGTH - 1)
        self.x_proj = nn.Linear(width, sum(self.sizes), bias=False)
        self.step_proj = nn.Linear(rank, width)
        # A = -exp(log_rate), at first -1 to -state_size in every channel (S4D-Real: Gu et al., NeurIPS 2022, eq. 7).
        self.log_rate = nn.Parameter(torch.arange(1.0, config.state_size + 1).log().repeat(width, 1))
        self.skip = nn.Parameter(torch.ones(width))
        self.out_proj = nn.Linear(width, config.d_model, bias=False)
        nn.init.uniform_(self.step_proj.weight, -(rank**-0.5), rank**-0.5)
        step = torch.empty(width).uniform_(math.log(SMALLEST_STEP), math.log(LARGEST_STEP)).exp()
        with torch.no_grad():
            # softplus(bias) = step.
            self.step_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))
            self.out_proj.weight.div_(config.n_layers**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Return mixed tokens [batch, tokens, d_model] of tokens of the same shape; none sees a later one."""
        inputs, gate = self.in_proj(x).chunk(2, dim=-1)
        convolved = self.convolution(inputs.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)
        inputs = functional.silu(convolved)
        low_rank, read_in, read_out = self.x_proj(inputs).split(self.sizes, dim=-1)
        step = self.step_proj(low_rank)
        # Products of many decays near one need more than the eight bits of bfloat16.
        with torch.autocast(x.device.type, enabled=False):
            inputs, step, read_in, read_out = (
                values.to(self.log_rate.dtype) for values in (inputs, step, read_in, read_out)
            )
            states = selective_scan(inputs, functional.softplus(step), -self.log_rate.exp(), read_in, read_out)
            mixed = states + self.skip * inputs
        return cast(Tensor, self.out_proj(mixed * functional.silu(gate)))


class MambaLayer(nn.Module):
    """Norm, then the state space on a residual path; arguments as of ``EncoderLayer``."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.norm = make_norm(config)
        self.mixer = SelectiveStateSpace(config)
        self.dropout = nn.Dropout(config.dropout)
        self.depth = StochasticDepth(layer, config.n_layers, config.stochastic_depth)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens [batch, tokens, d_model] of tokens of the same shape."""
        return cast(Tensor, x + self.depth(self.dropout(self.mixer(self.norm(x)))))


class Mamba(Backbone):
    """The backbone. It needs no positions: the recurrence knows the order.

    Parameters
    ----------
    config
        The model's and the window's settings.
    """

    lora_targets: tuple[str, ...] = ("in_proj", "x_proj", "out_proj")

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embedding = PatchEmbedding(config, positions=False)
        self.layers = nn.ModuleList(MambaLayer(config, number) for number in range(1, config.n_layers + 1))
        self.norm = make_norm(config)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens [batch, n_patches, d_model] of windows [batch, seq_length, features]."""
        tokens = self.embedding(x)
        for layer in self.layers:
            tokens = self.through(layer, tokens)
        return cast(Tensor, self.norm(tokens))
