"""What the log says of a client's mistake, and what it keeps to itself."""

import json
import os
import subprocess
import threading

import httpx
from server_fixtures import ROOT, START_TIMEOUT, _read_addresses


def lines(*options, ask):
    """The lines of the log while a client asks something of a server of its own."""
    binary = ROOT / os.environ.get("SIGLIP_E2E_BINARY", "target/release/siglip-server")
    command = [binary, "--listen", "127.0.0.1:0", "--grpc-listen", "127.0.0.1:0", "--log-format", "json", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={"PATH": os.environ["PATH"]})
    said = []
    reader = threading.Thread(target=lambda: said.extend(process.stderr), daemon=True)
    reader.start()
    watchdog = threading.Timer(START_TIMEOUT, process.kill)
    watchdog.start()
    try:
        ask(_read_addresses(process, "").http)
    finally:
        watchdog.cancel()
        process.terminate()
        process.wait(timeout=60)
        reader.join(timeout=10)
    return [json.loads(line) for line in said]


def wrong_path(base):
    assert httpx.get(base + "/v1/embedings%0a?secret=hidden").status_code == 404


def test_a_wrong_path_is_shown_at_debug_alone():
    shown = lines("--log-filter", "siglip_server::rest=debug", ask=wrong_path)
    [line] = [line for line in shown if line["message"] == "no such route"]
    # Escaped as the client sent it, so that it cannot begin a line of its own.
    assert (line["level"], line["path"]) == ("DEBUG", "/v1/embedings%0a")
    assert line["span"]["route"] == "unmatched"
    usual = lines(ask=wrong_path)
    assert any(line.get("code") == "not_found" for line in usual)
    for log in (shown, usual):
        assert "hidden" not in json.dumps(log)
    assert "embedings" not in json.dumps(usual)


def test_a_line_has_its_span_once():
    shown = lines(ask=lambda base: httpx.post(base + "/v1/embeddings", json={"input": "a cat"}))
    [line] = [line for line in shown if line.get("status") == 200]
    assert "spans" not in line and len(json.dumps(line)) < 400
