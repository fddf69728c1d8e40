from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import torch

from atlas_pipeline.config import Config
from atlas_pipeline.market.instants import microseconds
from atlas_pipeline.windows.panel import Panel
from atlas_pipeline.windows.sampling import STRATA, epoch_order, window_weights

TARGET = {"target_symbols": ("B",), "target_weight": 10.0}


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


@pytest.fixture
def panel() -> Panel:
    """Two symbols, a row every half year."""
    half_years = [
        microseconds(datetime(2000, 1, 1, tzinfo=UTC) + number * timedelta(days=182.625)) for number in range(5)
    ]
    n = 10
    return Panel(
        symbols=("A", "B"),
        features=("x",),
        symbol=np.repeat(np.arange(2, dtype=np.int32), 5),
        available_at=np.array(half_years * 2, np.int64),
        values=np.zeros((n, 1), np.float32),
        prices=np.ones((n, 5)),
        volatility=np.ones(n),
        split=np.ones(n),
        dividend=np.zeros(n),
    )


def test_windows_count_alike_unless_told_otherwise(panel):
    assert window_weights(panel, np.arange(10), Config()) is None


def test_a_window_counts_half_after_each_half_life(panel):
    weights = window_weights(panel, np.arange(10), Config(recency_half_life=1.0))
    assert weights.dtype == np.float32 and weights.mean() == pytest.approx(1.0)
    np.testing.assert_allclose(weights / weights[4], [0.25, 0.125**0.5, 0.5, 0.5**0.5, 1.0] * 2, rtol=1e-5)


def test_target_symbols_count_as_many_times_as_told(panel):
    weights = window_weights(panel, np.array([1, 2, 3, 7]), Config(**TARGET))
    np.testing.assert_allclose(weights, np.array([1, 1, 1, 10]) / 3.25, rtol=1e-6)
    both = window_weights(panel, np.array([2, 9]), Config(recency_half_life=1.0, **TARGET))
    np.testing.assert_allclose(both[1] / both[0], 10 * 2.0, rtol=1e-5)


def test_a_target_symbol_without_windows_is_refused(panel):
    with pytest.raises(ValueError, match="target_symbols: B have no training window, A have"):
        window_weights(panel, np.arange(5), Config(**TARGET))
