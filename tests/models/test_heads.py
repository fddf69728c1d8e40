from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from atlas_pipeline.config import Config
from atlas_pipeline.models.forecaster import Forecaster
from atlas_pipeline.models.heads import Density, GaussianHead, StudentTHead, density_nll, make_head


@pytest.mark.parametrize("head", ["student_t", "gaussian"])
def test_the_first_density_is_that_of_the_trailing_volatility(head):
    torch.manual_seed(0)
    model = Forecaster(Config(head=head, n_layers=2, seq_length=64)).eval()
    _, density = model(torch.randn(16, 64, 8))
    # Weights of 1e-3 on an embedding of norm 16 move the outputs by about 0.02.
    assert density.location.abs().max() < 0.1
    assert density.variance().detach().numpy() == pytest.approx(1.0, abs=0.15)


def test_the_configuration_names_the_head():
    assert isinstance(make_head(Config()), StudentTHead)
    assert isinstance(make_head(Config(head="gaussian")), GaussianHead)


def test_student_nll_is_the_density_scipy_has():
    y, m, s, df = (torch.tensor(v, dtype=torch.float64) for v in ([0.3, -4.0], [0.1, 0.2], [0.7, 1.5], [2.5, 30.0]))
    expected = -stats.t.logpdf(y.numpy(), df.numpy(), m.numpy(), s.numpy())
    np.testing.assert_allclose(density_nll(Density(m, s, df), y).numpy(), expected, rtol=1e-12)


def test_gaussian_nll_is_the_density_scipy_has():
    y, m, s = (torch.tensor(v, dtype=torch.float64) for v in ([0.3, -4.0], [0.1, 0.2], [0.7, 1.5]))
    expected = -stats.norm.logpdf(y.numpy(), m.numpy(), s.numpy())
    np.testing.assert_allclose(density_nll(Density(m, s, None), y).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("head", [StudentTHead(4), GaussianHead(4)])
def test_any_embedding_gives_a_density_with_finite_variance(head):
    with torch.no_grad():
        head.projection.weight.mul_(1e4)
    density = head(torch.randn(200, 4) * 20)
    assert (density.scale > 0).all()
    assert density.variance().isfinite().all()
    assert density_nll(density, torch.zeros(200)).isfinite().all()
    assert density.df is None or density.df.min() > 2


def test_variance_of_students_t():
    density = Density(torch.zeros(1), torch.tensor([2.0]), torch.tensor([6.0]))
    assert math.sqrt(density.variance().item()) == pytest.approx(stats.t(6, scale=2).std())
