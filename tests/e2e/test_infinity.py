"""Infinity's requests, on its paths without a version and on those of its `--url-prefix /v1`."""

import base64

import httpx
import numpy as np
import pytest

TEXTS = ["a cat", "a red car", "고양이"]


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_embeddings(server, prefix, cat, car, uri):
    body = {"model": "demo", "input": TEXTS, "encoding_format": "float", "user": None}
    data = server.post(prefix + "/embeddings", body)["data"]
    np.testing.assert_allclose([row["embedding"] for row in data], server.embed(TEXTS), atol=1e-5)
    body = {"model": "demo", "modality": "text", "input": "a cat", "encoding_format": "base64"}
    (row,) = server.post(prefix + "/embeddings", body)["data"]
    decoded = np.frombuffer(base64.b64decode(row["embedding"]), "<f4")
    np.testing.assert_allclose(decoded, server.embed(["a cat"])[0], atol=1e-5)
    body = {"model": "demo", "modality": "image", "input": [uri(cat), uri(car)]}
    data = server.post(prefix + "/embeddings", body)["data"]
    np.testing.assert_allclose([row["embedding"] for row in data], server.embed([cat, car]), atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_classify_is_our_own(server, prefix, cat, uri):
    body = {"images": [uri(cat)], "labels": ["a red car", "a cat"], "templates": "{label}"}
    (scores,) = server.post(prefix + "/classify", body)["results"]
    assert [scored["label"] for scored in scores] == ["a cat", "a red car"]
    for scored in scores:
        expected = server.probability(cat, scored["label"])
        assert scored["probability"] == pytest.approx(expected, abs=1e-5)
    # Infinity's own asks a model that was trained for labels of its own, which none here was.
    answer = httpx.post(server.http + prefix + "/classify", json={"model": "demo", "input": TEXTS})
    assert answer.status_code == 400
    assert "input" in answer.text


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_rerank_and_models(server, prefix):
    documents = ["a red car", "a cat", "a pizza"]
    body = {"model": "demo", "query": "a cat", "documents": documents, "return_documents": False}
    results = server.post(prefix + "/rerank", body)["results"]
    scores = server.scores("a cat", documents)
    assert [result["index"] for result in results] == list(np.argsort(-scores))
    found = [result["relevance_score"] for result in results]
    np.testing.assert_allclose(found, np.sort(scores)[::-1], atol=1e-5)
    models = httpx.get(server.http + prefix + "/models").json()["data"]
    assert [model["id"] for model in models] == ["demo"]
