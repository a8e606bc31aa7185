"""Our own protocol, with stubs that the protocol compiler makes of it; health and reflection beside it."""

import numpy as np
import pytest
from grpc import Compression, RpcError, StatusCode, insecure_channel
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

# `run` makes them.
from siglip.v1 import embedding_pb2 as messages
from siglip.v1.embedding_pb2_grpc import EmbeddingServiceStub


@pytest.fixture(scope="module")
def channel(server):
    with insecure_channel(server.grpc) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel):
    return EmbeddingServiceStub(channel)


def image(encoded: bytes) -> messages.Image:
    return messages.Image(encoded=encoded)


def given(item) -> messages.Input:
    """A text, or a picture where it is bytes."""
    return messages.Input(image=image(item)) if isinstance(item, bytes) else messages.Input(text=item)


def matrix(message: messages.Matrix) -> np.ndarray:
    return np.array(message.values, np.float32).reshape(message.rows, message.columns)


def test_embed(server, stub, cat):
    items = ["a cat", cat, "고양이"]
    answer = stub.Embed(messages.EmbedRequest(input=map(given, items)))
    assert (answer.model, answer.usage.images) == ("demo", 1)
    np.testing.assert_allclose(matrix(answer.embeddings), server.embed(items), atol=1e-5)
    cut = stub.Embed(messages.EmbedRequest(input=[given("a cat")], dimensions=16))
    full = server.embed(["a cat"])[:, :16]
    np.testing.assert_allclose(matrix(cut.embeddings), full / np.linalg.norm(full), atol=1e-5)


def test_embed_with_an_error_for_each_item(server, stub):
    request = messages.EmbedRequest(
        input=map(given, [b"no picture", "a cat"]), on_error=messages.ON_ERROR_ITEM
    )
    answer = stub.Embed(request)
    assert [(error.index, error.code) for error in answer.errors] == [(0, "undecodable_image")]
    np.testing.assert_allclose(matrix(answer.embeddings)[1:], server.embed(["a cat"]), atol=1e-5)


def test_compressed_messages(server, stub, cat):
    request = messages.EmbedRequest(input=map(given, ["a cat", cat]))
    answer = stub.Embed(request, compression=Compression.Gzip)
    np.testing.assert_allclose(matrix(answer.embeddings), server.embed(["a cat", cat]), atol=1e-5)


def test_similarity(server, stub, cat, car):
    texts = ["a cat", "a red car"]
    answer = stub.Similarity(messages.SimilarityRequest(images=[image(cat), image(car)], texts=texts))
    expected = [[server.probability(picture, text) for text in texts] for picture in (cat, car)]
    np.testing.assert_allclose(matrix(answer.probability), expected, atol=1e-5)


def test_classify(server, stub, cat):
    request = messages.ClassifyRequest(
        images=[image(cat)], labels=["a red car", "a cat"], templates=["{label}"], top_k=1
    )
    (row,) = stub.Classify(request).images
    assert row.scores[0].label == 1
    assert row.scores[0].probability == pytest.approx(server.probability(cat, "a cat"), abs=1e-5)


def test_features(server, stub, cat):
    request = messages.FeaturesRequest(images=[image(cat)], output=messages.FEATURE_OUTPUT_POOLED)
    (pooled,) = stub.Features(request).features
    row = np.frombuffer(pooled.values, "<f4").reshape(pooled.tokens, pooled.width)
    np.testing.assert_allclose(row / np.linalg.norm(row), server.embed([cat]), atol=1e-5)


def test_a_stream_echoes_ids_and_fails_row_by_row(server, stub, cat):
    items = {"t": "a cat", "broken": b"no picture", "p": cat}

    def requests():
        options = messages.EmbedStreamOptions(model="demo", encoding=messages.ENCODING_F32)
        yield messages.EmbedStreamRequest(options=options)
        for name, item in items.items():
            row = messages.EmbedStreamRow(id=name, input=given(item))
            yield messages.EmbedStreamRequest(row=row)

    answers = list(stub.EmbedStream(requests(), timeout=60))
    assert [(answer.id, answer.index) for answer in answers] == [("t", 0), ("broken", 1), ("p", 2)]
    assert answers[1].error.code == "undecodable_image"
    rows = [np.frombuffer(answers[index].embedding, "<f4") for index in (0, 2)]
    np.testing.assert_allclose(rows, server.embed(["a cat", cat]), atol=1e-5)


def test_errors_have_a_code_and_a_field(stub):
    with pytest.raises(RpcError) as error:
        stub.Embed(messages.EmbedRequest(input=[given("a cat"), given(b"no picture")]))
    assert error.value.code() == StatusCode.INVALID_ARGUMENT
    trailing = dict(error.value.trailing_metadata())
    assert (trailing["siglip-code"], trailing["siglip-field"]) == ("undecodable_image", "input[1]")


def test_health_and_reflection(channel):
    health = health_pb2_grpc.HealthStub(channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    services = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    for service in ["", *services]:
        assert health.Check(health_pb2.HealthCheckRequest(service=service)).status == serving
    assert {"siglip.v1.EmbeddingService", "inference.GRPCInferenceService"} <= services
