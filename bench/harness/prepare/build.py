"""Builds the server and makes what the parts need. What exists already is kept."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .. import machine
from ..settings import BENCH, CHECKPOINT, EXPORTS, FAMILIES, ROOT, SERVER, TOWERS, WORK, checkpoint_of

TIMEOUT_SECONDS = 1800


def _run(command: Sequence[str | Path], cwd: Path = ROOT) -> None:
    print("+", *(str(part).replace(f"{ROOT}/", "") for part in command), flush=True)
    subprocess.run([str(part) for part in command], cwd=cwd, check=True, timeout=TIMEOUT_SECONDS)


def _module(name: str, *arguments: str | Path) -> None:
    _run([sys.executable, "-m", f"harness.prepare.{name}", *arguments], cwd=BENCH)


def server() -> None:
    """The release binaries, as the container image has them."""
    build = ["cargo", "build", "--release", "--locked", "--features", "turbojpeg"]
    _run([*build, "--bin", "siglip-server", "--example", "tower_speed"])


def peak() -> Path:
    """The program that measures the instruction peak."""
    program = WORK / "peak"
    WORK.mkdir(exist_ok=True, parents=True)
    _run(["rustc", "--edition", "2024", "-O", "-C", "codegen-units=1", BENCH / "peak.rs", "-o", program])
    return program


def checkpoint(side: int = 224) -> None:
    """A random checkpoint for pictures of this side."""
    folder = checkpoint_of(side)
    if not (folder / "preprocessor_config.json").exists():
        _module("checkpoint", folder, ROOT / "models/demo", str(side))


def exports(kinds: Sequence[str]) -> list[str]:
    """The towers in the peers' formats; says which kinds there are in the end."""
    EXPORTS.mkdir(exist_ok=True)
    files = {"onnx": "{}.onnx", "onnx-int8": "{}-int8.onnx", "openvino": "{}.xml", "openvino-int8": "{}-int8.xml"}
    made: list[str] = []
    for kind in kinds:
        try:
            for tower in TOWERS:
                if not (EXPORTS / files[kind].format(tower)).exists():
                    _module("export", CHECKPOINT, EXPORTS, kind, tower)
            made.append(kind)
        except subprocess.SubprocessError as error:
            print(f"{kind} is left out: {error}", file=sys.stderr)
    return made


def family(name: str, towers: Sequence[str] = ()) -> list[str]:
    """A checkpoint of another family, and its towers for OpenVINO; says which of these there are in the end."""
    folder, made = FAMILIES / name, []
    if not (folder / "preprocessor_config.json").exists():
        _module("families", "checkpoint", folder, name)
    for tower in towers:
        try:
            if not (FAMILIES / f"{name}-openvino" / f"{tower}.xml").exists():
                _module("families", "openvino", folder, FAMILIES / f"{name}-openvino", tower)
            made.append(tower)
        except subprocess.SubprocessError as error:
            print(f"OpenVINO is left out: {error}", file=sys.stderr)
    return made


def dtypes() -> list[str]:
    """What the server takes as `--dtype` and is worth measuring on a processor."""
    text = subprocess.run([SERVER, "--help"], capture_output=True, text=True, check=True, timeout=60).stdout
    found = re.search(r"--dtype <([^>]+)>", text)
    known = found.group(1).split("|") if found else ["f32"]
    return [dtype for dtype in ("f32", "bf16", "int8") if dtype in known]


def has_bf16() -> bool:
    """Whether the processor multiplies bf16; elsewhere the peers emulate it, many times slower than f32."""
    return bool({"avx512_bf16", "amx_bf16"} & machine.cpu_flags())
