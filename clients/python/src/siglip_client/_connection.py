"""What both clients are built on: HTTP with retries, and the server's limits."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Any, TypeVar

import httpx

from . import _errors, _options
from ._errors import ConnectionFailed, Places, TimedOut
from ._retry import Retries

_C = TypeVar("_C", bound="Connection")
_A = TypeVar("_A", bound="AsyncConnection")


class Connection:
    """The connections of a `Client`, which has the arguments' meaning."""

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
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(
            base_url=_options.base(base_url),
            headers=_options.headers(api_key),
            timeout=timeout,
            transport=transport,
        )
        self._model = model
        self._pairs: bool | None = None
        self._timeout = timeout
        self._retries = (max_retries, retry_timeout)
        self._sizer = _options.sizer(batch_items, batch_bytes)
        self._limits_known = False

    def is_ready(self) -> bool:
        """Whether the server wants traffic; False where it cannot be reached. Not tried again: the answer is for now."""
        try:
            return (self._http.get("/health/ready")).is_success
        except httpx.TransportError:
            return False

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self: _C) -> _C:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _learn_limits(self) -> None:
        """Asks once what the server allows; without an answer the defaults hold."""
        if not self._limits_known:
            self._limits_known = True
            try:
                self._sizer.limit(_options.limits(self._http.get("/info")))
            except httpx.TransportError:
                # The request itself will say so.
                self._limits_known = False

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return _errors.check(self._send("POST", path, body), Places())

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        retries = Retries(*self._retries)
        while True:
            try:
                response = self._http.request(method, path, json=body)
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
            time.sleep(pause)

    def _authorization(self) -> dict[str, str]:
        return _options.authorization(self._http.headers)


class AsyncConnection:
    """The connections of an `AsyncClient`, which has the arguments' meaning."""

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
        self._pairs: bool | None = None
        self._timeout = timeout
        self._retries = (max_retries, retry_timeout)
        self._sizer = _options.sizer(batch_items, batch_bytes)
        self._limits_known = False
        self._concurrency = concurrency
        self._slots = asyncio.Semaphore(concurrency)

    async def is_ready(self) -> bool:
        """Whether the server wants traffic; False where it cannot be reached. Not tried again: the answer is for now."""
        try:
            return (await self._http.get("/health/ready")).is_success
        except httpx.TransportError:
            return False

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self: _A) -> _A:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

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

    def _authorization(self) -> dict[str, str]:
        return _options.authorization(self._http.headers)
