"""LlamaIndex's integrations that can be pointed at an address: OpenAI, Jina's reranker and Cohere."""

import numpy as np
import pytest
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.embeddings.cohere import CohereEmbedding
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.postprocessor.cohere_rerank import CohereRerank
from llama_index.postprocessor.jinaai_rerank import JinaRerank

TEXTS = ["a cat", "a red car", "고양이"]
DOCUMENTS = ["a red car", "a cat", "a pizza"]


@pytest.fixture
def nodes():
    return [NodeWithScore(node=TextNode(text=text)) for text in DOCUMENTS]


def ranked(server) -> list:
    """Pairs of a document and its score, the best first."""
    scores = server.scores("a cat", DOCUMENTS)
    return [(DOCUMENTS[index], pytest.approx(scores[index], abs=1e-5)) for index in np.argsort(-scores)]


def check(server, embedding):
    rows = embedding.get_text_embedding_batch(TEXTS)
    np.testing.assert_allclose(rows, server.embed(TEXTS), atol=1e-5)
    row = embedding.get_query_embedding("a cat")
    np.testing.assert_allclose(row, server.embed(["a cat"])[0], atol=1e-5)


def test_openai(server):
    check(server, OpenAIEmbedding(model_name="demo", api_base=server.http + "/v1", api_key="unused"))


def test_jina_rerank(server, nodes):
    reranker = JinaRerank(model="demo", base_url=server.http + "/v1", api_key="unused", top_n=2)
    found = reranker.postprocess_nodes(nodes, query_str="a cat")
    assert [(node.text, node.score) for node in found] == ranked(server)[:2]


def test_cohere(server):
    cohere = CohereEmbedding(model_name="embed-v4.0", base_url=server.http, api_key="unused")
    # It knows Cohere's names alone, and asks for nothing else when it is made.
    cohere.model_name = "demo"
    check(server, cohere)


def test_cohere_rerank(server, nodes):
    reranker = CohereRerank(model="demo", base_url=server.http, api_key="unused", top_n=2)
    found = reranker.postprocess_nodes(nodes, query_str="a cat")
    assert [(node.text, node.score) for node in found] == ranked(server)[:2]
