"""Times and bytes by part, on every backbone."""

from __future__ import annotations

import time
from typing import get_args

import pytest
import torch
from torch.nn import functional

from atlas_pipeline.config import BackboneKind
from atlas_pipeline.models.forecaster import Forecaster
from atlas_pipeline.models.patchtst import Attention
from atlas_pipeline.models.residual_mlp import InputUnits
from atlas_pipeline.training.profile import forward_profile, memory_breakdown


def network(small, backbone, **changes):
    if backbone == "recursive":
        changes |= {"latent_steps": 1, "supervision_steps": 2}
    config = small(backbone=backbone, **changes)
    return config, Forecaster(config)


@pytest.mark.parametrize("backbone", get_args(BackboneKind))
def test_the_parts_add_up_and_none_is_negative(small, backbone):
    _, model = network(small, backbone)
    table = forward_profile(model, torch.randn(4, 32, 2), repetitions=3)
    assert table["share"].sum() == pytest.approx(1.0) and (table["milliseconds"] >= 0).all()
    main = {"patchtst": "attention", "mamba": "state space", "residual_mlp": "feed-forward", "recursive": "attention"}
    assert {"embedding", "normalisation", "head", "other", main[backbone]} <= set(table["part"])
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("members", [1, 2])
def test_input_units_are_embedding_in_an_ensemble_too(small, monkeypatch, members):
    model = Forecaster(small(backbone="residual_mlp", input_units=3, members=members))
    forward = InputUnits.forward

    def slow(self, x):
        until = time.perf_counter() + 0.01
        while time.perf_counter() < until:
            pass
        return forward(self, x)

    monkeypatch.setattr(InputUnits, "forward", slow)
    table = forward_profile(model, torch.randn(4, 32, 2), repetitions=3).set_index("part")
    assert table.loc["embedding", "milliseconds"] >= 10 * members and table.loc["embedding", "share"] > 0.8


def test_a_slow_part_shows(small, monkeypatch):
    _, model = network(small, "patchtst")
    forward = Attention.forward

    def slow(self, x):
        until = time.perf_counter() + 0.01
        while time.perf_counter() < until:
            pass
        return forward(self, x)

    monkeypatch.setattr(Attention, "forward", slow)
    table = forward_profile(model, torch.randn(4, 32, 2), repetitions=3).set_index("part")
    assert table.loc["attention", "milliseconds"] >= 10 and table.loc["attention", "share"] > 0.8


def test_the_activation_between_two_layers_is_theirs(small, monkeypatch):
    _, model = network(small, "patchtst")
    gelu = functional.gelu

    def slow(x):
        until = time.perf_counter() + 0.01
        while time.perf_counter() < until:
            pass
        return gelu(x)

    monkeypatch.setattr(functional, "gelu", slow)
    table = forward_profile(model, torch.randn(4, 32, 2), repetitions=3).set_index("part")
    assert table.loc["feed-forward", "milliseconds"] >= 10 and table.loc["feed-forward", "share"] > 0.8


@pytest.mark.parametrize("backbone", get_args(BackboneKind))
def test_weights_gradients_and_adams_moments_have_their_bytes(small, backbone):
    config, model = network(small, backbone)
    before = [p.detach().clone() for p in model.parameters()]
    one, two = (memory_breakdown(model, batch, config).set_index("holder")["megabytes"] for batch in (8, 16))
    weights = sum(p.numel() for p in model.parameters()) * 4e-6
    assert one["weights"] == pytest.approx(weights) and one["gradients"] == pytest.approx(weights)
    # Two moments a weight, and a step count a tensor.
    assert one["optimizer state"] == pytest.approx(2 * weights + 4e-6 * len(before))
    assert two["activations"] == pytest.approx(2 * one["activations"], rel=0.1)
    for parameter, value in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, value) and parameter.grad is None
