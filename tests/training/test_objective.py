"""What is minimised: mixtures over horizons, and a loss on each supervision step."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from atlas_pipeline.models.forecaster import Forecaster
from atlas_pipeline.models.recursive import iteration_weights
from atlas_pipeline.training import fit
from atlas_pipeline.training.hardware import resolve
from atlas_pipeline.training.objective import Batch, Mixed, losses
from atlas_pipeline.windows.folds import Fold

RECURSION = {"backbone": "recursive", "latent_steps": 1, "supervision_steps": 3}


def batch(n=6, horizons=1, seed=1):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(n, horizons, generator=generator)
    return Batch(torch.randn(n, 32, 2, generator=generator), target, torch.full((n, horizons), 2.0))


def model_of(config):
    torch.manual_seed(0)
    return Forecaster(config)


@pytest.mark.parametrize("head", ["student_t", "quantiles", "direction"])
def test_a_mixture_s_loss_is_the_mixture_of_the_losses(small, hardware, head):
    config = small(dropout=0.0, head=head, horizon=(1, 5))
    model, own, other = model_of(config), batch(horizons=2), batch(horizons=2, seed=2)
    share = torch.tensor([0.0, 1.0, 0.5, 0.25, 0.9, 0.1])
    mixed = own._replace(mixed=Mixed(other.target, 3 * other.unit, share))
    outputs = model(own.inputs)[1]
    parts = [model.head.loss(outputs, *labels).mean(dim=1) for labels in (own[1:3], (other.target, 3 * other.unit))]
    found = losses(config, model, model, mixed, resolve(hardware).autocast).objective
    assert found.item() == pytest.approx((share * parts[0] + (1 - share) * parts[1]).sum().item(), rel=1e-5)


def test_weights_are_of_what_is_minimised_and_of_each_label_s_own_window(small, hardware):
    config = small(dropout=0.0)
    model, own, other = model_of(config), batch(), batch(seed=2)
    weight, others = torch.tensor([0.5, 1.0, 2.0, 0.0, 1.5, 1.0]), torch.tensor([3.0, 0.0, 1.0, 1.0, 0.5, 0.5])
    said = model(own.inputs)[1]
    parts = [model.head.loss(said, *labels).mean(dim=1) for labels in (own[1:3], other[1:3])]
    autocast = resolve(hardware).autocast
    weighted, plain = (losses(config, model, model, each, autocast) for each in (own._replace(weight=weight), own))
    assert weighted.objective.item() == pytest.approx((weight * parts[0]).sum().item(), rel=1e-5)
    assert weighted.reported.item() == plain.reported.item() and plain.objective.item() != weighted.objective.item()
    share = torch.tensor([0.0, 1.0, 0.5, 0.25, 0.9, 0.1])
    mixed = own._replace(weight=weight, mixed=Mixed(*other[1:3], share, others))
    found = losses(config, model, model, mixed, autocast).objective
    expected = share * weight * parts[0] + (1 - share) * others * parts[1]
    assert found.item() == pytest.approx(expected.sum().item(), rel=1e-5)


def test_each_member_has_its_loss_and_their_average_is_reported(small, hardware):
    config = small(dropout=0.0, members=3)
    model, windows = model_of(config), batch()
    found = losses(config, model, model, windows, resolve(hardware).autocast)
    said = model.supervised(windows.inputs, 3)
    parts = [model.head.loss(each, windows.target, windows.unit).sum() for each in said]
    assert found.objective.item() == pytest.approx((sum(parts) / 3).item(), rel=1e-5)
    reported = model.head.reported(model(windows.inputs)[1], windows.target, windows.unit).sum()
    assert found.reported.item() == pytest.approx(reported.item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["uniform", "linear"])
def test_each_supervision_step_weighs_what_it_is_told(small, hardware, kind):
    config = small(dropout=0.0, iteration_weights=kind, supervision_ramp=1.0, **RECURSION)
    model, windows = model_of(config), batch()
    for progress, steps in ((0.0, 1), (0.5, 2), (1.0, 3)):
        found = losses(config, model, model, windows, resolve(hardware).autocast, progress)
        said = [model.head(model.backbone.pool(t)) for t in model.backbone.iterations(windows.inputs, steps)]
        parts = [model.head.loss(each, windows.target, windows.unit).sum() for each in said]
        expected = sum(w * part for w, part in zip(iteration_weights(steps, kind), parts, strict=True))
        assert found.objective.item() == pytest.approx(expected.item(), rel=1e-5)
        reported = model.head.reported(said[-1], windows.target, windows.unit).sum()
        assert found.reported.item() == pytest.approx(reported.item(), rel=1e-5)


def test_the_recursion_learns_a_planted_signal_by_its_curriculum_and_goes_on(
    make_panel, small, hardware, tmp_path, monkeypatch
):
    config = small(head="gaussian", max_epochs=5, dropout=0.0, **RECURSION)
    made = []
    supervised = Forecaster.supervised

    def counted(self, x, steps):
        made.append(steps)
        return supervised(self, x, steps)

    monkeypatch.setattr(Forecaster, "supervised", counted)
    fit_forecaster = partial(fit.fit_forecaster, features=("x", "z"), hardware=hardware)
    trained = fit_forecaster(make_panel(0.8), Fold(2003, config), config, checkpoint_dir=tmp_path / "whole")
    # Half of log(0.6), what the signal is worth.
    assert trained.metrics["val/nll_loss"] < 0.5 * math.log(2 * math.pi * math.e) + 0.5 * math.log(0.6)
    whole = list(made)
    assert whole[0] == 1 and whole == sorted(whole) and set(whole[len(whole) // 2 + 1 :]) == {3}

    class Killed(Exception):
        pass

    def kill(progress):
        if progress.step == len(whole) // 3:
            raise Killed

    state = tmp_path / "cut"
    with pytest.raises(Killed):
        fit_forecaster(
            make_panel(0.8), Fold(2003, config), config, checkpoint_dir=state, progress=kill, checkpoint_seconds=0
        )
    made.clear()
    resumed = fit_forecaster(make_panel(0.8), Fold(2003, config), config, checkpoint_dir=state)
    assert made == whole[-len(made) :] and len(made) < len(whole)
    assert resumed.base_hash == trained.base_hash
