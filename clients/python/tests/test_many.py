"""Many items: the bulk route, folders with resume, features and captions, against the server."""

import asyncio
import contextlib
import itertools
import json
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from server_fixtures import started

from siglip_client import AsyncClient, Client, ConnectionFailed, ServerError, TimedOut, load_vectors

ROOT = Path(__file__).resolve().parents[3]
IMAGES = ROOT / "tests" / "fixtures" / "images"


@pytest.fixture
def photos(tmp_path):
    """A folder of images, one of them below another folder, and a file that is none."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("cat.png", "dog.jpg", "pizza.webp"):
        shutil.copy(IMAGES / name, folder / name)
    shutil.copy(IMAGES / "car.png", folder / "more" / "car.png")
    (folder / "broken.png").write_text("words")
    (folder / "notes.txt").write_text("words")
    return folder


class Waited:
    """The asynchronous client with the methods of the other: each call has an event loop of its own."""

    def __init__(self, url, **options):
        self._made_of = (url, options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __getattr__(self, name):
        async def call(*items, **options):
            async with AsyncClient(self._made_of[0], **self._made_of[1]) as client:
                called = getattr(client, name)(*items, **options)
                return [row async for row in called] if name == "embed_bulk" else await called

        return lambda *items, **options: asyncio.run(call(*items, **options))


@pytest.fixture(params=[Client, Waited], ids=["blocking", "awaited"])
def a_client(request):
    """Makes a client of either kind."""
    return request.param


@contextlib.contextmanager
def cutting(url, *lives):
    """A proxy that cuts its first connections after so many bytes of the response; then it passes everything on.

    Gives its address, and a list with an entry for each connection to the bulk route.
    """
    target = url.removeprefix("http://").split(":")
    listener = socket.create_server(("127.0.0.1", 0))
    streams, left = [], list(lives)

    def forward(source, sink, life=None):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data if life is None else data[:life])
                if life is not None and (life := life - len(data)) <= 0:
                    break
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve():
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            head = client.recv(65536)
            bulk = b"/v1/bulk/" in head
            if bulk:
                streams.append(head)
            onward = socket.create_connection((target[0], int(target[1])))
            onward.sendall(head)
            threading.Thread(target=forward, args=(client, onward), daemon=True).start()
            life = left.pop(0) if bulk and left else None
            threading.Thread(target=forward, args=(onward, client, life), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", streams
    finally:
        listener.close()


def test_bulk_gives_every_outcome_in_order(server, a_client):
    items = [*(f"text {number}" for number in range(600)), IMAGES / "cat.png", b"words"]
    with a_client(server.http) as client:
        rows = list(client.embed_bulk(items))
        alone = client.embed(["text 7", IMAGES / "cat.png"])
    assert [row.index for row in rows] == list(range(602))
    np.testing.assert_allclose([rows[7].vector, rows[600].vector], alone, atol=2e-5)
    assert rows[601].vector is None
    assert (rows[601].failure.code, rows[601].failure.field) == ("undecodable_image", "input[601]")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for this machine, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["-keyout", folder / "key.pem", "-out", folder / "cert.pem", "-days", "1"]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *made, *names], check=True, capture_output=True)
    return folder


def test_bulk_over_tls(certificate, photos, tmp_path, monkeypatch, a_client):
    with started("--tls-cert", certificate / "cert.pem", "--tls-key", certificate / "key.pem", scheme="https") as served:
        with a_client(served.http) as client, pytest.raises(ConnectionFailed, match="certificate"):
            list(client.embed_bulk(["a cat"]))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
        with a_client(served.http) as client:
            rows = list(client.embed_bulk(f"text {number}" for number in range(300)))
            assert sorted(row.index for row in rows if row.vector is not None) == list(range(300))
            assert client.embed_folder(photos, tmp_path / "vectors").names[0] == "cat.png"


def test_bulk_reads_items_as_they_are_needed(server):
    read = []
    with Client(server.http) as client:
        rows = client.embed_bulk(read.append(number) or f"text {number}" for number in itertools.count())
        for _ in range(10):
            assert next(rows).vector is not None
        rows.close()
    # What is on the way is bounded by the server's window and the buffers of the connection.
    assert len(read) < 200_000


def test_awaited_bulk_takes_items_as_they_come_and_can_be_left(server):
    read = []

    async def endless():
        for number in itertools.count():
            read.append(number)
            yield f"text {number}"

    async def main():
        async with AsyncClient(server.http) as client:
            async with contextlib.aclosing(client.embed_bulk(endless())) as rows:
                found = [await anext(rows) for _ in range(10)]
            # What was left unfinished holds up nothing.
            return found, await client.embed("a cat")

    found, _ = asyncio.run(main())
    assert [row.index for row in found] == list(range(10))
    assert len(read) < 200_000


def test_bulk_reports_files_that_cannot_be_read(server, tmp_path, a_client):
    with a_client(server.http) as client:
        rows = list(client.embed_bulk([tmp_path / "none.png", "a cat"]))
    failed = next(row for row in rows if row.failure)
    assert (failed.failure.code, failed.index) == ("unreadable_file", 0)
    assert sum(row.vector is not None for row in rows) == 1


def test_bulk_raises_typed_errors(server, a_client):
    with a_client(server.http) as client:
        with pytest.raises(ServerError) as refused:
            list(client.embed_bulk(["a cat"], dimensions=9999))
        assert (refused.value.status, refused.value.code, refused.value.field) == (400, "invalid_request", "dimensions")
        # A fault of the caller's own items is the caller's.
        with pytest.raises(TypeError):
            list(client.embed_bulk(["a cat", 7]))
    with pytest.raises(ConnectionFailed):
        list(a_client("http://127.0.0.1:9").embed_bulk(["a cat"]))


def test_bulk_that_breaks_off_says_so(a_client):
    listener = socket.create_server(("127.0.0.1", 0))

    def half():
        connection, _ = listener.accept()
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
        connection.close()

    threading.Thread(target=half, daemon=True).start()
    with pytest.raises(ConnectionFailed, match="broke off"):
        list(a_client(f"http://127.0.0.1:{listener.getsockname()[1]}").embed_bulk(["a cat"]))
    listener.close()


def test_bulk_that_stands_still_times_out(a_client):
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(TimedOut):
        list(a_client(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=0.2).embed_bulk(["a cat"]))


def test_a_folder_is_embedded_once(server, photos, tmp_path, a_client):
    out = tmp_path / "vectors"
    said = []
    with a_client(server.http) as client:
        found = client.embed_folder(photos, out, progress=lambda *numbers: said.append(numbers))
        assert found.names == ["cat.png", "dog.jpg", "more/car.png", "pizza.webp"]
        assert list(found.failures) == ["broken.png"]
        assert said[-1] == (5, 5, 1)
        np.testing.assert_allclose(found.vectors[2], client.embed(photos / "more" / "car.png"), atol=2e-5)

        # A new file and a changed one are sent, and no other.
        shutil.copy(IMAGES / "sunflower.jpg", photos / "a.jpg")
        shutil.copy(IMAGES / "guitar-grey.png", photos / "cat.png")
        (photos / "dog.jpg").unlink()
        (photos / "broken.png").unlink()
        said.clear()
        again = client.embed_folder(photos, out, progress=lambda *numbers: said.append(numbers))
        assert again.names == ["a.jpg", "cat.png", "more/car.png", "pizza.webp"]
        assert said == [(3, 4, 0), (4, 4, 0)]
        np.testing.assert_allclose(again.vectors[1], client.embed(photos / "cat.png"), atol=2e-5)

        assert load_vectors(out).names == again.names
        np.testing.assert_array_equal(load_vectors(out).vectors, again.vectors)
        assert client.embed_folder(photos, tmp_path / "flat", recursive=False).names == ["a.jpg", "cat.png", "pizza.webp"]


def test_a_folder_goes_on_after_a_break(server, photos, tmp_path, a_client):
    out = tmp_path / "vectors"

    def stop(done, total, failed):
        if done == 3:
            raise KeyboardInterrupt

    with a_client(server.http) as client:
        with pytest.raises(KeyboardInterrupt):
            client.embed_folder(photos, out, progress=stop)
        # A line that was half written when the process was killed.
        with (out / "rows.jsonl").open("a") as lines:
            lines.write('["half')
        with (out / "rows.f32").open("ab") as values:
            values.write(b"half")
        said = []
        found = client.embed_folder(photos, out, progress=lambda *numbers: said.append(numbers))
        assert len(said) <= 3
        np.testing.assert_allclose(found.vectors, client.embed([photos / name for name in found.names]), atol=2e-5)


def test_a_folder_is_sent_on_over_a_new_stream(server, photos, tmp_path, a_client):
    # The head of the response, and the vectors of one or two files.
    with cutting(server.http, 1500, 1500) as (url, streams), a_client(url) as client:
        found = client.embed_folder(photos, tmp_path / "vectors")
    assert len(streams) == 3
    assert found.names == ["cat.png", "dog.jpg", "more/car.png", "pizza.webp"]
    assert list(found.failures) == ["broken.png"]
    lines = (tmp_path / "vectors" / "rows.jsonl").read_text().splitlines()
    assert len(lines) == 4
    with a_client(server.http) as client:
        np.testing.assert_allclose(found.vectors, client.embed([photos / name for name in found.names]), atol=2e-5)


def test_a_folder_gives_up_and_keeps_what_came(server, photos, tmp_path, a_client):
    with cutting(server.http, *[1500] * 9) as (url, streams), a_client(url, max_retries=0) as client:
        with pytest.raises(ConnectionFailed, match="broke off"):
            client.embed_folder(photos, tmp_path / "vectors")
    assert len(streams) == 1
    with a_client(server.http) as client:
        said = []
        client.embed_folder(photos, tmp_path / "vectors", progress=lambda *numbers: said.append(numbers))
    assert 0 < len(said) < 5
    with a_client(server.http, api_key=None) as client, pytest.raises(ServerError, match="dimensions"):
        client.embed_folder(photos, tmp_path / "refused", dimensions=9999)


def test_a_folder_of_another_model_is_refused(server, photos, tmp_path, a_client):
    with a_client(server.http) as client:
        client.embed_folder(photos, tmp_path / "vectors")
        with pytest.raises(ValueError, match="options differ"):
            client.embed_folder(photos, tmp_path / "vectors", dimensions=8)
        about = tmp_path / "vectors" / "about.json"
        about.write_text(json.dumps(json.loads(about.read_text()) | {"revision": "other"}))
        with pytest.raises(ValueError, match="revision differ"):
            client.embed_folder(photos, tmp_path / "vectors")


def test_features_and_captions():
    with started(f"--model=blip={ROOT / 'tests' / 'golden' / 'blip-captions'}") as served, Client(served.http) as client:
        [found] = client.features([IMAGES / "cat.png"])
        assert found.values.shape == (5, 24) and found.grid == (2, 2)
        assert client.features([IMAGES / "cat.png"], output="pooled", dtype="f16")[0].values.dtype == np.float16
        [caption] = client.captions([IMAGES / "cat.png"], max_new_tokens=3)
        assert (len(caption.token_ids), caption.finish_reason) == (4, "length")
        with pytest.raises(ServerError, match="max_new_tokens"):
            client.captions([IMAGES / "cat.png"], max_new_tokens=0)


def test_the_asynchronous_client_has_them_too(server):
    [found] = Waited(server.http).features([IMAGES / "cat.png"], layer=-1)
    assert found.values.shape == (64, 192)


def test_both_clients_have_the_same_methods():
    public = lambda kind: {name for name in dir(kind) if not name.startswith("_")}
    assert public(Client) == public(AsyncClient)
