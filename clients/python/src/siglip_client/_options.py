"""What both clients are told, and what they check of it."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import urlsplit

import httpx

from . import _requests
from ._run import Sizer

OnError = Literal["raise", "item"]

MAX_ITEMS = 1024
MAX_BYTES = 48 << 20


def base(url: str) -> str:
    """The server's address.

    Raises:
        ValueError: for one that is no HTTP URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"base_url must begin with http:// or https://, such as http://127.0.0.1:8080, not {url!r}")
    return url


def headers(api_key: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {api_key}"} if api_key else {}


def authorization(headers: httpx.Headers) -> dict[str, str]:
    """The header with the key, where there is a key."""
    return {"authorization": headers["authorization"]} if "authorization" in headers else {}


def sizer(batch_items: int | None, batch_bytes: int | None) -> Sizer:
    """How requests are cut: by measured speed, within what the caller and the server allow."""
    return Sizer(batch_items or MAX_ITEMS, batch_bytes or MAX_BYTES)


def limits(response: httpx.Response) -> dict[str, Any]:
    """The limits that `/info` lists; nothing where the response is none."""
    try:
        found = response.json()["limits"] if response.is_success else {}
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def checked(on_error: str) -> bool:
    """Whether items fail one by one.

    Raises:
        ValueError: for what is no way to treat errors.
    """
    if on_error not in ("raise", "item"):
        raise ValueError(f'on_error is "raise" or "item", not {on_error!r}')
    return on_error == "item"


def embedding(
    model: str | None,
    dimensions: int | None,
    normalized: bool,
    truncate: bool | None,
    max_num_patches: int | None,
) -> dict[str, Any]:
    """The options of a request to `/v1/embeddings`."""
    return {"normalized": normalized} | _requests.given(
        model=model, dimensions=dimensions, truncate=truncate, max_num_patches=max_num_patches
    )
