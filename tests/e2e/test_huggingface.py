"""Hugging Face's inference client, as it speaks to text-embeddings-inference and to an endpoint."""

import httpx
import numpy as np
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

TEXTS = ["a cat", "a red car"]


@pytest.fixture
def client(server):
    return InferenceClient(server.http, provider="hf-inference", timeout=60)


def test_feature_extraction(server, client):
    expected = server.embed(TEXTS)
    np.testing.assert_allclose(client.feature_extraction(TEXTS), expected, atol=1e-5)
    one = client.feature_extraction("a cat", normalize=True, truncate=True, model=server.http + "/embed")
    np.testing.assert_allclose(one, expected[:1], atol=1e-5)


def test_features_that_are_not_normalised(server, client):
    raw = np.array(client.feature_extraction(TEXTS, normalize=False))
    norms = np.linalg.norm(raw, axis=1, keepdims=True)
    assert np.abs(norms - 1).max() > 1e-3
    np.testing.assert_allclose(raw / norms, server.embed(TEXTS), atol=1e-5)


def test_sentence_similarity(server, client):
    query, *others = server.embed(["a cat", "a kitten", "a red car"])
    found = client.sentence_similarity("a cat", other_sentences=["a kitten", "a red car"])
    np.testing.assert_allclose(found, [query @ other for other in others], atol=1e-5)
    found = client.sentence_similarity(
        "a cat", other_sentences=["a kitten"], model=server.http + "/similarity"
    )
    np.testing.assert_allclose(found, [query @ others[0]], atol=1e-5)


def test_zero_shot_image_classification(server, client, cat):
    labels = ["a red car", "a cat"]
    found = client.zero_shot_image_classification(cat, candidate_labels=labels, hypothesis_template="{}")
    assert [element.label for element in found] == ["a cat", "a red car"]
    for element in found:
        assert element.score == pytest.approx(server.probability(cat, element.label), abs=1e-5)
    # Without a template it is that of the pipeline.
    found = client.zero_shot_image_classification(cat, candidate_labels=labels)
    expected = server.probability(cat, "This is a photo of a cat.")
    assert found[0].score == pytest.approx(expected, abs=1e-5)


def test_health_and_info(client):
    assert client.health_check()
    info = client.get_endpoint_info()
    assert (info["model_id"], info["auto_truncate"]) == ("demo", True)


def test_rerank(server, cat, uri):
    query, *others = server.embed(["a cat", "a red car", "a kitten"])
    body = {"query": "a cat", "texts": ["a red car", "a kitten"], "return_text": True}
    answer = server.post("/rerank", body)
    assert [row["index"] for row in answer] == [1, 0]
    assert answer[0]["score"] == pytest.approx((1 + query @ others[1]) / 2, abs=1e-5)
    answer = server.post("/rerank", {"query": {"image": uri(cat)}, "texts": ["a cat"]})
    assert answer[0]["score"] == pytest.approx(server.probability(cat, "a cat"), abs=1e-5)


def test_errors_have_its_status(client, server):
    with pytest.raises(HfHubHTTPError) as error:
        client.feature_extraction([])
    assert error.value.response.status_code == 422
    answer = httpx.post(server.http + "/embed", json={"inputs": []})
    assert (answer.status_code, answer.json()["error_type"]) == (422, "Validation")
