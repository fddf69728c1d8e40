from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from atlas_pipeline.config import Config
from atlas_pipeline.models.forecaster import Forecaster
from atlas_pipeline.models.patchtst import PatchEmbedding, PatchTST

TINY = Config(seq_length=32, patch_length=8, stride=8, d_model=16, n_heads=2, n_layers=2, ff_dim=32, feature_size=3)


@pytest.mark.parametrize("head", ["student_t", "gaussian"])
def test_the_default_size_is_the_documents(head):
    model = Forecaster(Config(head=head))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(4.8e6, rel=0.05)


def test_lora_on_the_four_projections_has_the_parameters_it_should():
    import peft

    config = Config()
    model = peft.get_peft_model(
        Forecaster(config), peft.LoraConfig(r=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    )
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 98_304


@pytest.mark.parametrize("stride", [8, 4, 2])
def test_patches_are_slices_of_the_window(stride):
    config = replace(TINY, stride=stride)
    embedding = PatchEmbedding(config)
    x = torch.randn(2, 32, 3)
    tokens = embedding(x)
    assert tokens.shape == (2, (32 - 8) // stride + 1, 16)
    patch = x[1, stride : stride + 8].reshape(-1)
    expected = embedding.projection(patch) + embedding.positions[1]
    torch.testing.assert_close(tokens[1, 1], expected)


def test_shapes_and_gradients_reach_every_parameter():
    model = Forecaster(TINY)
    embedding, density = model(torch.randn(5, 32, 3))
    assert embedding.shape == (5, 16)
    assert density.location.shape == density.scale.shape == (5,)
    (density.location + density.scale + density.df).sum().backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().any()]
    # Softmax does not see what is added to all keys alike.
    assert [name for name in missing if not name.endswith("k_proj.bias")] == []


def test_checkpointing_and_kernels_change_no_result():
    x = torch.randn(4, 32, 3)
    reference = PatchTST(replace(TINY, dropout=0.0, use_flash_attention=False))
    gradients = []
    for checkpointing, flash in ((False, False), (True, False), (False, True), (True, True)):
        model = PatchTST(replace(TINY, dropout=0.0, use_flash_attention=flash))
        model.load_state_dict(reference.state_dict())
        model.gradient_checkpointing = checkpointing
        model.train()
        model(x).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        model.eval()
        torch.testing.assert_close(model(x), reference.eval()(x), rtol=1e-5, atol=1e-6)
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-4, atol=1e-5)


def test_a_window_is_embedded_alike_alone_and_in_a_batch():
    model = Forecaster(TINY).eval()
    x = torch.randn(7, 32, 3)
    # Matrix products of other shapes add in another order: float32 rounding, no more.
    np.testing.assert_allclose(model.embed(x)[3:4].detach(), model.embed(x[3:4]).detach(), atol=1e-5)


def test_the_embedding_sees_the_whole_window():
    model = Forecaster(TINY).eval()
    x = torch.randn(1, 32, 3, requires_grad=True)
    # Weighted, because the plain sum of a normed token is constant.
    (model.embed(x) * torch.randn(16)).sum().backward()
    assert (x.grad.abs().sum(dim=(0, 2)) > 0).all()
