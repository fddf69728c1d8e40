from __future__ import annotations

import pytest
import torch

from atlas_pipeline.windows.sampling import STRATA, epoch_order


def heavy_tailed(n: int) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(3)) ** 3


@pytest.mark.parametrize("kind", ["shuffled", "stratified"])
@pytest.mark.parametrize("n", [1, 7, 10, 503])
def test_every_window_comes_once_an_epoch_from_seed_and_epoch_alone(kind, n):
    labels = heavy_tailed(n)
    order = epoch_order(kind, labels, 5, 2)
    assert sorted(order.tolist()) == list(range(n))
    torch.manual_seed(99)
    assert torch.equal(order, epoch_order(kind, labels, 5, 2))
    if n > 100:
        assert not torch.equal(order, epoch_order(kind, labels, 5, 3))
        assert not torch.equal(order, epoch_order(kind, labels, 6, 2))


@pytest.mark.parametrize("batch", [10, 32, 64])
def test_each_batch_takes_equally_from_the_deciles(batch):
    labels = heavy_tailed(1000)
    decile = labels.argsort().argsort() * STRATA // len(labels)
    for rows in epoch_order("stratified", labels, 0, 0).split(batch):
        counts = torch.bincount(decile[rows], minlength=STRATA)
        assert counts.max() - counts.min() <= 1
    shuffled = [torch.bincount(decile[r], minlength=STRATA) for r in epoch_order("shuffled", labels, 0, 0).split(batch)]
    assert max(int(counts.max() - counts.min()) for counts in shuffled) > 1


def test_labels_that_are_all_equal_are_still_shuffled():
    order = epoch_order("stratified", torch.zeros(100), 0, 0)
    assert sorted(order.tolist()) == list(range(100)) != order.tolist()


def test_of_several_horizons_the_first_decides():
    labels = heavy_tailed(200)
    both = torch.stack([labels, -labels.flip(0)], dim=1)
    assert torch.equal(epoch_order("stratified", both, 1, 0), epoch_order("stratified", labels, 1, 0))
