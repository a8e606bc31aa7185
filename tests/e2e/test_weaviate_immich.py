"""The requests of Weaviate's `multi2vec-clip` module and of Immich's smart search."""

import base64
import json

import httpx
import numpy as np


def test_weaviate(server, cat):
    assert httpx.get(server.http + "/.well-known/live").status_code == 204
    assert httpx.get(server.http + "/.well-known/ready").status_code == 204
    assert httpx.get(server.http + "/meta").json()["model"] == "demo"
    body = {"texts": ["a cat"], "images": [base64.b64encode(cat).decode()]}
    answer = server.post("/vectorize", body)
    expected = server.embed(["a cat", cat])
    np.testing.assert_allclose(answer["textVectors"], expected[:1], atol=1e-5)
    np.testing.assert_allclose(answer["imageVectors"], expected[1:], atol=1e-5)


def predict(server, entries, **form):
    answer = httpx.post(server.http + "/predict", data={"entries": json.dumps(entries)}, **form)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_immich(server, cat):
    assert httpx.get(server.http + "/ping").text == "pong"
    entries = {"clip": {"visual": {"modelName": "demo", "options": {}}}}
    answer = predict(server, entries, files={"image": ("blob", cat)})
    np.testing.assert_allclose(json.loads(answer["clip"]), server.embed([cat])[0], atol=1e-5)
    assert answer["imageWidth"] > 0 and answer["imageHeight"] > 0
    entries = {"clip": {"textual": {"modelName": "demo", "options": {"language": "de-DE"}}}}
    # A form without a file, as Immich's server sends it.
    answer = predict(server, entries, files={"text": (None, "a cat")})
    np.testing.assert_allclose(json.loads(answer["clip"]), server.embed(["a cat"])[0], atol=1e-5)
