"""Speed over the commits that were measured: a line for each machine, from what its runs left behind."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import plots
from .figures import Spread
from .samples import Samples
from .settings import BATCHES, ROOT, TOWERS
from .tables import quiet_values, table

Point = dict[str, Any]
"""`commit`, `date`, and `rates`: embeddings a second by tower, type and engine, at the largest batch."""

FILE = "history.json"
OURS = "siglip-server"


def point(samples: Samples) -> Point | None:
    """The medians of a run at tower level; none where that part was not measured."""
    when = samples.about.get("measured", {}).get("tower")
    rates: dict[str, dict[str, float]] = {}
    for record in samples.select("tower", batch=BATCHES[-1]):
        name, engine = f"{record['tower']} {record['dtype']}", record["engine"]
        if engine in rates.setdefault(name, {}):
            continue
        same = samples.select(
            "tower", batch=BATCHES[-1], tower=record["tower"], dtype=record["dtype"], engine=record["engine"]
        )
        middle = Spread.of(quiet_values(same, "items_per_second")).middle
        rates[name][engine] = float(f"{middle:.4g}")
    if not rates or when is None:
        return None
    date, commit = when.split(" at commit ")
    return {"commit": commit.strip("`"), "date": date, "rates": rates}


def read(folder: Path) -> list[Point]:
    """The points of a machine, oldest first."""
    path = folder / FILE
    return json.loads(path.read_text()) if path.exists() else []


def remember(folder: Path, samples: Samples) -> None:
    """Adds a run to its machine's points, in the place of an earlier run of the same commit."""
    fresh = point(samples)
    if fresh is not None:
        save(folder, [*(old for old in read(folder) if old["commit"] != fresh["commit"]), fresh])


def save(folder: Path, points: list[Point]) -> None:
    """One point a line, so that a change is readable."""
    lines = ",\n".join(json.dumps(each, sort_keys=True) for each in points)
    (folder / FILE).write_text(f"[\n{lines}\n]\n")


def recall(folder: Path) -> None:
    """Adds the points of all samples of a machine that were ever committed."""
    path = (folder / "samples.json").relative_to(ROOT)
    points = {each["commit"]: each for each in read(folder)}
    for commit in reversed(_git("log", "--format=%H", "--", str(path)).split()):
        found = point(Samples(**json.loads(_git("show", f"{commit}:{path}"))))
        if found is not None:
            points[found["commit"]] = found
    save(folder, sorted(points.values(), key=lambda each: each["date"]))


def _git(*command: str) -> str:
    return subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def write(results: Path) -> None:
    """Writes `README.md` and `history.svg` of all machines together."""
    machines = {folder: read(folder) for folder in sorted(results.iterdir()) if (folder / FILE).exists()}
    text = [
        "# Speed, machine by machine and commit by commit",
        "",
        f"siglip-base-patch16-224 with random values, batch {BATCHES[-1]}, without a server. Written by `bench/run`. A "
        "machine is shared and its neighbours change from day to day, so a step of some percent between two dates may "
        "be the machine's; the ratio to the fastest peer of the same run and type is free of that. A type is missing "
        "where it was not measured, and a ratio where no peer of that run has the type.",
        "",
        "![Embeddings a second, and ratio to the fastest peer, over the runs](history.svg)",
    ]
    panels = []
    for folder, points in machines.items():
        name = Samples.read(folder / "samples.json").about["machine"]
        text += ["", f"## {name}", "", f"[All figures of the last run]({folder.name}/README.md).", ""]
        text += _table(points)
        panels.append((name, [f"{each['date']}\n{each['commit'][:7]}" for each in points], *_lines(points)))
    if panels:
        plots.histories(results / "history.svg", panels)
    (results / "README.md").write_text("\n".join(text) + "\n")


def _names(points: list[Point]) -> list[str]:
    found = dict.fromkeys(name for each in points for name, rates in each["rates"].items() if OURS in rates)
    order = {dtype: number for number, dtype in enumerate(("f32", "bf16", "int8"))}
    return sorted(found, key=lambda name: (TOWERS.index(name.split()[0]), order.get(name.split()[1], len(order)), name))


def against(rates: dict[str, float]) -> tuple[float, str] | None:
    """Our rate by the fastest peer's, and which that is."""
    peers = {engine: rate for engine, rate in rates.items() if engine != OURS}
    if not peers or OURS not in rates:
        return None
    fastest = max(peers, key=lambda engine: peers[engine])
    return rates[OURS] / peers[fastest], fastest


def _table(points: list[Point]) -> Iterator[str]:
    rows = []
    for each in points:
        cells = [each["date"], f"`{each['commit'][:7]}`"]
        for name in _names(points):
            rates = each["rates"].get(name, {})
            ratio = against(rates)
            by = f" ({ratio[0]:.2f}x {ratio[1]})" if ratio else ""
            cells.append(f"{rates[OURS]:.3g}{by}" if OURS in rates else "-")
        rows.append(cells)
    yield from table(["date", "commit", *_names(points)], rows)


def _lines(points: list[Point]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Rates and ratios by name, one value a run; not a number where there is none."""
    none = float("nan")
    rates, ratios = {}, {}
    for name in _names(points):
        of = [each["rates"].get(name, {}) for each in points]
        rates[name] = [found.get(OURS, none) for found in of]
        ratios[name] = [(against(found) or (none, ""))[0] for found in of]
    return rates, ratios
