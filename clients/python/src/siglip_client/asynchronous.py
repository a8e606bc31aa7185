"""The client whose methods are awaited."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import httpx
import numpy as np

from . import _answers, _errors, _folder, _options, _requests
from ._answers import Caption, Embedded, Embeddings, Features, Label, ModelInfo, Row, Similarity
from ._bulk_async import AsyncStream
from ._connection import AsyncConnection
from ._errors import SiglipError, TimedOut
from ._folder import Folder, Progress
from ._options import OnError
from ._requests import Image, Item
from ._run import Batch, Run


class AsyncClient(AsyncConnection):
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

    async def embed_multi(self, images: Iterable[Image | str], *, dimensions: int | None = None, normalized: bool = True) -> list[np.ndarray]:
        """Embeds images with a model that has several vectors for each (BLIP-2): `float32 [vectors, dimension]` each. See `embed`."""
        options = _options.embedding(self._model, dimensions, normalized, None, None) | {"multi_vector": True}
        rows = [row async for row in self._each(list(_requests.images(images)), options, by_item=False)]
        return _answers.in_order(rows)

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
        if await self._reads_pairs():
            body = {"images": _requests.encoded(images), "texts": list(_requests.texts(texts))}
            body |= _requests.given(model=self._model)
            return _answers.similarity(await self._post("/v1/similarity", body))
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
        options = _requests.given(model=self._model, templates=templates, top_k=top_k)
        options["labels"] = list(_requests.texts(labels))
        if await self._reads_pairs():
            return _answers.labels(await self._post("/v1/classify", {"images": _requests.encoded(images)} | options))
        vectors = await self._embed(list(_requests.images(images)), self._plain(), "raise")
        if not len(vectors):  # type: ignore[arg-type]
            return []
        body = {"image_embeddings": _requests.rows(vectors)} | options  # type: ignore[arg-type]
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
            options: as `/v1/captions` takes them: `max_new_tokens`, `temperature`, `top_p`, `top_k`, `seed`, `num_beams`, ...
        """
        sent = [_requests.sent(image)["image"] for image in _requests.images(images)]
        body = {"images": sent} | _requests.given(model=self._model, prompt=prompt, **options)
        return _answers.captions(await self._post("/v1/captions", body))

    async def embed_folder(
        self,
        folder: str | os.PathLike[str],
        out: str | os.PathLike[str],
        *,
        recursive: bool = True,
        suffixes: Iterable[str] = _folder.SUFFIXES,
        progress: Progress = False,
        dimensions: int | None = None,
        normalized: bool = True,
        max_num_patches: int | None = None,
    ) -> Folder:
        """Embeds the images of a folder, and keeps the vectors in the folder `out` as they come.

        A second call sends only files that are new or changed, so a run that broke off goes on where it was. Both
        clients write the same files. A stream that breaks off is opened again, with the files that have no vector yet.

        Args:
            progress: True for a line on standard error, or what is called with the numbers done, in all and failed.

        Raises:
            ValueError: where `out` has vectors of another model, revision or preparation.
            ServerError: where the server refused the stream.
            ConnectionFailed: if the server cannot be reached, or broke off too often; vectors that came are kept.
        """
        options = _folder.options(dimensions, normalized, max_num_patches)
        paths = await asyncio.to_thread(_folder.files, Path(folder), recursive, suffixes)
        made_by = _folder.about(await self.models(), self._model, options)
        store = await asyncio.to_thread(_folder.Store, Path(out), made_by)
        tries = _folder.Tries(*self._retries)
        with contextlib.closing(_folder.Work(Path(folder), store, paths, progress)) as work:
            while missing := await asyncio.to_thread(work.missing):
                try:
                    async with contextlib.aclosing(self.embed_bulk(missing, **options)) as rows:
                        async for row in rows:
                            work.take(row)
                            tries.moved()
                except SiglipError as error:
                    if (pause := tries.pause(error)) is None:
                        raise
                    await asyncio.sleep(pause)
            return await asyncio.to_thread(work.finished)

    async def embed_bulk(
        self,
        items: Iterable[Item] | AsyncIterable[Item],
        *,
        dimensions: int | None = None,
        normalized: bool = True,
        truncate: bool | None = None,
        max_num_patches: int | None = None,
    ) -> AsyncGenerator[Row, None]:
        """Embeds a stream of items in one request to the bulk route, without an end and in constant memory.

        Rows come in the order of the items, but for files that cannot be read. The server gives bulk rows what
        interactive requests leave free. Items may come from an asynchronous iterable too.

        Raises:
            ServerError: where the stream was refused, or ended by the server.
            ConnectionFailed: where it broke off; rows that were given are whole.
        """
        options = _options.embedding(self._model, dimensions, normalized, truncate, max_num_patches)
        stream = AsyncStream(str(self._http.base_url), self._authorization(), options, self._timeout)
        async with contextlib.aclosing(stream.rows(_requests.items_as_they_come(items))) as rows:
            async for row in rows:
                yield row

    async def models(self) -> list[ModelInfo]:
        """The models that are loaded, the default first."""
        return _answers.models(_errors.check(await self._send("GET", "/info")))

    async def _reads_pairs(self) -> bool:
        if self._pairs is None:
            self._pairs = _answers.reads_pairs(await self.models(), self._model)
        return self._pairs

    def _plain(self) -> dict[str, Any]:
        return _options.embedding(self._model, None, True, None, None)

    async def _embed(self, items: Sequence[Item], options: dict[str, Any], on_error: str) -> Embedded:
        by_item = _options.checked(on_error)
        rows = [row async for row in self._each(items, options, by_item=by_item)]
        return _answers.collected(rows) if by_item else _answers.stacked(rows)

    async def _each(self, items: Iterable[Item], options: dict[str, Any], *, by_item: bool) -> AsyncIterator[Row]:
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
