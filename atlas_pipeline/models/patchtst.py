"""The PatchTST backbone in its channel-mixing form: a window in, one token a patch out.

Nie et al., A Time Series is Worth 64 Words, ICLR 2023 (arXiv:2211.14730), here with all features of a patch
in one token. Heads live in ``heads``; what turns tokens into one embedding in ``forecaster``; LoRA adapters
are peft's.
"""

from __future__ import annotations

import contextlib
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from atlas_pipeline.config import Config


class PatchEmbedding(nn.Module):
    """Patches of all features, projected linearly, with a learned position added.

    Parameters
    ----------
    config
        ``seq_length``, ``patch_length``, ``stride``, ``feature_size``, ``d_model``.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.patch_length = config.patch_length
        self.stride = config.stride
        self.n_patches = (config.seq_length - config.patch_length) // config.stride + 1
        self.projection = nn.Linear(config.patch_length * config.feature_size, config.d_model)
        self.positions = nn.Parameter(torch.empty(self.n_patches, config.d_model))
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens [batch, n_patches, d_model] of windows [batch, seq_length, features]."""
        if self.stride == self.patch_length:
            patches = x.reshape(x.shape[0], self.n_patches, -1)
        else:
            patches = x.unfold(1, self.patch_length, self.stride).transpose(2, 3).flatten(2)
        return cast(Tensor, self.projection(patches)) + self.positions


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al., 2017, eq. 1), its projections apart for LoRA to target.

    Parameters
    ----------
    config
        ``d_model``, ``n_heads``; ``use_flash_attention`` False keeps to the reference kernel everywhere.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.flash_attention = config.use_flash_attention
        self.q_proj = nn.Linear(config.d_model, config.d_model)
        self.k_proj = nn.Linear(config.d_model, config.d_model)
        self.v_proj = nn.Linear(config.d_model, config.d_model)
        self.o_proj = nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Return mixed tokens [batch, tokens, d_model] of tokens of the same shape."""

        def heads(projected: Tensor) -> Tensor:
            return projected.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)

        q, k, v = heads(self.q_proj(x)), heads(self.k_proj(x)), heads(self.v_proj(x))
        # On a CPU the reference kernel trains a quarter faster at these few tokens: the fused one's backward
        # is slow.
        reference = not self.flash_attention or (self.training and x.device.type == "cpu")
        with sdpa_kernel(SDPBackend.MATH) if reference else contextlib.nullcontext():
            mixed = functional.scaled_dot_product_attention(q, k, v)
        return cast(Tensor, self.o_proj(mixed.transpose(1, 2).flatten(2)))


class EncoderLayer(nn.Module):
    """Pre-norm transformer layer (Xiong et al., ICML 2020): attention, then a GELU network.

    Dropout acts on the residual path of both and not on the attention weights: torch's fused CPU kernel has
    none.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.d_model)
        self.attention = Attention(config)
        self.feedforward_norm = nn.LayerNorm(config.d_model)
        self.expansion = nn.Linear(config.d_model, config.ff_dim)
        self.contraction = nn.Linear(config.ff_dim, config.d_model)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens [batch, tokens, d_model] of tokens of the same shape."""
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        expanded = functional.gelu(self.expansion(self.feedforward_norm(x)))
        return cast(Tensor, x + self.dropout(self.contraction(expanded)))


class PatchTST(nn.Module):
    """The backbone.

    Parameters
    ----------
    config
        The model's and the window's settings.

    Attributes
    ----------
    gradient_checkpointing
        Where True, training keeps only each layer's input and computes the rest again in the backward pass
        (Chen et al., 2016, arXiv:1604.06174): less memory, about a third more time. Same result.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.embedding = PatchEmbedding(config)
        layers = [EncoderLayer(config) for _ in range(config.n_layers)]
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(config.d_model)
        self.apply(_initialise)
        # Residual branches add up: their last projections start smaller, so that depth does not blow up the
        # sum (Radford et al., GPT-2, 2019, sec. 2.3).
        for layer in layers:
            for last in (layer.attention.o_proj, layer.contraction):
                nn.init.normal_(last.weight, std=0.02 / (2 * config.n_layers) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens [batch, n_patches, d_model] of windows [batch, seq_length, features]."""
        tokens = self.embedding(x)
        for layer in self.layers:
            if self.gradient_checkpointing and self.training:
                tokens = checkpoint(layer, tokens, use_reentrant=False)
            else:
                tokens = layer(tokens)
        return cast(Tensor, self.norm(tokens))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
