"""Triton's load generator, over both transports."""

import base64
import csv
import json
import os
import re
import shlex
import struct
import subprocess

import httpx
import pytest

# `run` finds or makes a place where it runs; some distributions have too old a C library for it.
COMMAND = shlex.split(os.environ.get("SIGLIP_E2E_PERF_ANALYZER", ""))
pytestmark = pytest.mark.skipif(not COMMAND, reason="there is no perf_analyzer for this machine")

ROUTES = {"http": "/v2/models/{model}/infer", "grpc": "/inference.GRPCInferenceService/ModelInfer"}


def answered(server, route: str) -> int:
    metrics = httpx.get(server.http + "/metrics").text
    series = re.escape(f'siglip_requests_total{{code="ok",route="{route}"}}')
    return int(re.search(rf"^{series} (\d+)$", metrics, re.MULTILINE)[1])


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_load(server, cat, tmp_path, transport):
    # It asks for every output, so both sides are given. Its base64 holds an element's length as well.
    picture = base64.b64encode(struct.pack("<I", len(cat)) + cat).decode()
    given = {
        "IMAGE": {"content": {"b64": picture}, "shape": [1]},
        "TEXT": {"content": ["a cat", "a red car"], "shape": [2]},
    }
    data, table = tmp_path / "inputs.json", tmp_path / "load.csv"
    data.write_text(json.dumps({"data": [given]}))
    address = {"http": server.http.removeprefix("http://"), "grpc": server.grpc}[transport]
    before = answered(server, ROUTES[transport])
    arguments = ["-m", "demo", "-i", transport, "-u", address, "--input-data", str(data)]
    arguments += ["--concurrency-range", "2", "--request-count", "20", "-f", str(table)]
    run = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    with table.open() as lines:
        (row,) = csv.DictReader(lines)
    assert float(row["Inferences/Second"]) > 0
    assert answered(server, ROUTES[transport]) - before >= 20
