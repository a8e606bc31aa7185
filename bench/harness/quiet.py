"""Measures while the machine is otherwise quiet, and says how quiet it was."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TypeVar

from .machine import Others, wait_for_quiet
from .settings import Settings

T = TypeVar("T")
TRIES = 3

_waits = {"left": math.inf}
"""Seconds of waiting that are left of a run's."""


def begin(settings: Settings) -> None:
    """Begins a run, with all of its waiting left."""
    _waits["left"] = settings.waiting


def _wait(settings: Settings) -> bool:
    """Waits for quiet; whether there is any waiting left."""
    begun = time.monotonic()
    wait_for_quiet(settings.most_others, min(settings.patience, _waits["left"]))
    _waits["left"] = max(_waits["left"] - (time.monotonic() - begun), 0.0)
    return _waits["left"] > 0


def quietly(settings: Settings, pids: Callable[[], list[int]], measure: Callable[[], T]) -> tuple[T, float]:
    """Runs `measure`, again where others used too much of the machine meanwhile.

    Returns what it measured, and the cores that others used: of the quietest try.
    """
    best: tuple[T, float] | None = None
    for _ in range(TRIES):
        patient = _wait(settings)
        others = Others(*pids())
        result = measure()
        cores = others.cores()
        if best is None or cores < best[1]:
            best = (result, cores)
        if cores <= settings.most_others or not patient:
            break
    assert best is not None
    return best
