"""Inputs to request bodies."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any, Union

import numpy as np

Image = Union[bytes, bytearray, "os.PathLike[str]"]
"""An encoded image (PNG, JPEG, ...): its bytes, or the path of the file that holds it."""

Item = Union[str, Image]
"""A text, or an image."""

LONGEST_PATH = 4096
"""Characters of a path, as most systems have it."""


def is_one(items: Any) -> bool:
    """Whether a call was given one item in place of several."""
    return isinstance(items, (str, bytes, bytearray, os.PathLike))


def item(one: Any) -> Item:
    """The item, once it is clear what it is.

    Raises:
        TypeError: for a text that is the path of a file, and for what is neither a text nor an image.
    """
    if isinstance(one, str):
        if _is_file(one):
            raise TypeError(
                f"{one!r} is a file. For the image in it use embed_images([...]) or pathlib.Path({one!r}); "
                "for these very words use embed_texts([...])"
            )
    elif not is_one(one):
        raise TypeError(f"an item is a str, bytes or a path, not {type(one).__name__}")
    return one  # type: ignore[no-any-return]


def items(given: Iterable[Item]) -> Iterator[Item]:
    """The items, each checked when it is read; see `item`."""
    for one in given:
        yield item(one)


async def items_as_they_come(given: Iterable[Item] | AsyncIterable[Item]) -> AsyncIterator[Item]:
    """The items of an iterable of either kind, each checked when it is read; see `item`."""
    if isinstance(given, AsyncIterable):
        async for one in given:
            yield item(one)
    else:
        for one in given:
            yield item(one)
            # An iterable that never waits would otherwise keep other tasks from their turn.
            await asyncio.sleep(0)


def texts(given: Iterable[str]) -> Iterator[str]:
    """The texts.

    Raises:
        TypeError: for anything else, and for one string in place of several.
    """
    if isinstance(given, str):
        raise TypeError("texts are several strings; put a single one into a list")
    for one in given:
        if not isinstance(one, str):
            raise TypeError(f"a text is a str, not {type(one).__name__}")
        yield one


def images(given: Iterable[Image | str]) -> Iterator[Image]:
    """The images; a string is the path of one.

    Raises:
        TypeError: for anything else, and for one image in place of several.
    """
    if is_one(given):
        raise TypeError("images are several; put a single one into a list")
    for one in given:
        if not is_one(one):
            raise TypeError(f"an image is bytes or a path, not {type(one).__name__}")
        yield Path(one) if isinstance(one, str) else one


def _is_file(text: str) -> bool:
    if not text or len(text) > LONGEST_PATH or "\0" in text or "\n" in text:
        return False
    return os.path.isfile(text)


def name(item: Item) -> str | None:
    """What an item is called: the path of a file."""
    return os.fspath(item) if isinstance(item, os.PathLike) else None


def sent(item: Item) -> dict[str, str]:
    """A text or an image, as `/v1/embeddings` reads it.

    Raises:
        OSError: for a file that cannot be read.
    """
    if isinstance(item, str):
        return {"text": item}
    data = Path(item).read_bytes() if isinstance(item, os.PathLike) else bytes(item)
    return {"image": base64.b64encode(data).decode("ascii")}


def rows(array: np.ndarray) -> list[str]:
    """Rows as base64 over little-endian 32-bit floats."""
    return [base64.b64encode(row.tobytes()).decode("ascii") for row in array.astype("<f4")]


def given(**options: Any) -> dict[str, Any]:
    """The options that are not None: the server has its own defaults."""
    return {name: value for name, value in options.items() if value is not None}


def encoded(given: Iterable[Image | str]) -> list[str]:
    """Images in base64.

    Raises:
        OSError: for a file that cannot be read.
    """
    return [sent(image)["image"] for image in images(given)]
