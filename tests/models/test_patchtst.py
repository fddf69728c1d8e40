from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from atlas_pipeline.config import Config
from atlas_pipeline.models.forecaster import Forecaster
from atlas_pipeline.models.patchtst import Attention, PatchEmbedding, PatchTST, RotaryPositions, patch_count

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
    embedding, outputs = model(torch.randn(5, 32, 3))
    assert embedding.shape == (5, 16)
    assert outputs.shape == (5, 1, 3)
    outputs.sum().backward()
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


# Of the first network that was released: what was trained with it must load and mean the same.
LAYOUTS = {"default": "74943192d26d8264", "tiny": "b3fb547b44fd36cd"}


@pytest.mark.parametrize(("name", "config"), [("default", Config()), ("tiny", replace(TINY, stride=4))])
def test_parameters_of_the_default_keep_their_names_and_shapes(name, config):
    layout = {name: list(p.shape) for name, p in Forecaster(config).state_dict().items()}
    assert hashlib.sha256(json.dumps(layout).encode()).hexdigest()[:16] == LAYOUTS[name]


def test_the_default_s_numbers_are_those_of_the_first_release():
    torch.manual_seed(0)
    model = Forecaster(replace(TINY, stride=4))
    # Processors round sines and logarithms, and order sums, differently: seven digits of float32.
    parameters = [p.detach().double() for p in model.parameters()]
    assert sum(p.sum().item() for p in parameters) == pytest.approx(80.348980, abs=1e-4)
    assert sum(p.abs().sum().item() for p in parameters) == pytest.approx(143.732269, abs=1e-4)
    assert model.backbone.embedding.positions.flatten()[:3].tolist() == pytest.approx(
        [-0.015289456, 0.0048168115, 0.0033285145], abs=1e-8
    )
    torch.manual_seed(1)
    x = torch.randn(3, 32, 3)
    expected = [-0.28280002, -1.44907558, -0.30026504, -0.30555163, -0.33555290]
    assert model.eval().embed(x)[0, :5].tolist() == pytest.approx(expected, abs=1e-5)
    torch.manual_seed(2)
    in_training = model.train().embed(x)
    expected = [-0.27602786, -1.44900668, -0.32032600, -0.29908541, -0.33551967]
    assert in_training[0, :5].tolist() == pytest.approx(expected, abs=1e-5)
    (in_training * torch.linspace(-1, 1, 16)).sum().backward()
    gradients = sum(p.grad.abs().sum().item() for p in model.backbone.parameters())
    assert gradients == pytest.approx(5770.7095, rel=1e-4)


PUBLISHED = {
    "ETTh": {"d_model": 16, "n_heads": 4, "ff_dim": 128, "dropout": 0.3},
    "ETTm": {"d_model": 128, "n_heads": 16, "ff_dim": 256, "dropout": 0.2},
}


@pytest.mark.parametrize("recipe", PUBLISHED.values(), ids=PUBLISHED.keys())
def test_the_published_recipes_of_the_electricity_transformer_data_can_be_built(recipe):
    config = Config(
        seq_length=336, patch_length=16, stride=8, patch_padding="end", channels="independent", n_layers=3,
        norm="batch", norm_placement="post", feature_size=7, scaler="instance", **recipe,
    )  # fmt: skip
    d, f, p, n = config.d_model, config.ff_dim, 16, (336 - 16) // 8 + 2
    assert patch_count(config) == n == 42
    model = PatchTST(config)
    tokens = model(torch.randn(2, 336, 7))
    assert tokens.shape == (2, 7 * 42, d)
    # Sec. 3.1: projection W_p and positions W_pos; then the vanilla encoder with two batch norms a layer.
    layer = 4 * (d * d + d) + (d * f + f) + (f * d + d) + 2 * 2 * d
    encoder = (p * d + d) + n * d + 3 * layer
    learned = {name: q.numel() for name, q in model.named_parameters() if q.requires_grad}
    assert learned.pop("channel_weights") == 7 * d
    assert sum(learned.values()) == encoder


def test_end_padding_repeats_the_newest_bar():
    config = replace(TINY, stride=4, patch_padding="end")
    embedding = PatchEmbedding(config)
    x = torch.randn(2, 32, 3)
    last = torch.cat([x[:, -4:], x[:, -1:].expand(-1, 4, -1)], dim=1)
    tokens = embedding(x)
    assert tokens.shape[1] == (32 - 8) // 4 + 2
    torch.testing.assert_close(tokens[:, -1], embedding.projection(last.flatten(1)) + embedding.positions[-1])


def test_independent_channels_share_the_weights_and_meet_in_the_embedding_only():
    model = PatchTST(replace(TINY, channels="independent")).eval()
    x = torch.randn(2, 32, 3)
    tokens = model(x)
    assert tokens.shape == (2, 3 * 4, 16)
    swapped = model(x[:, :, [1, 0, 2]])
    torch.testing.assert_close(swapped[:, :4], tokens[:, 4:8])
    changed = x.clone()
    changed[:, :, 2] = 5.0
    torch.testing.assert_close(model(changed)[:, :8], tokens[:, :8])
    newest = tokens.view(2, 3, 4, 16)[:, :, -1]
    torch.testing.assert_close(model.pool(tokens), newest.mean(dim=1))
    with torch.no_grad():
        model.channel_weights[1] = 7.0
    weights = torch.tensor([1 / 3, 7.0, 1 / 3])[:, None]
    torch.testing.assert_close(model.pool(tokens), (newest * weights).sum(dim=1))


def test_rotary_scores_depend_on_the_distance_alone():
    rotary = RotaryPositions(40, 8).double()
    q, k = torch.randn(2, 8).double().unbind()
    queries, keys = (rotary(v.expand(1, 1, 40, 8))[0, 0] for v in (q, k))
    scores = queries @ keys.T
    # Cosines and sines are kept in float32.
    for distance in (0, 3, -5):
        along = scores.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), rtol=0, atol=1e-5)
    torch.testing.assert_close(queries.norm(dim=1), q.norm().expand(40), rtol=1e-6, atol=0)
    assert not torch.allclose(scores.diagonal(3)[0], scores.diagonal(-3)[0])


def test_rotary_angles_are_the_papers():
    rotary = RotaryPositions(3, 4)
    # Position 2, pairs of (0, 2) and (1, 3): angles 2 * 10000^0 and 2 * 10000^(-1/2).
    turned = rotary(torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(1, 1, 3, 4))[0, 0, 2]
    expected = torch.tensor([2.0, 0.02]).cos().tolist() + torch.tensor([2.0, 0.02]).sin().tolist()
    assert turned.tolist() == pytest.approx(expected, rel=1e-6)


def test_attention_with_rotations_sees_the_order_and_without_does_not():
    torch.manual_seed(0)
    x, order = torch.randn(1, 4, 16), [2, 0, 1, 3]
    for positions, same in (("learned", True), ("rotary", False)):
        attention = Attention(replace(TINY, positions=positions)).eval()
        assert torch.allclose(attention(x)[:, 3], attention(x[:, order])[:, 3], atol=1e-6) is same
