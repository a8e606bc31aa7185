"""The requests that Meilisearch makes of the settings in docs/recipes/meilisearch.md, and the vectors that it reads in the responses.

Its embedder `rest` fills a template: `{{text}}` or `{{fragment}}` is an input, and `{{..}}` at the end of an array repeats what is
before it. The same template with `{{embedding}}` says where the vectors are.
"""

import base64
import json
import re

import httpx
import numpy as np
from server_fixtures import ROOT, started

REPEAT = "{{..}}"


def settings(name):
    """The settings of the page below a comment."""
    page = (ROOT / "docs" / "recipes" / "meilisearch.md").read_text(encoding="utf-8")
    block = re.search(rf"<!-- settings: {name} -->\n```json\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[1]
    return json.loads(block)["embedders"]["siglip"]


def filled(template, inputs):
    """A request: each array that ends in a repetition has an element for each input."""
    if isinstance(template, dict):
        return {key: filled(value, inputs) for key, value in template.items()}
    if isinstance(template, list) and template[-1] == REPEAT:
        assert template[0] in ("{{text}}", "{{fragment}}")
        return list(inputs)
    return template


def vectors(template, response):
    """The vectors, from where the template has them."""
    if template == "{{embedding}}":
        assert isinstance(response, list) and all(isinstance(value, float) for value in response)
        return [response]
    if isinstance(template, dict):
        return [found for key, value in template.items() for found in vectors(value, response[key])]
    if isinstance(template, list) and template[-1] == REPEAT:
        return [found for one in response for found in vectors(template[0], one)]
    return []


def fragment(value, fields):
    """A fragment's value, with the fields of a document or of a query put in."""
    put_in = lambda text: re.sub(r"\{\{(.*?)\}\}", lambda found: fields[found[1].strip()], text)
    return {key: put_in(text) for key, text in value["value"].items()}


def ask(server, embedder, inputs):
    headers = {"authorization": f"Bearer {embedder['apiKey']}"} if "apiKey" in embedder else {}
    url = server.http + httpx.URL(embedder["url"]).path
    answer = httpx.post(url, json=filled(embedder["request"], inputs), headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    found = np.array(vectors(embedder["response"], answer.json()), np.float32)
    assert found.shape == (len(inputs), embedder["dimensions"])
    return found


def test_texts(server):
    embedder = settings("texts")
    documents = ["a pizza on a table", "a cat"]
    np.testing.assert_allclose(ask(server, embedder, documents), server.embed(documents), atol=1e-5)
    # A query is one text; the server's dimension is found by such a request where it is not set.
    np.testing.assert_allclose(ask(server, embedder, ["a dog"]), server.embed(["a dog"]), atol=1e-5)


def test_images_and_queries(server, cat, car):
    embedder = settings("images")
    photo = embedder["indexingFragments"]["photo"]
    encoded = [base64.b64encode(image).decode() for image in (cat, car)]
    stored = ask(server, embedder, [fragment(photo, {"doc.image": image}) for image in encoded])
    np.testing.assert_allclose(stored, server.embed([cat, car]), atol=1e-5)
    data_uri = fragment(photo, {"doc.image": f"data:image/png;base64,{encoded[0]}"})
    np.testing.assert_allclose(ask(server, embedder, [data_uri])[0], stored[0], atol=1e-5)
    searches = embedder["searchFragments"]
    [words] = ask(server, embedder, [fragment(searches["words"], {"q": "a cat"})])
    [example] = ask(server, embedder, [fragment(searches["example"], {"media.image": encoded[1]})])
    assert np.argmax(stored @ words) == 0 and np.argmax(stored @ example) == 1


def test_the_key(tmp_path):
    embedder = settings("texts")
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[meilisearch]\nkey = "{embedder["apiKey"]}"\n')
    keys.chmod(0o600)
    with started("--api-keys", str(keys)) as guarded:
        assert ask(guarded, embedder, ["a cat"]).shape == (1, 192)
        assert httpx.post(guarded.http + "/v1/embeddings", json={"input": "a cat"}).status_code == 401
