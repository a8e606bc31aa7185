"""A typed client for siglip-server: embeddings and calibrated pair probabilities of SigLIP models."""

from ._answers import Failure, Label, ModelInfo, ServerError, Similarity
from ._requests import Item, Picture
from .asynchronous import AsyncClient
from .synchronous import Client

__all__ = [
    "AsyncClient",
    "Client",
    "Failure",
    "Item",
    "Label",
    "ModelInfo",
    "Picture",
    "ServerError",
    "Similarity",
]
