"""What the machine does while it trains: a GPU's load, memory, power and temperature, or the process's own load."""

from __future__ import annotations

from typing import Any

import torch


class Telemetry:
    """Live figures of the device a fit runs on.

    Parameters
    ----------
    device
        Of a GPU the figures are the driver's own (NVIDIA Management Library); without that library's driver there are
        none. Of a CPU they are this process's. Of other devices there are none.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._process: Any = None
        self._nvml: Any = None
        self._gpu: Any = None
        if device.type == "cpu":
            import psutil

            self._process = psutil.Process()
            # The first call has no interval to speak of, and begins one.
            self._process.cpu_percent()
        elif device.type == "cuda":
            self._open_gpu()

    def _open_gpu(self) -> None:
        import pynvml

        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            # In some containers the driver's library is not there though CUDA is.
            return
        # By its identity: torch's numbers count only the visible GPUs, the driver's all of them.
        uuid = torch.cuda.get_device_properties(self._device).uuid
        self._gpu = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        self._nvml = pynvml

    def read(self) -> dict[str, float]:
        """Return the figures of now.

        Returns
        -------
        dict
            Of a GPU ``gpu/utilization`` (share of the last sample period with a kernel running), ``gpu/memory_bytes``,
            ``gpu/power_watts`` and ``gpu/temperature_celsius``; of a CPU ``cpu/utilization`` (busy cores of this
            process since the last reading) and ``cpu/memory_bytes`` (resident). What the driver does not tell of this
            GPU is missing.
        """
        if self._process is not None:
            return {
                "cpu/utilization": self._process.cpu_percent() / 100,
                "cpu/memory_bytes": float(self._process.memory_info().rss),
            }
        if self._nvml is None:
            return {}
        nvml, gpu = self._nvml, self._gpu
        questions = {
            "gpu/utilization": lambda: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100,
            "gpu/memory_bytes": lambda: float(nvml.nvmlDeviceGetMemoryInfo(gpu).used),
            "gpu/power_watts": lambda: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
            "gpu/temperature_celsius": lambda: float(nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU)),
        }
        figures = {}
        for name, ask in questions.items():
            try:
                figures[name] = ask()
            except nvml.NVMLError_NotSupported:
                continue
        return figures

    def close(self) -> None:
        """Let go of the driver."""
        if self._nvml is not None:
            self._nvml.nvmlShutdown()
