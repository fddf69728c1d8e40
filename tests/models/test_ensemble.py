"""Members of their own, a loss on each, an average of what they say."""

from __future__ import annotations

from dataclasses import replace

import torch

from atlas_pipeline.config import Config
from atlas_pipeline.models.ensemble import Ensemble
from atlas_pipeline.models.forecaster import Forecaster

CONFIG = Config(
    backbone="residual_mlp",
    members=3,
    head="skewed_t",
    horizon=(1, 5),
    seq_length=8,
    feature_size=3,
    d_model=16,
    ff_dim=32,
    n_layers=2,
    dropout=0.0,
)


def make(config: Config = CONFIG) -> tuple[Forecaster, Ensemble]:
    torch.manual_seed(0)
    model = Forecaster(config)
    assert isinstance(model.backbone, Ensemble)
    return model, model.backbone


def test_tokens_are_the_members_embeddings_and_their_mean_the_ensemble_s():
    _, backbone = make()
    x = torch.randn(5, 8, 3)
    tokens = backbone(x)
    each = [member.pool(member(x)) for member in backbone.members]
    torch.testing.assert_close(tokens, torch.stack(each, dim=1))
    torch.testing.assert_close(backbone.pool(tokens), torch.stack(each).mean(dim=0))
    assert not torch.allclose(each[0], each[1], atol=0.01), "members begin with weights of their own"


def test_what_is_said_is_the_average_of_what_members_say():
    model, _ = make()
    x = torch.randn(5, 8, 3)
    said = model.supervised(x, 3)
    assert len(said) == 3 and said[0].shape == (5, 2, 4)
    torch.testing.assert_close(model(x)[1], torch.stack(said).mean(dim=0))


def test_a_member_s_loss_reaches_that_member_alone():
    model, backbone = make()
    model.supervised(torch.randn(5, 8, 3), 3)[1].square().sum().backward()
    reached = [any(p.grad is not None and p.grad.any() for p in member.parameters()) for member in backbone.members]
    assert reached == [False, True, False]


def test_members_checkpoint_where_the_ensemble_is_told_to():
    _, backbone = make(replace(CONFIG, backbone="patchtst", patch_length=4, stride=4, n_heads=2))
    backbone.gradient_checkpointing = True
    backbone.train()(torch.randn(2, 8, 3))
    assert all(member.gradient_checkpointing for member in backbone.members)
