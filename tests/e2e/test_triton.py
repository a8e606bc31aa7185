"""Triton's clients for the Open Inference Protocol, over HTTP and gRPC."""

import io

import numpy as np
import PIL.Image
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from tritonclient.utils import InferenceServerException


@pytest.fixture(params=["http", "grpc"])
def triton(server, request):
    module, address = {
        "http": (over_http, server.http.removeprefix("http://")),
        "grpc": (over_grpc, server.grpc),
    }[request.param]
    client = module.InferenceServerClient(address)
    yield module, client
    client.close()


def tensor(module, name, array, datatype, **options):
    """An input with its elements."""
    given = module.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array, **options)
    return given


def objects(items):
    return np.array(items, dtype=np.object_)


def test_metadata(triton):
    module, client = triton
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("demo")
    metadata = client.get_model_metadata("demo")
    read = (lambda key: metadata[key]) if module is over_http else (lambda key: getattr(metadata, key))
    names = [
        spec["name"] if module is over_http else spec.name for key in ("inputs", "outputs") for spec in read(key)
    ]
    assert set(names) == {
        "IMAGE", "PIXEL_VALUES", "TEXT", "INPUT_IDS", "EMBEDDING", "LOGIT", "PROBABILITY",
    }
    assert client.get_server_metadata()
    assert not client.is_model_ready("clip")
    assert client.is_model_ready("demo", "1") and not client.is_model_ready("demo", "2")
    config = client.get_model_config("demo", **({} if module is over_http else {"as_json": True}))
    config = config.get("config", config)
    assert config["name"] == "demo"
    assert {tensor["data_type"] for tensor in config["output"]} == {"TYPE_FP32"}


def test_pictures_and_texts(server, triton, cat, car):
    module, client = triton
    inputs = [
        tensor(module, "IMAGE", objects([cat, car]), "BYTES"),
        tensor(module, "TEXT", objects([b"a cat", b"a red car", "고양이".encode()]), "BYTES"),
    ]
    result = client.infer("demo", inputs, model_version="1", request_id="7")
    expected = server.embed([cat, car, "a cat", "a red car", "고양이"])
    np.testing.assert_allclose(result.as_numpy("EMBEDDING"), expected, atol=1e-5)
    probability = result.as_numpy("PROBABILITY")
    assert probability.shape == (2, 3)
    assert probability[0, 0] == pytest.approx(server.probability(cat, "a cat"), abs=1e-5)
    logit = result.as_numpy("LOGIT")
    np.testing.assert_allclose(1 / (1 + np.exp(-logit)), probability, atol=1e-5)
    outputs = [module.InferRequestedOutput("PROBABILITY")]
    only = client.infer("demo", inputs, outputs=outputs)
    assert only.as_numpy("EMBEDDING") is None
    np.testing.assert_allclose(only.as_numpy("PROBABILITY"), probability, atol=1e-5)


def test_prepared_pixels_are_the_picture(server, triton, cat):
    module, client = triton
    metadata = client.get_model_metadata("demo", **({} if module is over_http else {"as_json": True}))
    (spec,) = [spec for spec in metadata["inputs"] if spec["name"] == "PIXEL_VALUES"]
    side = int(spec["shape"][-1])
    # A picture of the model's size is not resized, so both ways see the same pixels.
    picture = PIL.Image.open(io.BytesIO(cat)).convert("RGB").resize((side, side))
    encoded = io.BytesIO()
    picture.save(encoded, format="PNG")
    values = (np.asarray(picture, np.float32) / 255 - 0.5) / 0.5
    values = np.ascontiguousarray(values.transpose(2, 0, 1)[None])
    result = client.infer("demo", [tensor(module, "PIXEL_VALUES", values, "FP32")])
    np.testing.assert_allclose(result.as_numpy("EMBEDDING"), server.embed([encoded.getvalue()]), atol=1e-6)
    wrong = np.zeros((1, 3, side, side + 1), np.float32)
    with pytest.raises(InferenceServerException, match="PIXEL_VALUES"):
        client.infer("demo", [tensor(module, "PIXEL_VALUES", wrong, "FP32")])


def test_token_ids(triton):
    module, client = triton
    for datatype, kind in (("INT64", np.int64), ("INT32", np.int32)):
        ids = np.full((2, 8), 3, kind)
        result = client.infer("demo", [tensor(module, "INPUT_IDS", ids, datatype)])
        rows = result.as_numpy("EMBEDDING")
        np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)
    with pytest.raises(InferenceServerException, match="INPUT_IDS"):
        huge = np.full((1, 8), 2**30, np.int64)
        client.infer("demo", [tensor(module, "INPUT_IDS", huge, "INT64")])


def test_json_over_http(server, cat, uri):
    client = over_http.InferenceServerClient(server.http.removeprefix("http://"))
    texts = tensor(over_http, "TEXT", objects([b"a cat"]), "BYTES", binary_data=False)
    outputs = [over_http.InferRequestedOutput("EMBEDDING", binary_data=False)]
    result = client.infer("demo", [texts], outputs=outputs)
    np.testing.assert_allclose(result.as_numpy("EMBEDDING"), server.embed(["a cat"]), atol=1e-5)
    client.close()
    body = {"inputs": [{"name": "IMAGE", "shape": [1], "datatype": "BYTES", "data": [uri(cat)]}]}
    (output,) = server.post("/v2/models/demo/infer", body)["outputs"]
    assert (output["name"], output["datatype"]) == ("EMBEDDING", "FP32")
    np.testing.assert_allclose([output["data"]], server.embed([cat]), atol=1e-5)


def test_errors_name_the_tensor(triton):
    module, client = triton
    with pytest.raises(InferenceServerException, match=r"IMAGE\[0\]"):
        client.infer("demo", [tensor(module, "IMAGE", objects([b"no picture"]), "BYTES")])
    with pytest.raises(InferenceServerException, match="not served here"):
        client.infer("clip", [tensor(module, "TEXT", objects([b"a"]), "BYTES")])
