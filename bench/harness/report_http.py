"""The report's section about servers over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median

from . import plots
from .figures import Spread, ratio, verdict
from .samples import Samples
from .tables import by_round, quiet_values, spread, table

KINDS = {"image": "images", "text": "texts", "image_uri": "images as data URIs", "labels": "label sets of 100"}
Engine = tuple[str, str]


def _engines(samples: Samples) -> list[Engine]:
    return list(dict.fromkeys((record["engine"], record["dtype"]) for record in samples.select("http")))


def http_section(folder: Path, samples: Samples) -> Iterator[str]:
    """All tables about HTTP."""
    yield "## Over HTTP"
    yield ""
    yield (
        "The same full-size checkpoint in every server; the clients run on the same cores. A picture is a different "
        "JPEG of 1024 x 768 in each request, the file itself for siglip-server and a data URI for infinity; a text is "
        "always a new one. siglip-server is built as the container image has it, with libjpeg-turbo. "
        "Latencies are over all rounds; CPU seconds are the server's, for 1,000 answers. "
        "infinity pads a batch of texts to the longest of them instead of the checkpoint's length, and cuts them at 20 "
        "tokens: its texts are less work, and their vectors are others than those of transformers. `infinity, padded to "
        "64` is infinity with both corrected, and the same work."
    )
    for kind in ("image", "text"):
        yield ""
        yield f"### One {kind} a request"
        yield ""
        yield from _kind_table(samples, kind)
    yield ""
    yield "### Repeated labels, and data URIs"
    yield ""
    yield "The text side of zero-shot classification: 100 labels embedded by each request, the same every time."
    yield ""
    yield from _kind_table(samples, "labels")
    yield ""
    yield from _kind_table(samples, "image_uri")
    yield ""
    yield from _ratios(samples)
    yield from _demo(samples)
    _plot(folder, samples)
    yield ""
    yield "![Answers a second by clients](http.svg)"


def _kind_table(samples: Samples, kind: str) -> Iterator[str]:
    rows = []
    for clients in sorted({record["clients"] for record in samples.select("http", kind=kind)}):
        for engine, dtype in _engines(samples):
            found = list(samples.select("http", kind=kind, clients=clients, engine=engine, dtype=dtype))
            if not found:
                continue
            rows.append(
                [
                    f"{engine} {dtype}",
                    str(clients),
                    spread(found, "rate"),
                    f"{median(quiet_values(found, 'p50_ms')):.0f}",
                    f"{max(quiet_values(found, 'p99_ms')):.0f}",
                    f"{median(quiet_values(found, 'cpu_seconds_per_1000')):.0f}",
                    f"{max(quiet_values(found, 'resident_mib')):.0f}",
                ]
            )
    yield from table(["server", "clients", f"{KINDS[kind]}/s", "p50 ms", "worst p99 ms", "CPU s", "RSS MiB"], rows)


def _rates(samples: Samples, kind: str, clients: int, engine: Engine) -> dict[int, float]:
    """Answers a second, by round."""
    name, dtype = engine
    return by_round(samples.select("http", kind=kind, clients=clients, engine=name, dtype=dtype), "rate")


def _ratios(samples: Samples) -> Iterator[str]:
    """Ours by infinity, and by our own bare tower."""
    cases = dict.fromkeys((record["kind"], record["clients"]) for record in samples.select("http"))
    ours = [engine for engine in _engines(samples) if not engine[0].startswith("infinity")]
    for theirs in [engine for engine in _engines(samples) if engine[0].startswith("infinity")]:
        rows = []
        for kind, clients in cases:
            other = _rates(samples, kind, clients, theirs)
            pairs = [ratio(_rates(samples, kind, clients, mine), other) for mine in ours]
            if any(pairs):
                rows.append([KINDS[kind], str(clients), *map(verdict, pairs)])
        yield f"### Ours by {theirs[0]}"
        yield ""
        yield from table(["request", "clients", *(f"{name} {dtype}" for name, dtype in ours)], rows)
        yield ""
    yield "### Ours over HTTP by our own tower at batch 4, decoding included"
    yield ""
    rows = []
    for clients in sorted({record["clients"] for record in samples.select("http", kind="image")}):
        shares = []
        for mine in ours:
            bare = by_round(samples.select("bare_tower", dtype=mine[1], tower="vision"), "items_per_second")
            shares.append(verdict(ratio(_rates(samples, "image", clients, mine), bare)))
        rows.append([str(clients), *shares])
    yield from table(["clients", *(f"{name} {dtype}" for name, dtype in ours)], rows)


def _demo(samples: Samples) -> Iterator[str]:
    """The embedded checkpoint, whose tower costs next to nothing."""
    found = list(samples.select("demo_texts"))
    if not found:
        return
    rows = []
    for clients in sorted({record["clients"] for record in found}):
        of = list(samples.select("demo_texts", clients=clients))
        figures = [spread(of, key, digits) for key, digits in (("rate", 0), ("p50_ms", 2), ("cpu_ms_per_request", 3))]
        rows.append([str(clients), *figures, f"{max(quiet_values(of, 'p99_ms')):.2f}"])
    yield ""
    yield "### Texts with the demo checkpoint, without the text cache, wrk beside it"
    yield ""
    yield from table(["clients", "requests/s", "p50 ms", "server's CPU ms a request", "worst p99 ms"], rows)


def _plot(folder: Path, samples: Samples) -> None:
    panels = []
    for kind in ("image", "text"):
        bars: list[plots.Bar] = []
        for clients in sorted({record["clients"] for record in samples.select("http", kind=kind)}):
            for engine in _engines(samples):
                values = _rates(samples, kind, clients, engine)
                if values:
                    all_of = Spread.of([*values.values()])
                    name = f"{engine[0]} {engine[1]}, {clients} clients"
                    bars.append((name, all_of.middle, all_of.least, all_of.most, not engine[0].startswith("infinity")))
        panels.append((KINDS[kind], bars))
    plots.bars(folder / "http.svg", panels, "answers a second")
