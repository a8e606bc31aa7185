"""The machine: what it is, and how busy others keep it."""

from __future__ import annotations

import os
import platform
import re
import time
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
INTERESTING_FLAGS = ("avx2", "fma", "f16c", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_bf16", "amx_int8")
CORES = len(os.sched_getaffinity(0))


def _cpuinfo() -> dict[str, str]:
    first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def cpu_flags() -> set[str]:
    """What the processor says it has."""
    info = _cpuinfo()
    return set(info.get("flags", info.get("Features", "")).split())


@dataclass(frozen=True)
class Machine:
    """What stands above every table."""

    name: str
    cores: int
    flags: str
    memory_gib: int
    system: str

    @property
    def slug(self) -> str:
        """The name as that of a folder."""
        return re.sub(r"[^a-z0-9]+", "-", f"{self.name} {self.cores} cores".lower()).strip("-")


def describe() -> Machine:
    """This machine."""
    info = _cpuinfo()
    name = info.get("model name", platform.machine())
    if "cpu family" in info:
        # Virtual machines often hide the model's name, and these numbers stay.
        name += f", family {info['cpu family']} model {info['model']}"
    flags = cpu_flags()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(
        name=name,
        cores=CORES,
        flags=" ".join(flag for flag in INTERESTING_FLAGS if flag in flags),
        memory_gib=round(memory / 2**30),
        system=f"{platform.system()} {platform.release()}",
    )


def busy_seconds() -> float:
    """CPU time that all processes together have had since the start, what the host took away included."""
    first = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, first[:8])
    return (user + nice + system + irq + softirq + steal) / TICKS


def cpu_seconds(pid: int) -> float:
    """CPU time of one process, its children that ended included; 0 once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / TICKS


def resident_mib(pid: int) -> float:
    """The resident set of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


class Others:
    """How many cores other processes used since this was made, on average."""

    def __init__(self, *pids: int) -> None:
        self._pids = (os.getpid(), *pids)
        self._start = time.monotonic()
        self._busy = busy_seconds()
        self._own = self._own_seconds()

    def _own_seconds(self) -> float:
        return sum(map(cpu_seconds, self._pids))

    def cores(self) -> float:
        """The average so far."""
        wall = time.monotonic() - self._start
        others = busy_seconds() - self._busy - (self._own_seconds() - self._own)
        return max(others, 0.0) / max(wall, 1e-9)


def wait_for_quiet(most: float, patience: float) -> float:
    """Returns once others use less than `most` cores, or after `patience` seconds; says how many they use."""
    deadline = time.monotonic() + patience
    while True:
        others = Others()
        time.sleep(0.5)
        cores = others.cores()
        if cores <= most or time.monotonic() > deadline:
            return cores
        time.sleep(1.0)
