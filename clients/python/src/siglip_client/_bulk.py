"""The bulk route: rows go out on a thread of their own while answers are read, as its protocol asks for."""

from __future__ import annotations

import contextlib
import http.client
import json
import struct
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from socket import SHUT_RDWR
from typing import Any
from urllib.parse import urlencode, urlsplit

import numpy as np

from . import _errors, _requests
from ._answers import Row
from ._errors import ConnectionFailed, Failure, ServerError
from ._requests import Item

MEDIA_TYPE = "application/vnd.siglip.rows"
TEXT, IMAGE = 1, 2
VECTOR, ERROR, END = 0, 1, 2
HEAD = struct.Struct("<IQB")


def frame(index: int, item: Item) -> bytes:
    """A row as the route reads it."""
    if isinstance(item, str):
        kind, payload = TEXT, item.encode()
    else:
        kind, payload = IMAGE, Path(item).read_bytes() if not isinstance(item, (bytes, bytearray)) else bytes(item)
    # The length counts what follows it: eight bytes of id, one of kind, and the payload.
    return HEAD.pack(9 + len(payload), index, kind) + payload


class Stream:
    """One request: a thread sends, and whoever iterates reads."""

    def __init__(self, base: str, headers: dict[str, str], options: dict[str, Any], timeout: float) -> None:
        parts = urlsplit(base)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
        values = {key: str(value).lower() if isinstance(value, bool) else value for key, value in options.items()}
        self._path = f"{parts.path.rstrip('/')}/v1/bulk/embeddings?{urlencode(values)}"
        self._headers = headers
        self._sent: dict[int, Item] = {}
        self._unreadable: list[Row] = []
        self._fault: BaseException | None = None
        self._stopped = threading.Event()

    def rows(self, items: Iterable[Item]) -> Iterator[Row]:
        """The outcome of each item, in order."""
        try:
            self._connection.putrequest("POST", self._path)
            for name, value in {**self._headers, "content-type": MEDIA_TYPE, "transfer-encoding": "chunked"}.items():
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
                    data = frame(index, item)
                except OSError as error:
                    why = Failure("unreadable_file", error.strerror or str(error), f"input[{index}]", index, _requests.name(item))
                    self._unreadable.append(Row(index, item, None, why))
                    continue
                self._sent[index] = item
                socket.sendall(b"%x\r\n%b\r\n" % (len(data), data))
            socket.sendall(b"0\r\n\r\n")
        except OSError:
            # The reader meets the end of the connection, or an answer that says why it was closed.
            return
        except BaseException as error:
            # A fault of the caller's own items: raised where they are iterated.
            self._fault = error
            # Wakes the reader, which a mere close would not.
            with contextlib.suppress(OSError):
                socket.shutdown(SHUT_RDWR)

    def _read(self) -> Iterator[Row]:
        try:
            response = self._connection.getresponse()
            if response.status != http.client.OK:
                raise self._refused(response)
            while True:
                head = self._exactly(response, HEAD.size)
                length, index, status = HEAD.unpack(head)
                payload = self._exactly(response, length - 9)
                yield from self._taken()
                if status == END:
                    return self._ended(json.loads(payload))
                item = self._sent.pop(index)
                if status == VECTOR:
                    yield Row(index, item, np.frombuffer(payload, "<f4").copy())
                else:
                    failed = _errors.failure(json.loads(payload))
                    yield Row(index, item, None, Failure(failed.code, failed.message, f"input[{index}]", index, _requests.name(item)))
        except (OSError, http.client.HTTPException) as error:
            if self._fault is not None:
                raise self._fault from None
            raise ConnectionFailed(f"the stream broke off with {len(self._sent)} rows unanswered: {error}") from error

    def _taken(self) -> Iterator[Row]:
        """Files that could not be read, and so were not sent."""
        while self._unreadable:
            yield self._unreadable.pop(0)

    def _exactly(self, response: http.client.HTTPResponse, size: int) -> bytes:
        data = response.read(size)
        if len(data) < size:
            raise http.client.IncompleteRead(data, size - len(data))
        return data

    def _ended(self, last: dict[str, Any]) -> None:
        if not last.get("done"):
            raise ServerError(200, _errors.failure(last.get("error") or {}, "the stream ended early"))

    def _refused(self, response: http.client.HTTPResponse) -> ServerError:
        try:
            body = json.loads(response.read())
        except ValueError:
            body = {}
        inner = body.get("error") if isinstance(body.get("error"), dict) else body
        return ServerError(response.status, _errors.failure(inner, response.reason), (), response.headers.get("x-request-id"))
