"""The towers in the peers' own formats.

    python -m harness.prepare.export CHECKPOINT OUT KIND TOWER      KIND: onnx, onnx-int8, openvino, openvino-int8

Each is made once and kept. `onnx-int8` is ONNX Runtime's dynamic quantisation; `openvino-int8` is NNCF's
post-training quantisation for transformers, calibrated on made-up inputs of the kind that are measured.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from ..inputs import model_input
from ..machine import cpu_flags

CALIBRATION_ROWS = 16


def onnx(checkpoint: Path, out: Path, tower: str) -> None:
    """Exports from the reference implementation, with a free batch axis."""
    import torch

    from ..workers.torch_engine import Pooled

    module = Pooled(checkpoint, tower, attention="sdpa")
    name = "pixel_values" if tower == "vision" else "input_ids"
    example = torch.from_numpy(model_input(tower, 2))
    torch.onnx.export(
        module,
        (example,),
        str(out),
        input_names=[name],
        output_names=["pooled"],
        dynamic_shapes={"rows": {0: torch.export.Dim("batch", min=1, max=64)}},
        opset_version=18,
        external_data=False,
        dynamo=True,
    )


def onnx_int8(source: Path, out: Path) -> None:
    """Dynamic quantisation: weights by channel, activations when they come.

    Without VNNI the products of 8 bits are summed in 16, which overflows at the full range of weights; the
    documentation then recommends 7 bits.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    vnni = bool({"avx512_vnni", "avx_vnni"} & cpu_flags())
    quantize_dynamic(source, out, weight_type=QuantType.QInt8, per_channel=True, reduce_range=not vnni)


def openvino(source: Path, out: Path) -> None:
    """The same graph in OpenVINO's format."""
    import openvino as ov

    ov.save_model(ov.convert_model(source), out, compress_to_fp16=False)


def openvino_int8(source: Path, out: Path, tower: str) -> None:
    """NNCF's post-training quantisation, with its settings for transformers."""
    import nncf
    import openvino as ov

    model = ov.Core().read_model(source)
    rows = model_input(tower, CALIBRATION_ROWS)
    data = nncf.Dataset([rows[index : index + 1] for index in range(len(rows))])
    quantised = nncf.quantize(model, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=CALIBRATION_ROWS)
    ov.save_model(quantised, out, compress_to_fp16=False)


def main() -> None:
    """Makes one file, and what it is made from."""
    checkpoint, out, kind, tower = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    np.random.seed(0)
    match kind:
        case "onnx":
            onnx(checkpoint, out / f"{tower}.onnx", tower)
        case "onnx-int8":
            onnx_int8(out / f"{tower}.onnx", out / f"{tower}-int8.onnx")
        case "openvino":
            openvino(out / f"{tower}.onnx", out / f"{tower}.xml")
        case "openvino-int8":
            openvino_int8(out / f"{tower}.xml", out / f"{tower}-int8.xml", tower)
        case _:
            raise SystemExit(f"no such kind: {kind}")


if __name__ == "__main__":
    main()
