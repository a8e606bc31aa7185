"""A process that measures a device's ceilings; see `ceilings.py`.

    python peaks.py DEVICE

`{"what": "product", "size": 8192}` -> `{"tflops": 790.1, "median_ms": 1.39}`
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from statistics import median

import torch

PASSES = 20


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """The median pass, in seconds."""
    for _ in range(3):
        work()
    passes = []
    for _ in range(PASSES):
        if device.type == "cuda":
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            work()
            end.record()
            end.synchronize()
            passes.append(begin.elapsed_time(end) / 1e3)
        else:
            start = time.perf_counter()
            work()
            passes.append(time.perf_counter() - start)
    return median(passes)


def product(device: torch.device, side: int) -> dict[str, float]:
    """Random values: zeros take less power, and are faster."""
    torch.manual_seed(1)
    left = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    right = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    out = torch.empty_like(left)
    seconds = timed(device, lambda: torch.mm(left, right, out=out))
    return {"tflops": 2 * side**3 / seconds / 1e12, "median_ms": seconds * 1e3}


def copy(device: torch.device, mib: int) -> dict[str, float]:
    """Bytes read and bytes written."""
    source = torch.randint(0, 255, (mib << 20,), device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    seconds = timed(device, lambda: target.copy_(source))
    return {"gb_per_second": 2 * (mib << 20) / seconds / 1e9, "median_ms": seconds * 1e3}


def main() -> None:
    device = torch.device(sys.argv[1])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "a processor"
    print(json.dumps({"name": name, "torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        found = product(device, job["size"]) if job["what"] == "product" else copy(device, job["size"])
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
