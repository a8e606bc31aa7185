"""The report: tables in Markdown, and the plots beside it, from the samples alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from . import plots
from .figures import Spread, growth, ratio, verdict
from .report_families import families_section
from .report_http import http_section
from .samples import Record, Samples
from .settings import BATCHES, NOMINAL_GFLOP, TOWERS
from .tables import by_round, quiet_values, spread, table

Engine = tuple[str, str]

LABELS = {"siglip-server": "siglip-server", "torch": "PyTorch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def label(engine: str, dtype: str) -> str:
    """How an engine is called in tables and plots."""
    return f"{LABELS.get(engine, engine)} {dtype}"


def write(folder: Path, samples: Samples) -> None:
    """Writes `README.md` and the plots of every part there are samples of."""
    about = samples.about
    text = [f"# Speed on {about['machine']}", "", *_about(samples), ""]
    sections: dict[str, Callable[[Path, Samples], Iterator[str]]] = {
        "peak": _peak,
        "tower": _tower,
        "http": http_section,
        "growth": _growth,
        "families": families_section,
    }
    for part, section in sections.items():
        if part in samples.parts():
            text += [*section(folder, samples), ""]
    (folder / "README.md").write_text("\n".join(text).rstrip() + "\n")


def _about(samples: Samples) -> Iterator[str]:
    about = samples.about
    yield (
        f"{about['cores']} cores ({about['flags']}), {about['memory_gib']} GiB, {about['system']}; "
        f"{about['threads']} threads for every engine. Measured "
        + "; ".join(f"{part} {when}" for part, when in sorted(about["measured"].items()))
        + "."
    )
    yield ""
    yield "Versions: " + ", ".join(f"{name} {version}" for name, version in sorted(about["versions"].items())) + "."
    yield ""
    measured = [record for record in samples.records if "others" in record]
    noisy = [record for record in measured if record["others"] > about["most_others"]]
    yield (
        "Written by `bench/run`; [samples.json](samples.json) has every measurement. All engines take turns in "
        "every round; a figure is the median of the rounds, with the least and the most behind it, and a ratio is "
        "taken round by round. Ratios within 8 % of 1 are ties. A measurement waits for other processes to use "
        f"less than {about['most_others']} cores, and is repeated where they used more meanwhile; {len(noisy)} of "
        f"{len(measured)} were noisy to the end and count only where there is no quiet one."
    )


def _peak(_folder: Path, samples: Samples) -> Iterator[str]:
    yield "## The instructions' peak"
    yield ""
    yield "Multiply-adds with all operands in registers: no kernel can do more with them. 10^9 operations a second."
    yield ""
    rows = []
    kinds = dict.fromkeys((record["type"], record["instruction"]) for record in samples.select("peak"))
    threads = sorted({record["threads"] for record in samples.select("peak")})
    for kind, instruction in kinds:
        figures = [spread(samples.select("peak", type=kind, threads=count), "gops", 1) for count in threads]
        rows.append([kind, instruction, *figures])
    yield from table(["type", "instructions", *(f"{count} thread{'s' * (count > 1)}" for count in threads)], rows)


def peak_gops(samples: Samples, dtype: str) -> tuple[float, str]:
    """The limit of a number type, and its name: of f32 where no instruction for the type does more."""
    threads = samples.about["threads"]
    limits = []
    for own in (dtype, "f32"):
        values = quiet_values(samples.select("peak", type=own, threads=threads), "gops")
        if values:
            limits.append((Spread.of(values).middle, own))
    return max(limits, default=(float("nan"), dtype), key=lambda limit: limit[0])


def _engines(samples: Samples, part: str) -> list[Engine]:
    found = dict.fromkeys((record["engine"], record["dtype"]) for record in samples.select(part))
    order = {"f32": 0, "bf16": 1, "int8": 2}
    return sorted(found, key=lambda engine: (order.get(engine[1], 3), engine[0] != "siglip-server", engine[0]))


def _rates(samples: Samples, tower: str, batch: int, engine: Engine) -> dict[int, float]:
    """Embeddings a second, by round."""
    name, dtype = engine
    return by_round(samples.select("tower", tower=tower, batch=batch, engine=name, dtype=dtype), "items_per_second")


def _tower(folder: Path, samples: Samples) -> Iterator[str]:
    yield "## Towers"
    yield ""
    yield (
        "Embeddings a second without a server. Agreement is with transformers in f32 on the same inputs: the worst "
        "row's distance of the cosine from 1, and the largest difference of a value. The limit is the peak of the "
        "type's instructions (of f32 where the processor has none that do more) by the nominal operations, "
        + " and ".join(f"{flop} GFLOP a {name} row" for name, flop in NOMINAL_GFLOP.items())
        + "."
    )
    engines = _engines(samples, "tower")
    for tower in TOWERS:
        yield ""
        yield f"### {tower.capitalize()}"
        yield ""
        rows = [_tower_row(samples, tower, engine) for engine in engines]
        header = ["engine", *(f"batch {batch}" for batch in BATCHES), "of the limit", "1 - cosine", "max abs"]
        yield from table(header, rows)
        yield ""
        yield f"Ours by theirs, {tower}:"
        yield ""
        yield from table(["ours", "theirs", *(f"batch {batch}" for batch in BATCHES)], _tower_ratios(samples, tower))
    panels = [(f"{tower}, batch 8", _tower_bars(samples, tower, engines)) for tower in TOWERS]
    plots.bars(folder / "tower.svg", panels, "embeddings a second")
    yield ""
    yield "![Embeddings a second by engine](tower.svg)"


def _tower_row(samples: Samples, tower: str, engine: Engine) -> list[str]:
    name, dtype = engine
    rates = [_rates(samples, tower, batch, engine) for batch in BATCHES]
    limit, of = peak_gops(samples, dtype)
    last = Spread.of([*rates[-1].values()]).middle if rates[-1] else float("nan")
    share = last * NOMINAL_GFLOP[tower] / limit
    agreement: Record = next(samples.select("agreement", tower=tower, engine=name, dtype=dtype), {})
    return [
        label(name, dtype),
        *(Spread.of([*values.values()]).text() if values else "-" for values in rates),
        f"{share:.0%} ({of})",
        f"{agreement.get('one_minus_cosine', float('nan')):.1e}",
        f"{agreement.get('max_abs', float('nan')):.1e}",
    ]


def _tower_ratios(samples: Samples, tower: str) -> list[list[str]]:
    engines = _engines(samples, "tower")
    ours = [engine for engine in engines if engine[0] == "siglip-server"]
    theirs = [engine for engine in engines if engine[0] != "siglip-server"]
    dtypes = {dtype for _, dtype in theirs}
    rows = []
    for mine in ours:
        # Where no peer has the type, f32 is what one would run instead.
        wanted = mine[1] if mine[1] in dtypes else "f32"
        for other in (engine for engine in theirs if engine[1] == wanted):
            ratios = [
                ratio(_rates(samples, tower, batch, mine), _rates(samples, tower, batch, other)) for batch in BATCHES
            ]
            rows.append([label(*mine), label(*other), *map(verdict, ratios)])
    return rows


def _tower_bars(samples: Samples, tower: str, engines: Sequence[Engine]) -> list[plots.Bar]:
    found = []
    for engine in engines:
        values = _rates(samples, tower, BATCHES[-1], engine)
        if values:
            all_of = Spread.of([*values.values()])
            found.append((label(*engine), all_of.middle, all_of.least, all_of.most, engine[0] == "siglip-server"))
    return found


def _growth(folder: Path, samples: Samples) -> Iterator[str]:
    yield "## How cost grows"
    yield ""
    yield (
        "siglip-server in f32; milliseconds, of the tower for the first three rows and over HTTP by one client for the "
        "rest. The exponent is that of cost over size between the first and the last point: 1 is proportional. Of "
        "picture sides 2 is proportional to the patches, and of the pair matrix 2 to its cells."
    )
    yield ""
    axes = dict.fromkeys(record["axis"] for record in samples.select("growth"))
    rows, panels = [], []
    for axis in axes:
        sizes = list(dict.fromkeys(record["size"] for record in samples.select("growth", axis=axis)))
        costs = [Spread.of(quiet_values(samples.select("growth", axis=axis, size=size), "ms")).middle for size in sizes]
        points = ", ".join(f"{size}: {cost:.3g}" for size, cost in zip(sizes, costs, strict=True))
        rows.append([axis, points, f"{growth(sizes, costs):.2f}"])
        panels.append((axis, sizes, costs))
    yield from table(["what grows", "size: ms", "exponent"], rows)
    plots.lines(folder / "growth.svg", panels, "ms")
    yield ""
    yield "![Cost over size](growth.svg)"
