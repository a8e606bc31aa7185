"""ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Array = NDArray[np.generic]


def load(model: Path, threads: int) -> Callable[[Array], Array]:
    """An exported tower as a function."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(rows: Array) -> Array:
        result: Array = session.run(None, {name: rows})[0]
        return result

    return run
