"""The forecaster: backbone, pooling and head in one network; scaling and units live in ``training``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from atlas_pipeline.config import Config
from atlas_pipeline.models.heads import make_head
from atlas_pipeline.models.registry import make_backbone


class Forecaster(nn.Module):
    """A probabilistic forecaster: a window in, an embedding and what the head says out.

    Parameters
    ----------
    config
        The model's and the window's settings; ``gradient_checkpointing`` of the backbone is the run's to set.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.backbone = make_backbone(config)
        self.head = make_head(config)

    def embed(self, x: Tensor) -> Tensor:
        """Embed scaled windows as [batch, d_model], float32; they are [batch, seq_length, features]."""
        return self.backbone.pool(self.backbone(x)).float()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return embedding and the head's outputs; the head computes in float32 whatever the backbone's precision."""
        embedding = self.embed(x)
        return embedding, self._said(embedding)

    def supervised(self, x: Tensor, steps: int) -> list[Tensor]:
        """Return the head's outputs that have a loss each, as of ``Backbone.iterations``."""
        return [self._said(self.backbone.pool(tokens).float()) for tokens in self.backbone.iterations(x, steps)]

    def _said(self, embedding: Tensor) -> Tensor:
        with torch.autocast(embedding.device.type, enabled=False):
            outputs: Tensor = self.head(embedding)
            return outputs
