"""Ways to the server and ways to write an answer that no single client shows."""

import base64
import io
import subprocess
import uuid
from pathlib import Path

import httpx
import numpy as np
import pytest
from safetensors.numpy import load

TEXTS = ["a cat", "a red car"]


def embed(server, body: dict, **headers: str) -> httpx.Response:
    answer = httpx.post(server.http + "/v1/embeddings", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize(
    ("form", "read"),
    [
        ("float", lambda row: np.array(row)),
        ("base64", lambda row: np.frombuffer(base64.b64decode(row), "<f4")),
        ("base64_f16", lambda row: np.frombuffer(base64.b64decode(row), "<f2").astype(float)),
        ("int8", lambda row: np.array(row) / 127),
    ],
)
def test_every_encoding(server, form, read):
    data = embed(server, {"input": TEXTS, "encoding_format": form}).json()["data"]
    atol = {"base64_f16": 1e-3, "int8": 5e-3}.get(form, 1e-5)
    np.testing.assert_allclose([read(row["embedding"]) for row in data], server.embed(TEXTS), atol=atol)


def test_bits(server):
    data = embed(server, {"input": TEXTS, "encoding_format": "binary"}).json()["data"]
    bits = np.packbits(server.embed(TEXTS) > 0, axis=1).astype(int) - 128
    np.testing.assert_array_equal([row["embedding"] for row in data], bits)


def test_arrays_and_tensors(server):
    answer = embed(server, {"input": TEXTS}, accept="application/x-npy")
    np.testing.assert_allclose(np.load(io.BytesIO(answer.content)), server.embed(TEXTS), atol=1e-5)
    answer = embed(server, {"input": TEXTS}, accept="application/vnd.safetensors")
    np.testing.assert_allclose(load(answer.content)["embeddings"], server.embed(TEXTS), atol=1e-5)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_every_kind_of_base64(server, cat, encode, padded):
    text = encode(cat).decode()
    body = {"input": [text if padded else text.rstrip("=")], "modality": "image"}
    data = embed(server, body).json()["data"]
    np.testing.assert_allclose(data[0]["embedding"], server.embed([cat])[0], atol=1e-5)


def test_raw_and_multipart(server, cat):
    expected = server.embed([cat, "a cat"])
    url = server.http + "/v1/embeddings"
    raw = httpx.post(url, content=cat, headers={"content-type": "image/png"}).json()["data"]
    np.testing.assert_allclose(raw[0]["embedding"], expected[0], atol=1e-5)
    form = httpx.post(url, files={"image": ("cat.png", cat)}, data={"text": "a cat"}).json()["data"]
    np.testing.assert_allclose(
        sorted(row["embedding"] for row in form), sorted(expected.tolist()), atol=1e-5
    )


@pytest.mark.parametrize("encoding", ["gzip", "br"])
def test_compressed_when_asked(server, encoding):
    body = {"input": [f"text {index}" for index in range(8)]}
    plain = embed(server, body, **{"accept-encoding": "identity"})
    packed = embed(server, body, **{"accept-encoding": encoding})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == encoding
    assert packed.json()["data"] == plain.json()["data"]


def curl(*arguments: str) -> bytes:
    run = subprocess.run(["curl", "-sf", "--max-time", "60", *arguments], capture_output=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_cleartext_http2_and_a_unix_socket(server):
    version = curl("--http2-prior-knowledge", "-o", "/dev/null", "-w", "%{http_version}", server.http + "/info")
    assert version == b"2"
    with httpx.Client(transport=httpx.HTTPTransport(uds=server.socket)) as client:
        data = client.post("http://localhost/v1/embeddings", json={"input": TEXTS}).json()["data"]
    np.testing.assert_allclose([row["embedding"] for row in data], server.embed(TEXTS), atol=1e-5)


def test_an_error_for_each_item(server, cat):
    items = [{"text": "a cat"}, {"image": "AAAA"}, {"image": base64.b64encode(cat).decode()}]
    data = embed(server, {"input": items, "on_error": "item"}).json()["data"]
    assert [row["object"] for row in data] == ["embedding", "error", "embedding"]
    assert data[1]["error"]["code"] == "undecodable_image"
    found = [data[index]["embedding"] for index in (0, 2)]
    np.testing.assert_allclose(found, server.embed(["a cat", cat]), atol=1e-5)


def test_bulk(server):
    rows = [{"id": str(uuid.uuid4()), "text": f"text {index}"} for index in range(300)]
    lines = "".join(f'{{"id": "{row["id"]}", "text": "{row["text"]}"}}\n' for row in rows)
    answer = httpx.post(
        server.http + "/v1/bulk/embeddings",
        content=lines,
        headers={"content-type": "application/x-ndjson"},
        timeout=60,
    )
    found = [httpx.Response(200, text=line).json() for line in answer.text.splitlines()]
    end = found.pop()
    assert (end["done"], end["rows"], end["failed"]) == (True, 300, 0)
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    expected = server.embed([row["text"] for row in rows[:5]])
    np.testing.assert_allclose([row["embedding"] for row in found[:5]], expected, atol=1e-5)


def test_the_page_of_curl_commands(server):
    """Every command of docs/curl.md, against this server."""
    page = Path(__file__).resolve().parents[2] / "docs" / "curl.md"
    script = page.read_text().split("```sh\n")[1].split("```")[0]
    script = script.replace("127.0.0.1:8080", server.http.removeprefix("http://"))
    script = "set -eo pipefail\n" + script.replace("curl -s", "curl -sf --max-time 60")
    run = subprocess.run(["bash", "-c", script], capture_output=True, cwd=page.parents[1])
    assert run.returncode == 0, run.stderr
