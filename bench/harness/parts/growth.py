"""(d) How our cost grows: rows, picture size, texts, labels, and the size of the matrix of pairs."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import partial
from itertools import count

import numpy as np

from .. import load, servers
from ..dialects import pictures
from ..load import Request
from ..quiet import quietly
from ..samples import Samples
from ..servers import Server
from ..settings import CHECK, Settings, checkpoint_of
from .tower import Ours

ROWS = (1, 2, 4, 8, 16, 32)
SIDES = (224, 384, 512)
TEXTS = (1, 4, 16, 64)
NEW_LABELS = (1, 10, 100)
KNOWN_LABELS = (1, 10, 100, 1000)
PAIRS = (32, 100, 316, 1000)
DIM = 64 if CHECK else 768

_fresh = count()


def _embeddings(rows: int, seed: int) -> list[str]:
    values = np.random.default_rng(seed).normal(size=(rows, DIM)).astype("<f4")
    return [base64.b64encode(row.tobytes()).decode() for row in values]


def _json(path: str, values: dict[str, object]) -> Request:
    return Request(path, json.dumps({"model": "bench", **values}).encode())


def texts(size: int) -> Request:
    """New texts, in one request."""
    return _json("/v1/embeddings", {"input": [f"text {next(_fresh)}" for _ in range(size)]})


def new_labels(size: int) -> Request:
    """One stored picture against labels that were never seen."""
    labels = [f"thing {next(_fresh)}" for _ in range(size)]
    return _json("/v1/classify", {"image_embeddings": _embeddings(1, 1), "labels": labels, "top_k": 5})


def known_labels(size: int) -> Request:
    """The same against labels that the cache knows."""
    labels = [f"label {number}" for number in range(size)]
    return _json("/v1/classify", {"image_embeddings": _embeddings(1, 1), "labels": labels, "top_k": 5})


def pairs(size: int) -> Request:
    """Stored embeddings of `size` pictures against as many of texts: no tower runs."""
    values = {"image_embeddings": _embeddings(size, 1), "text_embeddings": _embeddings(size, 2)}
    return _json("/v1/similarity", {**values, "scores": ["probability"]})


REQUESTS: dict[str, tuple[tuple[int, ...], Callable[[int], Request]]] = {
    "texts of a request": (TEXTS, texts),
    "new labels": (NEW_LABELS, new_labels),
    "known labels": (KNOWN_LABELS, known_labels),
    "side of the pair matrix": (PAIRS, pairs),
}


def measure(settings: Settings, samples: Samples) -> None:
    """All rounds, smallest first."""
    server = servers.ours("f32")
    server.child.suspend()
    try:
        for number in range(max(settings.rounds - 2, 1)):
            if settings.time_is_up(number):
                break
            _towers(settings, samples, number)
            _requests(settings, samples, number, server)
            _images(settings, samples, number, server)
    finally:
        server.child.end()


def _towers(settings: Settings, samples: Samples, number: int) -> None:
    seconds = settings.seconds / 2
    for name in ("vision", "text"):
        for rows in ROWS:
            tower = Ours("f32", name, settings.threads)
            values, others = quietly(settings, list, partial(tower.measure, rows, seconds, None))
            cost = 1e3 * rows / values["items_per_second"]
            samples.add("growth", round=number, axis=f"rows of a {name} pass", size=rows, ms=cost, others=others)
    for side in SIDES:
        tower = Ours("f32", "vision", settings.threads, checkpoint_of(side))
        values, others = quietly(settings, list, partial(tower.measure, 1, seconds, None))
        cost = 1e3 / values["items_per_second"]
        samples.add("growth", round=number, axis="side of a picture", size=side, ms=cost, others=others)


def _requests(settings: Settings, samples: Samples, number: int, server: Server) -> None:
    for axis, (sizes, make) in REQUESTS.items():
        for size in sizes:
            _request(settings, samples, server, (number, axis, size), make)


def _images(settings: Settings, samples: Samples, number: int, server: Server) -> None:
    def make(size: int) -> Request:
        uris = [base64.b64encode(pictures()[next(_fresh) % len(pictures())]).decode() for _ in range(size)]
        return _json("/v1/embeddings", {"modality": "image", "input": uris})

    for size in (1, 4, 16):
        _request(settings, samples, server, (number, "pictures of a request", size), make)


def _request(
    settings: Settings,
    samples: Samples,
    server: Server,
    point: tuple[int, str, int],
    make: Callable[[int], Request],
) -> None:
    """The median latency of one client's requests of one size."""
    number, axis, size = point

    def run() -> load.Outcome:
        with server.child.awake():
            # What is filled once: the cache.
            if axis == "known labels":
                load.run(server.port, 1, 0.01, lambda _: make(size))
            return load.run(server.port, 1, settings.seconds / 2, lambda _: make(size))

    outcome, others = quietly(settings, lambda: [server.child.pid], run)
    if outcome.errors:
        raise RuntimeError(f"{axis} {size}: {outcome.first_error}")
    samples.add("growth", round=number, axis=axis, size=size, ms=outcome.percentile_ms(50), others=others)
