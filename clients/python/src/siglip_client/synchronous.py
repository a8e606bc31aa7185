"""The client that blocks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import httpx
import numpy as np

from . import _answers, _requests
from ._answers import Label, ModelInfo, Similarity
from ._requests import Item, Picture
from ._retry import Retries


class Client:
    """Talks to one server; close it, or use it in a `with`.

    Args:
        base_url: where the server is, such as `http://127.0.0.1:8080`.
        api_key: sent as a bearer token.
        model: the model's name; the server's default where None.
        timeout: seconds that one try may take.
        max_retries: how often a request is tried again.
        retry_timeout: seconds that all pauses between tries may take together.
        batch_items: most items of one request.
        batch_bytes: most bytes of one request's items, unless a single one has more.
        transport: for tests.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        model: str | None = None,
        timeout: float = 60.0,
        max_retries: int = 5,
        retry_timeout: float = 60.0,
        batch_items: int = 256,
        batch_bytes: int = 16 << 20,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(
            base_url=base_url, headers=headers, timeout=timeout, transport=transport
        )
        self._model = model
        self._retries = (max_retries, retry_timeout)
        self._batch = (batch_items, batch_bytes)

    def embed(
        self, items: Sequence[Item], *, dimensions: int | None = None, normalized: bool = True
    ) -> np.ndarray:
        """Embeds texts and pictures.

        Returns:
            `float32 [items, dimension]`, in the order of the items; of length 1 if `normalized`.

        Raises:
            ServerError: the first batch's that failed.
        """
        found = [
            _answers.vectors(
                self._post("/v1/embeddings", self._embeddings(batch, dimensions, normalized), start)
            )
            for start, batch in _requests.batches(items, *self._batch)
        ]
        return np.concatenate(found) if found else np.empty((0, 0), np.float32)

    def similarity(self, pictures: Sequence[Picture], texts: Sequence[str]) -> Similarity:
        """Scores every picture against every text.

        Raises:
            ServerError: of embedding either side, or of the scores.
            TypeError: for a text among the pictures.
        """
        images, columns = self.embed(_requests.pictures(pictures)), self.embed(texts)
        return self.similarity_of(images, columns)

    def similarity_of(self, images: np.ndarray, texts: np.ndarray) -> Similarity:
        """Scores stored embeddings, `[rows, dimension]` each; normalised or not."""
        body = {"image_embeddings": _requests.rows(images), "text_embeddings": _requests.rows(texts)}
        body |= _requests.given(model=self._model)
        return _answers.similarity(self._post("/v1/similarity", body))

    def classify(
        self,
        pictures: Sequence[Picture],
        labels: Sequence[str],
        *,
        templates: Sequence[str] | None = None,
        top_k: int | None = None,
    ) -> list[list[Label]]:
        """Judges every label for every picture, each on its own; best first.

        Raises:
            ServerError: of embedding the pictures, or of the scores.
            TypeError: for a text among the pictures.
        """
        images = _requests.rows(self.embed(_requests.pictures(pictures))) if pictures else []
        options = _requests.given(model=self._model, templates=templates, top_k=top_k)
        body = {"image_embeddings": images, "labels": list(labels)} | options
        return _answers.labels(self._post("/v1/classify", body)) if images else []

    def models(self) -> list[ModelInfo]:
        """The models that are loaded, the default first."""
        return _answers.models(_answers.check(self._send("GET", "/info")))

    def is_ready(self) -> bool:
        """Whether the server wants traffic. Not tried again: the answer is for now."""
        return self._http.get("/health/ready").is_success

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _embeddings(
        self, batch: list[dict[str, str]], dimensions: int | None, normalized: bool
    ) -> dict[str, Any]:
        return _requests.embeddings(batch, self._model, dimensions, normalized)

    def _post(self, path: str, body: dict[str, Any], offset: int = 0) -> Any:
        return _answers.check(self._send("POST", path, body), offset)

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        retries = Retries(*self._retries)
        while True:
            try:
                response = self._http.request(method, path, json=body)
            except httpx.TransportError:
                pause = retries.pause(None)
                if pause is None:
                    raise
            else:
                pause = None if response.is_success else retries.pause(response)
                if pause is None:
                    return response
            time.sleep(pause)
