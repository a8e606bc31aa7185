"""Responses, as the caller gets them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Union

import httpx
import numpy as np

from ._errors import Failure
from ._requests import Item


@dataclass(frozen=True)
class Row:
    """The outcome of one item."""

    index: int
    """The item's place among all items of the call."""
    item: Item
    vector: np.ndarray | None
    """`float32 [dimension]`; None if the item failed."""
    failure: Failure | None = None


@dataclass(frozen=True)
class Embeddings:
    """The vectors of the items that could be embedded, and why the others could not."""

    vectors: np.ndarray
    """`float32 [len(indices), dimension]`."""
    indices: list[int]
    """For each vector its item's place among all items of the call, ascending."""
    failures: list[Failure]
    """The items that failed, in the order of the items; `index` and `name` say which."""


@dataclass(frozen=True)
class Similarity:
    """Scores of every image (rows) against every text (columns), `float32 [images, texts]`."""

    cosine: np.ndarray
    logit: np.ndarray
    probability: np.ndarray
    """Calibrated, each pair on its own: rows do not sum to 1."""


@dataclass(frozen=True)
class Label:
    """A label's score for one image."""

    label: str
    index: int
    """Its place in the request's labels."""
    probability: float
    logit: float


@dataclass(frozen=True)
class Features:
    """The token map of one image."""

    values: np.ndarray
    """`[tokens, width]`, or `[width]` where it is pooled; float32 or float16."""
    grid: tuple[int, int] | None
    """Rows and columns of patches; None where it is pooled."""


@dataclass(frozen=True)
class Caption:
    """What a model wrote about an image."""

    text: str
    token_ids: list[int]
    finish_reason: str
    """`stop` where the model ended the caption, `length` where it has as many tokens as it may have."""


@dataclass(frozen=True)
class ModelInfo:
    """What the server says of a model that it serves."""

    name: str
    revision: str
    dimension: int
    preprocessing_version: str
    raw: dict[str, Any] = field(repr=False)
    """Everything that `/info` has about it."""


def vector(row: dict[str, Any]) -> np.ndarray:
    """One embedding in base64, `float32 [dimension]`; several of an image, `[vectors, dimension]`, where there is a shape."""
    decoded = np.frombuffer(base64.b64decode(row["embedding"]), "<f4")
    return decoded.astype(np.float32, copy=False).reshape(row.get("shape", -1))


def stacked(rows: Iterable[Row]) -> np.ndarray:
    """The vectors of rows of which none failed, in the order of the items."""
    found = in_order(rows)
    return np.stack(found) if found else np.empty((0, 0), np.float32)


def in_order(rows: Iterable[Row]) -> list[np.ndarray]:
    """The vectors of rows, in the order of the items."""
    return [row.vector for row in sorted(rows, key=lambda row: row.index) if row.vector is not None]


def collected(rows: Iterable[Row]) -> Embeddings:
    """Rows of which some may have failed, in the order of the items."""
    ordered = sorted(rows, key=lambda row: row.index)
    whole = [row for row in ordered if row.vector is not None]
    failures = [row.failure for row in ordered if row.failure is not None]
    return Embeddings(stacked(whole), [row.index for row in whole], failures)


Embedded = Union[np.ndarray, Embeddings]
"""What a call of `embed` gives: an array, or with `on_error="item"` an `Embeddings`."""


def similarity(answer: dict[str, Any]) -> Similarity:
    """The matrices of a response."""
    return Similarity(
        **{name: np.array(answer[name], np.float32) for name in ("cosine", "logit", "probability")}
    )


def labels(answer: dict[str, Any]) -> list[list[Label]]:
    """The labels of each image, best first."""
    return [[Label(**label) for label in row] for row in answer["results"]]


def features(response: httpx.Response) -> Features:
    """The token map of a response in numpy's format."""
    values = np.load(io.BytesIO(response.content), allow_pickle=False)[0]
    rows, _, columns = response.headers.get("x-siglip-grid", "").partition("x")
    return Features(values, (int(rows), int(columns)) if columns and values.ndim == 2 else None)


def captions(answer: dict[str, Any]) -> list[Caption]:
    """The captions of a response."""
    return [Caption(one["text"], one["token_ids"], one["finish_reason"]) for one in answer["captions"]]


def models(answer: dict[str, Any]) -> list[ModelInfo]:
    """The models that `/info` lists."""
    names = ("name", "revision", "dimension", "preprocessing_version")
    return [ModelInfo(**{name: model[name] for name in names}, raw=model) for model in answer["models"]]


def reads_pairs(models: list[ModelInfo], name: str | None) -> bool:
    """Whether a model judges an image and a text together (BLIP, BLIP-2): their stored vectors are not enough for that.

    * `name`: the model's name or an alias; the default model where none is given
    """
    named = [model for model in models if name is None or name in (model.name, *model.raw.get("aliases", ()))]
    return bool(named) and named[0].raw.get("scoring", {}).get("kind") == "matching"
