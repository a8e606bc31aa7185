"""LangChain's integrations that can be pointed at an address: embeddings of Cohere and Ollama, rerankers of Cohere and
Voyage. Those of OpenAI are tried beside OpenAI's own client."""

import numpy as np
import pytest
from langchain_cohere import CohereEmbeddings, CohereRerank
from langchain_core.documents import Document
from langchain_ollama import OllamaEmbeddings
from langchain_voyageai import VoyageAIRerank

TEXTS = ["a cat", "a red car", "고양이"]
DOCUMENTS = ["a red car", "a cat", "a pizza"]


def check(server, embeddings):
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), server.embed(TEXTS), atol=1e-5)
    np.testing.assert_allclose(embeddings.embed_query("a cat"), server.embed(["a cat"])[0], atol=1e-5)


def check_rerank(server, reranker):
    found = reranker.compress_documents([Document(text) for text in DOCUMENTS], "a cat")
    scores = server.scores("a cat", DOCUMENTS)
    best = np.argsort(-scores)[:2]
    assert [document.page_content for document in found] == [DOCUMENTS[index] for index in best]
    scored = [document.metadata["relevance_score"] for document in found]
    np.testing.assert_allclose(scored, scores[best], atol=1e-5)


def test_cohere(server):
    options = {"model": "demo", "base_url": server.http, "cohere_api_key": "unused"}
    check(server, CohereEmbeddings(**options))
    expected = np.round(server.embed(TEXTS) * 127)
    found = CohereEmbeddings(**options, embedding_types=["int8"]).embed_documents(TEXTS)
    np.testing.assert_allclose(found, expected, atol=1)


def test_cohere_rerank(server):
    check_rerank(
        server, CohereRerank(model="demo", base_url=server.http, cohere_api_key="unused", top_n=2)
    )


def test_voyage_rerank(server):
    base = server.http + "/v1"
    check_rerank(server, VoyageAIRerank(model="demo", base_url=base, api_key="unused", top_k=2))


def test_ollama(server):
    check(server, OllamaEmbeddings(model="demo", base_url=server.http))


def test_errors_are_the_clients_own(server):
    embeddings = OllamaEmbeddings(model="clip", base_url=server.http)
    with pytest.raises(Exception, match="not served"):
        embeddings.embed_query("a cat")
