"""A call over many items: which go into the next request, and what came of them.

It sends nothing itself, so that both clients share it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from . import _answers, _errors, _requests
from ._answers import Row
from ._errors import Failure, Places
from ._requests import Item

FIRST_BATCH = 16
"""Items of the first request: a large model on a small machine embeds this many images within a minute."""

SECONDS_A_REQUEST = 2.0
"""What a request should take: long enough that its overhead does not count, short enough for any deadline."""

BODY_SHARE = 0.75
"""How much of the largest body a request may be: what is around the items has to fit too."""


@dataclass
class Sizer:
    """How many items a request has: as many as the server embeds in about two seconds.

    Args:
        max_items: the most, whatever the speed.
        max_bytes: the most bytes of all items of a request, unless a single one has more.
    """

    max_items: int
    max_bytes: int
    items: int = FIRST_BATCH

    def limit(self, limits: dict[str, Any]) -> None:
        """Takes over what the server allows, as `/info` has it."""
        self.max_items = min(self.max_items, int(limits.get("max_items") or self.max_items))
        body = limits.get("max_body_bytes")
        if body:
            self.max_bytes = min(self.max_bytes, int(int(body) * BODY_SHARE))

    def next(self) -> int:
        return max(1, min(self.items, self.max_items))

    def took(self, items: int, seconds: float) -> None:
        """Learns from a request. It grows to twice its size at most: the first ones may be answered from a cache."""
        fitting = int(items * SECONDS_A_REQUEST / max(seconds, 1e-3))
        self.items = max(1, min(fitting, 2 * items, self.max_items)) if items >= self.next() else self.items

    def was_too_slow(self, items: int) -> None:
        """A request of so many items met its deadline."""
        self.items = max(1, items // 2)


@dataclass(frozen=True)
class Batch:
    """The items of one request."""

    indices: list[int] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    sent: list[dict[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def places(self) -> Places:
        return Places(self.indices, [_requests.name(item) for item in self.items])

    def halves(self) -> tuple[Batch, Batch]:
        at = len(self) // 2
        first = Batch(self.indices[:at], self.items[:at], self.sent[:at])
        return first, Batch(self.indices[at:], self.items[at:], self.sent[at:])


class Run:
    """The items of one call.

    Args:
        by_item: whether an item that fails costs the others nothing.
    """

    def __init__(self, items: Iterable[Item], options: dict[str, Any], sizer: Sizer, by_item: bool) -> None:
        self._items = enumerate(items)
        self._options = options | ({"on_error": "item"} if by_item else {})
        self._sizer = sizer
        self._by_item = by_item
        self._again: deque[Batch] = deque()
        # An item that was read and did not fit into the last batch.
        self._held: tuple[int, Item, dict[str, str]] | None = None
        self._unread: list[Row] = []

    def unreadable(self) -> list[Row]:
        """Files that could not be read since the last time this was asked."""
        rows, self._unread = self._unread, []
        return rows

    def next(self) -> Batch | None:
        """The next request's items; None if there are no more.

        Files are read here, so that a long list of them is never in memory as a whole.
        """
        if self._again:
            return self._again.popleft()
        batch, size = Batch(), 0
        for index, item, sent in self._read():
            bytes_of_item = len(next(iter(sent.values())))
            full = len(batch) >= self._sizer.next() or size + bytes_of_item > self._sizer.max_bytes
            if batch and full:
                self._held = (index, item, sent)
                break
            batch.indices.append(index)
            batch.items.append(item)
            batch.sent.append(sent)
            size += bytes_of_item
        return batch if len(batch) else None

    def _read(self) -> Iterator[tuple[int, Item, dict[str, str]]]:
        if self._held is not None:
            held, self._held = self._held, None
            yield held
        for index, item in self._items:
            try:
                sent = _requests.sent(item)
            except OSError as error:
                if not self._by_item:
                    raise
                why = error.strerror or str(error)
                failure = Failure("unreadable_file", why, f"input[{index}]", index, _requests.name(item))
                self._unread.append(Row(index, item, None, failure))
                continue
            yield index, item, sent

    def body(self, batch: Batch) -> dict[str, Any]:
        return {"input": batch.sent, "encoding_format": "base64"} | self._options

    def split(self, batch: Batch) -> bool:
        """Puts both halves of a batch that took too long in line; False for a single item, which has none."""
        if len(batch) < 2:
            return False
        self._sizer.was_too_slow(len(batch))
        self._again.extendleft(reversed(batch.halves()))
        return True

    def rows(self, batch: Batch, answer: dict[str, Any], seconds: float) -> list[Row]:
        """The outcome of each item of a batch."""
        self._sizer.took(len(batch), seconds)
        found = []
        for place, row in enumerate(answer["data"]):
            index, item = batch.indices[place], batch.items[place]
            if "embedding" in row:
                found.append(Row(index, item, _answers.vector(row)))
            else:
                failure = batch.places.named(_errors.failure(row.get("error") or {}))
                found.append(Row(index, item, None, failure))
        return found
