"""The frames of the bulk route, and what both clients do with them. Nothing here sends anything."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import numpy as np

from . import _errors, _requests
from ._answers import Row
from ._errors import Failure, ServerError
from ._requests import Item

MEDIA_TYPE = "application/vnd.siglip.rows"
TEXT, IMAGE = 1, 2
VECTOR, ERROR, END = 0, 1, 2
HEAD = struct.Struct("<IQB")
"""Length of the rest, id, and kind or status."""
ID_AND_KIND = 9
"""Bytes that the length counts beside the payload."""


def target(base: str, options: dict[str, Any]) -> str:
    """The path and query of the route."""
    values = {key: str(value).lower() if isinstance(value, bool) else value for key, value in options.items()}
    return f"{urlsplit(base).path.rstrip('/')}/v1/bulk/embeddings?{urlencode(values)}"


def frame(index: int, item: Item) -> bytes:
    """A row as the route reads it.

    Raises:
        OSError: for a file that cannot be read.
    """
    if isinstance(item, str):
        kind, payload = TEXT, item.encode()
    else:
        kind, payload = IMAGE, bytes(item) if isinstance(item, (bytes, bytearray)) else Path(item).read_bytes()
    return HEAD.pack(ID_AND_KIND + len(payload), index, kind) + payload


def chunk(data: bytes) -> bytes:
    """Bytes as one chunk of an HTTP body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def unreadable(index: int, item: Item, error: OSError) -> Row:
    """The outcome of a file that could not be read, and so was not sent."""
    why = error.strerror or str(error)
    return Row(index, item, None, Failure("unreadable_file", why, f"input[{index}]", index, _requests.name(item)))


def outcome(index: int, item: Item, status: int, payload: bytes) -> Row:
    """The outcome of an item, from its frame."""
    if status == VECTOR:
        return Row(index, item, np.frombuffer(payload, "<f4").copy())
    failed = _errors.failure(json.loads(payload))
    name = _requests.name(item)
    return Row(index, item, None, Failure(failed.code, failed.message, f"input[{index}]", index, name))


def ended(payload: bytes) -> None:
    """Reads the last frame.

    Raises:
        ServerError: if the server ended the stream before it had read all rows.
    """
    last = json.loads(payload)
    if not last.get("done"):
        raise ServerError(200, _errors.failure(last.get("error") or {}, "the stream ended early"))


def refused(status: int, reason: str, body: bytes, request_id: str | None) -> ServerError:
    """The error of a stream that the server did not accept."""
    try:
        read = json.loads(body)
    except ValueError:
        read = {}
    read = read if isinstance(read, dict) else {}
    enveloped = read.get("error")
    inner: dict[str, Any] = enveloped if isinstance(enveloped, dict) else read
    return ServerError(status, _errors.failure(inner, reason), (), request_id)
