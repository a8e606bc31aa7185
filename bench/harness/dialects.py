"""The requests of the HTTP part, in each server's own form."""

from __future__ import annotations

import base64
import io
import itertools
import json
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from .load import Request

WIDTH, HEIGHT = 1024, 768
LABELS = tuple(f"a photo of thing number {number}" for number in range(100))
PICTURES = 128
"""Different files, more than are ever under way: equal pictures in flight are computed once by this server."""


def jpeg(width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """A made-up photograph: soft shapes, edges and grain, of a photograph's size as a file (about 150 kB)."""
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[0:height, 0:width]
    picture = np.zeros((height, width, 3))
    for _ in range(40):
        y, x, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(20, 200)
        inside = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        picture[inside] = 0.5 * picture[inside] + rng.uniform(0, 128, 3)
    picture += 40 * np.sin(rows / 9)[..., None] * np.cos(columns / 7)[..., None]
    picture += rng.normal(0, 5, (height, width, 1))
    out = io.BytesIO()
    Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=80)
    return out.getvalue()


def commented(picture: bytes, number: int) -> bytes:
    """The same picture as another file: with a comment segment behind the first marker."""
    text = b"%08d" % number
    return picture[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + picture[2:]


@cache
def pictures() -> tuple[bytes, ...]:
    """Files of equal cost and different content."""
    picture = jpeg()
    return tuple(commented(picture, number) for number in range(PICTURES))


@cache
def data_uris() -> tuple[str, ...]:
    """The same, as JSON has them."""
    return tuple("data:image/jpeg;base64," + base64.b64encode(file).decode() for file in pictures())


_texts = itertools.count()


def _next_text() -> str:
    """A text that nobody asked for before: no cache knows it."""
    return f"a photo of the thing with the number {next(_texts)}"


@dataclass(frozen=True)
class Dialect:
    """How one server wants to be asked."""

    model: str
    ours: bool

    def image(self, number: int) -> Request:
        """One picture: this server takes the file itself, infinity a data URI."""
        if self.ours:
            return Request("/v1/embeddings", pictures()[number % PICTURES], "image/jpeg")
        return self.image_uri(number)

    def image_uri(self, number: int) -> Request:
        """One picture as a data URI: the same body to both."""
        return self._json({"modality": "image", "input": [data_uris()[number % PICTURES]]})

    def text(self, _number: int) -> Request:
        """One new text."""
        return self._json({"input": [_next_text()]})

    def labels(self, _number: int) -> Request:
        """The label set again: the text side of zero-shot classification."""
        return self._json({"input": list(LABELS)})

    def _json(self, values: dict[str, object]) -> Request:
        path = "/v1/embeddings" if self.ours else "/embeddings"
        return Request(path, json.dumps({"model": self.model, **values}).encode())
