"""When to try again, and after how long."""

from __future__ import annotations

import random
from dataclasses import dataclass

import httpx

RETRIED = frozenset({429, 502, 503})
"""Statuses that say nothing about the request itself. 504 is not among them: the same request would take as long
again, so it is made smaller instead."""

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 10.0


@dataclass
class Retries:
    """Counts the tries of one request."""

    max_retries: int
    timeout: float
    """Seconds that all pauses together may take."""
    done: int = 0
    waited: float = 0.0

    def pause(self, response: httpx.Response | None) -> float | None:
        """Seconds until the next try; None if there is none.

        Args:
            response: the failure's response; None where the connection broke.
        """
        if self.done >= self.max_retries:
            return None
        if response is not None and response.status_code not in RETRIED:
            return None
        backoff: float = min(LONGEST_PAUSE, FIRST_PAUSE * 2**self.done)
        # Spread, so that clients that were refused together do not come back together.
        pause = backoff * random.uniform(0.5, 1.0)
        after = _retry_after(response)
        if after is not None:
            pause = after + random.uniform(0.0, FIRST_PAUSE)
        if self.waited + pause > self.timeout:
            return None
        self.done += 1
        self.waited += pause
        return pause


def _retry_after(response: httpx.Response | None) -> float | None:
    value: str | None = response.headers.get("retry-after") if response is not None else None
    try:
        return max(0.0, float(value)) if value is not None else None
    except ValueError:
        # A date: no server of ours sends one.
        return None
