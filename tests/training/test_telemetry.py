from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from atlas_pipeline.training.telemetry import Telemetry


class NVMLError(Exception):
    pass


class NotSupported(NVMLError):
    pass


def not_supported(*_: object) -> None:
    raise NotSupported


def nvml(**changes: object) -> SimpleNamespace:
    fake = {
        "NVMLError": NVMLError,
        "NVMLError_NotSupported": NotSupported,
        "NVML_TEMPERATURE_GPU": 0,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
        "nvmlDeviceGetUtilizationRates": lambda gpu: SimpleNamespace(gpu=87),
        "nvmlDeviceGetMemoryInfo": lambda gpu: SimpleNamespace(used=6 * 2**30),
        "nvmlDeviceGetPowerUsage": lambda gpu: 312_500,
        "nvmlDeviceGetTemperature": lambda gpu, kind: 71,
    }
    return SimpleNamespace(**(fake | changes))


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="1-2"))


def test_a_gpu_s_figures_are_the_driver_s_in_plain_units(monkeypatch):
    asked, closed = [], []
    monkeypatch.setitem(
        sys.modules,
        "pynvml",
        nvml(nvmlDeviceGetHandleByUUID=asked.append, nvmlShutdown=lambda: closed.append(True)),
    )
    telemetry = Telemetry(torch.device("cuda"))
    assert asked == ["GPU-1-2"]
    assert telemetry.read() == {
        "gpu/utilization": 0.87,
        "gpu/memory_bytes": 6 * 2**30,
        "gpu/power_watts": 312.5,
        "gpu/temperature_celsius": 71.0,
    }
    telemetry.close()
    assert closed == [True]


def test_what_a_gpu_does_not_tell_is_left_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", nvml(nvmlDeviceGetPowerUsage=not_supported))
    assert Telemetry(torch.device("cuda")).read().keys() == {
        "gpu/utilization",
        "gpu/memory_bytes",
        "gpu/temperature_celsius",
    }


def test_without_a_driver_or_a_gpu_there_are_no_figures(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", nvml(nvmlInit=not_supported))
    for device in ("cuda", "mps"):
        telemetry = Telemetry(torch.device(device))
        assert telemetry.read() == {}
        telemetry.close()


def test_a_cpu_s_figures_are_the_process_s():
    telemetry = Telemetry(torch.device("cpu"))
    sum(i * i for i in range(300_000))
    figures = telemetry.read()
    assert figures["cpu/utilization"] > 0 and figures["cpu/memory_bytes"] > 1e7
