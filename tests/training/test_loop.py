from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from atlas_pipeline.training.errors import CorruptCheckpointError
from atlas_pipeline.training.hardware import resolve
from atlas_pipeline.training.weight_average import WeightAverage


def run(loop, tmp_path, name):
    loop.run(tmp_path / name, 1e9, lambda _: None, lambda _epoch, _values: None)
    return torch.cat([p.detach().flatten() for p in loop.model.parameters()])


@pytest.mark.parametrize("batch", [1, 5, 32])
def test_accumulated_gradients_equal_those_of_the_big_batch(make_loop, small, hardware, tmp_path, batch):
    # 40 windows in effective batches of 32: the last one holds 8, and weighs as 8.
    config = small(dropout=0.0, max_epochs=2, batch_size=4, accumulation_steps=8)
    big, parts = (run(make_loop(config, hardware, b), tmp_path, str(b)) for b in (64, batch))
    # Float32 sums in another order; Adam divides by their root, which enlarges rounding.
    torch.testing.assert_close(parts, big, rtol=1e-3, atol=1e-4)


def test_a_checkpoint_of_another_network_is_refused(make_loop, small, hardware, tmp_path):
    run(make_loop(small(max_epochs=1), hardware, 32), tmp_path, "state")
    with pytest.raises(CorruptCheckpointError, match="another network: delete it"):
        run(make_loop(small(max_epochs=1, ff_dim=16), hardware, 32), tmp_path, "state")


def test_the_unit_is_in_the_loss_that_is_reported(make_loop, small, hardware):
    loop = make_loop(small(dropout=0.0), hardware, 8)
    rows = torch.arange(8)
    objective, likelihood, variance = loop.losses(rows)
    assert likelihood.item() == pytest.approx(objective.item() + 8 * 0.6931472, rel=1e-5)
    assert variance.item() == pytest.approx(8 * 4.0, rel=0.1)


def test_the_sigma_penalty_is_off_by_default_and_lowers_sigma_where_asked(make_loop, small, hardware):
    rows = torch.arange(8)
    plain = make_loop(small(dropout=0.0), hardware, 8)
    penalised = make_loop(small(dropout=0.0, log_sigma_penalty=0.5), hardware, 8)
    gradients = []
    for loop in (plain, penalised):
        loop.losses(rows).objective.backward()
        gradients.append(loop.model.head.projection.bias.grad[1].item())
    assert gradients[1] > gradients[0]


def test_a_short_fit_is_not_stuck_at_the_first_weights():
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
        average = WeightAverage(model, 0.9999)
        model.weight.fill_(1.0)
    for _ in range(20):
        average.update()
    # Without the correction 20 steps of 0.9999 would leave 0.998 of the first weight.
    assert average.weights["weight"].item() > 0.99


def test_the_average_follows_its_recursion_and_gives_the_weights_back():
    model = torch.nn.Linear(1, 1, bias=False)
    average, expected = WeightAverage(model, 0.5), model.weight.item()
    for step in range(1, 30):
        with torch.no_grad():
            model.weight.fill_(float(step))
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert average.weights["weight"].item() == pytest.approx(expected, rel=1e-5)
    with average.applied_to(model):
        assert model.weight.item() == pytest.approx(expected, rel=1e-5)
    assert model.weight.item() == 29.0


def test_float16_on_a_cpu_is_refused(hardware):
    with pytest.raises(ValueError, match=r"use 'bfloat16' or 'float32'"):
        resolve(replace(hardware, precision="float16"))
