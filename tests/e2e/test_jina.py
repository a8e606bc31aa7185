"""Jina's requests, as its reference and its integrations write them."""

import base64

import httpx
import numpy as np
import pytest

TEXTS = ["a cat", "a red car", "고양이"]
PATH = "/v1/embeddings"


def rows(answer: dict) -> list:
    assert [row["index"] for row in answer["data"]] == list(range(len(answer["data"])))
    return [row["embedding"] for row in answer["data"]]


@pytest.mark.parametrize("task", ["retrieval.query", "retrieval.passage", "text-matching", None])
def test_a_task_changes_nothing(server, task):
    body = {"model": "demo", "task": task, "input": TEXTS, "truncate": True, "late_chunking": False}
    np.testing.assert_allclose(rows(server.post(PATH, body)), server.embed(TEXTS), atol=1e-5)


@pytest.mark.parametrize("field", ["embedding_type", "encoding_type", "encoding_format"])
@pytest.mark.parametrize("kind", ["float", "base64", "binary", "ubinary"])
@pytest.mark.parametrize("in_list", [False, True])
def test_every_format_under_every_name(server, field, kind, in_list):
    expected = server.embed(TEXTS)
    body = {"model": "demo", "input": TEXTS, field: [kind] if in_list else kind}
    found = rows(server.post(PATH, body))
    bits = np.packbits(expected > 0, axis=1)
    if kind == "base64":
        found = [np.frombuffer(base64.b64decode(row), "<f4") for row in found]
    expected = {"binary": bits.astype(int) - 128, "ubinary": bits}.get(kind, expected)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_every_kind_of_item(server, cat, car, uri):
    encoded = [base64.b64encode(image).decode() for image in (cat, car)]
    items = [
        {"text": "a cat"},
        {"image": encoded[0]},
        {"image": uri(car)},
        {"bytes": encoded[0]},
        {"url": uri(car)},
        "a red car",
    ]
    answer = server.post(PATH, {"model": "demo", "input": items, "normalized": True})
    expected = server.embed(["a cat", cat, car, cat, car, "a red car"])
    np.testing.assert_allclose(rows(answer), expected, atol=1e-5)


def test_fewer_dimensions(server):
    expected = server.embed(TEXTS)[:, :16]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    answer = server.post(PATH, {"model": "demo", "input": TEXTS, "dimensions": 16})
    np.testing.assert_allclose(rows(answer), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("option", "value"),
    [("late_chunking", True), ("return_multivector", True), ("embedding_type", ["float", "binary"])],
)
def test_what_would_be_another_answer_is_refused_by_name(server, option, value):
    body = {"model": "demo", "input": TEXTS, option: value}
    answer = httpx.post(server.http + PATH, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, option)


def test_a_url_is_refused(server):
    body = {"model": "demo", "input": [{"url": "https://example.com/cat.png"}]}
    answer = httpx.post(server.http + PATH, json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "fetch_forbidden")


def test_rerank(server):
    documents = ["a red car", "a cat", "a pizza"]
    body = {"model": "demo", "query": "a cat", "documents": documents, "return_documents": True}
    results = server.post("/v1/rerank", body)["results"]
    scores = server.scores("a cat", documents)
    assert [result["index"] for result in results] == list(np.argsort(-scores))
    for result in results:
        assert result["document"]["text"] == documents[result["index"]]
        assert result["relevance_score"] == pytest.approx(scores[result["index"]], abs=1e-5)
