"""The selective state space: its scan against the plain recurrence, and causality."""

from __future__ import annotations

import pytest
import torch

from atlas_pipeline.config import Config
from atlas_pipeline.models import mamba
from atlas_pipeline.models.mamba import Mamba, linear_recurrence, selective_scan

TINY = Config(
    backbone="mamba", seq_length=32, patch_length=4, stride=4, d_model=16, n_heads=2, n_layers=2, feature_size=3
)


def sequential(decay, added, initial):
    state, states = initial, []
    for t in range(added.shape[1]):
        state = decay[:, t] * state + added[:, t]
        states.append(state)
    return torch.stack(states, dim=1)


def sequential_selective_scan(inputs, step, rate, read_in, read_out):
    state, outputs = inputs.new_zeros(inputs.shape[0], *rate.shape), []
    for t in range(inputs.shape[1]):
        decay = torch.exp(step[:, t, :, None] * rate)
        state = decay * state + (step[:, t] * inputs[:, t])[..., None] * read_in[:, t, None, :]
        outputs.append((state * read_out[:, t, None, :]).sum(-1))
    return torch.stack(outputs, dim=1)


def with_gradients(function, arguments):
    leaves = [a.clone().requires_grad_() for a in arguments]
    result = function(*leaves)
    weights = torch.linspace(-1, 1, result.numel(), dtype=result.dtype).view_as(result)
    return result.detach(), torch.autograd.grad((result * weights).sum(), leaves)


# In float32 every step rounds by 6e-8 and decays stay below one, so errors do not grow; sums of up to 150 terms.
TOLERANCE = {torch.float64: {"rtol": 1e-10, "atol": 1e-10}, torch.float32: {"rtol": 1e-4, "atol": 1e-4}}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("length", [1, 2, 3, 4, 7, 8, 33, 100])
def test_the_scan_is_the_recurrence(length, dtype):
    torch.manual_seed(length)
    arguments = (
        torch.rand(2, length, 3, dtype=dtype),
        torch.randn(2, length, 3, dtype=dtype),
        torch.randn(2, 3, dtype=dtype),
    )
    ours, gradients = with_gradients(linear_recurrence, arguments)
    plain, expected = with_gradients(sequential, arguments)
    torch.testing.assert_close(ours, plain, **TOLERANCE[dtype])
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other, **TOLERANCE[dtype])


def test_the_scan_s_gradient_is_that_of_finite_differences():
    torch.manual_seed(0)
    arguments = [torch.rand(2, 5, 2).double(), torch.randn(2, 5, 2).double(), torch.randn(2, 2).double()]
    assert torch.autograd.gradcheck(linear_recurrence, [a.requires_grad_() for a in arguments])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("length", [1, 5, mamba.BLOCK, mamba.BLOCK + 1, 2 * mamba.BLOCK + 22])
def test_the_selective_scan_is_the_sequential_one_in_any_number_of_blocks(length, dtype):
    torch.manual_seed(length)
    arguments = (
        torch.randn(2, length, 4, dtype=dtype),
        torch.rand(2, length, 4, dtype=dtype) * 0.1,
        -torch.arange(1, 4, dtype=dtype).repeat(4, 1),
        torch.randn(2, length, 3, dtype=dtype),
        torch.randn(2, length, 3, dtype=dtype),
    )
    ours, gradients = with_gradients(selective_scan, arguments)
    plain, expected = with_gradients(sequential_selective_scan, arguments)
    torch.testing.assert_close(ours, plain, **TOLERANCE[dtype])
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other, **TOLERANCE[dtype])


def test_a_decay_of_zero_forgets_and_of_one_sums():
    added = torch.randn(1, 9, 2).double()
    nothing = torch.zeros(1, 2).double()
    assert torch.equal(linear_recurrence(torch.zeros_like(added), added, nothing), added)
    torch.testing.assert_close(linear_recurrence(torch.ones_like(added), added, nothing), added.cumsum(1))


@pytest.mark.parametrize("training", [True, False])
def test_later_inputs_change_no_earlier_token(training):
    torch.manual_seed(0)
    model = Mamba(TINY).train(training)
    model.apply(lambda module: setattr(module, "p", 0.0) if isinstance(module, torch.nn.Dropout) else None)
    x = torch.randn(2, 32, 3)
    changed = x.clone()
    changed[:, 20:] = 100.0
    before, after = model(x), model(changed)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.equal(before[:, 5], after[:, 5])


def test_step_in_and_out_depend_on_the_input():
    # A linear time-invariant system would give the response to a sum as the sum of the responses.
    torch.manual_seed(0)
    mixer = mamba.SelectiveStateSpace(TINY).double()
    x, y = torch.randn(2, 1, 8, 16).double()
    assert not torch.allclose(mixer(x + y), mixer(x) + mixer(y), atol=1e-6)


def test_parameters_are_the_papers():
    d, e, n, r, k = 16, 32, 16, 1, 4
    mixer = d * 2 * e + (e * k + e) + e * (r + 2 * n) + (r * e + e) + e * n + e + e * d
    expected = (12 * d + d) + 2 * (mixer + 2 * d) + 2 * d
    assert sum(p.numel() for p in Mamba(TINY).parameters()) == expected


def test_first_steps_are_in_the_papers_range():
    model = Mamba(TINY)
    steps = torch.nn.functional.softplus(model.layers[0].mixer.step_proj.bias)
    # The inverse of softplus in float32, near zero.
    assert steps.min() > 1e-3 - 1e-6 and steps.max() < 1e-1 + 1e-6


def test_work_is_linear_in_the_length():
    from torch.utils.flop_counter import FlopCounterMode

    counts = []
    for length in (128, 256):
        model = Mamba(Config(backbone="mamba", seq_length=length, patch_length=1, stride=1, d_model=16, n_layers=1))
        with FlopCounterMode(display=False) as counter:
            model.eval()(torch.randn(1, length, 8))
        counts.append(counter.get_total_flops())
    # The convolution's margin of three tokens is all that does not double.
    assert counts[1] / counts[0] == pytest.approx(2.0, abs=0.01)
