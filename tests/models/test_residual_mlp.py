"""The summaries of a window against numpy, and the network on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from atlas_pipeline.config import Config
from atlas_pipeline.models.residual_mlp import InputUnits, ResidualMLP, summary_lengths, window_summaries


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


def test_a_constant_has_no_slope_and_finite_gradients():
    x = torch.full((2, 40, 3), 0.7, requires_grad=True)
    summaries = window_summaries(x)
    summaries.sum().backward()
    assert summaries.isfinite().all() and x.grad.isfinite().all()
    assert summaries[:, 9:12].abs().max() < 1e-5


def test_one_bar_is_its_own_summary():
    x = torch.randn(2, 1, 3)
    assert summary_lengths(1) == () and torch.equal(window_summaries(x), x[:, 0])


def test_without_its_blocks_the_network_is_linear_in_the_summaries():
    torch.manual_seed(0)
    model = ResidualMLP(Config(backbone="residual_mlp", feature_size=3, seq_length=1, d_model=16, n_layers=2))
    one, other = torch.randn(5, 1, 3), torch.randn(5, 1, 3)
    assert not torch.allclose(model(one + other), model(one) + model(other), atol=1e-3)
    for block in model.blocks:
        torch.nn.init.zeros_(block.contraction.weight)
    torch.testing.assert_close(model(one + other), model(one) + model(other))


def test_with_input_units_and_without_its_blocks_the_network_is_additive():
    torch.manual_seed(0)
    config = Config(backbone="residual_mlp", feature_size=3, seq_length=1, d_model=16, n_layers=1, input_units=5)
    model = ResidualMLP(config)
    one, other = torch.randn(2, 5, 1, 3)

    def interaction():
        mixed, swapped = one.clone(), other.clone()
        mixed[..., 0], swapped[..., 0] = other[..., 0], one[..., 0]
        return model(one) + model(other) - model(mixed) - model(swapped)

    assert interaction().abs().max() > 1e-3
    torch.nn.init.zeros_(model.blocks[0].contraction.weight)
    assert interaction().abs().max() < 1e-5
    # Not linear in any input, and without the linear path bounded.
    assert not torch.allclose(model(2 * one) - model(one), model(one) - model(0 * one), atol=1e-3)
    torch.nn.init.zeros_(model.projection.weight)
    torch.testing.assert_close(model(1e6 * one), model(1e7 * one))


def test_all_units_of_an_input_are_dropped_at_once():
    torch.manual_seed(0)
    units = InputUnits(inputs=40, units=6, dropout=0.25)
    x = torch.randn(50, 40)
    said = units.eval()(x).view(50, 40, 6)
    torch.testing.assert_close(said, torch.tanh(x[:, :, None] * units.weight + units.bias))
    kept = (units.train()(x).view(50, 40, 6) / said * 0.75).round()
    assert set(kept.unique().tolist()) == {0.0, 1.0} and (kept == kept[..., :1]).all()
    # A share of 2,000, with a standard error of 0.01.
    assert kept.mean().item() == pytest.approx(0.75, abs=0.04)


def test_parameters_and_initialisation():
    torch.manual_seed(0)
    config = Config(backbone="residual_mlp", d_model=128, ff_dim=256, n_layers=3)
    model = ResidualMLP(config)
    d, ff, inputs = 128, 256, 8 * (1 + 3 * 5)
    block = 2 * d + d * ff + ff + ff * d + d
    assert sum(p.numel() for p in model.parameters()) == inputs * d + d + 3 * block
    # He et al. 2015, eq. 10, for a slope of sqrt(5): a deviation of sqrt(1 / (3 fan_in)).
    linear = [model.projection, *(layer for block in model.blocks for layer in (block.expansion, block.contraction))]
    for layer in linear:
        assert layer.weight.std().item() == pytest.approx((3 * layer.in_features) ** -0.5, rel=0.02)
        assert not layer.bias.any()
