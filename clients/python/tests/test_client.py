"""The client against the server, and against answers made up for it."""

import asyncio
import base64
import json
import re
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from siglip_client import AsyncClient, Client, ConnectionFailed, ServerError, SiglipError

ROOT = Path(__file__).resolve().parents[3]
CAT = ROOT / "tests" / "fixtures" / "images" / "cat.png"


def row(*values):
    return base64.b64encode(np.array(values, "<f4").tobytes()).decode()


def echo(request: httpx.Request) -> httpx.Response:
    """Embeds the text `7` as [7, 0]."""
    items = json.loads(request.content)["input"]
    data = [{"embedding": row(float(item["text"]), 0)} for item in items]
    return httpx.Response(200, json={"data": data})


class Script:
    """Answers one thing after the other."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def __call__(self, request):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer(request) if callable(answer) else answer


def over(handler, limits=None):
    """A transport that says what the server allows, and leaves the rest to the handler."""

    def answer(request):
        if request.url.path == "/info":
            return httpx.Response(200, json={"limits": limits or {}})
        return handler(request)

    return httpx.MockTransport(answer)


def both(handler, call, limits=None, **options):
    """What the call gives on either client; `handler` is made anew for each."""
    with Client("http://test", transport=over(handler(), limits), **options) as client:
        first = call(client)

    async def main():
        async with AsyncClient("http://test", transport=over(handler(), limits), **options) as client:
            return await call(client)

    return first, asyncio.run(main())


def sent(request: httpx.Request) -> list[str]:
    """The texts of a request, or the decoded images."""
    items = json.loads(request.content)["input"]
    return [item.get("text") or base64.b64decode(item["image"]).decode() for item in items]


def test_long_inputs_go_in_batches_and_come_back_in_order():
    sizes = []

    def handler(request):
        sizes.append(len(json.loads(request.content)["input"]))
        return echo(request)

    texts = [str(number) for number in range(10)]
    for found in both(lambda: handler, lambda client: client.embed(texts), batch_items=4):
        np.testing.assert_array_equal(found[:, 0], range(10))
    assert sizes[:3] == [4, 4, 2] and sorted(sizes[3:]) == [2, 4, 4]
    found, _ = both(lambda: handler, lambda client: client.embed(["1", "22", "3"]), batch_bytes=3)
    np.testing.assert_array_equal(found[:, 0], [1, 22, 3])
    found, _ = both(lambda: handler, lambda client: client.embed([]))
    assert found.shape == (0, 0)


def test_a_refusal_with_retry_after_is_tried_again():
    # Made anew for each client: an answer is read once.
    later = lambda: httpx.Response(429, headers={"retry-after": "0"}, json={"error": {"code": "overloaded"}})
    script = lambda: Script(later(), httpx.ConnectError("gone"), httpx.Response(503), echo)
    for found in both(script, lambda client: client.embed(["5"])):
        np.testing.assert_array_equal(found, [[5, 0]])


def test_a_pause_that_is_too_long_is_not_waited_for():
    later = httpx.Response(429, headers={"retry-after": "600"}, json={"error": {"code": "overloaded"}})
    with Client("http://test", transport=over(Script(later))) as client:
        with pytest.raises(ServerError) as error:
            client.embed(["5"])
    assert (error.value.status, error.value.code) == (429, "overloaded")


def test_a_failure_is_counted_over_all_inputs_and_names_its_file(tmp_path):
    item = {"code": "undecodable_image", "detail": "is none", "field": "input[1]"}
    body = {"error": {"code": "undecodable_image", "message": "is none", "param": "input[1]", "errors": [item]}}
    broken = tmp_path / "zz.jpg"
    broken.write_bytes(b"no image")
    script = Script(echo, httpx.Response(422, json=body))
    with Client("http://test", transport=over(script), batch_items=2) as client:
        with pytest.raises(ServerError, match=r"zz\.jpg: is none") as error:
            client.embed(["0", "1", "2", broken])
    assert (error.value.field, error.value.name) == ("input[3]", str(broken))
    assert (error.value.items[0].index, error.value.items[0].name) == (3, str(broken))


def test_one_item_is_one_vector_and_letters_are_not_items():
    for found in both(lambda: echo, lambda client: client.embed("7")):
        np.testing.assert_array_equal(found, [7, 0])
    with Client("http://test", transport=over(echo)) as client:
        for call in (client.embed_texts, client.embed_images):
            with pytest.raises(TypeError, match="list"):
                call("cat")


def test_a_string_that_is_a_file_is_not_embedded_as_words(tmp_path):
    image = tmp_path / "1"
    image.write_bytes(b"1")
    with Client("http://test", transport=over(echo)) as client:
        for items in (str(image), [str(image)], ["7", str(image)]):
            with pytest.raises(TypeError, match="embed_images"):
                client.embed(items)
        assert client.embed_texts([str(image), "7"][1:]).shape == (1, 2)
    seen = []

    def handler(request):
        seen.append(sent(request))
        return httpx.Response(200, json={"data": [{"embedding": row(1, 0)}]})

    with Client("http://test", transport=over(handler)) as client:
        client.embed_texts([str(image)])
        client.embed_images([str(image)])
        client.embed(image)
    assert seen == [[str(image)], ["1"], ["1"]]


def by_item(request: httpx.Request) -> httpx.Response:
    """As `echo`, with an error in the place of what is no number."""
    data = []
    for place, text in enumerate(sent(request)):
        if text.isdigit():
            data.append({"embedding": row(float(text), 0)})
        else:
            error = {"code": "undecodable_image", "message": "is none", "param": f"input[{place}]"}
            data.append({"object": "error", "index": place, "error": error})
    assert json.loads(request.content)["on_error"] == "item"
    return httpx.Response(200, json={"data": data})


def test_one_bad_file_costs_the_others_nothing(tmp_path):
    paths = []
    for number in range(20):
        paths.append(tmp_path / f"{number}.jpg")
        paths[-1].write_text("broken" if number == 13 else str(number))
    missing = tmp_path / "missing.jpg"
    items = [*paths[:5], missing, *paths[5:]]
    embed = lambda client: client.embed(items, on_error="item")
    for found in both(lambda: by_item, embed, batch_items=4):
        numbers = [number for number in range(20) if number != 13]
        np.testing.assert_array_equal(found.vectors[:, 0], numbers)
        assert found.indices == [index for index in range(21) if index not in (5, 14)]
        unreadable, broken = found.failures
        assert (unreadable.code, unreadable.index, unreadable.name) == ("unreadable_file", 5, str(missing))
        assert (broken.code, broken.index, broken.name) == ("undecodable_image", 14, str(paths[13]))
        assert broken.field == "input[14]"
    with Client("http://test", transport=over(by_item)) as client, pytest.raises(FileNotFoundError):
        client.embed(items)


def test_several_vectors_of_an_image_are_a_matrix():
    def multi(request):
        body = json.loads(request.content)
        assert body["multi_vector"] is True and body["dimensions"] == 2
        rows = [{"embedding": row(index, 1, 2, 3, 4, 5), "shape": [3, 2]} for index, _ in enumerate(body["input"])]
        return httpx.Response(200, json={"data": rows})

    def call(client):
        return client.embed_multi([CAT, b"image"], dimensions=2)

    for vectors in both(lambda: multi, call):
        np.testing.assert_array_equal(vectors, [[[0, 1], [2, 3], [4, 5]], [[1, 1], [2, 3], [4, 5]]])


def test_the_vectors_of_a_blip2_model_are_the_servers():
    from server_fixtures import started

    checkpoint = ROOT / "tests" / "golden" / "blip2-retrieval"
    body = {"input": [{"image": base64.b64encode(CAT.read_bytes()).decode()}], "multi_vector": True}
    with started("--model", str(checkpoint)) as own, Client(own.http) as client:
        expected = np.array(own.post("/v1/embeddings", body)["data"][0]["embedding"], np.float32)
        for found in client.embed_multi([CAT, CAT.read_bytes()]):
            assert found.shape == (5, 16)
            np.testing.assert_allclose(found, expected, atol=1e-6)
        with pytest.raises(ServerError, match="multi_vector"):
            client.embed_images([CAT])


def test_items_of_any_number_come_as_they_are_embedded():
    drawn = []

    def numbers():
        for number in range(1000):
            drawn.append(number)
            yield str(number)

    with Client("http://test", transport=over(by_item), batch_items=10) as client:
        rows = client.embed_each(numbers())
        first = next(rows)
        assert first.vector[0] == 0 and len(drawn) <= 12
        assert [int(found.vector[0]) for found in rows] == list(range(1, 1000))

    async def main():
        async with AsyncClient("http://test", transport=over(by_item), batch_items=10) as client:
            return [found async for found in client.embed_each(numbers())]

    found = asyncio.run(main())
    assert sorted(row.index for row in found) == list(range(1000))
    assert all(row.vector[0] == row.index for row in found)


def test_a_request_that_takes_too_long_is_made_smaller():
    def slow(most):
        sizes = []

        def handler(request):
            sizes.append(len(sent(request)))
            if sizes[-1] > most:
                if len(sizes) % 2:
                    raise httpx.ReadTimeout("no response", request=request)
                return httpx.Response(504, json={"error": {"code": "deadline_exceeded", "message": "late"}})
            return echo(request)

        return handler, sizes

    texts = [str(number) for number in range(16)]
    handler, sizes = slow(3)
    with Client("http://test", transport=over(handler)) as client:
        np.testing.assert_array_equal(client.embed(texts)[:, 0], range(16))
    # Never the same items twice at the same size.
    assert sizes[:3] == [16, 8, 4] and sum(size <= 3 for size in sizes) == 8
    handler, sizes = slow(0)
    with Client("http://test", transport=over(handler)) as client, pytest.raises(SiglipError):
        client.embed(texts)
    assert sizes == [16, 8, 4, 2, 1]


def test_requests_keep_within_what_the_server_allows():
    sizes = []

    def handler(request):
        sizes.append(len(sent(request)))
        return echo(request)

    texts = ["1"] * 50
    both(lambda: handler, lambda client: client.embed(texts), limits={"max_items": 5})
    assert max(sizes) == 5
    sizes.clear()
    both(lambda: handler, lambda client: client.embed(["22"] * 8), limits={"max_body_bytes": 8})
    assert max(sizes) == 3


def test_a_server_that_is_not_there_is_said_to_be_so():
    gone = lambda: Script(*[httpx.ConnectError("refused")] * 9)
    for ready in both(gone, lambda client: client.is_ready()):
        assert ready is False
    with Client("http://test", transport=over(gone()), max_retries=1) as client:
        with pytest.raises(ConnectionFailed, match="http://test"):
            client.embed("a")
    for wrong in ("127.0.0.1:8080", "localhost", "ftp://a", ""):
        for kind in (Client, AsyncClient):
            with pytest.raises(ValueError, match="http://"):
                kind(wrong)


def test_the_vectors_are_the_servers(server):
    texts = ["a cat", "고양이"]
    expected = server.embed([*texts, CAT.read_bytes()])
    with Client(server.http, batch_items=2) as client:
        assert client.is_ready()
        np.testing.assert_allclose(client.embed([*texts, CAT]), expected, atol=1e-5)
        assert client.embed("a cat").shape == expected[0].shape
        found = client.embed([CAT, b"no image", "a cat"], on_error="item")
        assert found.indices == [0, 2] and found.failures[0].code == "undecodable_image"
        np.testing.assert_allclose(found.vectors, [expected[2], expected[0]], atol=1e-5)
        with pytest.raises(ServerError) as error:
            client.embed(["word " * 500], truncate=False)
        assert error.value.code == "text_too_long"
        cut = client.embed(texts, dimensions=4)
        assert cut.shape == (2, 4)
        np.testing.assert_allclose(np.linalg.norm(cut, axis=1), 1, atol=1e-5)
        (model,) = client.models()
        assert (model.name, model.dimension) == ("demo", expected.shape[1])

    async def main():
        async with AsyncClient(server.http, batch_items=1) as client:
            return await client.embed([*texts, CAT])

    np.testing.assert_allclose(asyncio.run(main()), expected, atol=1e-5)


def test_scores_and_labels_are_the_servers(server):
    expected = server.probability(CAT.read_bytes(), "a cat")
    with Client(server.http) as client:
        scores = client.similarity([CAT], ["a cat", "a red car"])
        assert scores.probability.shape == (1, 2)
        assert scores.probability[0, 0] == pytest.approx(expected, abs=1e-5)
        (labels,) = client.classify([CAT], ["a red car", "a cat"], templates=["{label}"], top_k=1)
        assert (labels[0].label, labels[0].index) == ("a cat", 1)
        assert labels[0].probability == pytest.approx(expected, abs=1e-5)

    async def main():
        async with AsyncClient(server.http) as client:
            return await client.similarity([CAT], ["a cat"])

    assert asyncio.run(main()).probability[0, 0] == pytest.approx(expected, abs=1e-5)


def test_what_the_server_refuses_is_named(server):
    with Client(server.http) as client, pytest.raises(ServerError) as error:
        client.embed(["a cat", b"no picture"])
    assert (error.value.code, error.value.field) == ("undecodable_image", "input[1]")
    assert error.value.request_id


def test_the_examples_of_the_readme_run(server, tmp_path):
    readme = (ROOT / "clients" / "python" / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len(blocks) == 5
    printed = []
    (tmp_path / "cat.png").write_bytes(CAT.read_bytes())
    (tmp_path / "zz.png").write_bytes(b"no image")
    source = str(ROOT / "clients" / "python" / "src")
    for block in blocks:
        text = f"import sys; sys.path.insert(0, {source!r})\n" + block.replace("http://127.0.0.1:8080", server.http)
        ran = subprocess.run([sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0, ran.stderr
        printed.append(ran.stdout)
    assert "zz.png undecodable_image" in printed[1] and "(1, " in printed[1]
    assert "['cat.png']" in printed[2] and "1 images" in printed[3]
    assert "(64, 192) (8, 8)" in printed[4]


def test_a_model_that_reads_pairs_is_sent_images_and_texts():
    """BLIP's and BLIP-2's probabilities cannot be had from stored vectors."""
    seen = []

    def answer(request):
        if request.url.path == "/info":
            names = {"name": "blip", "aliases": ["b"], "revision": "1", "dimension": 4, "preprocessing_version": "1"}
            return httpx.Response(200, json={"models": [{**names, "scoring": {"kind": "matching"}}]})
        seen.append((request.url.path, json.loads(request.content)))
        if request.url.path == "/v1/classify":
            label = {"label": "a cat", "index": 0, "probability": 0.5, "logit": 0.0}
            return httpx.Response(200, json={"results": [[label]]})
        return httpx.Response(200, json={"cosine": [[0.5]], "logit": [[0.0]], "probability": [[0.5]]})

    with Client("http://server", model="b", transport=httpx.MockTransport(answer)) as client:
        assert client.similarity([b"image"], ["a cat"]).probability == 0.5
        assert client.classify([b"image"], ["a cat"], top_k=1)[0][0].label == "a cat"

    async def main():
        async with AsyncClient("http://server", model="b", transport=httpx.MockTransport(answer)) as client:
            return await client.similarity([b"image"], ["a cat"]), await client.classify([b"image"], ["a cat"], top_k=1)

    asyncio.run(main())
    image = base64.b64encode(b"image").decode()
    scored = ("/v1/similarity", {"images": [image], "texts": ["a cat"], "model": "b"})
    labelled = ("/v1/classify", {"images": [image], "model": "b", "top_k": 1, "labels": ["a cat"]})
    assert seen == [scored, labelled] * 2
