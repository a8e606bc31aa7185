"""What a process and the device do while something else is measured."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

from .setting import Setting

EVERY_SECONDS = 0.2
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / TICKS


def resident_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), 0.0)


class Watch:
    """Samples a process and the device until it is told to stop."""

    def __init__(self, setting: Setting, pid: int, every: float = EVERY_SECONDS) -> None:
        self._pid, self._every = pid, every
        self._gpu = _Gpu(setting) if setting.on_cuda else None
        self.resident: list[float] = []
        self.device_mib: list[float] = []
        self._busy: list[float] = []
        self._begin, self._cpu = time.monotonic(), cpu_seconds(pid)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._stopped.wait(self._every):
            try:
                self.resident.append(resident_mib(self._pid))
            except OSError:
                return
            found = self._gpu.sample() if self._gpu else None
            if found:
                self._busy.append(found[0])
                self.device_mib.append(found[1])

    def stop(self) -> dict[str, Any]:
        """`gpu_busy` is the share of the time in which a kernel ran, as the driver has it."""
        seconds = time.monotonic() - self._begin
        self._stopped.set()
        self._thread.join()
        # The first samples are of before.
        busy = self._busy[len(self._busy) // 3 :]
        return {
            "seconds": seconds,
            "cpu_seconds": cpu_seconds(self._pid) - self._cpu,
            "gpu_busy": median(busy) if busy else None,
        }


class _Gpu:
    """The device's load and memory: through NVML's own package, else through `nvidia-smi`."""

    def __init__(self, setting: Setting) -> None:
        self._index = int(setting.device.partition(":")[2] or 0)
        try:
            import pynvml

            pynvml.nvmlInit()
            self._nvml: Any = pynvml
            self._handle = pynvml.nvmlDeviceGetHandleByIndex(self._index)
        except Exception:
            self._nvml = None

    def sample(self) -> tuple[float, float] | None:
        """The busy share, and MiB in use by all processes."""
        try:
            if self._nvml:
                rates = self._nvml.nvmlDeviceGetUtilizationRates(self._handle)
                memory = self._nvml.nvmlDeviceGetMemoryInfo(self._handle)
                return rates.gpu / 100, memory.used / 2**20
            query = ["nvidia-smi", f"--id={self._index}", "--query-gpu=utilization.gpu,memory.used"]
            done = subprocess.run(
                [*query, "--format=csv,noheader,nounits"], capture_output=True, text=True, check=True, timeout=5
            )
            busy, used = done.stdout.split(",")
            return float(busy) / 100, float(used)
        except Exception:
            return None
