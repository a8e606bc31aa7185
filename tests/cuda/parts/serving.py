"""The server over HTTP, with clients that send more than it can do."""

from __future__ import annotations

from typing import Any

from .setting import DEMO, Outcome, Row, Server, Setting
from .watch import Watch

Case = tuple[str, str, int | None, int, int]

CASES: list[Case] = [
    # What, kind, width and height (none: the model's), items a request, clients.
    ("JPEG at the model's size", "jpeg", None, 1, 512),
    ("JPEG 1024 x 768", "jpeg", 1024, 1, 256),
    ("JPEG at the model's size, 16 a request", "jpeg", None, 16, 48),
    ("prepared pixels, 16 a request", "pixels", None, 16, 48),
    ("texts", "texts", None, 1, 512),
    ("texts, 64 a request", "texts", None, 64, 32),
    ("JPEG at the model's size, one client", "jpeg", None, 1, 1),
]
SIDES = {"base-224": 224, "so400m-384": 384}
ROWS = {"images": 128, "texts": 256}
"""Of a batch."""


def _flags(setting: Setting) -> list[str]:
    rows = {"images": 4, "texts": 4} if setting.tiny else ROWS
    return [
        "--dtype", setting.dtype,
        "--batch-max-image-rows", str(rows["images"]), "--batch-max-text-rows", str(rows["texts"]),
        "--limits-max-bytes-in-flight", "4GiB", "--limits-max-pixels-in-flight", "100000000000",
        "--limits-max-decode-bytes-in-flight", "8GiB",
    ]  # fmt: skip


def side(setting: Setting) -> int:
    """Of the model's images."""
    if setting.tiny:
        return 32 if setting.checkpoints["base-224"] != DEMO else 64
    return SIDES["base-224"]


def load(setting: Setting, server: Server, kind: str, **options: Any) -> list[str]:
    """The command that sends requests."""
    command = [str(setting.program), "load", "--server", server.address, "--model", "model", "--kind", kind]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    return command


def _measure(setting: Setting, server: Server, case: Case) -> Row:
    what, kind, width, items, clients = case
    seconds, warm_up = (0.5, 0.1) if setting.tiny else (5.0, 1.5)
    clients = min(clients, 4) if setting.tiny else clients
    own = side(setting)
    height = own if width is None else width * 3 // 4
    command = load(
        setting, server, kind, width=width or own, height=height, items=items, clients=clients,
        seconds=seconds, warm_up=warm_up,
    )  # fmt: skip
    watch = Watch(setting, server.process.pid)
    found = setting.kit(*command[1:])[-1]
    seen = watch.stop()
    if found["failed"]:
        raise RuntimeError(f"{what}: {found['failed']} requests failed: {found['failure']}")
    # The first requests, which do not count in the rate, had the processor as well.
    cores = seen["cpu_seconds"] / seen["seconds"]
    return {
        "what": what,
        "clients": clients,
        "items_per_second": found["items_per_second"],
        "p50_ms": found["p50_ms"],
        "p99_ms": found["p99_ms"],
        "rejected": found["rejected"],
        "gpu_busy": seen["gpu_busy"],
        "server_cores": cores,
        "cpu_ms_per_item": cores / found["items_per_second"] * 1e3 if found["items_per_second"] else None,
    }


def run(setting: Setting) -> Outcome:
    server = Server(setting, setting.checkpoints["base-224"], *_flags(setting))
    for case in CASES:
        setting.note("serving", _measure(setting, server, case))
    server.stop()
    rows = setting.found.pop("serving")
    of_size, large = rows[0], rows[1]
    best = max(row["items_per_second"] for row in (of_size, rows[2]))
    headline = f"JPEG at the model's size {best:.0f}/s, 1024 x 768 {large['items_per_second']:.0f}/s"
    return Outcome(rows=rows, headline=headline)
