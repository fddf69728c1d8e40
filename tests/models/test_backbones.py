"""Every backbone under every option it reads: shapes, gradients, precision, determinism, adapters."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch

from atlas_pipeline.config import BackboneKind, Config
from atlas_pipeline.models.backbone import BatchNorm, StochasticDepth
from atlas_pipeline.models.forecaster import Forecaster
from atlas_pipeline.models.registry import BACKBONES, make_backbone

TINY = Config(
    seq_length=32, patch_length=8, stride=4, d_model=16, n_heads=2, n_layers=2, ff_dim=32, feature_size=3, dropout=0.0
)
SMALL_RECURSION = {"backbone": "recursive", "latent_steps": 2, "supervision_steps": 3}
VARIANTS = {
    "patchtst": {},
    "patchtst-no-overlap": {"stride": 8},
    "patchtst-end": {"patch_padding": "end"},
    "patchtst-end-no-overlap": {"stride": 8, "patch_padding": "end"},
    "patchtst-end-remainder": {"stride": 5, "patch_padding": "end"},
    "patchtst-rotary": {"positions": "rotary"},
    "patchtst-rms": {"norm": "rms"},
    "patchtst-batch": {"norm": "batch"},
    "patchtst-post": {"norm_placement": "post"},
    "patchtst-independent": {"channels": "independent"},
    "patchtst-independent-rotary-depth": {"channels": "independent", "positions": "rotary", "stochastic_depth": 0.3},
    "patchtst-paper": {
        "channels": "independent",
        "norm": "batch",
        "norm_placement": "post",
        "patch_padding": "end",
    },
    "mamba": {"backbone": "mamba"},
    "mamba-bars": {"backbone": "mamba", "patch_length": 1, "stride": 1, "state_size": 4},
    "mamba-end-rms-depth": {"backbone": "mamba", "patch_padding": "end", "norm": "rms", "stochastic_depth": 0.3},
    "mamba-batch": {"backbone": "mamba", "norm": "batch"},
    "residual_mlp": {"backbone": "residual_mlp"},
    "residual_mlp-batch-depth": {"backbone": "residual_mlp", "norm": "batch", "stochastic_depth": 0.3},
    "residual_mlp-rms": {"backbone": "residual_mlp", "norm": "rms"},
    "residual_mlp-one-bar": {"backbone": "residual_mlp", "seq_length": 1},
    "residual_mlp-units": {"backbone": "residual_mlp", "input_units": 4, "input_dropout": 0.2},
    "residual_mlp-members": {"backbone": "residual_mlp", "members": 3},
    "patchtst-members": {"members": 2},
    "recursive": SMALL_RECURSION,
    "recursive-rotary-rms-post": {**SMALL_RECURSION, "positions": "rotary", "norm": "rms", "norm_placement": "post"},
    "recursive-end-depth": {**SMALL_RECURSION, "patch_padding": "end", "stochastic_depth": 0.3},
}


def windows(config: Config, count: int = 4) -> torch.Tensor:
    return torch.randn(count, config.seq_length, config.feature_size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def config(request: pytest.FixtureRequest) -> Config:
    return replace(TINY, **request.param)


@pytest.fixture
def backbone(config):
    torch.manual_seed(0)
    return make_backbone(config)


def test_the_registry_has_every_backbone_a_configuration_can_name():
    assert set(BACKBONES) == set(get_args(BackboneKind)) == {"patchtst", "mamba", "residual_mlp", "recursive"}
    assert {variant.get("backbone", "patchtst") for variant in VARIANTS.values()} == set(BACKBONES)


def test_a_window_becomes_tokens_and_an_embedding(config, backbone):
    tokens = backbone(windows(config))
    assert tokens.ndim == 3 and tokens.shape[::2] == (4, 16) and tokens.dtype == torch.float32
    assert backbone.pool(tokens).shape == (4, 16)
    assert tokens.isfinite().all()


def test_gradients_reach_every_parameter(config):
    torch.manual_seed(0)
    model = Forecaster(config)
    torch.manual_seed(3)
    _, outputs = model(windows(config, 16))
    outputs.sum().backward()
    missing = {n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())}
    # Softmax does not see what is added to all keys alike, unless they are rotated; nor a batch norm what is added to
    # every row before it.
    blind = ("k_proj.bias", *(("projection.bias", "linear.bias") if config.norm == "batch" else ()))
    assert {name for name in missing if not name.endswith(blind)} == set()


def test_the_whole_window_is_seen(config, backbone):
    x = windows(config, 2).requires_grad_()
    backbone.eval()
    # Weighted, because the plain sum of a normed token is constant.
    (backbone.pool(backbone(x)) * torch.randn(16)).sum().backward()
    assert (x.grad.abs().sum(dim=(0, 2)) > 0).all()


def test_a_seed_decides_weights_and_training_outputs(config):
    def run() -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(5)
        model = make_backbone(replace(config, dropout=0.2))
        return torch.cat([p.detach().flatten() for p in model.parameters()]), model(windows(config))

    (weights, outputs), (again, repeated) = run(), run()
    assert torch.equal(weights, again) and torch.equal(outputs, repeated)


def test_evaluation_draws_nothing_and_changes_nothing(config):
    model = make_backbone(replace(config, dropout=0.2)).eval()
    before = {name: p.clone() for name, p in model.named_parameters()}
    x, state = windows(config), torch.get_rng_state()
    first, second = model(x), model(x)
    assert torch.equal(first, second) and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    # Products of other shapes add in another order: float32 rounding, no more.
    torch.testing.assert_close(model(x[1:2]), first[1:2], rtol=1e-4, atol=1e-5)


def test_bfloat16_autocast_trains(config, backbone):
    x = windows(config)
    with torch.autocast("cpu", torch.bfloat16):
        embedding = backbone.pool(backbone(x))
    assert embedding.dtype == torch.float32
    embedding.float().square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in backbone.parameters())
    backbone.eval()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = backbone.pool(backbone(x)).float()
    exact = backbone.pool(backbone(x))
    # Eight bits of mantissa, through a few layers of unit size: a few percent of the largest value.
    assert (rounded - exact).abs().max() < 0.1 * exact.abs().max()


def test_checkpointing_changes_no_result(config):
    # Drawn numbers too: dropout and stochastic depth are drawn again alike.
    reference = make_backbone(replace(config, dropout=0.1))
    results = []
    for checkpointing in (False, True):
        model = make_backbone(replace(config, dropout=0.1))
        model.load_state_dict(reference.state_dict())
        model.gradient_checkpointing = checkpointing
        torch.manual_seed(7)
        model.pool(model(windows(config))).square().sum().backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        statistics = [p.flatten() for p in model.parameters() if not p.requires_grad]
        results.append(torch.cat([*gradients, *statistics]))
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-6)


def test_float64_is_kept(config, backbone):
    assert backbone.double()(windows(config).double()).dtype == torch.float64


def test_weights_alone_make_the_network_again(config, backbone):
    # A bundle holds named parameters and nothing else.
    for _ in range(3):
        backbone(windows(config))
    other = make_backbone(config)
    other.load_state_dict(dict(backbone.named_parameters()))
    assert torch.equal(other.eval()(windows(config)), backbone.eval()(windows(config)))


def test_the_names_for_adapters_are_of_linear_layers(config, backbone):
    for target in backbone.lora_targets:
        found = [m for name, m in backbone.named_modules() if name.rsplit(".", 1)[-1] == target]
        assert len(found) == config.n_layers * config.members
        assert all(isinstance(module, torch.nn.Linear) for module in found)


def test_batch_norm_is_torch_s():
    ours, reference = BatchNorm(5), torch.nn.BatchNorm1d(5)
    x = torch.randn(6, 4, 5) * 3 + 1
    for _ in range(2):
        torch.testing.assert_close(ours(x), reference(x.flatten(0, 1)).view_as(x))
    torch.testing.assert_close(ours.running_mean.data, reference.running_mean)
    torch.testing.assert_close(ours.running_variance.data, reference.running_var)
    torch.testing.assert_close(ours.eval()(x), reference.eval()(x.flatten(0, 1)).view_as(x))


def test_the_chance_of_survival_falls_linearly_with_depth():
    config = replace(TINY, n_layers=4, stochastic_depth=0.2)
    survival = [layer.depth.survival for layer in make_backbone(config).layers]
    assert survival == pytest.approx([0.95, 0.90, 0.85, 0.80])


def test_a_branch_is_dropped_for_whole_windows_and_keeps_its_mean():
    torch.manual_seed(0)
    depth = StochasticDepth(1, 1, 0.25)
    kept = depth(torch.ones(20_000, 2, 3))
    assert ((kept == 0) | (kept == 1 / 0.75)).all()
    assert torch.equal(kept, kept[:, :1, :1].expand_as(kept))
    # The mean of 20,000 draws has a standard error of sqrt(0.25 / 0.75 / 20000) = 0.004; four of them.
    assert kept.mean().item() == pytest.approx(1.0, abs=0.017)
    assert torch.equal(depth.eval()(torch.ones(9, 2)), torch.ones(9, 2))
