"""vLLM's requests, as its documentation writes them: conversations, scores and ranks."""

import httpx
import numpy as np
import pytest

PATH = "/v1/embeddings"


def message(*parts: dict) -> dict:
    return {"role": "user", "content": list(parts)}


def text(words: str) -> dict:
    return {"type": "text", "text": words}


@pytest.fixture
def picture(cat, uri) -> dict:
    return {"type": "image_url", "image_url": {"url": uri(cat), "detail": "auto"}}


def embedded(server, messages: list, **options) -> list:
    body = {"model": "demo", "messages": messages, "encoding_format": "float", **options}
    return [row.get("embedding") for row in server.post(PATH, body)["data"]]


def test_one_conversation(server, cat, picture):
    (row,) = embedded(server, [message(picture)])
    np.testing.assert_allclose(row, server.embed([cat])[0], atol=1e-5)
    (row,) = embedded(server, [{"role": "user", "content": "a cat"}])
    np.testing.assert_allclose(row, server.embed(["a cat"])[0], atol=1e-5)


def test_several_parts(server, cat, picture):
    (row,) = embedded(server, [message(text("a cat"), text("on a mat"))])
    np.testing.assert_allclose(row, server.embed(["a cat\non a mat"])[0], atol=1e-5)
    # What reads both is sent an empty text beside an image.
    (row,) = embedded(server, [message(picture, text(""))])
    np.testing.assert_allclose(row, server.embed([cat])[0], atol=1e-5)


def test_several_conversations(server, cat, picture):
    messages = [[message(text("a cat"))], [message(picture)], [message(text("고양이"))]]
    expected = server.embed(["a cat", cat, "고양이"])
    np.testing.assert_allclose(embedded(server, messages), expected, atol=1e-5)
    messages[1][0]["content"].append(text("a cat"))
    first, none, last = embedded(server, messages, on_error="item")
    np.testing.assert_allclose([first, last], expected[[0, 2]], atol=1e-5)
    assert none is None


def test_what_has_no_vector_is_refused(server, picture):
    for messages, param in [
        ([message(picture, text("a cat"))], "messages"),
        ([message(picture, picture)], "messages"),
        ([message(text("a cat")), message(text("a dog"))], "messages"),
        ([[message(text("a cat"))], [message(picture, picture)]], "messages[1]"),
    ]:
        answer = httpx.post(server.http + PATH, json={"messages": messages})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


def test_score_one_to_many(server, cat, car, uri):
    content = [{"type": "image_url", "image_url": {"url": uri(image)}} for image in (cat, car)]
    body = {"model": "demo", "queries": "a cat", "documents": {"content": content}}
    for path in ("/score", "/v1/score"):
        answer = server.post(path, body)
        scores = [row["score"] for row in answer["data"]]
        expected = [server.probability(image, "a cat") for image in (cat, car)]
        assert scores == pytest.approx(expected, abs=1e-5)
        assert scores[0] > scores[1]


def test_score_pairs_of_texts(server):
    rows = server.embed(["a cat", "a kitten", "a red car", "a truck"])
    body = {"model": "demo", "text_1": ["a cat", "a red car"], "text_2": ["a kitten", "a truck"]}
    scores = [row["score"] for row in server.post("/score", body)["data"]]
    expected = [(1 + rows[0] @ rows[1]) / 2, (1 + rows[2] @ rows[3]) / 2]
    assert scores == pytest.approx(expected, abs=1e-5)


def test_rerank_pictures(server, cat, car, uri):
    body = {
        "model": "demo",
        "query": "a cat",
        "documents": [{"image": uri(car)}, {"image": uri(cat)}],
        "top_n": 1,
    }
    for path in ("/rerank", "/v1/rerank"):
        (best,) = server.post(path, body)["results"]
        assert best["index"] == 1
        expected = server.probability(cat, "a cat")
        assert best["relevance_score"] == pytest.approx(expected, abs=1e-5)
