"""vLLM's and Jina's requests for scores and ranks, as their documentation writes them."""

import pytest


def test_score_one_to_many(server, cat, car, uri):
    content = [{"type": "image_url", "image_url": {"url": uri(image)}} for image in (cat, car)]
    body = {"model": "demo", "queries": "a cat", "documents": {"content": content}}
    for path in ("/score", "/v1/score"):
        answer = server.post(path, body)
        scores = [row["score"] for row in answer["data"]]
        expected = [server.probability(image, "a cat") for image in (cat, car)]
        assert scores == pytest.approx(expected, abs=1e-5)
        assert scores[0] > scores[1]


def test_score_pairs_of_texts(server):
    rows = server.embed(["a cat", "a kitten", "a red car", "a truck"])
    body = {"model": "demo", "text_1": ["a cat", "a red car"], "text_2": ["a kitten", "a truck"]}
    scores = [row["score"] for row in server.post("/score", body)["data"]]
    expected = [(1 + rows[0] @ rows[1]) / 2, (1 + rows[2] @ rows[3]) / 2]
    assert scores == pytest.approx(expected, abs=1e-5)


def test_rerank_pictures(server, cat, car, uri):
    body = {
        "model": "demo",
        "query": "a cat",
        "documents": [{"image": uri(car)}, {"image": uri(cat)}],
        "top_n": 1,
    }
    for path in ("/rerank", "/v1/rerank"):
        (best,) = server.post(path, body)["results"]
        assert best["index"] == 1
        expected = server.probability(cat, "a cat")
        assert best["relevance_score"] == pytest.approx(expected, abs=1e-5)
