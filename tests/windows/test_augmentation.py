from __future__ import annotations

import numpy as np
import pytest
import torch

from atlas_pipeline.config import Config
from atlas_pipeline.windows.augmentation import draw_mixing, mix

N, LENGTH = 400, 32


def config(**alphas: float) -> Config:
    return Config(seq_length=LENGTH, patch_length=8, stride=8, **alphas)


def windows() -> torch.Tensor:
    return torch.arange(N, dtype=torch.float32)[:, None, None].expand(N, LENGTH, 2).contiguous()


def test_nothing_is_drawn_where_nothing_is_mixed():
    assert draw_mixing(config(), 0, N) is None


def test_mixup_blends_each_window_with_its_partner_by_its_share():
    mixing = draw_mixing(config(mixup_alpha=0.4), 3, N)
    assert sorted(mixing.partner.tolist()) == list(range(N))
    inputs = windows()
    mixed = mix(inputs, inputs[mixing.partner], mixing)
    expected = mixing.share * torch.arange(N) + (1 - mixing.share) * mixing.partner
    torch.testing.assert_close(mixed, expected[:, None, None].expand_as(mixed))


@pytest.mark.parametrize("alpha", [0.4, 2.0])
def test_shares_have_the_beta_distribution_s_mean_and_variance(alpha):
    shares = torch.cat([draw_mixing(config(mixup_alpha=alpha), step, N).share for step in range(50)]).double().numpy()
    variance = 1 / (4 * (2 * alpha + 1))
    # Five standard errors of the mean of 20000.
    assert shares.mean() == pytest.approx(0.5, abs=5 * np.sqrt(variance / len(shares)))
    assert shares.var() == pytest.approx(variance, rel=0.05)


def test_cutmix_takes_one_span_of_bars_and_the_share_is_what_is_left():
    mixing = draw_mixing(config(cutmix_alpha=1.0), 0, N)
    inputs = windows()
    foreign = mix(inputs, -1 - inputs[mixing.partner], mixing)[:, :, 0] < 0
    torch.testing.assert_close(1 - foreign.float().mean(dim=1), mixing.share)
    edges = foreign.int().diff(dim=1).abs().sum(dim=1)
    assert edges.max() <= 2
    # Spans lie anywhere: the first bar and the last are taken as often as each other.
    first, last = foreign[:, 0].float().mean().item(), foreign[:, -1].float().mean().item()
    assert 0 < first < 0.5 and first == pytest.approx(last, abs=0.1)


def test_a_step_draws_the_same_again_and_other_steps_do_not():
    one, again = (draw_mixing(config(mixup_alpha=1.0), 7, N) for _ in range(2))
    assert torch.equal(one.share, again.share) and torch.equal(one.partner, again.partner)
    other = draw_mixing(config(mixup_alpha=1.0), 8, N)
    assert not torch.equal(one.share, other.share)


def test_with_both_each_has_about_half_of_the_steps():
    kinds = [draw_mixing(config(mixup_alpha=1.0, cutmix_alpha=1.0), step, 4).start is None for step in range(100)]
    assert 30 < sum(kinds) < 70
