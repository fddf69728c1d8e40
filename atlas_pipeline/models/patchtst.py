"""The PatchTST backbone, and the patch transformer that ``recursive`` shares with it.

Nie et al., A Time Series is Worth 64 Words, ICLR 2023 (arXiv:2211.14730). The default mixes channels: all features of
a patch are in one token. With ``channels="independent"``, ``norm="batch"``, ``norm_placement="post"`` and
``patch_padding="end"`` it is the paper's, without the residual attention of the authors' code, which the paper does
not mention and the fused attention kernels cannot express. The paper's instance normalisation (RevIN) is a scaler,
``Config.scaler="instance"``, and serves every backbone. Heads live in ``heads``; LoRA adapters are peft's.
"""

from __future__ import annotations

import contextlib
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from atlas_pipeline.config import Config
from atlas_pipeline.models.backbone import Backbone, StochasticDepth, make_norm

ROTARY_BASE = 10_000.0


def patch_count(config: Config) -> int:
    """Return the number of patches N of a window of L bars, patches of P, stride S.

    ``(L - P) // S + 1``, and one more with end padding (Nie et al., 2023, sec. 3.1).
    """
    return (config.seq_length - config.patch_length) // config.stride + 1 + (config.patch_padding == "end")


class PatchEmbedding(nn.Module):
    """Patches projected linearly, with a learned position added where asked.

    Parameters
    ----------
    config
        ``seq_length``, ``patch_length``, ``stride``, ``patch_padding``, ``channels``, ``feature_size``, ``d_model``.
    positions
        Add a learned position to each patch.
    """

    def __init__(self, config: Config, positions: bool = True) -> None:
        super().__init__()
        self.patch_length = config.patch_length
        self.stride = config.stride
        self.padded = config.patch_padding == "end"
        self.independent = config.channels == "independent"
        self.n_patches = patch_count(config)
        channels = 1 if self.independent else config.feature_size
        self.projection = nn.Linear(config.patch_length * channels, config.d_model)
        self.positions: nn.Parameter | None = None
        if positions:
            self.positions = nn.Parameter(torch.empty(self.n_patches, config.d_model))
            nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens [batch, n_patches, d_model] of windows [batch, seq_length, features].

        With independent channels the batch is ``batch * features``, a window's channels together.
        """
        if self.independent:
            x = x.transpose(1, 2).flatten(0, 1).unsqueeze(-1)
        if self.padded:
            x = torch.cat([x, x[:, -1:].expand(-1, self.stride, -1)], dim=1)
        if self.stride == self.patch_length:
            patches = x[:, : self.n_patches * self.stride].reshape(x.shape[0], self.n_patches, -1)
        else:
            patches = x.unfold(1, self.patch_length, self.stride).transpose(2, 3).flatten(2)
        # Layers add to the tokens what they find: under autocast, too, the sum keeps the weights' precision.
        tokens = cast(Tensor, self.projection(patches)).to(self.projection.weight.dtype)
        return tokens if self.positions is None else tokens + self.positions


class RotaryPositions(nn.Module):
    """Rotations of queries and keys by their position (Su et al., RoFormer, 2021, arXiv:2104.09864, eq. 34).

    Pairs are (i, i + width / 2), which is the paper's up to an order of the columns of the projections.

    Parameters
    ----------
    tokens
        Positions there are.
    width
        Of one head; even.
    """

    cosine: Tensor
    sine: Tensor

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        frequency = ROTARY_BASE ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        angle = torch.arange(tokens, dtype=torch.float64)[:, None] * torch.cat([frequency, frequency])
        self.register_buffer("cosine", angle.cos().float(), persistent=False)
        self.register_buffer("sine", angle.sin().float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return rotated queries or keys [batch, heads, tokens, width] of the same shape and dtype."""
        first, second = x.chunk(2, dim=-1)
        return (x * self.cosine + torch.cat([-second, first], dim=-1) * self.sine).to(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al., 2017, eq. 1), its projections apart for LoRA to target.

    Parameters
    ----------
    config
        ``d_model``, ``n_heads``, ``positions``; ``use_flash_attention`` False keeps to the reference kernel everywhere.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.flash_attention = config.use_flash_attention
        self.q_proj = nn.Linear(config.d_model, config.d_model)
        self.k_proj = nn.Linear(config.d_model, config.d_model)
        self.v_proj = nn.Linear(config.d_model, config.d_model)
        self.o_proj = nn.Linear(config.d_model, config.d_model)
        self.rotary: nn.Module = nn.Identity()
        if config.positions == "rotary":
            self.rotary = RotaryPositions(patch_count(config), config.d_model // config.n_heads)

    def forward(self, x: Tensor) -> Tensor:
        """Return mixed tokens [batch, tokens, d_model] of tokens of the same shape."""

        def heads(projected: Tensor) -> Tensor:
            return projected.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)

        q, k, v = self.rotary(heads(self.q_proj(x))), self.rotary(heads(self.k_proj(x))), heads(self.v_proj(x))
        # On a CPU the reference kernel trains a quarter faster at these few tokens: the fused one's backward
        # is slow.
        reference = not self.flash_attention or (self.training and x.device.type == "cpu")
        with sdpa_kernel(SDPBackend.MATH) if reference else contextlib.nullcontext():
            mixed = functional.scaled_dot_product_attention(q, k, v)
        return cast(Tensor, self.o_proj(mixed.transpose(1, 2).flatten(2)))


