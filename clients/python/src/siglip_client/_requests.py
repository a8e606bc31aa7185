"""Inputs to request bodies, in batches that the server takes."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Union

import numpy as np

Picture = Union[bytes, Path]
"""An encoded picture (PNG, JPEG, ...): its bytes, or the file that holds it."""

Item = Union[str, bytes, Path]
"""A text, or a picture."""


def picture(item: Picture) -> str:
    """A picture as base64."""
    data = item.read_bytes() if isinstance(item, Path) else bytes(item)
    return base64.b64encode(data).decode("ascii")


def pictures(given: Sequence[Picture]) -> Sequence[Picture]:
    """The same, once it is clear that each is a picture.

    Raises:
        TypeError: for a text, which would be embedded as such.
    """
    if any(isinstance(one, str) for one in given):
        raise TypeError("a picture is bytes or a Path; a str is a text")
    return given


def item(given: Item) -> dict[str, str]:
    """A text or a picture, as `/v1/embeddings` reads it."""
    return {"text": given} if isinstance(given, str) else {"image": picture(given)}


def batches(
    items: Sequence[Item], max_items: int, max_bytes: int
) -> Iterator[tuple[int, list[dict[str, str]]]]:
    """The items in batches, each with the place of its first one.

    A batch has at most `max_items`, and at most `max_bytes` unless a single item has more. Files are read
    when their batch is built, so that a long list of them is never in memory as a whole.
    """
    start, held = 0, 0
    batch: list[dict[str, str]] = []
    for index, given in enumerate(items):
        sent = item(given)
        size = len(next(iter(sent.values())))
        if batch and (len(batch) == max_items or held + size > max_bytes):
            yield start, batch
            start, batch, held = index, [], 0
        batch.append(sent)
        held += size
    if batch:
        yield start, batch


def embeddings(
    batch: list[dict[str, str]], model: str | None, dimensions: int | None, normalized: bool
) -> dict[str, Any]:
    """The body of a request to `/v1/embeddings`."""
    body: dict[str, Any] = {"input": batch, "encoding_format": "base64", "normalized": normalized}
    return body | given(model=model, dimensions=dimensions)


def rows(array: np.ndarray) -> list[str]:
    """Rows as base64 over little-endian 32-bit floats."""
    return [base64.b64encode(row.tobytes()).decode("ascii") for row in array.astype("<f4")]


def given(**options: Any) -> dict[str, Any]:
    """The options that are not None: the server has its own defaults."""
    return {name: value for name, value in options.items() if value is not None}
