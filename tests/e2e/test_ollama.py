"""Ollama's clients: its own for Python, LiteLLM's provider and LangChain's embeddings."""

import json

import httpx
import litellm
import numpy as np
import ollama
import pytest

TEXTS = ["a cat", "a red car", "고양이"]


@pytest.fixture
def client(server):
    return ollama.Client(host=server.http)


def test_embed(server, client):
    answer = client.embed("demo", TEXTS, truncate=True, options={"num_ctx": 512}, keep_alive="5m")
    np.testing.assert_allclose(answer.embeddings, server.embed(TEXTS), atol=1e-5)
    assert (answer.model, answer.prompt_eval_count > 0) == ("demo", True)
    # Its tools add a tag to a model's name.
    answer = client.embed("demo:latest", "a cat")
    np.testing.assert_allclose(answer.embeddings, server.embed(["a cat"]), atol=1e-5)


def test_fewer_dimensions(server, client):
    expected = server.embed(["a cat"])[0, :16]
    found = client.embed("demo", "a cat", dimensions=16).embeddings[0]
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-5)


def test_pictures(server, cat, uri):
    found = server.post("/api/embed", {"model": "demo", "input": ["a cat", {"image": uri(cat)}]})
    np.testing.assert_allclose(found["embeddings"], server.embed(["a cat", cat]), atol=1e-5)


def test_the_older_route(server, client):
    answer = client.embeddings("demo", "a cat")
    np.testing.assert_allclose(answer.embedding, server.embed(["a cat"])[0], atol=1e-5)


def test_models(server, client):
    assert [model.model for model in client.list().models] == ["demo"]
    assert httpx.get(server.http + "/api/version").json()["version"]


def test_errors_are_its_exceptions(client):
    with pytest.raises(ollama.ResponseError, match="demo") as error:
        client.embed("clip", "a cat")
    assert error.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="no such route"):
        client.generate("demo", "a cat")


def test_litellm(server):
    answer = litellm.embedding("ollama/demo", input=TEXTS, api_base=server.http)
    np.testing.assert_allclose([row["embedding"] for row in answer.data], server.embed(TEXTS), atol=1e-5)


def test_node(server, node):
    answer = node("ollama.mjs", server.http, json.dumps(TEXTS))
    expected = server.embed(TEXTS)
    np.testing.assert_allclose(answer["many"], expected, atol=1e-5)
    np.testing.assert_allclose(answer["one"], expected[0], atol=1e-5)
    status, message = answer["refused"]
    assert (answer["models"], status) == (["demo"], 404)
    assert "not served" in message
