from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from atlas_pipeline.config import Config, Hardware, hardware_preset, hardware_presets, load_config
from atlas_pipeline.training import hardware as room
from atlas_pipeline.training.hardware import activation_bytes, peak_memory, physical_batch, resolve, settings


def refuse(_: int) -> None:
    raise AssertionError("a fixed batch needs no trial")


def test_threads_and_determinism_hold_inside_only():
    threads = torch.get_num_threads()
    with settings(Hardware(device="cpu", threads=1, deterministic=True)) as compute:
        assert torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled()
        assert compute.dtype == torch.float32
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device asked for is here")
def test_a_device_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"Hardware\.device='cuda'.*use 'auto' or 'cpu'"):
        resolve(Hardware(device="cuda"))
    assert resolve(Hardware()).device.type in ("cpu", "mps")


def test_the_physical_batch_never_exceeds_the_effective_one():
    config = Config(batch_size=8, accumulation_steps=2)
    compute = resolve(Hardware(device="cpu"))
    assert physical_batch(Hardware(batch_size=64), config, compute, refuse) == 16
    assert physical_batch(Hardware(batch_size=4), config, compute, refuse) == 4


def test_on_a_cpu_the_automatic_batch_follows_free_memory(monkeypatch):
    config, compute = Config(), resolve(Hardware(device="cpu"))
    window = activation_bytes(config)
    for free, expected in ((0, 1), (4 * 10 * window, 10), (2**40, 64)):
        monkeypatch.setattr(room, "_free_memory", lambda free=free: free)
        assert physical_batch(Hardware(batch_size="auto"), config, compute, refuse) == expected


@pytest.mark.parametrize("largest", [1, 3, 16, 100])
def test_on_a_gpu_the_automatic_batch_is_doubled_until_memory_runs_out(monkeypatch, largest):
    tried = []

    def trial(size: int) -> None:
        tried.append(size)
        if size > largest:
            raise torch.OutOfMemoryError

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, 100))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 1)
    compute = replace(resolve(Hardware(device="cpu")), device=torch.device("cuda"))
    config = Config(batch_size=48, accumulation_steps=1)
    batch = physical_batch(Hardware(batch_size="auto"), config, compute, trial)
    assert batch == {1: 1, 3: 2, 16: 16, 100: 48}[largest]
    assert tried == sorted(tried)


def test_peak_memory_grows_with_what_is_held():
    before = peak_memory(torch.device("cpu"))
    block = torch.ones(64 * 2**20)
    assert peak_memory(torch.device("cpu")) >= max(before, block.nbytes)


def test_every_preset_loads_and_none_touches_the_model():
    assert hardware_presets() == ["a100", "cpu", "h200", "rtx4050", "rtx4060ti", "rtx4090"]
    assert hardware_preset("rtx4050").gradient_checkpointing
    assert hardware_preset("rtx4060ti").batch_size == 96
    assert (hardware_preset("a100").batch_size, hardware_preset("a100").precision) == (256, "bfloat16")


def test_every_use_preset_loads():
    assert load_config("hft").seq_length == 256
    assert load_config("swing").seq_length == 1024
    assert load_config("research").use_flash_attention is False
    daily = load_config("daily_indices")
    assert (daily.seq_length, daily.d_model, daily.n_layers) == (512, 256, 6)
