from __future__ import annotations

import math

import pytest
import torch

from atlas_pipeline.config import Config
from atlas_pipeline.training.schedule import cosine_with_warmup, one_cycle, peak_learning_rate, rate_share


def test_the_rate_rises_then_falls_to_a_hundredth():
    rates = [cosine_with_warmup(step, 100, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.01, abs=2e-3)
    assert cosine_with_warmup(0, 1, 0.1) == 1.0


def test_each_cycle_restarts_at_the_peak_and_is_the_same_cosine():
    rates = [cosine_with_warmup(step, 100, 0.1, cycles=3) for step in range(100)]
    assert [step for step in range(10, 100) if rates[step] == 1.0] == [10, 40, 70]
    assert rates[10:40] == pytest.approx(rates[40:70], abs=1e-12)
    # Halfway through a half cosine, between the peak and a hundredth of it.
    assert rates[55] == pytest.approx(0.505)
    assert min(rates[10:]) < 0.02


@pytest.mark.parametrize(("total", "fraction"), [(100, 0.3), (37, 0.25), (10, 0.1), (250, 0.0)])
def test_one_cycle_is_torch_s(total, fraction):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    if total * fraction == 1:
        # There torch divides zero by zero: the rise has one step, which is at the peak.
        assert one_cycle(0, total, fraction) == 1.0
        return
    peer = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=total, pct_start=fraction, cycle_momentum=False
    )
    rates = []
    for _ in range(total):
        rates.append(peer.get_last_lr()[0])
        optimizer.step()
        if len(rates) < total:
            peer.step()
    assert [one_cycle(step, total, fraction) for step in range(total)] == pytest.approx(rates, abs=1e-12)


def test_the_schedule_of_the_configuration_is_the_one_that_is_used():
    rates = {
        kind: [rate_share(Config(schedule=kind), step, 50) for step in range(50)]
        for kind in ("cosine", "one_cycle", "constant")
    }
    assert rates["cosine"] == [cosine_with_warmup(step, 50, 0.1) for step in range(50)]
    assert rates["one_cycle"] == [one_cycle(step, 50, 0.1) for step in range(50)]
    assert rates["constant"] == pytest.approx([0.2, 0.4, 0.6, 0.8, *[1.0] * 46])
    assert rate_share(Config(cycles=2), 30, 50) == cosine_with_warmup(30, 50, 0.1, 2)


def test_the_rate_grows_with_the_root_of_the_batch_only_where_asked():
    assert peak_learning_rate(Config(learning_rate=1e-3)) == 1e-3
    for batch, steps in ((64, 1), (64, 4), (32, 18)):
        scaled = Config(learning_rate=1e-3, scale_learning_rate=True, batch_size=batch, accumulation_steps=steps)
        assert peak_learning_rate(scaled) == pytest.approx(1e-3 * math.sqrt(batch * steps / 64))
