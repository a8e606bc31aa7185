"""PyTorch running transformers' towers, in a process that answers on its standard streams.

    python torch_tower.py CHECKPOINT DEVICE DTYPE

`{"do": "prepare", "tower": "vision", "batch": 32, "how": "compile"}` -> `{"seconds": 14.2}`
`{"do": "measure", "tower": "vision", "batch": 32, "how": "compile", "seconds": 0.5}` ->
`{"items_per_second": 5100.0, "median_pass_ms": 6.2, "passes": 80}`
`{"do": "rows", "tower": "vision", "batch": 8, "dtype": "f32", "out": "rows.npy"}` -> `{}`

Inputs are on the device already, normalised and in the tower's type; results stay there.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers import SiglipModel

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
LEAST_PASSES = 3

Run = Callable[[torch.Tensor], torch.Tensor]


def made_up(count: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """The rule of `examples/tower_speed/rows.rs`."""
    return (np.arange(count, dtype=np.uint64) * np.uint64(2_654_435_761)) & np.uint64(0xFFFF_FFFF)


class Towers:
    """One checkpoint in one type."""

    def __init__(self, checkpoint: Path, device: torch.device, dtype: torch.dtype) -> None:
        model = SiglipModel.from_pretrained(checkpoint, attn_implementation="sdpa", dtype=dtype).eval().to(device)
        self._modules = {"vision": model.vision_model, "text": model.text_model}
        self._device, self._dtype, self._config = device, dtype, model.config
        self._compiled: dict[tuple[str, int], Run] = {}

    def rows(self, tower: str, batch: int) -> torch.Tensor:
        """What the tower takes."""
        if tower == "text":
            length = self._config.text_config.max_position_embeddings
            ids = np.uint64(1) + (made_up(batch * length) >> np.uint64(8)) % np.uint64(1000)
            return torch.from_numpy(ids.astype(np.int64).reshape(batch, length)).to(self._device)
        side = self._config.vision_config.image_size
        levels = (made_up(batch * side * side * 3) >> np.uint64(24)).astype(np.float32)
        pixels = torch.from_numpy(levels.reshape(batch, side, side, 3) / 255 * 2 - 1)
        return pixels.permute(0, 3, 1, 2).contiguous().to(self._device, self._dtype)

    def eager(self, tower: str) -> Run:
        module = self._modules[tower]
        return lambda rows: module(rows).pooler_output

    def how(self, tower: str, batch: int, how: str) -> Run:
        """Eager, or compiled for this very batch size; a batch of one with a captured graph."""
        if how == "eager":
            return self.eager(tower)
        if (tower, batch) not in self._compiled:
            mode = "reduce-overhead" if batch < 8 else "default"
            self._compiled[tower, batch] = torch.compile(self.eager(tower), mode=mode, dynamic=False)
        return self._compiled[tower, batch]

    def wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def prepare(self, tower: str, batch: int, how: str) -> dict[str, float]:
        begin = time.perf_counter()
        run, rows = self.how(tower, batch, how), self.rows(tower, batch)
        for _ in range(3):
            run(rows)
        self.wait()
        return {"seconds": time.perf_counter() - begin}

    def measure(self, tower: str, batch: int, how: str, seconds: float) -> dict[str, float]:
        """The rate of passes behind each other, and the median of passes that are waited for."""
        run, rows = self.how(tower, batch, how), self.rows(tower, batch)
        for _ in range(3):
            run(rows)
        self.wait()
        alone: list[float] = []
        begin = time.perf_counter()
        while len(alone) < LEAST_PASSES or time.perf_counter() - begin < seconds / 2:
            start = time.perf_counter()
            run(rows)
            self.wait()
            alone.append(time.perf_counter() - start)
        passes = max(LEAST_PASSES, int(seconds / 2 / median(alone)))
        begin = time.perf_counter()
        for _ in range(passes):
            run(rows)
        self.wait()
        rate = batch * passes / (time.perf_counter() - begin)
        return {"items_per_second": rate, "median_pass_ms": median(alone) * 1e3, "passes": len(alone)}


def main() -> None:
    checkpoint, device, dtype = Path(sys.argv[1]), torch.device(sys.argv[2]), sys.argv[3]
    # Libraries print to standard output; the answers must not stand among that.
    answers, sys.stdout = sys.stdout, sys.stderr
    towers = {dtype: Towers(checkpoint, device, DTYPES[dtype])}
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        do = job.pop("do")
        found: dict[str, Any]
        try:
            with torch.inference_mode():
                if do == "rows":
                    kind, out = job.pop("dtype"), job.pop("out")
                    if kind not in towers:
                        towers[kind] = Towers(checkpoint, device, DTYPES[kind])
                    rows = towers[kind].rows(**job)
                    np.save(out, towers[kind].eager(job["tower"])(rows).float().cpu().numpy())
                    found = {}
                elif do == "prepare":
                    found = towers[dtype].prepare(**job)
                else:
                    found = towers[dtype].measure(**job)
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
