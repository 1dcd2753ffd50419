"""The energy that a process's GPU uses, by the counter that NVIDIA's driver keeps (NVML), since Volta."""

import math
from collections.abc import Callable
from contextlib import suppress

import torch

MILLIJOULES = 3.6e9  # in a kWh
Counter = Callable[[], int | None]


class EnergyMeter:
    """Args: counter: millijoules so far, None where that cannot be told."""

    def __init__(self, counter: Counter) -> None:
        self._count = counter
        self._before = counter()

    def read(self) -> float:
        """kWh since the last reading, or since it was made; NaN where that cannot be told."""
        now, before = self._count(), self._before
        self._before = now
        return math.nan if now is None or before is None else (now - before) / MILLIJOULES


def find_counter(device: torch.device) -> Counter:
    """The driver's counter for a GPU; it counts all that runs there, so where that is more than one process, and on a
    CPU, an older GPU, or a part of one (MIG), it cannot be told.
    """
    if device.type != "cuda":
        return lambda: None
    import pynvml  # noqa: PLC0415 (Linux only)

    def count() -> int | None:
        with suppress(pynvml.NVMLError):
            if len(pynvml.nvmlDeviceGetComputeRunningProcesses(handle)) <= 1:
                return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        return None

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    except pynvml.NVMLError:
        return lambda: None
    return count
