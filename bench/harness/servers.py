"""The servers that are measured over HTTP."""

from __future__ import annotations

import http.client
import os
import socket
import sys
import time
from pathlib import Path

from .dialects import Dialect
from .processes import Child
from .settings import BENCH, CHECKPOINT, SERVER, WORK

READY_SECONDS = 180


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A running server with its dialect."""

    def __init__(self, name: str, dtype: str, command: list[str], dialect: Dialect) -> None:
        self.name, self.dtype, self.dialect = name, dtype, dialect
        self.port = free_port()
        command = [part.replace("{port}", str(self.port)) for part in command]
        environment = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
        self.child = Child(command, environment, log=WORK / f"server-{name}-{dtype}.log")
        begin = time.monotonic()
        while not self._ready():
            if not self.child.alive() or time.monotonic() - begin > READY_SECONDS:
                self.child.end()
                raise RuntimeError(f"{name} did not become ready: {self.child.last_words()}")
            time.sleep(0.02)
        self.ready_seconds = time.monotonic() - begin

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/health/ready" if self.dialect.ours else "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def ours(dtype: str, model: str | Path = CHECKPOINT, *flags: str) -> Server:
    """This server with its defaults, but for time."""
    command = [str(SERVER), "--listen", "127.0.0.1:{port}", "--model", str(model), "--model-name", "bench"]
    # A label set that is not cached yet takes longer than the default allows.
    command += ["--dtype", dtype, "--log-filter", "warn", "--limits-request-timeout", "10m", *flags]
    return Server("siglip-server", dtype, command, Dialect("bench", ours=True))


def infinity() -> Server:
    """infinity with the settings that it recommends for a processor, on the same folder."""
    return _infinity("infinity", [str(Path(sys.executable).parent / "infinity_emb")])


def infinity_padded() -> Server:
    """The same, with texts padded to the checkpoint's length: as much work as this server does for them."""
    return _infinity("infinity, padded to 64", [sys.executable, str(BENCH / "harness" / "infinity_padded.py")])


def _infinity(name: str, program: list[str]) -> Server:
    command = [*program, "v2", "--model-id", str(CHECKPOINT), "--served-model-name", "bench", "--engine", "torch"]
    command += ["--device", "cpu", "--dtype", "float32", "--no-bettertransformer"]
    command += ["--host", "127.0.0.1", "--port", "{port}"]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    return Server(name, "f32", command, Dialect("bench", ours=False))
