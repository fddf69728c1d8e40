"""Backbones by the name that ``Config.backbone`` gives them; heads have theirs in ``heads``."""

from __future__ import annotations

from atlas_pipeline.config import BackboneKind, Config
from atlas_pipeline.models.backbone import Backbone
from atlas_pipeline.models.ensemble import Ensemble
from atlas_pipeline.models.mamba import Mamba
from atlas_pipeline.models.patchtst import PatchTST
from atlas_pipeline.models.recursive import Recursive
from atlas_pipeline.models.residual_mlp import ResidualMLP

BACKBONES: dict[BackboneKind, type[PatchTST] | type[Mamba] | type[ResidualMLP] | type[Recursive]] = {
    "patchtst": PatchTST,
    "mamba": Mamba,
    "residual_mlp": ResidualMLP,
    "recursive": Recursive,
}


def make_backbone(config: Config) -> Backbone:
    """Make the backbone that the configuration names, or an ensemble of ``config.members`` of them."""
    kind = BACKBONES[config.backbone]
    return kind(config) if config.members == 1 else Ensemble([kind(config) for _ in range(config.members)])
