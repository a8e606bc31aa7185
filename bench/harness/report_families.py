"""The report's section on the other families."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .figures import ratio, verdict
from .samples import Record, Samples
from .tables import by_round, spread, table

TITLES = {
    "vision": "vision tower, embeddings per second",
    "text": "text tower, embeddings per second",
    "match": "matching head, pairs per second",
    "captions": "captions per second",
}
COLUMNS = {"vision": "batch", "text": "batch", "match": "texts", "captions": "clients"}
WAYS = {"rate": "", "shared": ", the image's keys and values once", "apart": ", the image's keys and values per text"}
LABELS = {"siglip-server": "siglip-server", "torch": "PyTorch", "openvino": "OpenVINO"}

Engine = tuple[str, str, str]
"""Engine, dtype, and the way in which it ran."""


def families_section(_folder: Path, samples: Samples) -> Iterator[str]:
    """Tables of every model and tower, with ratios taken round by round."""
    yield "## CLIP and BLIP"
    yield ""
    yield (
        "Random checkpoints of the published shapes. CLIP's texts have 77 ids, texts that a matching head reads 16. The matching head is "
        "measured behind the vision tower, on the states of one image. Captions have 20 new tokens; siglip-server is asked over "
        "HTTP with PNG files by that many clients, and PyTorch runs transformers' `generate` on a batch of that many prepared images. Agreement "
        "is with PyTorch on the same inputs."
    )
    seen = dict.fromkeys((record["model"], record["tower"]) for record in samples.select("families"))
    for model, tower in seen:
        records = list(samples.select("families", model=model, tower=tower))
        yield ""
        yield f"### {model}: {TITLES[tower]}"
        yield ""
        yield from _rates(records, tower)


def _of(records: list[Record], engine: Engine, batch: int) -> list[Record]:
    name, dtype, way = engine
    wanted = {"engine": name, "dtype": dtype, "kind": way, "batch": batch}
    return [record for record in records if all(record.get(key) == value for key, value in wanted.items())]


def _rates(records: list[Record], tower: str) -> Iterator[str]:
    measured = [record for record in records if record["kind"] != "agreement"]
    batches = sorted({record["batch"] for record in measured})
    found = dict.fromkeys((record["engine"], record["dtype"], record["kind"]) for record in measured)
    engines = sorted(found, key=lambda engine: (engine[0] != "siglip-server", engine[0], engine[2] != "shared"))
    theirs = [engine for engine in engines if engine[0] != "siglip-server"]
    header = ["engine", *(f"{COLUMNS[tower]} {batch}" for batch in batches)]
    header += [f"by {_label(engine)}, {COLUMNS[tower]} {batch}" for engine in theirs for batch in batches]
    rows = []
    for engine in engines:
        row = [_label(engine), *(spread(_of(records, engine, batch), "items_per_second") for batch in batches)]
        for other in theirs:
            for batch in batches:
                own = engine[0] == "siglip-server"
                mine, its = (by_round(_of(records, which, batch), "items_per_second") for which in (engine, other))
                row.append(verdict(ratio(mine, its)) if own else "")
        rows.append(row)
    yield from table(header, rows)
    agreements = [record for record in records if record["kind"] == "agreement" and record["engine"] != "torch"]
    if agreements:
        yield ""
        yield "Agreement: " + "; ".join(
            f"{LABELS[record['engine']]} {record['dtype']} 1 - cosine {record['one_minus_cosine']:.1e}, "
            f"largest difference {record['max_abs']:.1e}"
            for record in agreements
        )


def _label(engine: Engine) -> str:
    name, dtype, way = engine
    return f"{LABELS[name]} {dtype}{WAYS[way]}"
