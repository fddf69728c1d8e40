from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch

from atlas_pipeline.config import Config, Hardware
from atlas_pipeline.training import memory
from atlas_pipeline.training.hardware import resolve
from atlas_pipeline.training.memory import (
    DeviceMemoryError,
    first_guess,
    is_out_of_memory,
    measured_batch,
    peak_memory,
    unmeasured_batch,
)

CPU = resolve(Hardware(device="cpu"))


@pytest.mark.parametrize(
    ("width", "layers", "windows"),
    [(256, 6, 128), (1024, 24, 128), (1024, 100, 64), (2048, 100, 32), (2048, 200, 16), (4096, 64, 8)],
)
def test_the_first_guess_falls_with_squared_width_times_layers(width, layers, windows):
    assert first_guess(Config(d_model=width, n_layers=layers)) == windows


def test_where_nothing_can_be_measured_memory_decides(monkeypatch):
    assert [unmeasured_batch(int(size * 1e9)) for size in (24, 16, 12, 8, 4)] == [2048, 1024, 1024, 512, 512]
    compute = replace(CPU, device=torch.device("mps"))
    assert measured_batch(Config(batch_size=8, accumulation_steps=4), compute, 0, pytest.fail) == 32


@pytest.mark.parametrize("largest", [1, 3, 16, 100, 300, 10_000])
def test_on_a_gpu_the_batch_is_doubled_or_halved_to_the_largest_that_fits(monkeypatch, largest):
    tried = []

    def trial(size: int) -> None:
        tried.append(size)
        if size > largest:
            raise torch.OutOfMemoryError

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, 100))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 70)
    compute = replace(CPU, device=torch.device("cuda"))
    config = Config(batch_size=600, accumulation_steps=1)
    expected = {1: 1, 3: 2, 16: 16, 100: 64, 300: 256, 10_000: 600}
    assert measured_batch(config, compute, 10, trial) == expected[largest]
    assert tried[0] == 128
    # 70 are taken, 80 may be: with 11 to come nothing fits.
    with pytest.raises(DeviceMemoryError, match=r"one window at a time is out of memory .*gradient_checkpointing"):
        measured_batch(config, compute, 11, trial)


def test_another_error_of_a_trial_is_not_taken_for_want_of_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)

    def trial(_: int) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        measured_batch(Config(), replace(CPU, device=torch.device("cuda")), 0, trial)


@pytest.mark.parametrize(("saturation", "expected"), [(16, 16), (64, 64), (10_000, 500)])
def test_on_a_cpu_the_batch_grows_while_it_becomes_faster(monkeypatch, saturation, expected):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def trial(size: int) -> None:
        # A fixed cost that a larger batch spreads, until the caches are full.
        now[0] += 1000 + size if size <= saturation else 100.0 * size

    assert measured_batch(Config(batch_size=500, accumulation_steps=1), CPU, 0, trial) == expected


def test_on_a_cpu_memory_ends_the_growth(monkeypatch):
    held = iter(range(0, 10**15, 10**13))
    monkeypatch.setattr(memory, "peak_memory", lambda _: next(held))
    assert measured_batch(Config(), CPU, 0, lambda _: None) == 1


def test_every_allocator_s_complaint_is_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_peak_memory_grows_with_what_is_held():
    before = peak_memory(torch.device("cpu"))
    block = torch.ones(64 * 2**20)
    assert peak_memory(torch.device("cpu")) >= max(before, block.nbytes)
