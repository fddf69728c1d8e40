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
from numpy.typing import NDArray
from torch import Tensor

from atlas_pipeline.config import Config
from atlas_pipeline.models.densities import DensityHead
from atlas_pipeline.models.forecaster import Forecaster
from atlas_pipeline.models.recursive import iteration_weights, supervision_curriculum
from atlas_pipeline.training.density import DensityForecast, coverage, nll, pit

Autocast = Callable[[], contextlib.AbstractContextManager[Any]]
"""Makes a fresh context of the number format to run in."""


class Mixed(NamedTuple):
    """The other labels of windows that are mixtures of two, as of ``Batch``, and the ``share`` of their own [n]."""

    target: Tensor
    unit: Tensor
    share: Tensor
    weight: Tensor | None = None


class Batch(NamedTuple):
    """Windows and labels: ``inputs`` float32 [n, seq_length, features], ``target`` and ``unit`` float32 [n, horizons].

    Of windows that are mixtures of two, ``mixed`` has the other's labels. ``weight``, float32 [n], is of the windows'
    losses, None where all count alike.
    """

    inputs: Tensor
    target: Tensor
    unit: Tensor
    mixed: Mixed | None = None
    weight: Tensor | None = None


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
        Labels in units of the trailing volatility, float32 [n, horizons].
    unit
        That unit, percent, float32 [n, horizons].
    weight
        Of each window's loss, float32 [n], 1 in the mean; None where all count alike.
    """

    inputs: Callable[[Tensor], Tensor]
    ends: Tensor
    target: Tensor
    unit: Tensor
    weight: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ends)

    def batch(self, rows: Tensor) -> Batch:
        """Gather the windows of these numbers, int64 [n], on the device."""
        weight = None if self.weight is None else self.weight[rows]
        return Batch(self.inputs(self.ends[rows]), self.target[rows], self.unit[rows], weight=weight)


class Losses(NamedTuple):
    """Sums over a batch of means over horizons: what is minimised, what is reported, variance (percent squared).

    The variance is NaN where the head says no density.
    """

    objective: Tensor
    reported: Tensor
    variance: Tensor


def losses(
    config: Config,
    model: Forecaster,
    forward: Callable[[Tensor], Any],
    batch: Batch,
    autocast: Autocast,
    progress: float = 0.0,
) -> Losses:
    """Run the network over a batch and sum its losses; the gradient is that of ``objective``, which alone is weighted.

    On a mixture it is the mixture of the losses on either label (Zhang et al., mixup, ICLR 2018, sec. 2), not the loss
    on a mixture of labels: densities are not linear in them. The recursive backbone has a loss on each supervision
    step (``models.recursive``), of which the last one's is reported; an ensemble has one on each member, and that of
    their average is reported (``models.ensemble``).

    Parameters
    ----------
    config
        Training settings.
    model
        The network.
    forward
        The network's forward pass, which may be compiled.
    batch
        Windows and labels.
    autocast
        Number format.
    progress
        Share of the training that is done, 0 to 1.
    """
    head = model.head
    with autocast():
        if config.backbone == "recursive":
            steps = supervision_curriculum(progress, config.supervision_steps, config.supervision_ramp)
            said = model.supervised(batch.inputs, steps)
            weights, final = iteration_weights(steps, config.iteration_weights), said[-1]
        elif config.members > 1:
            said = model.supervised(batch.inputs, config.members)
            weights, final = (1 / config.members,) * config.members, torch.stack(said).mean(dim=0)
        else:
            final = forward(batch.inputs)[1]
            said, weights = [final], (1.0,)

    def summed(loss: Callable[[Tensor, Tensor, Tensor], Tensor], outputs: Tensor, weighted: bool = False) -> Tensor:
        def on(target: Tensor, unit: Tensor, weight: Tensor | None) -> Tensor:
            found = loss(outputs, target, unit)
            return found * weight[:, None] if weighted and weight is not None else found

        found = on(batch.target, batch.unit, batch.weight)
        if batch.mixed is not None:
            share, mixed = batch.mixed.share[:, None], batch.mixed
            found = share * found + (1 - share) * on(mixed.target, mixed.unit, mixed.weight)
        return found.mean(dim=1).sum()

    def variance(outputs: Tensor, _: Tensor, unit: Tensor) -> Tensor:
        assert isinstance(head, DensityHead)
        return head.density(outputs).variance() * unit**2

    parts = [weight * summed(head.loss, outputs, weighted=True) for weight, outputs in zip(weights, said, strict=True)]
    objective = torch.stack(parts).sum() if len(parts) > 1 else parts[0]
    with torch.no_grad():
        reported = summed(head.reported, final)
        nothing = torch.full_like(reported, math.nan)
        return Losses(objective, reported, summed(variance, final) if isinstance(head, DensityHead) else nothing)


@torch.inference_mode()
def evaluate(
    model: Forecaster, forward: Callable[[Tensor], Any], windows: LabelledWindows, size: int, autocast: Autocast
) -> dict[str, float]:
    """Return the head's loss by its name, mean over windows and horizons, first; and for densities ``coverage_95``.

    A density's NLL (nats) is of float64 parameters. ``size`` windows are computed at once.
    """
    head = model.head
    values, losses = [], []
    for rows in torch.arange(len(windows), device=windows.ends.device).split(size):
        batch = windows.batch(rows)
        with autocast():
            _, outputs = forward(batch.inputs)
        target, unit = batch.target.to(outputs.device), batch.unit.to(outputs.device)
        losses.append(head.reported(outputs, target, unit).double().cpu())
        values.append(head.values(outputs).cpu())
    if not isinstance(head, DensityHead):
        return {head.loss_name: float(torch.cat(losses).mean())}
    units = windows.unit.cpu().double().numpy()
    outcome = windows.target.cpu().double().numpy() * units
    densities = densities_of(torch.cat(values).double().numpy(), units)
    return {
        head.loss_name: float(np.mean([nll(outcome[:, i], each).mean() for i, each in enumerate(densities)])),
        "coverage_95": float(np.mean([coverage(pit(outcome[:, i], d), 0.95) for i, d in enumerate(densities)])),
    }


def densities_of(values: NDArray[np.float64], unit: NDArray[np.float64]) -> tuple[DensityForecast, ...]:
    """Make a density forecast a horizon.

    Parameters
    ----------
    values
        What a density's head says in multiples of the unit, float64 [n, horizons, 4].
    unit
        Percent, float64 [n, horizons].
    """
    return tuple(
        DensityForecast(
            location=values[:, i, 0] * unit[:, i],
            scale=values[:, i, 1] * unit[:, i],
            df=values[:, i, 2],
            skew=values[:, i, 3],
        )
        for i in range(values.shape[1])
    )
