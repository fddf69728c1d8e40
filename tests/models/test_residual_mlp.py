"""The summaries of a window against numpy, and the network on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from atlas_pipeline.config import Config
from atlas_pipeline.models.residual_mlp import ResidualMLP, summary_lengths, window_summaries


def test_lengths_shorter_than_the_window_and_the_window():
    assert summary_lengths(512) == (5, 21, 63, 252, 512)
    assert summary_lengths(63) == (5, 21, 63)
    assert summary_lengths(3) == (3,)


@pytest.mark.parametrize("length", [3, 30, 300])
def test_summaries_are_what_numpy_says(length):
    x = torch.randn(4, length, 2, dtype=torch.float64)
    expected = [x[:, -1].numpy()]
    for size in summary_lengths(length):
        newest = x[:, -size:].numpy()
        slopes = [np.polyfit(np.arange(size), window, 1)[0] * (size - 1) for window in newest]
        expected += [newest.mean(axis=1), newest.std(axis=1), np.stack(slopes)]
    # The deviation has 1e-12 under its root.
    np.testing.assert_allclose(window_summaries(x).numpy(), np.concatenate(expected, axis=1), rtol=1e-9, atol=1e-9)


def test_a_line_rises_by_its_rise():
    x = torch.linspace(0.0, 1.0, 21)[None, :, None]
    last, *rest = window_summaries(x)[0].tolist()
    assert last == 1.0
    # The newest five of 21 points rise by 4/20 of the whole.
    assert rest[2] == pytest.approx(0.2, rel=1e-5) and rest[5] == pytest.approx(1.0, rel=1e-5)


def test_one_bar_and_a_constant_have_no_slope_and_finite_gradients():
    for length in (1, 40):
        x = torch.full((2, length, 3), 0.7, requires_grad=True)
        summaries = window_summaries(x)
        summaries.sum().backward()
        assert summaries.isfinite().all() and x.grad.isfinite().all()
        assert summaries[:, 9:12].abs().max() < 1e-5


def test_parameters_and_initialisation():
    torch.manual_seed(0)
    config = Config(backbone="residual_mlp", d_model=128, n_layers=3)
    model = ResidualMLP(config)
    d, inputs = 128, 8 * (1 + 3 * 5)
    assert sum(p.numel() for p in model.parameters()) == inputs * d + d + 2 * d + 3 * (d * d + d + 2 * d)
    # He et al. 2015, eq. 10: a deviation of sqrt(2 / fan_in); its own estimate from 16,384 draws is within 2%.
    for layer in (model.projection, *(block.linear for block in model.blocks)):
        assert layer.weight.std().item() == pytest.approx((2 / layer.in_features) ** 0.5, rel=0.02)
        assert not layer.bias.any()
