"""Every head: what it says, its loss against closed forms, and its gradient through every backbone."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from atlas_pipeline.config import BackboneKind, Config, HeadKind
from atlas_pipeline.models.densities import Density, DensityHead, GaussianHead, StudentTHead
from atlas_pipeline.models.forecaster import Forecaster
from atlas_pipeline.models.heads import HEADS, make_head
from atlas_pipeline.models.quantiles import LEVELS, pinball
from atlas_pipeline.models.tasks import THRESHOLDS
from atlas_pipeline.training.density import DensityForecast, nll

DENSITIES = [name for name in HEADS if isinstance(make_head(Config(head=name)), DensityHead)]


def small(**changes):
    settings = {"seq_length": 16, "patch_length": 4, "stride": 4, "feature_size": 3, "d_model": 8, "n_heads": 2}
    return Config(**{**settings, "n_layers": 1, "ff_dim": 16, **changes})


def doubles(*rows):
    return [torch.tensor(row, dtype=torch.float64) for row in rows]


@pytest.mark.parametrize("head", DENSITIES)
def test_the_first_density_is_that_of_the_trailing_volatility(head):
    torch.manual_seed(0)
    model = Forecaster(Config(head=head, n_layers=2, seq_length=64)).eval()
    density = model.head.density(model(torch.randn(16, 64, 8))[1])
    # Weights of 1e-3 on an embedding of norm 16 move the outputs by about 0.02.
    assert density.location.abs().max() < 0.1
    assert density.variance().detach().numpy() == pytest.approx(1.0, abs=0.15)


def test_the_configuration_names_the_head():
    assert isinstance(make_head(Config()), StudentTHead)
    assert isinstance(make_head(Config(head="gaussian")), GaussianHead)
    assert set(HEADS) == set(get_args(HeadKind))


@pytest.mark.parametrize("backbone", get_args(BackboneKind))
@pytest.mark.parametrize("head", HEADS)
def test_every_combination_has_its_shapes_and_gradients(backbone, head):
    changes = {"latent_steps": 1, "supervision_steps": 2} if backbone == "recursive" else {}
    config = small(backbone=backbone, head=head, horizon=(1, 5), dropout=0.0, **changes)
    torch.manual_seed(0)
    model = Forecaster(config)
    embedding, outputs = model(torch.randn(6, 16, 3))
    assert embedding.shape == (6, 8) and outputs.shape[:2] == (6, 2)
    values = model.head.values(outputs)
    assert values.shape == (6, 2, len(model.head.quantities))
    target, unit = torch.randn(6, 2), torch.rand(6, 2) + 0.5
    loss = model.head.loss(outputs, target, unit)
    assert loss.shape == model.head.reported(outputs, target, unit).shape == (6, 2)
    loss.sum().backward()
    # Of the first horizon alone: its outputs, and no others, and the backbone.
    gradient = model.head.projection.weight.grad.unflatten(0, (2, -1))
    assert (gradient.abs().sum(dim=(1, 2)) > 0).all()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.backbone.parameters())


def test_horizons_are_learned_apart():
    model = Forecaster(small(horizon=(1, 5)))
    outputs = model(torch.randn(4, 16, 3))[1]
    model.head.loss(outputs, torch.randn(4, 2), torch.ones(4, 2))[:, 0].sum().backward()
    gradient = model.head.projection.bias.grad.unflatten(0, (2, -1))
    assert (gradient[0] != 0).any() and (gradient[1] == 0).all()


def test_student_nll_is_the_density_scipy_has():
    y, m, s, df = doubles([0.3, -4.0], [0.1, 0.2], [0.7, 1.5], [2.5, 30.0])
    expected = -stats.t.logpdf(y.numpy(), df.numpy(), m.numpy(), s.numpy())
    np.testing.assert_allclose(Density(m, s, df).nll(y).numpy(), expected, rtol=1e-12)


def test_gaussian_nll_is_the_density_scipy_has():
    y, m, s = doubles([0.3, -4.0], [0.1, 0.2], [0.7, 1.5])
    expected = -stats.norm.logpdf(y.numpy(), m.numpy(), s.numpy())
    np.testing.assert_allclose(Density(m, s).nll(y).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("df", [3.0, 12.0, None])
@pytest.mark.parametrize("skew", [-0.6, 0.0, 0.3])
def test_the_skewed_density_is_one_with_the_mean_and_variance_it_says(skew, df):
    def density(points):
        shape = np.shape(points)
        parts = [torch.full(shape, value, dtype=torch.float64) for value in (0.4, 1.3)]
        degrees = None if df is None else torch.full(shape, df, dtype=torch.float64)
        return Density(*parts, degrees, torch.full(shape, skew, dtype=torch.float64))

    def moment(power):
        def integrand(y):
            return y**power * math.exp(-density(y).nll(torch.tensor(y, dtype=torch.float64)).item())

        return sum(integrate.quad(integrand, *ends, limit=200)[0] for ends in ((-np.inf, 0.4), (0.4, np.inf)))

    assert moment(0) == pytest.approx(1.0, abs=1e-7)
    assert moment(1) == pytest.approx(density(0.0).mean().item(), abs=1e-6)
    # The second moment of t with three degrees converges slowly.
    assert moment(2) - moment(1) ** 2 == pytest.approx(density(0.0).variance().item(), rel=2e-3)
    below = integrate.quad(
        lambda y: math.exp(-density(y).nll(torch.tensor(y, dtype=torch.float64)).item()), -np.inf, 0.4
    )
    assert below[0] == pytest.approx((1 - skew) / 2, abs=1e-7)


def test_the_network_and_the_scores_mean_the_same_density():
    y, m, s, df, skew = doubles([0.3, -4.0, 1.0], [0.1, 0.2, 0.0], [0.7, 1.5, 1.0], [2.5, 30.0, 5.0], [0.4, -0.7, 0.0])
    expected = nll(y.numpy(), DensityForecast(*(each.numpy() for each in (m, s, df, skew))))
    np.testing.assert_allclose(Density(m, s, df, skew).nll(y).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("name", DENSITIES)
def test_any_embedding_gives_a_density_with_finite_variance(name):
    head = make_head(Config(head=name, d_model=8))
    with torch.no_grad():
        head.projection.weight.mul_(1e4)
    density = head.density(head(torch.randn(200, 8) * 20))
    assert (density.scale > 0).all()
    assert density.variance().isfinite().all()
    assert density.nll(torch.zeros(200, 1)).isfinite().all()
    assert density.df is None or density.df.min() > 2


def test_variance_of_students_t():
    density = Density(torch.zeros(1), torch.tensor([2.0]), torch.tensor([6.0]))
    assert math.sqrt(density.variance().item()) == pytest.approx(stats.t(6, scale=2).std())


def test_quantiles_never_cross_and_begin_as_the_standard_normals():
    head = make_head(Config(head="quantiles", d_model=8))
    first = head.values(head(torch.zeros(1, 8)))[0, 0]
    np.testing.assert_allclose(first.detach(), stats.norm.ppf(LEVELS), atol=1e-5)
    with torch.no_grad():
        head.projection.weight.mul_(1e4)
    assert (head.values(head(torch.randn(300, 8))).diff(dim=-1) >= 0).all()


def test_the_pinball_loss_is_least_at_the_quantiles():
    sample = torch.from_numpy(np.random.default_rng(0).standard_normal(20_000))
    true = torch.from_numpy(stats.norm.ppf(LEVELS))
    least = pinball(sample, true.expand(20_000, -1)).mean(dim=0)
    for shift in (-0.1, 0.1):
        assert (pinball(sample, (true + shift).expand(20_000, -1)).mean(dim=0) > least).all()
    assert pinball(torch.tensor([2.0]), torch.ones(1, 7))[0, 0].item() == pytest.approx(0.025)
    assert pinball(torch.tensor([0.0]), torch.ones(1, 7))[0, 0].item() == pytest.approx(0.975)


@pytest.mark.parametrize(("name", "percent"), THRESHOLDS.items())
def test_an_event_is_a_simple_return_that_reaches_its_threshold(name, percent):
    head = make_head(Config(head=name, d_model=8))
    unit = torch.tensor([[2.0], [2.0], [2.0]], dtype=torch.float64)
    logarithm = 100 * math.log1p(percent / 100)
    target = torch.tensor([[logarithm - 1e-6], [logarithm + 1e-6], [-3.0]], dtype=torch.float64) / 2
    assert head.label(target, unit).flatten().tolist() == [0.0, 1.0, 0.0]
    assert make_head(Config(head="direction", d_model=8)).label(target * 0, unit).sum() == 0


def test_smoothing_moves_what_is_minimised_and_not_what_is_reported():
    plain, smooth = (make_head(Config(head="direction", d_model=8, label_smoothing=e)) for e in (0.0, 0.2))
    outputs, target, unit = torch.full((1, 1, 1), 2.0), torch.ones(1, 1), torch.ones(1, 1)
    p = 1 / (1 + math.exp(-2.0))
    assert plain.loss(outputs, target, unit).item() == pytest.approx(-math.log(p), rel=1e-5)
    expected = -0.9 * math.log(p) - 0.1 * math.log(1 - p)
    assert smooth.loss(outputs, target, unit).item() == pytest.approx(expected, rel=1e-5)
    assert smooth.reported(outputs, target, unit).item() == pytest.approx(-math.log(p), rel=1e-5)


def test_huber_is_square_near_and_linear_far():
    head = make_head(Config(head="regression", d_model=8, huber_delta=0.5))
    outputs = torch.zeros(2, 1, 1)
    found = head.loss(outputs, torch.tensor([[0.2], [3.0]]), torch.ones(2, 1)).flatten().tolist()
    assert found == pytest.approx([0.5 * 0.2**2, 0.5 * (3.0 - 0.25)], rel=1e-5)


def test_a_setting_that_the_head_does_not_read_is_refused():
    for changes in ({"label_smoothing": 0.1}, {"huber_delta": 2.0}, {"head": "direction", "log_sigma_penalty": 0.1}):
        with pytest.raises(ValueError, match="does not read it: leave it at"):
            Config(**changes)


@pytest.mark.parametrize("horizon", [0, (), (5, 1), (1, 1), (1, 0)])
def test_a_horizon_that_cannot_be_is_refused(horizon):
    with pytest.raises(ValueError, match=r"Config\.horizon="):
        Config(horizon=horizon)


def test_horizons_from_a_file_are_those_typed():
    config = replace(Config(), horizon=[1, 5, 20])
    assert config.horizon == config.horizons == (1, 5, 20) and config.longest_horizon == 20
    assert Config().horizons == (1,)
