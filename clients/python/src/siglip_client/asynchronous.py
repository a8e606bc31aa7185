"""The client whose methods are awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import httpx
import numpy as np

from . import _answers, _requests
from ._answers import Label, ModelInfo, Similarity
from ._requests import Item, Picture
from ._retry import Retries


class AsyncClient:
    """Talks to one server; close it, or use it in an `async with`.

    Args:
        base_url: where the server is, such as `http://127.0.0.1:8080`.
        api_key: sent as a bearer token.
        model: the model's name; the server's default where None.
        timeout: seconds that one try may take.
        max_retries: how often a request is tried again.
        retry_timeout: seconds that all pauses between tries may take together.
        batch_items: most items of one request.
        batch_bytes: most bytes of one request's items, unless a single one has more.
        concurrency: most requests under way at once, over all calls.
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
        concurrency: int = 4,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.AsyncClient(
            base_url=base_url, headers=headers, timeout=timeout, transport=transport
        )
        self._model = model
        self._retries = (max_retries, retry_timeout)
        self._batch = (batch_items, batch_bytes)
        self._slots = asyncio.Semaphore(concurrency)

    async def embed(
        self, items: Sequence[Item], *, dimensions: int | None = None, normalized: bool = True
    ) -> np.ndarray:
        """Embeds texts and pictures.

        Returns:
            `float32 [items, dimension]`, in the order of the items; of length 1 if `normalized`.

        Raises:
            ServerError: the first batch's that failed.
        """
        tasks: list[asyncio.Task[np.ndarray]] = []
        try:
            for start, batch in _requests.batches(items, *self._batch):
                # Waiting for a slot here keeps no more batches in memory than are under way.
                await self._slots.acquire()
                body = self._embeddings(batch, dimensions, normalized)
                tasks.append(asyncio.create_task(self._vectors(body, start)))
                tasks[-1].add_done_callback(lambda _: self._slots.release())
            found = await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            raise
        return np.concatenate(found) if found else np.empty((0, 0), np.float32)

    async def similarity(self, pictures: Sequence[Picture], texts: Sequence[str]) -> Similarity:
        """Scores every picture against every text.

        Raises:
            ServerError: of embedding either side, or of the scores.
            TypeError: for a text among the pictures.
        """
        images = await self.embed(_requests.pictures(pictures))
        columns = await self.embed(texts)
        return await self.similarity_of(images, columns)

    async def similarity_of(self, images: np.ndarray, texts: np.ndarray) -> Similarity:
        """Scores stored embeddings, `[rows, dimension]` each; normalised or not."""
        body = {"image_embeddings": _requests.rows(images), "text_embeddings": _requests.rows(texts)}
        body |= _requests.given(model=self._model)
        return _answers.similarity(await self._post("/v1/similarity", body))

    async def classify(
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
        images = _requests.rows(await self.embed(_requests.pictures(pictures))) if pictures else []
        options = _requests.given(model=self._model, templates=templates, top_k=top_k)
        body = {"image_embeddings": images, "labels": list(labels)} | options
        return _answers.labels(await self._post("/v1/classify", body)) if images else []

    async def models(self) -> list[ModelInfo]:
        """The models that are loaded, the default first."""
        return _answers.models(_answers.check(await self._send("GET", "/info")))

    async def is_ready(self) -> bool:
        """Whether the server wants traffic. Not tried again: the answer is for now."""
        return (await self._http.get("/health/ready")).is_success

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _embeddings(
        self, batch: list[dict[str, str]], dimensions: int | None, normalized: bool
    ) -> dict[str, Any]:
        return _requests.embeddings(batch, self._model, dimensions, normalized)

    async def _vectors(self, body: dict[str, Any], start: int) -> np.ndarray:
        return _answers.vectors(await self._post("/v1/embeddings", body, start))

    async def _post(self, path: str, body: dict[str, Any], offset: int = 0) -> Any:
        return _answers.check(await self._send("POST", path, body), offset)

    async def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        retries = Retries(*self._retries)
        while True:
            try:
                response = await self._http.request(method, path, json=body)
            except httpx.TransportError:
                pause = retries.pause(None)
                if pause is None:
                    raise
            else:
                pause = None if response.is_success else retries.pause(response)
                if pause is None:
                    return response
            await asyncio.sleep(pause)
