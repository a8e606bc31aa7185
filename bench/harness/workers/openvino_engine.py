"""OpenVINO."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray

Array = NDArray[np.generic]


def load(model: Path, dtype: str, threads: int) -> Callable[[Array], Array]:
    """A converted tower as a function, compiled for each batch size: fixed shapes are its fastest.

    With `int8` the rest of the graph is left to OpenVINO's own choice, which is bf16 where there is hardware.
    """
    core = ov.Core()
    settings: dict[str, object] = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    if dtype != "int8":
        settings["INFERENCE_PRECISION_HINT"] = dtype
    requests: dict[tuple[int, ...], ov.InferRequest] = {}

    def run(rows: Array) -> Array:
        request = requests.get(rows.shape)
        if request is None:
            graph = core.read_model(model)
            graph.reshape(list(rows.shape))
            request = core.compile_model(graph, "CPU", settings).create_infer_request()
            requests[rows.shape] = request
        # The copy is what a caller needs: the request's own tensor is overwritten by the next pass.
        result: Array = request.infer([rows], share_inputs=True)[0].copy()
        return result

    return run
