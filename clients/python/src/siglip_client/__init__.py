"""A typed client for siglip-server: embeddings and calibrated pair probabilities of SigLIP models."""

from ._answers import Caption, Embeddings, Features, Label, ModelInfo, Row, Similarity
from ._errors import ConnectionFailed, Failure, ServerError, SiglipError, TimedOut
from ._folder import Folder, load_vectors
from ._requests import Image, Item
from .asynchronous import AsyncClient
from .synchronous import Client

__all__ = [
    "AsyncClient",
    "Caption",
    "Client",
    "ConnectionFailed",
    "Embeddings",
    "Failure",
    "Features",
    "Folder",
    "Image",
    "Item",
    "Label",
    "ModelInfo",
    "Row",
    "ServerError",
    "SiglipError",
    "Similarity",
    "TimedOut",
    "load_vectors",
]
