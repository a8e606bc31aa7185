"""LiteLLM: every provider of it that can be pointed at a server of one's own and is spoken here."""

import litellm
import numpy as np
import pytest

litellm.suppress_debug_info = True

TEXTS = ["a cat", "a red car", "고양이"]
DOCUMENTS = ["a red car", "a cat", "a pizza"]

# What stands behind the server's address in `api_base`.
EMBEDDINGS = [
    ("openai", "/v1"),
    ("openai", ""),
    ("openai_like", "/v1"),
    ("hosted_vllm", "/v1"),
    ("infinity", ""),
    ("infinity", "/v1"),
    ("jina_ai", "/v1"),
    ("litellm_proxy", "/v1"),
    ("lm_studio", "/v1"),
    ("llamafile", "/v1"),
    ("xinference", "/v1"),
    ("nebius", "/v1"),
    ("mistral", "/v1"),
    ("together_ai", "/v1"),
    ("fireworks_ai", "/v1"),
    # This one takes the whole URL.
    ("cohere", "/v2/embed"),
]
RERANKERS = [
    ("cohere", ""),
    ("cohere", "/v2/rerank"),
    ("infinity", ""),
    ("jina_ai", ""),
    ("hosted_vllm", ""),
    ("hosted_vllm", "/v1"),
    ("huggingface", ""),
    ("together_ai", "/v1"),
    ("litellm_proxy", ""),
    ("azure_ai", ""),
    ("voyage", ""),
    ("voyage", "/v1"),
]


def embed(server, provider: str, base: str, **options) -> litellm.EmbeddingResponse:
    model, api_base = f"{provider}/demo", server.http + base
    return litellm.embedding(model, api_base=api_base, api_key="unused", max_retries=0, **options)


@pytest.mark.parametrize(("provider", "base"), EMBEDDINGS)
def test_embedding(server, provider, base):
    answer = embed(server, provider, base, input=TEXTS)
    assert [row["index"] for row in answer.data] == [0, 1, 2]
    np.testing.assert_allclose([row["embedding"] for row in answer.data], server.embed(TEXTS), atol=1e-5)
    assert answer.usage.prompt_tokens > 0


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm", "jina_ai"])
def test_fewer_dimensions(server, provider):
    options = {} if provider == "jina_ai" else {"allowed_openai_params": ["dimensions"]}
    answer = embed(server, provider, "/v1", input=["a cat"], dimensions=16, **options)
    expected = server.embed(["a cat"])[0, :16]
    np.testing.assert_allclose(
        answer.data[0]["embedding"], expected / np.linalg.norm(expected), atol=1e-5
    )


def test_pictures_as_jina_has_them(server, cat, uri):
    answer = embed(server, "jina_ai", "/v1", input=[uri(cat), "a cat"])
    expected = server.embed([cat, "a cat"])
    np.testing.assert_allclose([row["embedding"] for row in answer.data], expected, atol=1e-5)


@pytest.mark.parametrize(("provider", "base"), RERANKERS)
def test_rerank(server, provider, base):
    answer = litellm.rerank(
        f"{provider}/demo",
        query="a cat",
        documents=DOCUMENTS,
        top_n=2,
        # Infinity gives documents back as plain strings, on a path that has another answer here.
        return_documents=provider != "infinity",
        api_base=server.http + base,
        api_key="unused",
    )
    query, *documents = server.embed(["a cat", *DOCUMENTS])
    scores = (1 + np.array(documents) @ query) / 2
    best = np.argsort(-scores)[:2]
    assert [result["index"] for result in answer.results] == list(best)
    found = [result["relevance_score"] for result in answer.results]
    np.testing.assert_allclose(found, scores[best], atol=1e-5)


def test_errors_are_its_exceptions(server):
    with pytest.raises(litellm.NotFoundError, match="demo"):
        litellm.embedding(
            "openai/clip", input=["a"], api_base=server.http + "/v1", api_key="unused", max_retries=0
        )
    # A base URL that is nearly right says so.
    with pytest.raises(litellm.NotFoundError, match="did you mean /v1/embeddings"):
        embed(server, "openai", "/v1/v1", input=["a"])
