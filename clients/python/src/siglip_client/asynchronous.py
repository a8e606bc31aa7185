"""The client whose methods are awaited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Any, Literal, overload

import httpx
import numpy as np

from . import _answers, _errors, _options, _requests
from ._answers import Caption, Embedded, Embeddings, Features, Label, ModelInfo, Row, Similarity
from ._errors import ConnectionFailed, Places, TimedOut
from ._options import OnError
from ._requests import Image, Item
from ._retry import Retries
from ._run import Batch, Run


class AsyncClient:
    """Talks to one server; close it, or use it in an `async with`.

    Args:
        base_url: where the server is, such as `http://127.0.0.1:8080`.
        api_key: sent as a bearer token.
        model: the model's name; the server's default where None.
        timeout: seconds that one try may take.
        max_retries: how often a request is tried again.
        retry_timeout: seconds that all pauses between tries may take together.
        batch_items: most items of one request; by default what the server allows. How many there really are follows
            from the measured speed.
        batch_bytes: most bytes of one request's items, unless a single one has more; by default what the server
            allows.
        concurrency: most requests under way at once, over all calls.
        transport: for tests.

    Raises:
        ValueError: for a `base_url` that is no HTTP URL.
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
        batch_items: int | None = None,
        batch_bytes: int | None = None,
        concurrency: int = 4,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(
            base_url=_options.base(base_url),
            headers=_options.headers(api_key),
            timeout=timeout,
            transport=transport,
        )
        self._model = model
        self._retries = (max_retries, retry_timeout)
        self._sizer = _options.sizer(batch_items, batch_bytes)
        self._limits_known = False
        self._concurrency = concurrency
        self._slots = asyncio.Semaphore(concurrency)

    @overload
    async def embed(
        self,
        items: Item | Sequence[Item],
        *,
        dimensions: int | None = None,
        normalized: bool = True,
        truncate: bool | None = None,
        max_num_patches: int | None = None,
        on_error: Literal["raise"] = "raise",
    ) -> np.ndarray: ...

    @overload
    async def embed(
        self,
        items: Sequence[Item],
        *,
        dimensions: int | None = None,
        normalized: bool = True,
        truncate: bool | None = None,
        max_num_patches: int | None = None,
        on_error: Literal["item"],
    ) -> Embeddings: ...

    async def embed(
        self,
        items: Item | Sequence[Item],
        *,
        dimensions: int | None = None,
        normalized: bool = True,
        truncate: bool | None = None,
        max_num_patches: int | None = None,
        on_error: OnError = "raise",
    ) -> Embedded:
        """Embeds texts (`str`) and images (`bytes` or a path object), mixed at will.

        Args:
            items: one item, or several.
            dimensions: keep only the first values of each vector. SigLIP is not trained for that: it costs accuracy.
            normalized: whether vectors have length 1.
            truncate: whether a text that is too long is cut, which is the server's default, or refused.
            max_num_patches: the resolution of images, where the model has a choice.
            on_error: `"raise"` fails the call with the first item that fails; `"item"` gives the vectors of the
                others, and says which failed and why.

        Returns:
            `float32 [dimension]` for one item; `float32 [items, dimension]` in the order of the items for several; with
            `on_error="item"` an `Embeddings`.

        Raises:
            ServerError: with `"raise"`, the first item's that failed.
            ConnectionFailed: if the server cannot be reached.
            OSError: with `"raise"`, for a file that cannot be read.
            TypeError: for a string that is the path of a file: see `embed_images` and `embed_texts`.
        """
        options = _options.embedding(self._model, dimensions, normalized, truncate, max_num_patches)
        if _requests.is_one(items):
            if on_error != "raise":
                raise ValueError('on_error="item" is for several items')
            one: Sequence[Item] = [items]  # type: ignore[list-item]
            return (await self._embed(list(_requests.items(one)), options, "raise"))[0]  # type: ignore[no-any-return, index]
        return await self._embed(list(_requests.items(items)), options, on_error)  # type: ignore[arg-type]

    async def embed_texts(
        self,
        texts: Iterable[str],
        *,
        dimensions: int | None = None,
        normalized: bool = True,
        truncate: bool | None = None,
        on_error: OnError = "raise",
    ) -> Embedded:
        """Embeds texts, whatever they look like. See `embed`."""
        options = _options.embedding(self._model, dimensions, normalized, truncate, None)
        return await self._embed(list(_requests.texts(texts)), options, on_error)

    async def embed_images(
        self,
        images: Iterable[Image | str],
        *,
        dimensions: int | None = None,
        normalized: bool = True,
        max_num_patches: int | None = None,
        on_error: OnError = "raise",
    ) -> Embedded:
        """Embeds images; a string is the path of one. See `embed`."""
        options = _options.embedding(self._model, dimensions, normalized, None, max_num_patches)
        return await self._embed(list(_requests.images(images)), options, on_error)

    async def embed_each(
        self,
        items: Iterable[Item],
        *,
        dimensions: int | None = None,
        normalized: bool = True,
        truncate: bool | None = None,
        max_num_patches: int | None = None,
    ) -> AsyncIterator[Row]:
        """Embeds any number of items and gives each outcome as it comes, in no fixed order.

        No item's failure ends it: a `Row` has a vector, or says why there is none. Items are read as they are needed,
        so they may come from a generator.

        Raises:
            ServerError: where a request as a whole was refused.
            ConnectionFailed: if the server cannot be reached.
        """
        options = _options.embedding(self._model, dimensions, normalized, truncate, max_num_patches)
        async for row in self._each(_requests.items(items), options, by_item=True):
            yield row

    async def similarity(self, images: Sequence[Image | str], texts: Sequence[str]) -> Similarity:
        """Scores every image against every text.

        Raises:
            ServerError: of embedding either side, or of the scores.
            TypeError: for what is no image or no text.
        """
        rows = await self._embed(list(_requests.images(images)), self._plain(), "raise")
        columns = await self._embed(list(_requests.texts(texts)), self._plain(), "raise")
        return await self.similarity_of(rows, columns)  # type: ignore[arg-type]

    async def similarity_of(self, images: np.ndarray, texts: np.ndarray) -> Similarity:
        """Scores stored embeddings, `[rows, dimension]` each, with all of the model's values; normalised or not."""
        body = {"image_embeddings": _requests.rows(images), "text_embeddings": _requests.rows(texts)}
        body |= _requests.given(model=self._model)
        return _answers.similarity(await self._post("/v1/similarity", body))

    async def classify(
        self,
        images: Sequence[Image | str],
        labels: Sequence[str],
        *,
        templates: Sequence[str] | None = None,
        top_k: int | None = None,
    ) -> list[list[Label]]:
        """Judges every label for every image, each on its own; best first.

        Raises:
            ServerError: of embedding the images, or of the scores.
            TypeError: for what is no image or no label.
        """
        names = list(_requests.texts(labels))
        vectors = await self._embed(list(_requests.images(images)), self._plain(), "raise")
        if not len(vectors):  # type: ignore[arg-type]
            return []
        options = _requests.given(model=self._model, templates=templates, top_k=top_k)
        body = {"image_embeddings": _requests.rows(vectors), "labels": names} | options  # type: ignore[arg-type]
        return _answers.labels(await self._post("/v1/classify", body))

    async def features(
        self,
        images: Sequence[Image | str],
        *,
        layer: int | None = None,
        output: str | None = None,
        dtype: str | None = None,
        max_num_patches: int | None = None,
    ) -> list[Features]:
        """The token map of each image, one request an image: maps are large.

        Args:
            layer: which layer's output, as transformers' `hidden_states` counts them; negative counts from the end.
            output: `"last_hidden_state"` (the default), `"hidden_state"` or `"pooled"`.
            dtype: `"f32"` (the default) or `"f16"`.
            max_num_patches: the resolution, where the model has a choice.
        """
        options = _requests.given(
            model=self._model, layer=layer, output=output, dtype=dtype, max_num_patches=max_num_patches
        )
        found = []
        for image in _requests.images(images):
            body = {"input": [_requests.sent(image)], "encoding_format": "npy"} | options
            response = await self._send("POST", "/v1/features", body)
            if not response.is_success:
                _errors.check(response)
            found.append(_answers.features(response))
        return found

    async def captions(self, images: Sequence[Image | str], *, prompt: str | None = None, **options: Any) -> list[Caption]:
        """What the model writes about each image, where it writes captions (BLIP).

        Args:
            prompt: how every caption begins.
            options: as `/v1/captions` takes them: `max_new_tokens`, `temperature`, `top_p`, `top_k`, `seed`, ...
        """
        sent = [_requests.sent(image)["image"] for image in _requests.images(images)]
        body = {"images": sent} | _requests.given(model=self._model, prompt=prompt, **options)
        return _answers.captions(await self._post("/v1/captions", body))

    async def models(self) -> list[ModelInfo]:
        """The models that are loaded, the default first."""
        return _answers.models(_errors.check(await self._send("GET", "/info")))

    async def is_ready(self) -> bool:
        """Whether the server wants traffic; False where it cannot be reached. Not tried again: the answer is for now."""
        try:
            return (await self._http.get("/health/ready")).is_success
        except httpx.TransportError:
            return False

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

    def _plain(self) -> dict[str, Any]:
        return _options.embedding(self._model, None, True, None, None)

    async def _embed(self, items: Sequence[Item], options: dict[str, Any], on_error: str) -> Embedded:
        by_item = _options.checked(on_error)
        rows = [row async for row in self._each(items, options, by_item=by_item)]
        return _answers.collected(rows) if by_item else _answers.stacked(rows)

    async def _each(
        self, items: Iterable[Item], options: dict[str, Any], *, by_item: bool
    ) -> AsyncIterator[Row]:
        await self._learn_limits()
        run = Run(items, options, self._sizer, by_item)
        pending: set[asyncio.Task[list[Row]]] = set()
        try:
            while True:
                # No more batches are read than are under way.
                while len(pending) < self._concurrency and (batch := run.next()) is not None:
                    pending.add(asyncio.create_task(self._batch(run, batch)))
                for row in run.unreadable():
                    yield row
                if not pending:
                    return
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    for row in task.result():
                        yield row
        finally:
            for task in pending:
                task.cancel()

    async def _batch(self, run: Run, batch: Batch) -> list[Row]:
        async with self._slots:
            start = time.monotonic()
            try:
                response = await self._send("POST", "/v1/embeddings", run.body(batch))
            except TimedOut:
                # The same request would take as long again: a smaller one may not.
                if run.split(batch):
                    return []
                raise
        if response.status_code == httpx.codes.GATEWAY_TIMEOUT and run.split(batch):
            return []
        answer = _errors.check(response, batch.places)
        return run.rows(batch, answer, time.monotonic() - start)

    async def _learn_limits(self) -> None:
        """Asks once what the server allows; without an answer the defaults hold."""
        if not self._limits_known:
            self._limits_known = True
            try:
                self._sizer.limit(_options.limits(await self._http.get("/info")))
            except httpx.TransportError:
                # The request itself will say so.
                self._limits_known = False

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        return _errors.check(await self._send("POST", path, body), Places())

    async def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        retries = Retries(*self._retries)
        while True:
            try:
                response = await self._http.request(method, path, json=body)
            except httpx.ReadTimeout as error:
                raise TimedOut(f"{self._http.base_url} sent no response in time") from error
            except httpx.TransportError as error:
                pause = retries.pause(None)
                if pause is None:
                    raise ConnectionFailed(f"{self._http.base_url} could not be reached: {error}") from error
            else:
                pause = None if response.is_success else retries.pause(response)
                if pause is None:
                    return response
            await asyncio.sleep(pause)
