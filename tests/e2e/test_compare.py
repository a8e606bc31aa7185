"""tools/compare.py on small checkpoints, where torch and transformers are installed ($SIGLIP_TORCH_PYTHON)."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from server_fixtures import ROOT

PYTHON = os.environ.get("SIGLIP_TORCH_PYTHON", sys.executable)
GOLDEN = ROOT / "tests" / "golden"


@pytest.fixture(scope="module", autouse=True)
def torch():
    """Skips where torch is not installed: it is larger than everything else here together."""
    command = [PYTHON, "-c", "import torch, transformers, httpx"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no torch and transformers: set SIGLIP_TORCH_PYTHON")


def compare(model, *options):
    binary = ROOT / os.environ.get("SIGLIP_E2E_BINARY", "target/release/siglip-server")
    command = [PYTHON, ROOT / "tools" / "compare.py", model, "--binary", binary, *options]
    # The server takes no variable that begins like its own options and is none.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SIGLIP_")}
    environment["HF_HUB_OFFLINE"] = "1"
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("model", [GOLDEN / "tiny", GOLDEN / "naflex-down", GOLDEN / "clip-tiny", ROOT / "models" / "demo"])
def test_equal(model):
    ran = compare(model)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "equal within the tolerances" in ran.stdout


def test_a_difference_is_found(tmp_path, server):
    # The same checkpoint with other weights, beside the server's own.
    other = tmp_path / "other"
    shutil.copytree(ROOT / "models" / "demo", other)
    weights = load_file(other / "model.safetensors")
    name = next(name for name in weights if name.endswith("text_model.head.weight"))
    weights[name] = np.flip(weights[name], 0).copy()
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    ran = compare(other, "--server", server.http)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "DIFFERS  cosine" in ran.stdout
