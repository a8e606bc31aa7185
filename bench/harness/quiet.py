"""Measures while the machine is otherwise quiet, and says how quiet it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from .machine import Others, wait_for_quiet
from .settings import Settings

T = TypeVar("T")
TRIES = 3


def quietly(settings: Settings, pids: Callable[[], list[int]], measure: Callable[[], T]) -> tuple[T, float]:
    """Runs `measure`, again where others used too much of the machine meanwhile.

    Returns what it measured, and the cores that others used: of the quietest try.
    """
    best: tuple[T, float] | None = None
    for _ in range(TRIES):
        wait_for_quiet(settings.most_others, settings.patience)
        others = Others(*pids())
        result = measure()
        cores = others.cores()
        if best is None or cores < best[1]:
            best = (result, cores)
        if cores <= settings.most_others:
            break
    assert best is not None
    return best
