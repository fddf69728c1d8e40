"""What the training labels alone say, which a head that says no density must beat."""

from __future__ import annotations

import torch

from atlas_pipeline.models.head import Head
from atlas_pipeline.models.quantiles import LEVELS, QuantileHead
from atlas_pipeline.models.tasks import ThresholdHead
from atlas_pipeline.training.objective import LabelledWindows


def climatology(head: Head, train: LabelledWindows) -> list[list[float]] | None:
    """Values of the head that are the same for every window, from the training labels.

    Returns
    -------
    [horizons][quantities]
        Base rates of an event, quantiles or median of the returns in multiples of their unit; None for a density, whose
        peers are the volatility models.
    """
    target, unit = train.target.double(), train.unit.double()
    if isinstance(head, ThresholdHead):
        values = head.label(target, unit).mean(dim=0)[:, None]
    elif isinstance(head, QuantileHead):
        levels = torch.tensor(LEVELS, dtype=target.dtype, device=target.device)
        values = torch.quantile(target, levels, dim=0).T
    elif head.loss_name == "huber_loss":
        values = target.median(dim=0).values[:, None]
    else:
        return None
    return [[float(value) for value in row] for row in values]
