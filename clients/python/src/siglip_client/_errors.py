"""What can go wrong, in the caller's terms."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx


@dataclass(frozen=True)
class Failure:
    """One item that failed."""

    code: str
    """The server's machine-readable name, such as `undecodable_image`; `unreadable_file` for a file that could not be
    read here."""
    message: str
    field: str | None
    """The part of the request at fault, such as `input[3]`, counted over all items of the call."""
    index: int | None = None
    """The item's place among all items of the call, where it is one item that failed."""
    name: str | None = None
    """The item's file, where it has one."""

    def __str__(self) -> str:
        where = self.name or self.field
        return f"{where}: {self.message}" if where else self.message


class SiglipError(Exception):
    """Any failure of a call that reached for the server."""


class ConnectionFailed(SiglipError):
    """The server could not be reached, or the connection broke. The cause is the HTTP library's own error."""


class TimedOut(ConnectionFailed):
    """The server sent no response within the client's `timeout`."""


class ServerError(SiglipError):
    """The server refused a request, or failed to answer it.

    Attributes:
        status: the HTTP status.
        code: the machine-readable name, such as `undecodable_image`.
        message: what is wrong.
        field: the part at fault (`input[3]`), counted over all items of the call.
        name: the file at fault, where it is one.
        items: every item that failed, where there were several.
        request_id: the id to look for in the server's log.
    """

    def __init__(
        self,
        status: int,
        failure: Failure,
        items: tuple[Failure, ...] = (),
        request_id: str | None = None,
    ) -> None:
        super().__init__(f"{status} {failure.code}: {failure}")
        self.status = status
        self.code = failure.code
        self.message = failure.message
        self.field = failure.field
        self.name = failure.name
        self.items = items
        self.request_id = request_id


@dataclass(frozen=True)
class Places:
    """Where the items of a request stand among all items of the call, and what they are called."""

    indices: Sequence[int] = ()
    names: Sequence[str | None] = ()

    def named(self, failure: Failure) -> Failure:
        """The failure, counted over all items of the call."""
        found = re.match(r"^input\[(\d+)\]", failure.field or "")
        if not found or int(found[1]) >= len(self.indices):
            return failure
        place = int(found[1])
        index = self.indices[place]
        field = f"input[{index}]" + (failure.field or "")[found.end() :]
        return replace(failure, field=field, index=index, name=self.names[place])


def check(response: httpx.Response, places: Places = Places()) -> Any:
    """The JSON of a response.

    Raises:
        ServerError: if it is a failure.
    """
    if response.is_success:
        return response.json()
    try:
        body = response.json()
    except ValueError:
        body = {}
    # A problem document, or OpenAI's envelope; a proxy's response may be neither.
    body = body if isinstance(body, dict) else {}
    enveloped = body.get("error")
    inner: dict[str, Any] = enveloped if isinstance(enveloped, dict) else body
    failed = places.named(failure(inner, response.reason_phrase))
    items = tuple(places.named(failure(one)) for one in inner.get("errors") or ())
    raise ServerError(response.status_code, failed, items, response.headers.get("x-request-id"))


def failure(body: dict[str, Any], otherwise: str = "") -> Failure:
    """A failure as the server writes it."""
    return Failure(
        code=body.get("code") or "unknown",
        message=body.get("detail") or body.get("message") or otherwise,
        field=body.get("field") or body.get("param"),
    )
