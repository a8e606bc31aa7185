"""What the tests of this folder share: the server under test, its ports, and how a check is told."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
BINARY = Path(os.environ.get("SIGLIP_BINARY", ROOT / "target" / "debug" / "siglip-server")).resolve()
OUT = Path(os.environ.get("SIGLIP_DEPLOY_OUT", ROOT / "target" / "deploy-tests"))
IMAGES = ROOT / "tests" / "fixtures" / "images"
KEY = "key-for-the-tests-of-deploy"


def check(condition, said):
    """Prints what was checked, and ends the test where it does not hold."""
    if not condition:
        sys.exit(f"FAILED: {said}")
    print(f"  ok: {said}", flush=True)


def run(command, **options):
    """The output of a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)
    if done.returncode != 0:
        sys.exit(f"FAILED: {' '.join(map(str, command))}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout + done.stderr


@contextlib.contextmanager
def process(command, **options):
    """A program that is ended when the block is left."""
    started = subprocess.Popen(command, **options)
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


@contextlib.contextmanager
def server(*options, env=None):
    """The server under test; its standard output says when it is ready."""
    with process(
        [BINARY, "--log-filter", "error", *options],
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ["PATH"], **(env or {})},
    ) as started:
        ended = threading.Timer(120, started.kill)
        ended.daemon = True
        ended.start()
        said = ""
        for line in started.stdout:
            said += line
            if line.startswith("try"):
                break
        else:
            sys.exit(f"FAILED: the server ended before it was ready\n{said}")
        ended.cancel()
        yield started, said


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def address(said, name):
    """Where a listener stands, from what the server printed: host and port."""
    return re.search(rf"^{name}\s+http://(\S+)", said, re.MULTILINE)[1]


def wait_for(what, condition, seconds=30):
    """Waits until a condition holds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(httpx.HTTPError, KeyError, IndexError, ValueError):
            if condition():
                return
        time.sleep(0.2)
    sys.exit(f"FAILED: {what} did not come within {seconds} s")
