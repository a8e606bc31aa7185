"""OpenAI's clients for Python and Node, LangChain's embeddings over the former and infinity's."""

import json

import httpx
import numpy as np
import openai
import pytest
from langchain_community.embeddings import InfinityEmbeddings
from langchain_openai import OpenAIEmbeddings

TEXTS = ["a cat", "a red car", "고양이"]


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=server.http + "/v1", api_key="unused", max_retries=0)


def test_texts(server, client):
    # Without a format the client asks for base64 and decodes it.
    answer = client.embeddings.create(model="demo", input=TEXTS)
    np.testing.assert_allclose([row.embedding for row in answer.data], server.embed(TEXTS), atol=1e-5)
    assert answer.usage.total_tokens > 0
    floats = client.embeddings.create(model="demo", input=TEXTS[0], encoding_format="float")
    np.testing.assert_allclose(floats.data[0].embedding, answer.data[0].embedding, atol=1e-5)


def test_fewer_dimensions(server, client):
    row = np.array(client.embeddings.create(model="demo", input="a cat", dimensions=16).data[0].embedding)
    full = server.embed(["a cat"])[0, :16]
    np.testing.assert_allclose(row, full / np.linalg.norm(full), atol=1e-5)


def test_azure(server, client):
    azure = openai.AzureOpenAI(azure_endpoint=server.http, api_version="2024-10-21", api_key="unused", max_retries=0)
    answer = azure.embeddings.create(model="demo", input=TEXTS)
    np.testing.assert_allclose([row.embedding for row in answer.data], server.embed(TEXTS), atol=1e-5)
    with pytest.raises(openai.NotFoundError) as error:
        azure.embeddings.create(model="another", input=TEXTS)
    assert error.value.code == "model_not_found"
    # The path of its newer API.
    newer = openai.OpenAI(base_url=server.http + "/openai/v1", api_key="unused", max_retries=0)
    assert newer.embeddings.create(model="demo", input="a cat").data[0].embedding
    # Without a model in the body, the deployment counts.
    url = server.http + "/openai/deployments/another/embeddings?api-version=2024-10-21"
    assert httpx.post(url, json={"input": "a cat"}).status_code == 404
    assert httpx.post(url, json={"model": "demo", "input": "a cat"}).status_code == 404


def test_models(client):
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").object == "model"


def test_errors_are_its_exceptions(client):
    with pytest.raises(openai.NotFoundError) as error:
        client.embeddings.create(model="clip", input="a")
    assert (error.value.code, error.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as error:
        client.embeddings.create(model="demo", input=[[1, 2, 3]])
    assert "token ids" in error.value.message


def test_langchain(server):
    embeddings = OpenAIEmbeddings(
        model="demo",
        base_url=server.http + "/v1",
        api_key="unused",
        # Else it sends token ids of another model's tokenizer.
        check_embedding_ctx_length=False,
    )
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), server.embed(TEXTS), atol=1e-5)
    np.testing.assert_allclose(embeddings.embed_query("a cat"), server.embed(["a cat"])[0], atol=1e-5)


def test_infinity(server):
    embeddings = InfinityEmbeddings(model="demo", infinity_api_url=server.http + "/v1")
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), server.embed(TEXTS), atol=1e-5)


def test_node(server, node):
    answer = node("openai.mjs", server.http + "/v1", json.dumps(TEXTS))
    np.testing.assert_allclose(answer["vectors"], server.embed(TEXTS), atol=1e-5)
    assert (answer["models"], answer["refused"]) == (["demo"], "model_not_found")


def test_null_is_the_default(server):
    body = {"model": "demo", "input": TEXTS, "encoding_format": None, "dimensions": None, "user": None}
    data = server.post("/v1/embeddings", body)["data"]
    np.testing.assert_allclose([row["embedding"] for row in data], server.embed(TEXTS), atol=1e-5)


def test_a_url_is_refused(server):
    body = {"modality": "image", "input": ["https://example.com/cat.png"]}
    answer = httpx.post(server.http + "/v1/embeddings", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "fetch_forbidden")
