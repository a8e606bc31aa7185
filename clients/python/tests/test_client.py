"""The client against the server, and against answers made up for it."""

import asyncio
import base64
import json
from pathlib import Path

import httpx
import numpy as np
import pytest

from siglip_client import AsyncClient, Client, ServerError

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


def both(handler, call, **options):
    """What the call gives on either client; `handler` is made anew for each."""
    with Client("http://test", transport=httpx.MockTransport(handler()), **options) as client:
        first = call(client)

    async def main():
        transport = httpx.MockTransport(handler())
        async with AsyncClient("http://test", transport=transport, **options) as client:
            return await call(client)

    return first, asyncio.run(main())


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
    with Client("http://test", transport=httpx.MockTransport(Script(later))) as client:
        with pytest.raises(ServerError) as error:
            client.embed(["5"])
    assert (error.value.status, error.value.code) == (429, "overloaded")


def test_a_failure_is_counted_over_all_inputs():
    item = {"code": "undecodable_image", "detail": "is none", "field": "input[1]"}
    body = {"error": {"code": "undecodable_image", "message": "is none", "param": "input[1]", "errors": [item]}}
    script = Script(echo, httpx.Response(422, json=body))
    with Client("http://test", transport=httpx.MockTransport(script), batch_items=2) as client:
        with pytest.raises(ServerError, match=r"input\[3\]: is none") as error:
            client.embed(["0", "1", "2", "3"])
    assert error.value.items[0].field == "input[3]"


def test_a_text_is_no_picture():
    with Client("http://test") as client, pytest.raises(TypeError):
        client.classify([str(CAT)], ["a"])  # type: ignore[list-item]


def test_the_vectors_are_the_servers(server):
    texts = ["a cat", "고양이"]
    expected = server.embed([*texts, CAT.read_bytes()])
    with Client(server.http, batch_items=2) as client:
        assert client.is_ready()
        np.testing.assert_allclose(client.embed([*texts, CAT]), expected, atol=1e-5)
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
