"""(b) Whole servers over HTTP: ours in each dtype beside infinity on the same checkpoint."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from .. import load, servers
from ..load import Outcome, Request
from ..machine import cpu_seconds, resident_mib
from ..quiet import quietly
from ..samples import Samples
from ..servers import Server
from ..settings import BENCH, WORK, Settings
from .tower import Ours

CLIENTS = (1, 4, 16, 64)
TEXTS = 2000
"""Different bodies that wrk sends in turn."""


def measure(settings: Settings, samples: Samples, dtypes: list[str]) -> None:
    """All rounds: in each, every server in turn with each kind of request and number of clients."""
    found = _start(dtypes)
    demo = servers.ours("f32", "demo", "--cache-text-bytes", "0") if shutil.which("wrk") else None
    if demo:
        demo.child.suspend()
    try:
        for server in found:
            samples.add("start", engine=server.name, dtype=server.dtype, ready_seconds=server.ready_seconds)
        for number in range(settings.rounds):
            if settings.time_is_up(number):
                print("the time is up", file=sys.stderr)
                break
            _one_round(settings, samples, number, found)
            _bare_tower(settings, samples, number, dtypes)
            if demo:
                _demo_texts(settings, samples, number, demo)
    finally:
        for server in [*found, *([demo] if demo else [])]:
            server.child.end()


def _start(dtypes: list[str]) -> list[Server]:
    starts: list[Callable[[], Server]] = [partial(servers.ours, dtype) for dtype in dtypes]
    found: list[Server] = []
    for start in [*starts, servers.infinity, servers.infinity_padded]:
        try:
            server = start()
        except RuntimeError as error:
            print(f"a server is left out: {error}", file=sys.stderr)
            continue
        # What a server does once, and the agreement of the request with what it understands.
        for make in (server.dialect.image, server.dialect.text, server.dialect.labels):
            outcome = load.run(server.port, 1, 0.01, make)
            if outcome.errors:
                raise RuntimeError(f"{server.name}: {outcome.first_error}")
        server.child.suspend()
        found.append(server)
    return found


def _one_round(settings: Settings, samples: Samples, number: int, found: list[Server]) -> None:
    start = number % len(found)
    turn = found[start:] + found[:start]
    for clients in CLIENTS:
        # Many clients of a slow server are answered long after the window: it needn't be long.
        for kind, window in (("image", settings.window), ("text", settings.window / 2)):
            for server in turn:
                _one(settings, samples, server, (number, kind, clients, window))
    for server in turn:
        _one(settings, samples, server, (number, "labels", 1, settings.window / 2))
    for server in turn:
        if server.dialect.ours:
            _one(settings, samples, server, (number, "image_uri", 4, settings.window))


def _one(settings: Settings, samples: Samples, server: Server, what: tuple[int, str, int, float]) -> None:
    """One measurement: round, kind of request, clients, seconds."""
    number, kind, clients, window = what
    make: Callable[[int], Request] = getattr(server.dialect, kind)

    def run() -> tuple[Outcome, float, float]:
        with server.child.awake():
            before = cpu_seconds(server.child.pid)
            outcome = load.run(server.port, clients, window, make)
            cpu = cpu_seconds(server.child.pid) - before
            return outcome, cpu, resident_mib(server.child.pid)

    (outcome, cpu, resident), others = quietly(settings, lambda: [server.child.pid], run)
    if outcome.errors:
        print(f"{server.name} {kind}: {outcome.errors} errors: {outcome.first_error}", file=sys.stderr)
    samples.add(
        "http",
        round=number,
        kind=kind,
        clients=clients,
        engine=server.name,
        dtype=server.dtype,
        rate=outcome.rate,
        answers=len(outcome.ends),
        errors=outcome.errors,
        p50_ms=outcome.percentile_ms(50),
        p99_ms=outcome.percentile_ms(99),
        cpu_seconds_per_1000=1000 * cpu / max(len(outcome.ends), 1),
        cores=cpu / max(outcome.seconds, 1e-9),
        resident_mib=resident,
        others=others,
    )


def _bare_tower(settings: Settings, samples: Samples, number: int, dtypes: list[str]) -> None:
    """The tower's own rate in this round, for the share of it that is left over HTTP."""
    for dtype in dtypes:
        tower = Ours(dtype, "vision", settings.threads)
        values, others = quietly(settings, list, partial(tower.measure, 4, settings.seconds, None))
        rate = values["items_per_second"]
        samples.add(
            "bare_tower", round=number, dtype=dtype, tower="vision", batch=4, items_per_second=rate, others=others
        )


def _demo_texts(settings: Settings, samples: Samples, number: int, server: Server) -> None:
    """Text requests with the small checkpoint, where the work around the tower shows. wrk shares the cores."""
    bodies = WORK / "demo-texts"
    bodies.mkdir(exist_ok=True)
    for index in range(TEXTS):
        text = {"model": "bench", "input": f"a picture of thing number {index}"}
        (bodies / f"text-{index}").write_text(json.dumps(text))
    for clients in (1, 64):

        def run(clients: int = clients) -> tuple[str, float]:
            with server.child.awake():
                before = cpu_seconds(server.child.pid)
                output = _wrk(server.port, clients, settings.window, bodies)
                return output, cpu_seconds(server.child.pid) - before

        (output, cpu), others = quietly(settings, lambda: [server.child.pid], run)
        found = dict(re.findall(r"(\w+)=([\d.]+)", output))
        if int(found["errors"]):
            raise RuntimeError(f"the demo checkpoint's texts: {output}")
        samples.add(
            "demo_texts",
            round=number,
            clients=clients,
            rate=float(found["rate"]),
            p50_ms=float(found["p50_ms"]),
            p99_ms=float(found["p99_ms"]),
            cpu_ms_per_request=1e3 * cpu / max(float(found["requests"]), 1),
            others=others,
        )


def _wrk(port: int, clients: int, seconds: float, bodies: Path) -> str:
    command = ["wrk", "-t1", f"-c{clients}", f"-d{max(round(seconds), 1)}s", "--timeout", "20s"]
    command += ["-s", str(BENCH / "http/load.lua"), f"http://127.0.0.1:{port}", "--", str(bodies), "text", str(TEXTS)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
