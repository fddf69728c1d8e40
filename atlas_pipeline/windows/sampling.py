"""In which order an epoch sees its windows: shuffled, or each batch with its share of every decile of the labels.

From seed and epoch alone, so that a fit that goes on sees what it would have seen. What is done to the windows of a
batch is ``augmentation``'s.
"""

from __future__ import annotations

import torch
from torch import Tensor

STRATA = 10


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
