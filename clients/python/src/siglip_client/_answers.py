"""Answers and failures, as the caller gets them."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import numpy as np


@dataclass(frozen=True)
class Similarity:
    """Scores of every picture (rows) against every text (columns), `float32 [pictures, texts]`."""

    cosine: np.ndarray
    logit: np.ndarray
    probability: np.ndarray
    """Calibrated, each pair on its own: rows do not sum to 1."""


@dataclass(frozen=True)
class Label:
    """A label's score for one picture."""

    label: str
    index: int
    """Its place in the request's labels."""
    probability: float
    logit: float


@dataclass(frozen=True)
class ModelInfo:
    """What the server says of a model that it serves."""

    name: str
    revision: str
    dimension: int
    preprocessing_version: str
    raw: dict[str, Any] = field(repr=False)
    """Everything that `/info` has about it."""


@dataclass(frozen=True)
class Failure:
    """One item that failed."""

    code: str
    message: str
    field: str | None


class ServerError(Exception):
    """The server refused a request, or failed to answer it.

    Attributes:
        status: the HTTP status.
        code: the machine-readable name, such as `undecodable_image`.
        message: what is wrong.
        field: the part at fault (`input[3]`), counted over all inputs of the call.
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
        where = f"{failure.field}: " if failure.field else ""
        super().__init__(f"{status} {failure.code}: {where}{failure.message}")
        self.status = status
        self.code = failure.code
        self.message = failure.message
        self.field = failure.field
        self.items = items
        self.request_id = request_id


def check(response: httpx.Response, offset: int = 0) -> Any:
    """The JSON of an answer.

    Args:
        offset: the place of the request's first item among all items of the call.

    Raises:
        ServerError: if it is a failure.
    """
    if response.is_success:
        return response.json()
    try:
        body = response.json()
    except ValueError:
        body = {}
    # A problem document, or OpenAI's envelope; a proxy's answer may be neither.
    inner = body.get("error") if isinstance(body.get("error"), dict) else body
    failure = _failure(inner, response.reason_phrase)
    items = tuple(_shifted(_failure(one), offset) for one in inner.get("errors", ()))
    request_id = response.headers.get("x-request-id")
    raise ServerError(response.status_code, _shifted(failure, offset), items, request_id)


def _failure(body: dict[str, Any], otherwise: str = "") -> Failure:
    return Failure(
        code=body.get("code") or "unknown",
        message=body.get("detail") or body.get("message") or otherwise,
        field=body.get("field") or body.get("param"),
    )


def _shifted(failure: Failure, offset: int) -> Failure:
    if not offset or not failure.field:
        return failure
    shift = lambda found: f"input[{int(found[1]) + offset}]"
    return replace(failure, field=re.sub(r"^input\[(\d+)\]", shift, failure.field))


def vectors(answer: dict[str, Any]) -> np.ndarray:
    """The embeddings of an answer in base64, `float32 [items, dimension]`."""
    decoded = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in answer["data"]]
    return np.stack(decoded).astype(np.float32, copy=False)


def similarity(answer: dict[str, Any]) -> Similarity:
    """The matrices of an answer."""
    return Similarity(
        **{name: np.array(answer[name], np.float32) for name in ("cosine", "logit", "probability")}
    )


def labels(answer: dict[str, Any]) -> list[list[Label]]:
    """The labels of each picture, best first."""
    return [[Label(**label) for label in row] for row in answer["results"]]


def models(answer: dict[str, Any]) -> list[ModelInfo]:
    """The models that `/info` lists."""
    names = ("name", "revision", "dimension", "preprocessing_version")
    return [ModelInfo(**{name: model[name] for name in names}, raw=model) for model in answer["models"]]
