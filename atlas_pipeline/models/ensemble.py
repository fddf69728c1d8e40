"""Several backbones in one, each learning by a loss of its own, whose forecasts are averaged.

Networks of one kind differ by their initial weights and dropout alone, and yet each errs on its own: their average is
better than any (Lakshminarayanan, Pritzel and Blundell, Deep Ensembles, NeurIPS 2017). The losses are apart and the
average is made of what is said, as in Gorishniy, Kotelnikov and Babenko, TabM, ICLR 2025: trained on the loss of the
average, members would lean on one another. What is averaged is what the one head reads, so that a density stays one of
its family; the head is linear, and this equals the average of its outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from atlas_pipeline.models.backbone import Backbone


class Ensemble(Backbone):
    """Backbones side by side; the tokens are the members' embeddings.

    Parameters
    ----------
    members
        Backbones of one kind, of their own weights.
    """

    def __init__(self, members: Sequence[Backbone]) -> None:
        super().__init__()
        self.lora_targets = members[0].lora_targets
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """Return the members' embeddings [batch, members, d_model] of windows [batch, seq_length, features]."""
        embeddings = []
        for module in self.members:
            member = cast(Backbone, module)
            member.gradient_checkpointing = self.gradient_checkpointing
            embeddings.append(member.pool(member(x)))
        return torch.stack(embeddings, dim=1)

    def pool(self, tokens: Tensor) -> Tensor:
        """Return the mean over the tokens given, of all members or of one."""
        return tokens.mean(dim=1)

    def iterations(self, x: Tensor, steps: int | None = None) -> list[Tensor]:
        """Return each member's token alone, for a loss on each."""
        return list(self(x).split(1, dim=1))
