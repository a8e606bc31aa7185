"""Cohere's clients, in both versions of its API."""

import base64
import json

import cohere
import numpy as np
import pytest

TEXTS = ["a cat", "a red car"]


@pytest.fixture
def client(server):
    return cohere.ClientV2(api_key="unused", base_url=server.http, max_retries=0)


def test_texts_in_every_type(server, client):
    types = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    answer = client.embed(
        model="demo", texts=TEXTS, input_type="search_document", embedding_types=types
    )
    expected = server.embed(TEXTS)
    found = answer.embeddings
    np.testing.assert_allclose(found.float_, expected, atol=1e-5)
    decoded = [np.frombuffer(base64.b64decode(row), "<f4") for row in found.base64]
    np.testing.assert_allclose(decoded, expected, atol=1e-5)
    np.testing.assert_allclose(found.int8, np.round(expected * 127), atol=1)
    np.testing.assert_array_equal(np.array(found.uint8), np.array(found.int8) + 128)
    bits = np.packbits(np.array(found.float_) > 0, axis=1)
    np.testing.assert_array_equal(found.ubinary, bits)
    np.testing.assert_array_equal(np.array(found.binary), bits.astype(int) - 128)
    assert answer.texts == TEXTS
    assert answer.meta.billed_units.input_tokens > 0


def test_pictures_and_inputs(server, client, cat, uri):
    answer = client.embed(model="demo", images=[uri(cat)], input_type="image", embedding_types=["float"])
    np.testing.assert_allclose(answer.embeddings.float_, server.embed([cat]), atol=1e-5)
    inputs = [
        {"content": [{"type": "text", "text": "a cat"}]},
        {"content": [{"type": "image_url", "image_url": {"url": uri(cat)}}]},
    ]
    answer = client.embed(
        model="demo", inputs=inputs, input_type="search_document", embedding_types=["float"]
    )
    np.testing.assert_allclose(answer.embeddings.float_, server.embed(["a cat", cat]), atol=1e-5)


def test_rerank(server, client):
    documents = ["a red car", "a cat", "a pizza"]
    answer = client.rerank(model="demo", query="a cat", documents=documents, top_n=2)
    assert [result.index for result in answer.results][0] == 1
    assert len(answer.results) == 2
    expected = server.scores("a cat", documents)[answer.results[1].index]
    assert answer.results[1].relevance_score == pytest.approx(expected, abs=1e-5)


def test_errors_are_its_exceptions(client):
    with pytest.raises(cohere.NotFoundError):
        client.embed(model="clip", texts=["a"], input_type="search_query", embedding_types=["float"])
    with pytest.raises(cohere.UnprocessableEntityError) as error:
        client.embed(
            model="demo",
            images=["https://example.com/cat.png"],
            input_type="image",
            embedding_types=["float"],
        )
    assert error.value.body["code"] == "fetch_forbidden"


def test_the_first_version(server, cat, uri):
    client = cohere.Client(api_key="unused", base_url=server.http)
    expected = server.embed(TEXTS)
    answer = client.embed(model="demo", texts=TEXTS, input_type="search_document", truncate="END")
    assert answer.response_type == "embeddings_floats"
    np.testing.assert_allclose(answer.embeddings, expected, atol=1e-5)
    assert answer.texts == TEXTS

    types = ["float", "int8"]
    answer = client.embed(
        model="demo", texts=TEXTS, input_type="search_document", embedding_types=types
    )
    np.testing.assert_allclose(answer.embeddings.float_, expected, atol=1e-5)
    np.testing.assert_allclose(answer.embeddings.int8, np.round(expected * 127), atol=1)

    answer = client.embed(model="demo", images=[uri(cat)], input_type="image", embedding_types=["float"])
    np.testing.assert_allclose(answer.embeddings.float_, server.embed([cat]), atol=1e-5)

    documents = ["a red car", "a cat", "a pizza"]
    answer = client.rerank(model="demo", query="a cat", documents=documents, return_documents=True)
    scores = server.scores("a cat", documents)
    assert [result.index for result in answer.results] == list(np.argsort(-scores))
    assert answer.results[0].document.text == "a cat"
    assert answer.results[0].relevance_score == pytest.approx(scores.max(), abs=1e-5)
    with pytest.raises(cohere.NotFoundError):
        client.embed(model="clip", texts=["a"], input_type="search_query")


def test_node(server, node, cat, uri):
    texts = ["a red car", "a cat", "고양이"]
    answer = node("cohere.mjs", server.http, json.dumps(texts), uri(cat))
    expected = server.embed(texts)
    np.testing.assert_allclose(answer["floats"], expected, atol=1e-5)
    np.testing.assert_allclose(answer["typed"]["float"], expected, atol=1e-5)
    np.testing.assert_allclose(answer["typed"]["int8"], np.round(expected * 127), atol=1)
    bits = np.packbits(np.array(answer["typed"]["float"]) > 0, axis=1)
    np.testing.assert_array_equal(answer["typed"]["ubinary"], bits)
    np.testing.assert_allclose(answer["images"], server.embed([cat]), atol=1e-5)
    scores = server.scores("a cat", texts)
    best = np.argsort(-scores)[:2]
    for results in answer["ranks"]:
        assert [result["index"] for result in results] == list(best)
        found = [result["relevanceScore"] for result in results]
        np.testing.assert_allclose(found, scores[best], atol=1e-5)
    assert answer["refused"] == [404, "model_not_found"]
