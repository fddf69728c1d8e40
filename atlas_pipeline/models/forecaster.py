"""The forecaster: backbone, pooling and head in one network; scaling and units live in ``training``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from atlas_pipeline.config import Config
from atlas_pipeline.models.heads import Density, make_head
from atlas_pipeline.models.registry import make_backbone


class Forecaster(nn.Module):
    """A probabilistic forecaster: a window in, an embedding and a density out.

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

    def forward(self, x: Tensor) -> tuple[Tensor, Density]:
        """Return embedding and density; the head computes in float32 whatever the backbone's precision."""
        embedding = self.embed(x)
        with torch.autocast(embedding.device.type, enabled=False):
            return embedding, self.head(embedding)
