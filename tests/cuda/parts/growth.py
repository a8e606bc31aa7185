"""Memory over a minute of requests of mixed sizes."""

from __future__ import annotations

from statistics import median

from .serving import load
from .setting import Outcome, Row, Server, Setting
from .watch import Watch

MOST_GROWTH = 1.05
"""Of the last quarter over the second."""


def _quarters(samples: list[float]) -> list[float]:
    size = max(1, len(samples) // 4)
    return [median(samples[quarter * size : (quarter + 1) * size] or [0.0]) for quarter in range(4)]


def run(setting: Setting) -> Outcome:
    seconds = 2.0 if setting.tiny else max(10.0, min(60.0, setting.left() - 15))
    server = Server(
        setting, setting.checkpoints["base-224"], "--dtype", setting.dtype,
        "--batch-max-image-rows", "64", "--batch-max-text-rows", "128",
        "--limits-max-bytes-in-flight", "2GiB",
    )  # fmt: skip
    options = {"width": 640, "height": 480, "items": 8 if setting.tiny else 64, "clients": 4 if setting.tiny else 48}
    watch = Watch(setting, server.process.pid)
    found = setting.kit(*load(setting, server, "mixed", seconds=seconds, warm_up=0, **options)[1:])[-1]
    watch.stop()
    server.stop()
    failures = []
    for what, samples in (("host", watch.resident), ("device", watch.device_mib)):
        if not samples:
            continue
        quarters = _quarters(samples)
        row: Row = {"what": what, "quarters_mib": [round(mib) for mib in quarters], "most_mib": max(samples)}
        row["growth"] = quarters[3] / quarters[1] - 1
        setting.note("growth", row)
        if quarters[3] > quarters[1] * MOST_GROWTH and not setting.tiny:
            failures.append(f"{what} memory grows by {row['growth']:.1%}")
    setting.note("growth", {"what": "requests", "seconds": seconds, **found})
    if found["failed"]:
        failures.append(f"{found['failed']} requests failed: {found['failure']}")
    rows = setting.found.pop("growth")
    headline = ", ".join(f"{row['what']} {row['most_mib']:.0f} MiB at most" for row in rows[:-1])
    return Outcome(rows=rows, failure="; ".join(failures) or None, headline=headline)
