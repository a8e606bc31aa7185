"""A typed client for siglip-server: embeddings and calibrated pair probabilities of SigLIP models."""

from ._answers import Embeddings, Label, ModelInfo, Row, Similarity
from ._errors import ConnectionFailed, Failure, ServerError, SiglipError, TimedOut
from ._requests import Image, Item
from .asynchronous import AsyncClient
from .synchronous import Client

__all__ = [
    "AsyncClient",
    "Client",
    "ConnectionFailed",
    "Embeddings",
    "Failure",
    "Image",
    "Item",
    "Label",
    "ModelInfo",
    "Row",
    "ServerError",
    "SiglipError",
    "Similarity",
    "TimedOut",
]
