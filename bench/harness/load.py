"""Clients that ask again as soon as they are answered, and what they saw.

A thread a client, each with one connection that is kept. Rates up to some hundred requests a second; wrk does
what is faster.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

TIMEOUT_SECONDS = 300


@dataclass(frozen=True)
class Request:
    """One request."""

    path: str
    body: bytes
    content_type: str = "application/json"


@dataclass
class Outcome:
    """All answers of one run."""

    start: float
    ends: list[float] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    errors: int = 0
    first_error: str = ""

    @property
    def rate(self) -> float:
        """Answers a second: the slope of their number over time.

        Answers come in bursts where the server works in batches. A count over a window would depend on how
        many bursts its ends cut off; the slope does not.
        """
        ends = np.sort(np.array(self.ends)) - self.start
        if len(ends) < 2 or ends[-1] == ends[0]:
            return len(ends) / max(float(ends[-1]), 1e-9) if len(ends) else 0.0
        number = np.arange(len(ends))
        return float(np.polyfit(ends, number, 1)[0])

    @property
    def seconds(self) -> float:
        """Until the last answer."""
        return max(self.ends, default=self.start) - self.start

    def percentile_ms(self, percent: float) -> float:
        """A percentile of the latency."""
        return float(np.percentile(self.latencies_ms, percent)) if self.latencies_ms else 0.0


def run(port: int, clients: int, seconds: float, make: Callable[[int], Request]) -> Outcome:
    """Asks for `seconds`, then waits for what is under way. `make` gives the n-th request."""
    outcome = Outcome(time.perf_counter())
    lock = threading.Lock()
    counter = iter(range(1 << 60))

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
        while time.perf_counter() - outcome.start < seconds:
            with lock:
                request = make(next(counter))
            begin = time.perf_counter()
            try:
                headers = {"Content-Type": request.content_type}
                connection.request("POST", request.path, request.body, headers)
                response = connection.getresponse()
                answer = response.read()
                failure = "" if response.status == 200 else f"{response.status}: {answer[:200]!r}"
            except (OSError, http.client.HTTPException) as error:
                failure = repr(error)
                connection.close()
            end = time.perf_counter()
            with lock:
                if failure:
                    outcome.errors += 1
                    outcome.first_error = outcome.first_error or failure
                else:
                    outcome.ends.append(end)
                    outcome.latencies_ms.append((end - begin) * 1e3)
            if failure:
                time.sleep(0.05)

    threads = [threading.Thread(target=client, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcome
