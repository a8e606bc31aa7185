"""One peer and tower in a process: reads what to measure, a JSON object a line, and answers in kind.

    python -m harness.workers ENGINE DTYPE TOWER CHECKPOINT EXPORTS THREADS

`{"batch": 4, "seconds": 2.0, "out": null}` -> `{"items_per_second": 5.1, "passes": 3}`
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from ..inputs import model_input

Array = NDArray[np.generic]
LEAST_PASSES = 2


def engine(
    name: str, dtype: str, tower: str, checkpoint: Path, exports: Path, threads: int
) -> Callable[[Array], Array]:
    """The peer as a function from inputs to embeddings. Imported here: each is seconds of start."""
    suffix = "-int8" if dtype == "int8" else ""
    match name:
        case "torch":
            from . import torch_engine

            return torch_engine.load(checkpoint, tower, dtype, threads)
        case "onnxruntime":
            from . import onnx_engine

            return onnx_engine.load(exports / f"{tower}{suffix}.onnx", threads)
        case "openvino":
            from . import openvino_engine

            return openvino_engine.load(exports / f"{tower}{suffix}.xml", dtype, threads)
        case _:
            raise SystemExit(f"no such engine: {name}")


def measure(run: Callable[[Array], Array], rows: Array, seconds: float) -> dict[str, float]:
    """The rate by the median pass, after one that is not counted."""
    run(rows)
    passes: list[float] = []
    start = time.perf_counter()
    while len(passes) < LEAST_PASSES or time.perf_counter() - start < seconds:
        begin = time.perf_counter()
        run(rows)
        passes.append(time.perf_counter() - begin)
    return {"items_per_second": len(rows) / median(passes), "passes": len(passes)}


def main() -> None:
    """Serves the standard streams until they end."""
    name, dtype, tower, checkpoint, exports, threads = sys.argv[1:]
    # Libraries print to standard output; the answers must not stand among that.
    answers, sys.stdout = sys.stdout, sys.stderr
    run = engine(name, dtype, tower, Path(checkpoint), Path(exports), int(threads))
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        rows = model_input(tower, job["batch"], Path(checkpoint))
        if job["out"]:
            np.save(job["out"], run(rows))
        print(json.dumps(measure(run, rows, job["seconds"])), file=answers, flush=True)


if __name__ == "__main__":
    main()
