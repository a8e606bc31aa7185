"""The bulk route for the asynchronous client: a task sends rows while results are read."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import h11
import httpx

from . import _protocol
from ._answers import Row
from ._errors import ConnectionFailed, ServerError, TimedOut
from ._requests import Item

READ = 1 << 16
"""Bytes that are read from the connection at once."""


class AsyncStream:
    """One request: a task sends, and the caller's task reads."""

    def __init__(self, base: str, headers: dict[str, str], options: dict[str, Any], timeout: float) -> None:
        parts = urlsplit(base)
        self._host = parts.hostname or ""
        # The certificates that the other requests trust.
        self._tls = httpx.create_ssl_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._path = _protocol.target(base, options)
        self._headers = {"host": parts.netloc.rpartition("@")[2], **headers}
        self._timeout = timeout
        self._sent: dict[int, Item] = {}
        self._unreadable: list[Row] = []
        self._fault: BaseException | None = None
        self._protocol = h11.Connection(h11.CLIENT)
        self._buffer = bytearray()
        self._over = False

    async def rows(self, items: AsyncIterator[Item]) -> AsyncGenerator[Row, None]:
        """The outcome of each item, in order."""
        try:
            opening = asyncio.open_connection(self._host, self._port, ssl=self._tls)
            reader, writer = await asyncio.wait_for(opening, self._timeout)
        except asyncio.TimeoutError as error:
            raise TimedOut("the server could not be reached in time") from error
        except OSError as error:
            raise ConnectionFailed(f"the server could not be reached: {error}") from error
        sender = asyncio.create_task(self._send(writer, items))
        try:
            async for row in self._read(reader):
                yield row
        finally:
            sender.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sender
            writer.close()

    async def _send(self, writer: asyncio.StreamWriter, items: AsyncIterator[Item]) -> None:
        try:
            headers = {**self._headers, "content-type": _protocol.MEDIA_TYPE, "transfer-encoding": "chunked"}
            request = h11.Request(method="POST", target=self._path, headers=list(headers.items()))
            writer.write(self._protocol.send(request))
            index = 0
            async for item in items:
                try:
                    # Reading a file would hold up everything else on the event loop.
                    data = (
                        _protocol.frame(index, item)
                        if isinstance(item, (str, bytes, bytearray))
                        else await asyncio.to_thread(_protocol.frame, index, item)
                    )
                except OSError as error:
                    self._unreadable.append(_protocol.unreadable(index, item, error))
                else:
                    self._sent[index] = item
                    writer.write(self._protocol.send(h11.Data(data=data)) or b"")
                    await writer.drain()
                index += 1
            writer.write(self._protocol.send(h11.EndOfMessage()) or b"")
            await writer.drain()
        except (OSError, h11.LocalProtocolError):
            # The reader meets the end of the connection, or a response that says why it was closed.
            return
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            # A fault of the caller's own items is raised where the caller iterates; the abort wakes the reader.
            self._fault = error
            writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader) -> AsyncIterator[Row]:
        try:
            await self._head(reader)
            while True:
                head = await self._exactly(reader, _protocol.HEAD.size)
                length, index, status = _protocol.HEAD.unpack(head)
                payload = await self._exactly(reader, length - _protocol.ID_AND_KIND)
                while self._unreadable:
                    yield self._unreadable.pop(0)
                if status == _protocol.END:
                    _protocol.ended(payload)
                    return
                yield _protocol.outcome(index, self._sent.pop(index), status, payload)
        except (OSError, EOFError, asyncio.TimeoutError, h11.RemoteProtocolError) as error:
            if self._fault is not None:
                raise self._fault from None
            kind = TimedOut if isinstance(error, (asyncio.TimeoutError, TimeoutError)) else ConnectionFailed
            raise kind(f"the stream broke off with {len(self._sent)} rows without a result: {error}") from error

    async def _head(self, reader: asyncio.StreamReader) -> None:
        """Reads until the server has accepted the stream.

        Raises:
            ServerError: if it has not.
        """
        event = await self._event(reader)
        while isinstance(event, h11.InformationalResponse):
            event = await self._event(reader)
        if not isinstance(event, h11.Response):
            raise EOFError("the connection ended before a response")
        if event.status_code == 200:
            return
        while not self._over:
            await self._more(reader)
        raise self._refused(event)

    def _refused(self, response: h11.Response) -> ServerError:
        found = dict(response.headers).get(b"x-request-id")
        request_id = found.decode("latin-1") if found else None
        return _protocol.refused(response.status_code, response.reason.decode("latin-1"), bytes(self._buffer), request_id)

    async def _exactly(self, reader: asyncio.StreamReader, size: int) -> bytes:
        while len(self._buffer) < size:
            if self._over:
                raise EOFError(f"{size - len(self._buffer)} bytes are missing")
            await self._more(reader)
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    async def _more(self, reader: asyncio.StreamReader) -> None:
        """Adds what comes next of the body to the buffer."""
        event = await self._event(reader)
        if isinstance(event, h11.Data):
            self._buffer += event.data
        else:
            self._over = True

    async def _event(self, reader: asyncio.StreamReader) -> Any:
        while (event := self._protocol.next_event()) is h11.NEED_DATA:
            self._protocol.receive_data(await asyncio.wait_for(reader.read(READ), self._timeout))
        return event
