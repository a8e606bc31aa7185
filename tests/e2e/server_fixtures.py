"""A server for the whole run, and the native route's vectors to compare with."""

import base64
import json
import os
import re
import subprocess
import tempfile
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "tests" / "fixtures" / "images"
# Loading the demo checkpoint takes a second; a debug build on a busy machine takes longer.
START_TIMEOUT = 120
LISTEN = ["--listen", "127.0.0.1:0", "--grpc-listen", "127.0.0.1:0"]


@dataclass
class Server:
    """Where the server listens."""

    http: str
    grpc: str
    socket: str

    def post(self, path: str, body: dict) -> dict:
        """The JSON answer to a POST that must succeed."""
        answer = httpx.post(self.http + path, json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def embed(self, items: list) -> np.ndarray:
        """Vectors by the native route: strings are texts, bytes are pictures."""
        items = [
            {"image": base64.b64encode(item).decode()} if isinstance(item, bytes) else {"text": item}
            for item in items
        ]
        data = self.post("/v1/embeddings", {"input": items})["data"]
        return np.array([row["embedding"] for row in data], np.float32)

    def scores(self, query: str, documents: list) -> np.ndarray:
        """How well each text fits a query, as the routes that order texts score it."""
        first, *rows = self.embed([query, *documents])
        return (1 + np.array(rows) @ first) / 2

    def probability(self, image: bytes, text: str) -> float:
        """The probability that a text fits a picture, by the native route."""
        images = [base64.b64encode(image).decode()]
        return self.post("/v1/similarity", {"images": images, "texts": [text]})["probability"][0][0]


def _read_addresses(process: subprocess.Popen, socket: str, scheme: str = "http") -> Server:
    announced = ""
    for line in process.stdout:
        announced += line
        if line.startswith("try"):
            break
    else:
        raise RuntimeError(f"the server ended before it was ready: {announced}")
    find = lambda name: re.search(rf"^{name}\s+({scheme}://\S+)", announced, re.MULTILINE)[1]
    return Server(http=find("HTTP"), grpc=find("gRPC").removeprefix(f"{scheme}://"), socket=socket)


@contextmanager
def started(*options, scheme="http"):
    """A server with these options on free ports, until the end of the block."""
    binary = ROOT / os.environ.get("SIGLIP_E2E_BINARY", "target/release/siglip-server")
    with tempfile.TemporaryDirectory() as folder:
        socket = f"{folder}/socket"
        process = subprocess.Popen(
            [binary, *LISTEN, "--listen-unix", socket, "--log-filter", "error", *options],
            stdout=subprocess.PIPE,
            text=True,
            env={"PATH": os.environ["PATH"]},
        )
        watchdog = threading.Timer(START_TIMEOUT, process.kill)
        watchdog.start()
        try:
            found = _read_addresses(process, socket, scheme)
            watchdog.cancel()
            yield found
            # Whatever the clients did, it lives and is ready.
            assert process.poll() is None
            assert scheme == "https" or httpx.get(found.http + "/health/ready").status_code == 200
        finally:
            watchdog.cancel()
            process.terminate()
            process.wait(timeout=60)


@pytest.fixture(scope="session")
def server():
    """The server under test, on free ports and a socket."""
    with started() as found:
        yield found


@pytest.fixture(scope="session")
def node():
    """Runs a script of this folder with arguments, and reads the JSON that it prints."""

    def run(script: str, *arguments: str) -> dict:
        path = os.path.join(os.environ["SIGLIP_E2E_NODE"], script)
        ended = subprocess.run(["node", path, *arguments], capture_output=True, text=True, timeout=60)
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)

    return run


@pytest.fixture(scope="session")
def cat() -> bytes:
    """A picture of a cat."""
    return (IMAGES / "cat.png").read_bytes()


@pytest.fixture(scope="session")
def car() -> bytes:
    """A picture of a car."""
    return (IMAGES / "car.png").read_bytes()


@pytest.fixture(scope="session")
def uri():
    """Bytes as a data URI."""
    return lambda image: "data:image/png;base64," + base64.b64encode(image).decode()
