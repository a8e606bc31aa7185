"""The time of every kernel of a pass, as CUPTI saw it."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from pathlib import Path

from .setting import HERE, Outcome, Row, Setting

CASES = (("base-224", "vision", 64), ("base-224", "vision", 1), ("base-224", "text", 64), ("so400m-384", "vision", 32))
PASSES = 10
PAUSE_NS = 300_000_000
"""In front of the passes that count the program does nothing for half a second."""
SHOWN = 12


def counted(file: Path) -> list[tuple[str, int, int]]:
    """Name, begin and end of all that ran behind the last pause."""
    with open(file, newline="", encoding="utf-8") as lines:
        events = sorted(
            ((line["name"], int(line["begin_ns"]), int(line["end_ns"])) for line in csv.DictReader(lines)),
            key=lambda event: event[1],
        )
    first = 0
    for index in range(1, len(events)):
        if events[index][1] - events[index - 1][2] > PAUSE_NS:
            first = index
    return events[first:]


def short(name: str) -> str:
    """A kernel's name without its arguments."""
    return re.sub(r"\(.*", "", re.sub(r"^void ", "", name))[:80]


def by_kernel(events: list[tuple[str, int, int]], passes: int) -> list[Row]:
    times: defaultdict[str, list[int]] = defaultdict(list)
    for name, begin, end in events:
        times[short(name)].append(end - begin)
    whole = sum(map(sum, times.values()))
    rows: list[Row] = [
        {"kernel": name, "calls": len(spans) / passes, "us": sum(spans) / passes / 1e3, "share": sum(spans) / whole}
        for name, spans in times.items()
    ]
    return sorted(rows, key=lambda row: -float(row["us"]))


def run(setting: Setting) -> Outcome:
    cases = [case for case in CASES if case[0] in setting.checkpoints]
    cases = [("base-224", "vision", 2)] if setting.tiny else cases
    injection = HERE / "libkitkernels.so"
    outcome = Outcome()
    for name, tower, batch in cases:
        seen = setting.work / f"{name}-{tower}-{batch}.csv"
        watched = {"CUDA_INJECTION64_PATH": str(injection), "KIT_KERNELS": str(seen)}
        command = ["passes", "--model", str(setting.checkpoints[name]), "--device", setting.device]
        command += ["--dtype", setting.dtype, "--tower", tower, "--batch", str(batch), "--passes", str(PASSES)]
        found = setting.kit(*command, **(watched if injection.exists() and setting.on_cuda else {}))[-1]
        row: Row = {"model": name, "tower": tower, "batch": batch, "dtype": setting.dtype, "pass_ms": found["pass_ms"]}
        if seen.exists():
            events = counted(seen)
            kernels = by_kernel(events, PASSES)
            busy = sum(float(kernel["us"]) for kernel in kernels) / 1e3
            row.update(kernels=len(events) / PASSES, busy_ms=busy, busy_share=busy / row["pass_ms"])
            setting.note("kernels", row)["by_kernel"] = kernels[:SHOWN]
        else:
            setting.note("kernels", row)
            if setting.on_cuda:
                outcome.failure = "CUPTI wrote nothing: see processes.log"
    outcome.rows = setting.found.pop("kernels")
    first = outcome.rows[0]
    outcome.headline = f"{first['tower']} {first['batch']}: {first['pass_ms']:.2f} ms a pass"
    if "busy_share" in first:
        outcome.headline += f", busy {first['busy_share']:.0%}, {first['kernels']:.0f} kernels"
    return outcome
