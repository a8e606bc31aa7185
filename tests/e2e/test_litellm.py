"""LiteLLM: every provider of it that can be pointed at a server of one's own and is spoken here."""

import base64

import litellm
import numpy as np
import pytest

litellm.suppress_debug_info = True

TEXTS = ["a cat", "a red car", "고양이"]
DOCUMENTS = ["a red car", "a cat", "a pizza"]

# What stands behind the server's address in `api_base`. Providers that ask no other service first.
EMBEDDINGS = [
    *(
        (provider, base)
        for provider in (
            "azure_ai",
            "cometapi",
            "dashscope",
            "databricks",
            "edenai",
            "empiriolabs",
            "fireworks_ai",
            "hosted_vllm",
            "hostinger_router",
            "infinity",
            "jina_ai",
            "litellm_proxy",
            "llamafile",
            "lm_studio",
            "mistral",
            "nebius",
            "nvidia_nim",
            "openai",
            "openai_like",
            "openrouter",
            "ovhcloud",
            "qwen_ai_platform",
            "qwencloud",
            "sambanova",
            "together_ai",
            "vercel_ai_gateway",
            "voyage",
            "wandb",
            "xinference",
        )
        for base in ("", "/v1")
    ),
    ("ollama", ""),
    ("perplexity", ""),
    # These take the whole URL.
    ("cohere", "/v2/embed"),
    ("cohere", "/v1/embed"),
    ("cohere_chat", "/v2/embed"),
    ("perplexity", "/v1/embeddings"),
    ("voyage", "/v1/embeddings"),
    ("azure", ""),
]
RERANKERS = [
    ("azure_ai", ""),
    ("azure_ai", "/v1"),
    ("cohere", ""),
    ("cohere", "/v2/rerank"),
    ("dashscope", "/v1/rerank"),
    ("hosted_vllm", ""),
    ("hosted_vllm", "/v1"),
    ("huggingface", ""),
    ("infinity", ""),
    ("infinity", "/v1"),
    ("jina_ai", ""),
    ("jina_ai", "/v1"),
    ("litellm_proxy", ""),
    ("qwen_ai_platform", "/v1/rerank"),
    ("qwencloud", "/v1/rerank"),
    ("scaleway", ""),
    ("scaleway", "/v1"),
    ("together_ai", ""),
    ("together_ai", "/v1"),
    ("voyage", ""),
    ("voyage", "/v1"),
]


def embed(server, provider: str, base: str, **options) -> litellm.EmbeddingResponse:
    model, api_base = f"{provider}/demo", server.http + base
    if provider == "azure":
        options["api_version"] = "2024-10-21"
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


@pytest.mark.parametrize(("provider", "base"), [("openai", "/v1"), ("hosted_vllm", ""), ("azure_ai", "")])
@pytest.mark.parametrize("encoding_format", [None, "float", "base64"])
def test_a_format(server, provider, base, encoding_format):
    answer = embed(server, provider, base, input=["a cat"], encoding_format=encoding_format)
    (row,) = (row["embedding"] for row in answer.data)
    found = np.frombuffer(base64.b64decode(row), "<f4") if isinstance(row, str) else row
    np.testing.assert_allclose(found, server.embed(["a cat"])[0], atol=1e-5)


def test_one_text_as_oobabooga_reads_it(server):
    answer = embed(server, "oobabooga", "", input=["a cat"])
    np.testing.assert_allclose(answer.data[0]["embedding"], server.embed(["a cat"])[0], atol=1e-5)


def test_pictures_as_azure_ai_has_them(server, cat, uri):
    answer = embed(server, "azure_ai", "", input=[uri(cat)])
    np.testing.assert_allclose(answer.data[0]["embedding"], server.embed([cat])[0], atol=1e-5)


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
    scores = server.scores("a cat", DOCUMENTS)
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
