"""Results as JSON, as Markdown and as a short table."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import time
from typing import Any

from .setting import Outcome, Row, Setting

NOT_SHOWN = {"samples", "by_kernel", "over", "error", "failure"}


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return "" if value is None else str(value)


def table(rows: list[Row]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row if key not in NOT_SHOWN))
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    lines += [f"| {' | '.join(_shown(row.get(column)) for column in columns)} |" for row in rows]
    return "\n".join(lines)


def machine(setting: Setting) -> dict[str, Any]:
    """What it was measured on."""
    query = "name,driver_version,memory.total,clocks.max.sm,power.limit"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    card = None
    if setting.on_cuda and shutil.which("nvidia-smi"):
        card = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20).stdout.strip()
    version = subprocess.run(
        [setting.program, "--version"],
        capture_output=True, text=True, check=False, timeout=60, env=setting.environment(),
    )  # fmt: skip
    return {
        "card": card,
        "device": setting.device,
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "program": version.stdout.strip(),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "tiny": setting.tiny,
    }


def write(setting: Setting, outcomes: dict[str, Outcome], seconds: float) -> None:
    """After each part anew: what comes later may take the machine with it."""
    about = machine(setting)
    parts = {
        name: {
            "rows": outcome.rows,
            "failure": outcome.failure,
            "skipped": outcome.skipped,
            "headline": outcome.headline,
            "notes": outcome.notes,
            "seconds": outcome.seconds,
        }
        for name, outcome in outcomes.items()
    }
    whole = {"machine": about, "seconds": seconds, "parts": parts}
    (setting.out / "kit.json").write_text(json.dumps(whole, indent=1, default=str) + "\n")
    lines = ["# What the kit found", "", *(f"- {key}: {value}" for key, value in about.items()), ""]
    for name, outcome in outcomes.items():
        lines += [f"## {name}", ""]
        state = outcome.failure or outcome.skipped
        lines += [f"{'FAILED' if outcome.failed else 'left out'}: {state}", ""] if state else []
        lines += [f"{note}.\n" for note in outcome.notes]
        if outcome.rows:
            lines += [table(outcome.rows), ""]
        for row in outcome.rows:
            if "by_kernel" in row:
                lines += [f"{row['model']}, {row['tower']}, {row['batch']} rows:", "", table(row["by_kernel"]), ""]
    (setting.out / "kit.md").write_text("\n".join(lines))


def summary(setting: Setting, outcomes: dict[str, Outcome], seconds: float) -> str:
    """One line a part."""
    lines = [f"{'part':<12} {'s':>5}  result"]
    for name, outcome in outcomes.items():
        if outcome.failed:
            state = f"FAILED: {outcome.failure}"
        elif outcome.skipped:
            state = f"left out: {outcome.skipped}"
        else:
            state = outcome.headline or "passed"
        lines.append(f"{name:<12} {outcome.seconds:>5.0f}  {state}")
    lines.append(f"{'all':<12} {seconds:>5.0f}  {setting.out}/kit.md, kit.json")
    return "\n".join(lines)