class EncoderLayer(nn.Module):
    """Transformer layer: attention, then a GELU network; norms before each (Xiong et al., ICML 2020) or after.

    Dropout acts on the residual path of both and not on the attention weights: torch's fused CPU kernel has
    none.

    Parameters
    ----------
    config
        The model's settings.
    layer
        Number of the layer, from 1.
    """

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.norm_first = config.norm_placement == "pre"
        self.attention_norm = make_norm(config)
        self.attention = Attention(config)
        self.feedforward_norm = make_norm(config)
        self.expansion = nn.Linear(config.d_model, config.ff_dim)
        self.contraction = nn.Linear(config.ff_dim, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.depth = StochasticDepth(layer, config.n_layers, config.stochastic_depth)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens [batch, tokens, d_model] of tokens of the same shape."""
        if self.norm_first:
            x = x + self.depth(self.dropout(self.attention(self.attention_norm(x))))
            return cast(Tensor, x + self.depth(self.dropout(self._feedforward(self.feedforward_norm(x)))))
        x = self.attention_norm(x + self.depth(self.dropout(self.attention(x))))
        return cast(Tensor, self.feedforward_norm(x + self.depth(self.dropout(self._feedforward(x)))))

    def _feedforward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.contraction(functional.gelu(self.expansion(x))))


class PatchTransformer(Backbone):
    """Patch embedding, ``n_layers`` encoder layers, and a last norm where the layers' norms come first.

    Parameters
    ----------
    config
        The model's and the window's settings.
    """

    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embedding = PatchEmbedding(config, positions=config.positions == "learned")
        layers = [EncoderLayer(config, number) for number in range(1, config.n_layers + 1)]
        self.layers = nn.ModuleList(layers)
        self.norm = make_norm(config) if config.norm_placement == "pre" else nn.Identity()
        self.apply(_initialise)
        # Residual branches add up: their last projections start smaller, so that depth does not blow up the
        # sum (Radford et al., GPT-2, 2019, sec. 2.3).
        for layer in layers:
            for last in (layer.attention.o_proj, layer.contraction):
                nn.init.normal_(last.weight, std=0.02 / (2 * config.n_layers) ** 0.5)

    def transform(self, tokens: Tensor) -> Tensor:
        """Return encoded tokens [batch, tokens, d_model] of tokens of the same shape."""
        for layer in self.layers:
            tokens = self.through(layer, tokens)
        return cast(Tensor, self.norm(tokens))


class PatchTST(PatchTransformer):
    """The backbone.

    With independent channels all share the weights, tokens are those of the first channel, then of the second, and so
    on, and the embedding is the sum over channels of their newest tokens, each times a learned weight a dimension;
    the weights begin as the mean's. A plain mean could not tell one feature from another.

    Parameters
    ----------
    config
        The model's and the window's settings.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.channel_weights: nn.Parameter | None = None
        if config.channels == "independent":
            equal = torch.full((config.feature_size, config.d_model), 1.0 / config.feature_size)
            self.channel_weights = nn.Parameter(equal)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens [batch, n_patches, d_model], or [batch, features * n_patches, d_model] of each channel's.

        Parameters
        ----------
        x
            Windows [batch, seq_length, features].
        """
        tokens = self.transform(self.embedding(x))
        return tokens.reshape(len(x), -1, tokens.shape[-1])

    def pool(self, tokens: Tensor) -> Tensor:
        """Return the embedding [batch, d_model]: the newest token, or the weighted sum of every channel's newest."""
        if self.channel_weights is None:
            return tokens[:, -1]
        newest = tokens.unflatten(1, (len(self.channel_weights), -1))[:, :, -1]
        return (newest * self.channel_weights).sum(dim=1)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
