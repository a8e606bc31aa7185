"""The bulk route: a thread sends rows while results are read, as the route's protocol asks for."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Iterable, Iterator
from socket import SHUT_RDWR
from typing import Any
from urllib.parse import urlsplit

from . import _protocol
from ._answers import Row
from ._errors import ConnectionFailed, ServerError, TimedOut
from ._requests import Item


class Stream:
    """One request: a thread sends, and the caller's thread reads."""

    def __init__(self, base: str, headers: dict[str, str], options: dict[str, Any], timeout: float) -> None:
        parts = urlsplit(base)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
        self._path = _protocol.target(base, options)
        self._headers = headers
        self._sent: dict[int, Item] = {}
        self._unreadable: list[Row] = []
        self._fault: BaseException | None = None
        self._stopped = threading.Event()

    def rows(self, items: Iterable[Item]) -> Iterator[Row]:
        """The outcome of each item, in order."""
        headers = {**self._headers, "content-type": _protocol.MEDIA_TYPE, "transfer-encoding": "chunked"}
        try:
            self._connection.putrequest("POST", self._path)
            for name, value in headers.items():
                self._connection.putheader(name, value)
            self._connection.endheaders()
        except OSError as error:
            raise ConnectionFailed(f"the server could not be reached: {error}") from error
        sender = threading.Thread(target=self._send, args=(iter(items),), name="siglip-bulk", daemon=True)
        sender.start()
        try:
            yield from self._read()
        finally:
            self._stopped.set()
            self._connection.close()
            sender.join(timeout=5)

    def _send(self, items: Iterator[Item]) -> None:
        socket = self._connection.sock
        try:
            for index, item in enumerate(items):
                if self._stopped.is_set():
                    return
                try:
                    data = _protocol.frame(index, item)
                except OSError as error:
                    self._unreadable.append(_protocol.unreadable(index, item, error))
                    continue
                self._sent[index] = item
                socket.sendall(_protocol.chunk(data))
            socket.sendall(b"0\r\n\r\n")
        except OSError:
            # The reader meets the end of the connection, or a response that says why it was closed.
            return
        except BaseException as error:
            # A fault of the caller's own items is raised where the caller iterates.
            self._fault = error
            # A shutdown wakes the reader; a close would not.
            with contextlib.suppress(OSError):
                socket.shutdown(SHUT_RDWR)

    def _read(self) -> Iterator[Row]:
        try:
            response = self._connection.getresponse()
            if response.status != http.client.OK:
                raise self._refused(response)
            while True:
                head = self._exactly(response, _protocol.HEAD.size)
                length, index, status = _protocol.HEAD.unpack(head)
                payload = self._exactly(response, length - _protocol.ID_AND_KIND)
                yield from self._taken()
                if status == _protocol.END:
                    return _protocol.ended(payload)
                yield _protocol.outcome(index, self._sent.pop(index), status, payload)
        except (OSError, http.client.HTTPException) as error:
            if self._fault is not None:
                raise self._fault from None
            kind = TimedOut if isinstance(error, TimeoutError) else ConnectionFailed
            raise kind(f"the stream broke off with {len(self._sent)} rows without a result: {error}") from error

    def _taken(self) -> Iterator[Row]:
        """Files that could not be read, and so were not sent."""
        while self._unreadable:
            yield self._unreadable.pop(0)

    def _exactly(self, response: http.client.HTTPResponse, size: int) -> bytes:
        data = response.read(size)
        if len(data) < size:
            raise http.client.IncompleteRead(data, size - len(data))
        return data

    def _refused(self, response: http.client.HTTPResponse) -> ServerError:
        request_id = response.headers.get("x-request-id")
        return _protocol.refused(response.status, response.reason, response.read(), request_id)
