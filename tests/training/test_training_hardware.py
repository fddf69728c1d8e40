from __future__ import annotations

import os

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from atlas_pipeline.config import Config, Hardware, hardware_preset, hardware_presets, load_config
from atlas_pipeline.features.model_inputs import set_columns
from atlas_pipeline.models.forecaster import Forecaster
from atlas_pipeline.training.hardware import resolve, settings, window_multiplications


def process_wide() -> tuple[object, ...]:
    return (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.allow_tf32,
        torch.get_float32_matmul_precision(),
        torch.is_anomaly_enabled(),
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    )


@pytest.mark.parametrize("fails", [False, True])
def test_process_wide_settings_hold_inside_only(fails):
    before = process_wide()
    wanted = Hardware(device="cpu", threads=1, benchmark=True, tf32=True, anomaly=True)
    try:
        with settings(wanted):
            assert process_wide() == (1, False, True, True, "high", True, None)
            with settings(Hardware(device="cpu", deterministic=True)):
                inside = process_wide()
                assert inside[1:] == (True, False, False, "highest", False, ":4096:8")
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert process_wide() == before


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"compile": True}, r"Hardware\.compile=True: use one of off, default, reduce-overhead, max-autotune"),
        ({"data": "disk"}, r"Hardware\.data='disk': use one of auto, device, host"),
        ({"batch_size": 0}, r"Hardware\.batch_size=0"),
        ({"workers": -1}, r"Hardware\.workers=-1"),
        ({"log_interval": 0}, r"Hardware\.log_interval=0"),
        ({"save_interval": 0}, r"Hardware\.save_interval=0"),
        ({"deterministic": True, "benchmark": True}, r"Hardware\.benchmark=True: .* deterministic"),
    ],
)
def test_what_cannot_run_is_refused_by_name(wrong, message):
    with pytest.raises(ValueError, match=message):
        Hardware(**wrong)


def test_threads_and_determinism_hold_inside_only():
    threads = torch.get_num_threads()
    with settings(Hardware(device="cpu", threads=1, deterministic=True)) as compute:
        assert torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled()
        assert compute.dtype == torch.float32
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(
    ("asked", "config", "threads"),
    [(0, load_config("daily_indices"), 1), (0, Config(), 2), (0, None, 2), (2, load_config("daily_indices"), 2)],
)
def test_a_small_network_gets_one_thread_unless_more_are_asked_for(asked, config, threads):
    with settings(Hardware(device="cpu", threads=asked), config):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(
    "changes",
    [{}, {"channels": "independent", "seq_length": 64}, {"members": 3}],
    ids=["default", "channels", "members"],
)
def test_multiplications_are_nearly_those_that_torch_counts(changes):
    config = Config(**changes)
    with torch.inference_mode(), FlopCounterMode(display=False) as counted:
        Forecaster(config).eval()(torch.zeros(1, config.seq_length, config.feature_size))
    # Two operations each; attention's and the head's are left out.
    assert window_multiplications(config) == pytest.approx(counted.get_total_flops() / 2, rel=0.05)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device asked for is here")
def test_a_device_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"Hardware\.device='cuda'.*use 'auto' or 'cpu'"):
        resolve(Hardware(device="cuda"))
    assert resolve(Hardware()).device.type in ("cpu", "mps")


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
    assert (daily.backbone, daily.members, daily.seq_length, daily.head) == ("residual_mlp", 8, 1, "skewed_t")
    assert daily.feature_size == len(set_columns(daily.features))
