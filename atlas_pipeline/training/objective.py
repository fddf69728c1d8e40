"""What a fit minimises and what it is judged by: from windows and labels to sums of losses.

The loop around it (steps, precision, checkpoints) is ``loop``'s; heads are in ``models.heads``.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from atlas_pipeline.config import Config
from atlas_pipeline.models.heads import density_nll
from atlas_pipeline.training.density import DensityForecast, coverage, nll, pit

Autocast = Callable[[], contextlib.AbstractContextManager[Any]]
"""Makes a fresh context of the number format to run in."""


class Mixed(NamedTuple):
    """The other labels of windows that are mixtures of two, and the ``share`` of their own: float32 [n] each."""

    target: Tensor
    unit: Tensor
    share: Tensor


class Batch(NamedTuple):
    """Windows and labels: ``inputs`` float32 [n, seq_length, features], ``target`` and ``unit`` float32 [n].

    Of windows that are mixtures of two, ``mixed`` has the other's labels.
    """

    inputs: Tensor
    target: Tensor
    unit: Tensor
    mixed: Mixed | None = None


@dataclass(frozen=True, eq=False)
class LabelledWindows:
    """Windows and labels on the device.

    Attributes
    ----------
    inputs
        Gives what the network reads of the windows that end at these rows, float32 [n, seq_length, features].
    ends
        Rows that end a window, int64 [n].
    target
        Labels in units of the trailing volatility, float32 [n].
    unit
        That unit, percent, float32 [n].
    """

    inputs: Callable[[Tensor], Tensor]
    ends: Tensor
    target: Tensor
    unit: Tensor

    def __len__(self) -> int:
        return len(self.ends)

    def batch(self, rows: Tensor) -> Batch:
        """Gather the windows of these numbers, int64 [n], on the device."""
        return Batch(self.inputs(self.ends[rows]), self.target[rows], self.unit[rows])


class Losses(NamedTuple):
    """Sums over a batch: what is minimised, the NLL (nats) and the variance (percent squared)."""

    objective: Tensor
    nll: Tensor
    variance: Tensor


def losses(config: Config, forward: Callable[[Tensor], Any], batch: Batch, autocast: Autocast) -> Losses:
    """Run the network over a batch and sum its losses; the gradient is that of ``objective``.

    On a mixture it is the mixture of the losses on either label (Zhang et al., mixup, ICLR 2018, sec. 2), not the loss
    on a mixture of labels: densities are not linear in them.
    """
    with autocast():
        _, density = forward(batch.inputs)
    relative, log_unit, square_unit = density_nll(density, batch.target), batch.unit.log(), batch.unit**2
    if batch.mixed is not None:
        other, share = batch.mixed, batch.mixed.share
        relative = share * relative + (1 - share) * density_nll(density, other.target)
        log_unit = share * log_unit + (1 - share) * other.unit.log()
        square_unit = share * square_unit + (1 - share) * other.unit**2
    objective = relative.sum()
    if config.log_sigma_penalty:
        objective = objective + config.log_sigma_penalty * density.scale.log().sum()
    with torch.no_grad():
        reported = (relative + log_unit).sum()
        return Losses(objective, reported, (density.variance() * square_unit).sum())


@torch.inference_mode()
def evaluate(
    forward: Callable[[Tensor], Any], windows: LabelledWindows, size: int, autocast: Autocast
) -> dict[str, float]:
    """Return ``nll_loss`` (nats) and ``coverage_95`` (share), ``size`` windows at once."""
    parts = []
    for rows in torch.arange(len(windows), device=windows.ends.device).split(size):
        with autocast():
            _, density = forward(windows.inputs(windows.ends[rows]))
        df = torch.full_like(density.scale, math.inf) if density.df is None else density.df
        parts.append(torch.stack([density.location, density.scale, df]).cpu())
    location, scale, df = torch.cat(parts, dim=1).double().numpy()
    unit = windows.unit.cpu().double().numpy()
    target = windows.target.cpu().double().numpy() * unit
    forecast = DensityForecast(location * unit, scale * unit, df)
    return {
        "nll_loss": float(np.mean(nll(target, forecast))),
        "coverage_95": coverage(pit(target, forecast), 0.95),
    }
