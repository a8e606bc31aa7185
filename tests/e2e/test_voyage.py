"""Voyage's client."""

import io

import numpy as np
import PIL.Image
import pytest
import voyageai


@pytest.fixture
def client(server):
    return voyageai.Client(api_key="unused", base_url=server.http + "/v1", max_retries=1)


def test_texts_and_pictures(server, client, cat):
    # The client encodes the picture anew, without loss.
    picture = PIL.Image.open(io.BytesIO(cat)).convert("RGB")
    encoded = io.BytesIO()
    picture.save(encoded, format="WEBP", lossless=True)
    answer = client.multimodal_embed(inputs=[["a cat"], [picture]], model="demo")
    expected = server.embed(["a cat", encoded.getvalue()])
    np.testing.assert_allclose(answer.embeddings, expected, atol=1e-5)
    assert answer.total_tokens == answer.text_tokens > 0


@pytest.mark.parametrize("kind", ["float", "int8", "uint8", "binary", "ubinary"])
def test_every_type(server, client, kind):
    answer = client.multimodal_embed(inputs=[["a cat"]], model="demo", output_dtype=kind)
    row = server.embed(["a cat"])[0]
    bits = np.packbits(row > 0).astype(int)
    expected = {
        "float": row,
        "int8": np.round(row * 127),
        "uint8": np.round(row * 127) + 128,
        "binary": bits - 128,
        "ubinary": bits,
    }[kind]
    np.testing.assert_allclose(answer.embeddings[0], expected, atol=1e-5)


def test_errors_are_its_exceptions(client, cat):
    picture = PIL.Image.open(io.BytesIO(cat))
    with pytest.raises(voyageai.error.InvalidRequestError, match="one text or one image"):
        client.multimodal_embed(inputs=[["a cat", picture]], model="demo")
    with pytest.raises(voyageai.error.MalformedRequestError, match="does not fetch"):
        content = [{"type": "image_url", "image_url": "https://example.com/cat.png"}]
        client.multimodal_embed(inputs=[{"content": content}], model="demo")
