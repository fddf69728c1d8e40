"""In which order an epoch sees its windows, and how much each counts.

Shuffled, or each batch with its share of every decile of the labels; all alike, or new ones and some symbols more. From
seed and epoch alone, so that a fit that goes on sees what it would have seen. What is done to the windows of a
batch is ``augmentation``'s.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atlas_pipeline.config import Config
from atlas_pipeline.windows.panel import Panel

STRATA = 10
_YEAR = 365.25 * 86_400e6
"""Microseconds."""


def window_weights(panel: Panel, ends: NDArray[np.int64], config: Config) -> NDArray[np.float32] | None:
    """How much the loss of each training window counts.

    Half for each ``recency_half_life`` that it ends before the newest: markets change, and the old says less of what
    comes; and ``target_weight`` times as much where it is of ``target_symbols``.

    Parameters
    ----------
    panel
        The rows.
    ends
        Rows that end a training window, int64 [n].
    config
        The three settings.

    Returns
    -------
    float32 [n], or None
        1 in the mean, so that rate and clipping mean what they do without; None where all count alike.

    Raises
    ------
    ValueError
        Where a target symbol has no training window, with those that have.
    """
    if config.recency_half_life is None and not config.target_symbols:
        return None
    weights = np.ones(len(ends))
    if config.recency_half_life is not None:
        instants = panel.available_at[ends]
        weights *= 0.5 ** ((instants.max() - instants) / (config.recency_half_life * _YEAR))
    if config.target_symbols:
        there = [panel.symbols[number] for number in np.unique(panel.symbol[ends])]
        absent = [name for name in config.target_symbols if name not in there]
        if absent:
            raise ValueError(
                f"Config.target_symbols: {', '.join(absent)} have no training window, {', '.join(there)} have: name "
                "symbols of the market, or leave the setting out"
            )
        targets = [panel.symbols.index(name) for name in config.target_symbols]
        weights[np.isin(panel.symbol[ends], targets)] *= config.target_weight
    return (weights / weights.mean()).astype(np.float32)


def epoch_order(kind: str, labels: Tensor, seed: int, epoch: int) -> Tensor:
    """Numbers of the training windows in the order that an epoch sees them.

    Parameters
    ----------
    kind
        ``shuffled`` or ``stratified``.
    labels
        Of the training windows, in units of the trailing volatility, float32 [n] or [n, horizons]; of several
        horizons the first decides.
    seed, epoch
        What chance depends on.

    Returns
    -------
    int64 [n], on the CPU
        Each number once.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    if kind == "shuffled":
        return torch.randperm(len(labels), generator=generator)
    return stratified_order(labels.reshape(len(labels), -1)[:, 0].cpu(), generator)


def stratified_order(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Order windows so that any batch of them takes equally from the deciles of their labels.

    Every window comes once an epoch, so that the labels' distribution over an epoch is the data's own: batches differ
    less from one another, and nothing is weighted. The deciles are those of these labels and of no others. Windows are
    shuffled within their decile and dealt out in rounds of one from each, in an order of deciles drawn for the epoch;
    a run of B consecutive ones then has B / 10 of each, rounded up or down, but for the last round, which is short.

    Parameters
    ----------
    labels
        float32 [n].
    generator
        What chance comes from, on the CPU.

    Returns
    -------
    int64 [n]
        Numbers of the windows.
    """
    count = len(labels)
    shuffled = torch.randperm(count, generator=generator)
    # Equal labels fall into deciles as the shuffle has them.
    by_label = shuffled[labels[shuffled].argsort(stable=True)]
    rounds, place = torch.empty(count, dtype=torch.int64), torch.empty(count, dtype=torch.int64)
    for decile, turn in enumerate(torch.randperm(STRATA, generator=generator).tolist()):
        first, last = decile * count // STRATA, (decile + 1) * count // STRATA
        rounds[first:last] = torch.randperm(last - first, generator=generator)
        place[first:last] = turn
    return by_label[(rounds * STRATA + place).argsort()]
