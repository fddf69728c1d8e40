"""Heads by the name that ``Config.head`` gives them; backbones have theirs in ``registry``."""

from __future__ import annotations

from collections.abc import Callable

from atlas_pipeline.config import Config, HeadKind
from atlas_pipeline.models.densities import GaussianHead, SkewedTHead, StudentTHead
from atlas_pipeline.models.head import Head
from atlas_pipeline.models.quantiles import QuantileHead
from atlas_pipeline.models.tasks import RegressionHead, ThresholdHead

HEADS: dict[HeadKind, Callable[[Config], Head]] = {
    "gaussian": GaussianHead,
    "student_t": StudentTHead,
    "skewed_t": SkewedTHead,
    "quantiles": QuantileHead,
    "direction": ThresholdHead,
    "threshold_1pct": ThresholdHead,
    "threshold_2pct": ThresholdHead,
    "threshold_3pct": ThresholdHead,
    "threshold_5pct": ThresholdHead,
    "regression": RegressionHead,
}


def make_head(config: Config) -> Head:
    """Make the head that the configuration names."""
    return HEADS[config.head](config)
